"""Annotations of the VGG Image Annotator (VIA, versions 1 and 2): its json, its csv, its projects.

One file holds the regions of many images, named without folders or by URL. Regions have attributes of free choice; the
class is the attribute that nearly all regions have. Points and lines are no objects. Files that name the same image (a
project and its export) are merged.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from detrkit.data.files.encodings import read_json, read_text
from detrkit.data.files.image_finder import Match, tidy_name
from detrkit.data.files.sampling import head_of, sample_of
from detrkit.data.files.source import Source
from detrkit.data.files.split_names import split_of_parts
from detrkit.data.formats.raw import RawImage, RawSplit
from detrkit.data.formats.shapes import UnreadableError, number, number_classes, printable
from detrkit.data.formats.via_regions import Region, choose_attribute, objects_of
from detrkit.data.validation.image_probe import probe_images
from detrkit.errors import DataError
from detrkit.ops.text import first_names

_LONGEST_CELL = 1 << 24


@dataclass
class _Entry:
    """One image of one file."""

    file: Path
    where: str
    name: str
    bytes: int
    regions: list[Region] = field(default_factory=list)
    fault: str = ""
    """Why the record cannot be read, or empty."""


def detect_via(source: Source) -> str:
    """Name a VIA file, for messages; empty if there is none."""
    files = source.index.with_suffix(".json", ".csv")
    example = next((path for path in sample_of(files) if _looks_like_via(path)), None)
    return "" if example is None else "/".join(source.index.relative(example))


def load_via(source: Source) -> dict[str, RawSplit]:
    """Load all VIA files, with classes in alphabetical order.

    Raises:
        DataError: a file cannot be read, or none names an image.
    """
    index = source.index
    paths = index.unique_files(p for p in index.with_suffix(".json", ".csv") if _looks_like_via(p))
    entries: list[_Entry] = []
    for path in sorted(paths, key=lambda p: (p.suffix.lower() != ".json", "project" in p.name.lower(), p)):
        entries += _load(path, source)
        source.use(path)
    if not entries:
        raise DataError(f"expected VIA files (via_region_data.json or .csv) in {source.root}, found none with images")
    by_image = _merge_entries(entries, source)
    chosen = choose_attribute([region for _, regions in by_image.values() for region in regions], source)
    by_split: dict[str, list[RawImage]] = {}
    for (split_name, _), (image, regions) in by_image.items():
        try:
            image.objects = [o for region in regions for o in objects_of(region, chosen, image, source)]
        except UnreadableError as error:
            _leave_out(image, str(error), source)
            continue
        if regions and not image.objects:
            source.findings.add("image_shapes_unusable", image.path, detail=f"{len(regions)} regions")
            continue
        by_split.setdefault(split_name, []).append(image)
    if not by_split:
        raise DataError(
            f"expected images with regions in the VIA files of {source.root}, found none that can be used"
            + source.findings.reasons()
        )
    kept = source.fold_splits(by_split, lambda image: [image.path])
    everything = [image for split_images in kept.values() for image in split_images]
    _fill_in_sizes(everything)
    bare = sum(not image.objects for image in everything)
    if bare and bare < len(everything):
        source.notes.append(
            f"{bare} of {len(everything)} images have no region; they are used as images without objects"
        )
    categories = number_classes(everything)
    return {
        split_name: RawSplit(split_name, split_images, categories, "xyxy", str(source.root))
        for split_name, split_images in kept.items()
    }


# --- files -----------------------------------------------------------------------------------------------------------


def _looks_like_via(path: Path) -> bool:
    head = head_of(path)
    if path.suffix.lower() == ".csv":
        return b"region_shape_attributes" in head.partition(b"\n")[0]
    if re.search(rb'"_via_img_metadata"\s*:', head):
        return True
    keys = (b"filename", b"regions", b"(file|shape|region)_attributes")
    return all(re.search(rb'"%s"\s*:' % key, head) for key in keys)


def _load(path: Path, source: Source) -> list[_Entry]:
    """Read the image records of a file.

    Raises:
        DataError: the file is truncated, or no text.
    """
    if path.suffix.lower() == ".csv":
        return _from_csv(read_text(path, source.findings), path)
    content = read_json(path, source.findings)
    if isinstance(content, dict) and "_via_img_metadata" in content:
        content = content["_via_img_metadata"]
    rows = dict(enumerate(content)) if isinstance(content, list) else content
    if not isinstance(rows, dict):
        raise DataError(f"expected images with filename and regions in the VIA file {path}, found {rows!r}"[:300])
    return [_read_entry(path, printable(key), row) for key, row in rows.items()]


def _read_entry(path: Path, key: str, row: Any) -> _Entry:
    named = row.get("filename") if isinstance(row, dict) else None
    if not isinstance(named, str) or not named.strip() or "\0" in named:
        return _Entry(path, key, "", 0, fault="expected a filename and regions")
    entry = _Entry(path, key, printable(named), int(number(row.get("size")) or 0))
    regions = row.get("regions")
    if isinstance(regions, list):
        regions = dict(enumerate(regions))
    if not isinstance(regions, dict):
        entry.fault = "expected a list of regions"
        return entry
    for number_, region in regions.items():
        where = f"{key}, regions[{printable(number_)}]"
        parts = [region.get(k) for k in ("shape_attributes", "region_attributes")] if isinstance(region, dict) else []
        if not parts or not isinstance(parts[0], dict):
            entry.fault = f"regions[{number_}] has no shape_attributes"
        else:
            entry.regions.append(Region(where, parts[0], parts[1] if isinstance(parts[1], dict) else {}))
    return entry


def _from_csv(text: str, path: Path) -> list[_Entry]:
    text = text.lstrip("#\ufeff")
    delimiter = max(",;\t", key=text.partition("\n")[0].count)  # spreadsheets of some locales write semicolons
    csv.field_size_limit(_LONGEST_CELL)
    entries: dict[tuple[str, str], _Entry] = {}
    try:
        for row in csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter):
            name, size = (row.get("filename") or "").strip(), row.get("file_size") or ""
            where = f"region {row.get('region_id')} of {name}"
            entry = entries.setdefault((name, size), _Entry(path, name, printable(name), int(number(size) or 0)))
            if not name or "\0" in name:
                entry.fault = "expected a filename"
            shape, attributes = (_cell(row.get(f"region_{kind}attributes")) for kind in ("shape_", ""))
            if not isinstance(shape, dict):
                entry.fault = f"{where} has no shape attributes"
            elif shape:
                known = attributes if isinstance(attributes, dict) else {}
                entry.regions.append(Region(where, shape, known))
    except csv.Error as error:
        raise DataError(f"expected VIA's csv in {path}, found a mistake: {error}; export it again") from None
    return list(entries.values())


def _cell(text: Any) -> Any:
    """Parse the JSON in a csv cell; an empty cell is {}, and anything else None."""
    if not isinstance(text, str) or not text.strip():
        return {}
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


# --- images ----------------------------------------------------------------------------------------------------------


def _merge_entries(entries: list[_Entry], source: Source) -> dict[tuple[str, Path], tuple[RawImage, list[Region]]]:
    """Merge the records of all files: (split, path) -> image and its regions."""
    by_image: dict[tuple[str, Path], tuple[RawImage, list[Region]]] = {}
    news: Counter[Path] = Counter()
    for entry, match in zip(entries, _match_images(entries, source), strict=True):
        if match is not None and match.how == "ambiguous":
            rivals = first_names(("/".join(source.index.relative(path)) for path in match.rivals), 4)
            source.findings.add("image_ambiguous", entry.file, entry.where, rivals, len(entry.regions))
            continue
        path = source.root if match is None else match.path
        name = "/".join(source.index.relative(path)) if path.is_relative_to(source.root) else path.name
        image = RawImage(None, path, name, None, None, [], str(entry.file), entry.where)
        if entry.fault:
            _leave_out(image, f"{entry.where}: {entry.fault}", source)
            continue
        if match is not None and match.how == "other_ending":
            source.findings.add("image_other_ending", entry.file, entry.where, f"found {path.name}")
        elif tidy_name(entry.name)[1]:
            source.findings.add("image_name_leaves_folder", entry.file, entry.where, repr(entry.name))
        elif match is not None and match.how == "moved":
            source.findings.add("image_moved", entry.file, entry.where, f"{entry.name!r}, found {path}")
        key = (_split_of(entry.file, path, source), path)
        if key not in by_image:
            by_image[key] = image, list(entry.regions)
            news[entry.file] += 1
            continue
        first, known = by_image[key]
        keys = {region.key for region in known}
        more = [region for region in entry.regions if region.key not in keys]
        known += more
        news[entry.file] += len(more)
        if more or first.file == str(entry.file):
            source.findings.add("image_listed_twice", entry.file, entry.where, image.file_name)
    for file in dict.fromkeys(entry.file for entry in entries):
        if not news[file]:
            source.notes.append(f"{'/'.join(source.index.relative(file))} repeats the regions of another VIA file")
    return by_image


def _leave_out(image: RawImage, fault: str, source: Source) -> None:
    where, _, detail = fault.rpartition(": ")
    source.findings.add("json_malformed", image.file, where, detail)
    source.use(image.path)


def _match_images(entries: list[_Entry], source: Source) -> list[Match | None]:
    """Match each record to its image; records of one name with different file sizes are different images."""
    named: dict[Path, dict[str, None]] = {}
    for entry in entries:
        if entry.name:
            named.setdefault(entry.file, {})[entry.name] = None
    by_file: dict[Path, dict[str, Match]] = {}
    for file, names in named.items():  # names have no folders: images elsewhere are found by the ends of their paths
        split_name = _split_of_file(file, source)
        folders = [*source.named_folders(split_name), file.parent, source.root]
        by_file[file] = source.finder.find(names, folders, split_name=split_name)
    sizes: dict[tuple[Path, str], set[int]] = {}
    for entry in entries:
        sizes.setdefault((entry.file, entry.name), set()).add(entry.bytes)
    matches: list[Match | None] = []
    for entry in entries:
        match = by_file[entry.file][entry.name] if entry.name else None
        if match is not None and (match.how == "ambiguous" or len(sizes[entry.file, entry.name]) > 1):
            match = _by_size(entry, match, source)
        matches.append(match)
    return matches


def _by_size(entry: _Entry, match: Match, source: Source) -> Match:
    """Choose among images of one name the one whose file has the recorded number of bytes."""
    name = PurePosixPath(tidy_name(entry.name)[0]).name
    rivals = [path for path in source.index.images if path.name == name]
    fits = [path for path in rivals if entry.bytes > 0 and path.is_file() and path.stat().st_size == entry.bytes]
    if len(fits) == 1:
        return Match(fits[0], "/".join(source.index.relative(fits[0])), "by_name")
    return Match(match.path, match.name, "ambiguous", tuple(rivals)) if len(rivals) > 1 else match


def _split_of(file: Path, image: Path, source: Source) -> str:
    for split_name, folder in source.image_dirs.items():
        if folder is not None and image.is_relative_to(folder):
            return split_name
    return _split_of_file(file, source) or split_of_parts(source.index.relative(image)[:-1])


def _split_of_file(file: Path, source: Source) -> str:
    *folders, name = source.index.relative(file)
    return split_of_parts([*folders, Path(name).stem])


def _fill_in_sizes(images: Sequence[RawImage]) -> None:
    """Set image sizes, which VIA does not write. Browsers show images upright, so coordinates refer to that."""
    for image, info in zip(images, probe_images([image.path for image in images]), strict=True):
        if not info.problem:
            image.width, image.height = info.upright
