"""Suspects of `detrkit review`: labels that may be wrong."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from detrkit.studio.label_store import LabelStore, Plain

FILE = "suspects.json"
PLACES = ("", "*/", "*/*/", "*/*/*/")
"""Folders of the project that are searched for the file."""


def read_suspects(root: Path, labels: LabelStore) -> tuple[dict[str, list[Plain]], str]:
    """Read the latest file of suspects in the project, if any.

    Args:
        root: project folder.
        labels: labels of the project, whose source names the images.

    Returns:
        Path of an image -> its suspects, the worst first; and the file, relative to the project folder.
    """
    files = [path for place in PLACES for path in root.glob(f"{place}{FILE}") if path.is_file()]
    names = {(split, record.file_name): name for name, (split, record) in labels.source.items()}
    for path in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        suspects: dict[str, list[Plain]] = defaultdict(list)
        try:
            for row in json.loads(path.read_bytes())["suspects"]:
                suspects[names.get((row["split"], row["file_name"]), row["file_name"])].append(
                    {
                        "reason": str(row["reason"]),
                        "score": float(row["score"]),
                        "label": str(row["label"]),
                        "detected": str(row["detected"]),
                        "box": row["label_box"] or row["detected_box"],
                    }
                )
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return dict(suspects), path.relative_to(root).as_posix()
    return {}, ""
