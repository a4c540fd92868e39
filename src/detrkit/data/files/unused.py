"""Report every file that looks like an image or annotations and was not used."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from detrkit.data.decode.mask_files import FileMask
from detrkit.data.files.encodings import unreadable
from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.source import Source
from detrkit.data.files.split_names import split_of_name, split_of_parts
from detrkit.data.formats.raw import RawSplit

_ALWAYS = (".xml", ".odgt", ".jsonl", ".ndjson", ".tfrecord", ".record", ".parquet", ".arrow")
_MAYBE = (".json", ".txt", ".csv", ".tsv", ".yaml", ".yml", ".data", ".names", ".labels", ".lst")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz")
_SAMPLE = 1 << 16
_WORDS = re.compile(
    rb'"(bbox|boxes|annotations|shapes|regions|segmentation|segments_info|objects|labels|points|polygon|file_name)"'
)
_NUMBERS = re.compile(r"^\s*\S+(?:[\s,;]+-?\d+(?:[.]\d+)?(?:[eE][-+]?\d+)?){4,}\s*(?:#.*)?$")
_LISTS = (".json", ".txt", ".csv", ".tsv", ".lst")
_SPLITS = re.compile(r"^(trainval|splits?|folds?)([\W_]|\d|$)", re.IGNORECASE)
_TEXT = re.compile(rb'"([^"\n]{1,200})"')
_README = re.compile(r"^(read.?me|licen[sc]e|requirements|changelog|notes|info)\b", re.IGNORECASE)


def list_unused(source: Source, splits: Iterable[RawSplit], reason: str) -> None:
    """Add a finding for each file that looked like an image or annotations and was not used.

    Args:
        source: the loaded data set, with the files that its loader used or left out for a reason; takes the findings.
        splits: the loaded splits.
        reason: the reason for files of which no other reason is recorded.
    """
    known = _mentioned(source, splits)
    for path, (kind, why) in sorted(source.left_out.items()):
        if path not in known:
            source.findings.add(kind or _kind(path, source), path, detail=why)
            known.add(path)
    for path, why in source.index.unread.items():
        if path not in known:
            source.findings.add("file_unreadable", path, detail=why)
            _note_split(Path(path), why, source)
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
            _note_split(file, why, source)
        elif why := _no_json(file):
            source.findings.add("annotations_unused", file, detail=why)
            _note_split(file, why, source)
        elif looks_like_annotations(file, source):
            source.findings.add("annotations_unused", file, detail=reason)


def _note_split(file: Path, why: str, source: Source) -> None:
    """Note that a split is missing because its json file is broken."""
    *folders, _ = parts = source.index.relative(file)
    if file.suffix.lower() == ".json" and (_tells_split(file) or split_of_parts(folders)):
        source.notes.append(f"{'/'.join(parts)} seems to be of a split, and is left out: {why}")


def _tells_split(path: Path) -> bool:
    """Whether a file name contains the name of a split, or a word such as `splits`."""
    return bool(split_of_name(path.stem) or _SPLITS.match(path.stem))


def _no_json(path: Path) -> str:
    """Why a .json file is not JSON, judged by its first bytes; empty if it may be JSON, and for other files."""
    if path.suffix.lower() != ".json":
        return ""
    with path.open("rb") as file:
        head = file.read(_SAMPLE)
    text = head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    if text:
        return "" if text[:1] in (b"{", b"[") else f"no JSON, it begins with {text[:20].decode('utf-8', 'replace')!r}"
    return "it holds zeros alone" if head else "an empty file"


def unreadable_files(index: FileIndex) -> dict[str, str]:
    """Path -> reason, of all folders, links and possible annotation files that cannot be read."""
    files = index.with_suffix(*_ALWAYS, *_MAYBE)
    return index.unread | {
        str(file): why for file in files if str(file) not in index.unread and (why := unreadable(file))
    }


def looks_like_annotations(path: Path, source: Source) -> bool:
    """Whether a file seems to hold annotations or a list of images or classes, judged by its first bytes."""
    ending = path.suffix.lower()
    if ending in _ALWAYS or ending in _ARCHIVES:
        return True
    with path.open("rb") as file:
        head = file.read(_SAMPLE)
    if _README.match(path.name):
        return False
    if _tells_split(path) and ending in _LISTS:
        return True
    names, stems = source.index.image_names, source.index.image_stems
    if ending == ".json":
        head = head.replace(b"\0", b"")
        texts = [text.decode("utf-8", "replace") for text in _TEXT.findall(head)[:100]]
        listed = sum(text in stems or text.rpartition("/")[2] in names for text in texts)
        return bool(_WORDS.search(head)) or 4 * listed > len(texts)
    if not head.strip():  # an empty label file means an image without objects
        return path.stem in source.index.image_stems
    lines = [line for line in head.decode("utf-8", errors="replace").splitlines()[:20] if line.strip()]
    words = [{word.strip("\"'") for word in re.split(r"[\s,;/\\]+", line)} for line in lines]
    named = sum(not some.isdisjoint(names) or not some.isdisjoint(stems) for some in words)
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
    """Files that were used or already have a finding."""
    known = set(source.used)
    for split in splits:
        known.add(split.source)
        for image in split.images:
            known.update((str(image.path), image.file))
            if image.panoptic is not None:
                known.add(str(image.panoptic))
            known.update(str(o.segmentation.path) for o in image.objects if isinstance(o.segmentation, FileMask))
    known.update(finding.file for finding in source.findings)
    return source.index.with_linked_paths(known)
