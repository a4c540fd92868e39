"""Nothing is left out in silence: what looked like images or annotations and was not used is listed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from detrkit.data.encodings import unreadable
from detrkit.data.file_index import FileIndex
from detrkit.data.raw import RawSplit
from detrkit.data.records import FileMask
from detrkit.data.source import Source

_ALWAYS = (".xml", ".odgt", ".jsonl", ".ndjson", ".tfrecord", ".record", ".parquet", ".arrow")
_MAYBE = (".json", ".txt", ".csv", ".tsv", ".yaml", ".yml", ".data", ".names", ".labels", ".lst")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz")
_SAMPLE = 1 << 16
_WORDS = re.compile(
    rb'"(bbox|boxes|annotations|shapes|regions|segmentation|segments_info|objects|labels|points|polygon|file_name)"'
)
_NUMBERS = re.compile(r"^\s*\S+(?:[\s,;]+-?\d+(?:[.]\d+)?(?:[eE][-+]?\d+)?){4,}\s*(?:#.*)?$")
_README = re.compile(r"^(read.?me|licen[sc]e|requirements|changelog|notes|info)\b", re.IGNORECASE)


def list_unused(source: Source, splits: Iterable[RawSplit], reason: str) -> None:
    """Add a finding for each file that looked like an image or annotations and was not used.

    Args:
        source: what was read, with the files that its reader used or left for a reason; takes the findings.
        splits: what the reader made of it.
        reason: why a file is not used of which nothing else is known.
    """
    known = _mentioned(source, splits)
    for path, (kind, why) in sorted(source.left.items()):
        if path not in known:
            source.findings.add(kind or _kind(path, source), path, detail=why)
            known.add(path)
    for path, why in source.index.unread.items():
        if path not in known:
            source.findings.add("file_unreadable", path, detail=why)
            known.add(path)
    for image in source.index.other_images:
        if str(image) not in known:
            source.findings.add("image_format_unread", image)
    for image in source.index.images:
        if str(image) not in known:
            source.findings.add("image_unused", image, detail=reason)
    for file in source.index.with_suffix(*_ALWAYS, *_MAYBE, *_ARCHIVES):
        if str(file) in known:
            continue
        if why := unreadable(file):
            source.findings.add("file_unreadable", file, detail=why)
        elif looks_like_annotations(file, source):
            source.findings.add("annotations_unused", file, detail=reason)


def unreadable_files(index: FileIndex) -> dict[str, str]:
    """What cannot be read of the folders, links, and files that may be annotations -> why."""
    files = index.with_suffix(*_ALWAYS, *_MAYBE)
    return index.unread | {
        str(file): why for file in files if str(file) not in index.unread and (why := unreadable(file))
    }


def looks_like_annotations(path: Path, source: Source) -> bool:
    """Whether a file seems to hold annotations, or a list of images or classes, from its beginning."""
    ending = path.suffix.lower()
    if ending in _ALWAYS or ending in _ARCHIVES:
        return True
    with path.open("rb") as file:
        head = file.read(_SAMPLE)
    if ending == ".json":
        return bool(_WORDS.search(head.replace(b"\0", b"")))
    if _README.match(path.name):
        return False
    if not head.strip():  # an empty label file says that there is nothing on its image
        return path.stem in source.index.image_stems
    lines = [line for line in head.decode("utf-8", errors="replace").splitlines()[:20] if line.strip()]
    names = source.index.image_names
    named = sum(any(word.strip("\"'") in names for word in re.split(r"[\s,;/\\]+", line)) for line in lines)
    return 2 * max(named, sum(bool(_NUMBERS.match(line)) for line in lines)) > len(lines) or ending in (
        ".data",
        ".names",
        ".labels",
    )


def _kind(path: str, source: Source) -> str:
    if Path(path) in source.index.image_set:
        return "image_unused"
    return "annotations_unused"


def _mentioned(source: Source, splits: Iterable[RawSplit]) -> set[str]:
    """Files that were used, or that a finding names already."""
    known = set(source.used)
    for split in splits:
        known.add(split.source)
        for image in split.images:
            known.update((str(image.path), image.file))
            if image.panoptic is not None:
                known.add(str(image.panoptic))
            known.update(str(o.segmentation.path) for o in image.objects if isinstance(o.segmentation, FileMask))
    known.update(finding.file for finding in source.findings)
    return source.index.same_files(known)
