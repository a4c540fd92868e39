"""Report images that occur twice: in both splits (leakage), or in one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from detrkit.data.validation.findings import Findings
from detrkit.data.validation.image_probe import ImageInfo, content_hash
from detrkit.data.validation.near_duplicates import NearDuplicates


def note_repeated_images(
    files: Mapping[str, Mapping[Path, ImageInfo]],
    file_names: Mapping[Path, str],
    duplicates: NearDuplicates | None,
    findings: Findings,
) -> None:
    """Report val images that are also in train, by content, by look and by name, and images of one look in a split.

    Args:
        files: split -> images, with their properties.
        file_names: image -> name of its file in the data set, without folders; paths in packed data have
            numbers. Images without one are not compared by name.
        duplicates: images that look alike; None: they were not searched for.
        findings: takes the findings.
    """
    train, val = files.get("train", {}), files.get("val", {})
    groups = duplicates.groups if duplicates else []
    group_of = duplicates.group_of() if duplicates else {}
    partner = duplicates.partner if duplicates else {}
    shared_sizes = {info.bytes for info in train.values()} & {info.bytes for info in val.values()}
    hashes = {content_hash(path): path for path, info in train.items() if info.bytes in shared_sizes}
    names = {file_names[path]: path for path in train if path in file_names}
    for path, info in val.items():
        same = hashes.get(content_hash(path)) if info.bytes in shared_sizes else None
        alike = [other for other in groups[group_of[path]] if other in train] if path in group_of else []
        if same is not None:
            findings.add("leakage_content", path, detail=f"equal to {same}")
        elif alike:
            compared = [other for other in partner.get(path, ()) if other in train]
            findings.add("leakage_look", path, detail=f"like {(compared or alike)[0]}")
        elif other := names.get(file_names.get(path, "")):
            findings.add("leakage_name", path, detail=f"as {other}")
    for split in files.values():
        for group in groups:
            inside = [path for path in group if path in split]
            for path in inside[1:]:
                compared = [other for other in partner.get(path, ()) if other in split]
                findings.add("near_duplicate", path, detail=f"like {(compared or inside)[0]}")
