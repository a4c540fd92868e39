"""Validate a raw data set: `check_dataset` returns clean splits, and acts on each defect as `findings.ACTIONS` says.

`detrkit check`, training and evaluation all call `check_dataset`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from rich.console import Group

from detrkit.data.auto_tiles import suggest_tiles
from detrkit.data.formats.raw import RawDataset, RawImage, RawSplit
from detrkit.data.records import ImageRecord, Split, StoredRecords
from detrkit.data.validation.crowds import note_classes
from detrkit.data.validation.exif import ExifChoice, exif_choices
from detrkit.data.validation.file_groups import annotation_file
from detrkit.data.validation.findings import ACTIONS, Finding, Findings
from detrkit.data.validation.held_out import chooses_images, hold_out, keep_required_splits
from detrkit.data.validation.image_probe import ImageInfo, probe_images
from detrkit.data.validation.interpretation import Probed, interpret_annotations, raise_doubt
from detrkit.data.validation.mask_validation import check_outlines, check_panoptic, note_absent_masks
from detrkit.data.validation.near_duplicates import NearDuplicates, find_near_duplicates
from detrkit.data.validation.object_validation import AnnotationTransform, clean_objects, find_transform, must_leave_out
from detrkit.data.validation.packed_check import deep_infos, packed_groups, packed_splits, read_packed
from detrkit.data.validation.plausibility import Doubt
from detrkit.data.validation.repeated_images import note_repeated_images
from detrkit.data.validation.statistics import split_statistics
from detrkit.data.validation.tables import findings_lines, split_tables
from detrkit.data.validation.value_extents import resolve_value_range
from detrkit.errors import DataError
from detrkit.ops.value_range import ValueRange
from detrkit.structures import Preprocessing


@dataclass
class CheckReport:
    """A validated data set, with its findings and statistics."""

    format: str
    source: str
    splits: dict[str, Split]
    """`train` and `val`, as far as the data set has them, with the same `Categories`."""
    findings: list[Finding]
    statistics: dict[str, Any]
    """Split -> statistics, see `split_statistics`; JSON-like."""
    notes: list[str] = field(default_factory=list)
    """Decisions that the user should know of, one sentence each."""
    value_range: ValueRange | None = None
    """Value range of all splits; see `Split.value_range`."""
    duplicates: NearDuplicates | None = None
    """Images that are copies of one another; None: they were not searched for."""
    infos: dict[Path, ImageInfo] = field(default_factory=dict)
    """Properties of each image file; of packed data only if they were read."""
    refused: str = ""
    """Why training and evaluation reject the data, as an error sentence; empty if they accept it."""

    def counts(self) -> dict[str, int]:
        """Kind of finding -> number, in the order of ACTIONS."""
        return Findings(self.findings).counts()

    def summary(self) -> list[str]:
        """Lines for the start of a run: sizes, notes, and the numbers of dropped and repaired items."""
        sizes = ", ".join(
            f"{name} {numbers['images']} images with {numbers['objects']} objects"
            for name, numbers in self.statistics.items()
        )
        lines = [f"{self.source} ({self.format.upper()}): {sizes}", *self.notes]
        counts = self.counts()
        for outcome in ("dropped", "unused", "repaired", "noted"):
            some = [f"{n} {kind}" for kind, n in counts.items() if ACTIONS[kind].outcome == outcome]
            if some:
                lines.append(f"{outcome}: {', '.join(some)}")
        return lines

    def recommended(self) -> list[str]:
        """Settings of training that the data call for, one line each, with the reason."""
        split = self.splits.get("train")
        if not split or any(image.panoptic for image in split.images):  # segments would be cut at the borders of tiles
            return []
        tiles, reason = suggest_tiles(split, Preprocessing().image_size)
        if tiles is None:
            return []
        return [f"--tiles auto (--tiles {tiles} at the default --image_size): {reason}"]

    def table(self) -> Group:
        """The report for a terminal."""
        return Group(*split_tables(self.statistics), *findings_lines(self.findings))

    def to_plain(self) -> dict[str, Any]:
        """The whole report as JSON-like data."""
        return {
            "format": self.format,
            "source": self.source,
            "notes": self.notes,
            "value_range": self.value_range and self.value_range.to_plain(),
            "categories": next(iter(self.splits.values())).categories.to_plain(),
            "statistics": self.statistics,
            "recommended": self.recommended(),
            "counts": self.counts(),
            "findings": [finding.to_plain() for finding in self.findings],
        }


def check_dataset(
    raw: RawDataset,
    *,
    num_queries: int = 100,
    decode_all: bool = False,
    masks: bool = False,
    value_range: ValueRange | Literal["find"] | None = "find",
    required_splits: Collection[str] = (),
    allow_doubtful: bool = False,
    compare_images: bool = False,
    progress: Callable[[], object] | None = None,
) -> CheckReport:
    """Validate and repair a raw data set, so that it can be used for training and evaluation.

    Args:
        raw: the data set from `open_dataset`; its records are consumed and must not be used afterwards.
        num_queries: number of queries of the model; images with more objects are reported.
        decode_all: decode every image and every mask, not only images whose file looks damaged, and find images that
            look alike.
        masks: require masks, for training on them.
        value_range: the range that is mapped to 0..255 in images of more than 8 bits: that of a model, None if the
            model has none, or "find" to measure it on the training images, which decodes those of more than 8 bits.
        required_splits: the splits that are needed; others need not be valid. Empty: all.
        allow_doubtful: accept files that seem to be misread; they are reported in any case.
        compare_images: find images that look alike, also without `decode_all`.
        progress: called once per image, and once more if images that look alike are searched for; from any thread.

    Raises:
        DataError: files seem to be misread; a split has no usable image; train has no trainable object, or, with
            `masks`, none with a mask; or, with `raw.strict`, anything is left out.
        ConfigError: a required split does not exist, or settings do not fit the data.
    """
    findings = raw.findings
    keep_required_splits(raw, required_splits)
    doubts: list[Doubt] = []
    known: dict[Path, ImageInfo] = {}
    if raw.is_packed:
        splits = packed_splits(raw)
        if decode_all or compare_images:
            splits, known = read_packed(raw, splits, decode_all=decode_all, progress=progress)
    else:
        measured = value_range == "find"
        splits, known, doubts = _clean_splits(
            raw, num_queries, decode_all=decode_all, measured=measured, allow_doubtful=allow_doubtful, progress=progress
        )
    if (
        "train" in splits
        and (not required_splits or "train" in required_splits)
        and not splits["train"].arrays.counts.any()
    ):
        raise_doubt(doubts)
        raise DataError(_nothing_trainable(splits["train"], findings))
    duplicates = None
    if decode_all or compare_images or (chooses_images(raw, splits) and not raw.is_packed):
        paths = list(dict.fromkeys(image.path for split in splits.values() for image in split.images))
        duplicates = find_near_duplicates(paths, [known[path].orientation for path in paths], progress)
    group_of = duplicates.group_of() if duplicates else packed_groups(splits) if chooses_images(raw, splits) else {}
    splits = hold_out(raw, splits, required_splits, group_of)
    if masks:
        _need_masks(splits, raw.format)
    files = {name: _infos_of(split, known, raw) for name, split in splits.items()}
    images = chain.from_iterable(split.images for split in splits.values()) if known else ()
    file_names = {image.path: PurePosixPath(image.file_name).name for image in images}
    note_repeated_images(files, file_names, duplicates, findings)
    chosen, notes = resolve_value_range(files, value_range, findings)
    splits = {name: replace(split, value_range=chosen) for name, split in splits.items()}
    statistics = {name: split_statistics(split, num_queries) for name, split in splits.items()}
    note_classes(splits, statistics, findings)
    if raw.strict:
        findings.refuse_left_out(raw.source)
    refused = next((doubt.sentence for doubt in doubts if doubt.refuse), "")
    notes = [*raw.notes, *notes]
    found = list(findings)
    return CheckReport(raw.format, raw.source, splits, found, statistics, notes, chosen, duplicates, known, refused)


def check_part(raw: RawDataset) -> tuple[Split, dict[Path, ImageInfo]]:
    """Validate a part of a large file, as `check_dataset` does it with a whole data set.

    Args:
        raw: one split; its findings take the defects.

    Returns:
        The records, of which there may be none, and the properties of all listed images.

    Raises:
        DataError: the file seems to be misread.
    """
    splits, known, _ = _clean_splits(
        raw, num_queries=2**31, decode_all=False, measured=True, allow_doubtful=False, progress=None
    )
    return next(iter(splits.values())), known


def _infos_of(split: Split, known: Mapping[Path, ImageInfo], raw: RawDataset) -> Mapping[Path, ImageInfo]:
    """Properties of the images of a split; of packed data that were not read, those of its images of many bits."""
    if not known and isinstance(split.images, StoredRecords):
        return deep_infos([split])
    if not known and raw.is_packed:  # splits that were made one, and divided anew
        infos = deep_infos([part for raw_split in raw.splits.values() for part in raw_split.parts])
        return {image.path: infos[image.path] for image in split.images if image.path in infos}
    return {image.path: known[image.path] for image in split.images}


def _clean_splits(
    raw: RawDataset,
    num_queries: int,
    *,
    decode_all: bool,
    measured: bool,
    allow_doubtful: bool,
    progress: Callable[[], object] | None,
) -> tuple[dict[str, Split], dict[Path, ImageInfo], list[Doubt]]:
    """Probe the images and validate their objects; see `check_dataset`.

    Args:
        measured: measure the values of images of more than 8 bits.

    Returns:
        The splits, the properties of all listed images, and doubts about the whole.
    """
    findings = raw.findings
    probed: dict[str, Probed] = {}
    for name, raw_split in raw.splits.items():
        images = _listed_once(raw_split, findings)
        values = decode_all or (measured and (name == "train" or "train" not in raw.splits))
        paths = [image.path for image in images]
        probed[name] = images, probe_images(paths, decode_all=decode_all, values=values, progress=progress)
    doubts = interpret_annotations(raw, probed)
    if not allow_doubtful:
        raise_doubt(doubts)
    exif = exif_choices(raw, probed)
    splits: dict[str, Split] = {}
    for name, (images, infos) in probed.items():
        raw_split = raw.splits[name]
        splits[name] = _clean_split(raw_split, images, infos, findings, num_queries, exif[name], decode_all=decode_all)
        if not splits[name].images and not raw.is_part:
            raise_doubt(doubts)  # the more specific error
            raise DataError(_nothing_usable(name, raw_split, findings))
        _note_many_lost(raw, splits[name], images)
    known = {image.path: info for images, infos in probed.values() for image, info in zip(images, infos, strict=True)}
    return splits, known, doubts


def _listed_once(raw_split: RawSplit, findings: Findings) -> list[RawImage]:
    """Drop images whose file or id was listed before, and number those without an id."""
    by_path: dict[Path, RawImage] = {}
    ids: set[int] = set()
    images: list[RawImage] = []
    for image in raw_split.images:
        first = by_path.get(image.path)
        if first is not None:
            findings.add("image_listed_twice", image.file, image.where, image.file_name)
            if (image.file, image.where) != (first.file, first.where):  # else it is the same record
                first.objects += image.objects
            continue
        if image.id is not None and image.id in ids:
            detail = f"id {image.id}, {image.file_name}"
            findings.add("image_id_twice", image.file, image.where, detail, len(image.objects))
            continue
        by_path[image.path] = image
        images.append(image)
        if image.id is not None:
            ids.add(image.id)
    following = max(ids, default=0)
    for image in images:
        if image.id is None:
            following += 1
            image.id = following
    return images


def _clean_split(
    raw_split: RawSplit,
    images: list[RawImage],
    infos: list[ImageInfo],
    findings: Findings,
    num_queries: int,
    exif: dict[str, ExifChoice],
    *,
    decode_all: bool,
) -> Split:
    known = frozenset(raw_split.categories.ids)
    records: list[ImageRecord] = []
    sources: list[str] = []
    files = [image.panoptic for image in images if image.panoptic]
    maps = dict(zip(files, probe_images(files), strict=True))
    for image, info in zip(images, infos, strict=True):
        if info.problem:
            findings.add(info.problem, image.path, image.where, info.detail, len(image.objects))
            image.objects = []
            continue
        choice = exif[annotation_file(raw_split, image)]
        listed = len(image.objects)
        transform = find_transform(image, info, raw_split.box_form, findings, choice)
        for mark in info.marks:
            findings.add(mark, image.path, detail=_turn(transform, image, choice) if mark == "image_rotated" else "")
        if image.panoptic and not check_panoptic(
            image, transform, maps[image.panoptic], findings, decode_all=decode_all
        ):
            image.objects = []
            continue
        objects, lost = clean_objects(image, transform, raw_split, known, findings)
        image.objects = []
        if must_leave_out(image, listed, objects, lost, findings):
            continue
        if decode_all:
            check_outlines(objects, image, transform, findings)
        countable = sum(not obj.crowd for obj in objects)
        if countable > num_queries:
            detail = f"{countable} objects, {num_queries} queries"
            findings.add("objects_exceed_queries", image.path, image.where, detail)
        size = transform.height, transform.width
        records.append(ImageRecord(image.id, image.path, image.file_name, *size, objects, image.panoptic))
        sources.append(image.file)
    if decode_all:
        note_absent_masks(records, sources, findings)
    _number_objects(records, raw_split, findings)
    return Split(raw_split.name, records, raw_split.categories, raw_split.source)


def _number_objects(records: list[ImageRecord], raw_split: RawSplit, findings: Findings) -> None:
    """Give a new id to objects without an id (0) or with a used one."""
    following = max((obj.id for image in records for obj in image.objects), default=0)
    taken: set[int] = set()
    for image in records:
        for obj in image.objects:
            if obj.id <= 0 or obj.id in taken:
                following += 1
                if raw_split.has_ids_and_areas:
                    kind = "annotation_id_twice" if obj.id > 0 else "annotation_id_absent"
                    findings.add(kind, raw_split.source, obj.where, f"id {obj.id}" if obj.id > 0 else "")
                obj.id = following
            taken.add(obj.id)


def _need_masks(splits: dict[str, Split], data_format: str) -> None:
    for split in splits.values():
        if split.arrays.counts.any() and not split.has_masks:
            raise DataError(
                f"expected masks of the objects in {split.source}, found only boxes ({data_format.upper()}); give "
                "polygons, RLE or PNGs of masks, or train with --task detect"
            )


def _turn(transform: AnnotationTransform, image: RawImage, exif: ExifChoice) -> str:
    """Say whether the boxes of an image with an EXIF orientation were rotated, and why."""
    return f"boxes {'rotated with it' if transform.is_turned else 'kept'}: {exif.why}" if image.objects else ""


def _note_many_lost(raw: RawDataset, split: Split, images: list[RawImage]) -> None:
    """Add a note if most images of a split are left out because of unusable objects."""
    paths = {str(image.path) for image in images}
    lost = [f for f in raw.findings if f.kind == "image_object_lost" and f.file in paths]
    if 2 * len(lost) > len(images):
        first = lost[0]
        raw.notes.append(
            f"{len(lost)} of {len(images)} images of {split.name} are left out for objects that cannot be used; the "
            f"first: {first.file} ({first.detail})"
        )


def _nothing_usable(name: str, raw_split: RawSplit, findings: Findings) -> str:
    return (
        f"expected images for {name} in {raw_split.source}, found none usable among the {len(raw_split.images)} listed"
        + (findings.reasons())
    )


def _nothing_trainable(train: Split, findings: Findings) -> str:
    crowds = sum(len(image.objects) for image in train.images)
    if not crowds:
        reasons = findings.reasons()
        return f"expected objects in the training images, found none that can be used in {train.source}{reasons}"
    counts = findings.counts()
    kind, mark = (
        ("objects marked difficult", "difficult") if "difficult" in counts else ("crowds", "iscrowd (or ignore)")
    )
    return (
        f"expected objects to train on in {train.source}, found only {crowds} {kind}, which are not trained on; set "
        f"{mark} to 0 where it is one object that shall be found"
    )
