"""Suspects of `detrkit review`: labels that may be wrong."""

from __future__ import annotations

import json
from pathlib import Path

FILE = "suspects.json"


def read_suspects(root: Path) -> tuple[dict[str, float], str]:
    """Read the latest file of suspects in the project, if any.

    Returns:
        Path of an image -> the highest score of its suspects, and the file, relative to the project folder.
    """
    files = [
        path for pattern in (FILE, f"*/{FILE}", f"runs/*/{FILE}", f"runs/*/*/{FILE}") for path in root.glob(pattern)
    ]
    for path in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        try:
            rows = json.loads(path.read_bytes())["suspects"]
            scores: dict[str, float] = {}
            for row in rows:
                scores[row["file_name"]] = max(float(row["score"]), scores.get(row["file_name"], 0))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return scores, path.relative_to(root).as_posix()
    return {}, ""
