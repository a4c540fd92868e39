"""Pack COCO files that are too large for memory, part by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from detrkit.config.packing import PackConfig
from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.source import Source
from detrkit.data.formats.coco import detect_coco, read_categories, read_records
from detrkit.data.formats.coco_layout import split_of_file
from detrkit.data.formats.coco_splits import describe_file, files_of_splits
from detrkit.data.formats.combine import share_categories
from detrkit.data.formats.detect import make_options
from detrkit.data.formats.raw import RawDataset, RawSplit
from detrkit.data.records import ImageRecord
from detrkit.data.shards.coco_parts import CocoParts, Progress
from detrkit.data.shards.storage import is_address
from detrkit.data.validation.findings import Findings
from detrkit.data.validation.image_probe import ImageInfo
from detrkit.data.validation.validate import check_part
from detrkit.errors import DataError
from detrkit.structures import Categories

LARGE_BYTES = 200_000_000
"""Size from which a COCO file is read in parts; the whole would take about seven times that in memory."""


@dataclass
class LargeCoco:
    """COCO files of a data set, of which at least one is read in parts."""

    source: Source
    files: dict[str, Path]
    """Split -> its file."""
    counts: Counter[str] = field(default_factory=Counter)
    """Kind of finding -> number."""


def find_large(config: PackConfig, large_bytes: int | None = None) -> LargeCoco | None:
    """Find the COCO files of a data set, if one of them is large; None: they are read as a whole.

    Args:
        config: the settings of `detrkit pack`.
        large_bytes: size in bytes of a large file; None: `LARGE_BYTES`.

    Raises:
        DataError: a split of large files has several, or a setting needs whole files.
    """
    limit = LARGE_BYTES if large_bytes is None else large_bytes
    if config.data_format not in ("auto", "coco") or config.panoptic_json or config.panoptic_dir:
        return None
    root = Path(config.data)
    if is_address(config.data) or not root.exists():
        return None  # an error of the usual way
    options = make_options(
        root,
        {"train": config.train_json, "val": config.val_json},
        {"train": config.train_images, "val": config.val_images},
    )
    source = Source(FileIndex(root if root.is_dir() else root.parent), options)
    sizes = [path.stat().st_size for path in [*source.index.with_suffix(".json"), *options.annotation_files.values()]]
    if max(sizes, default=0) < limit or not (options.annotation_files or detect_coco(source)):
        return None
    files = files_of_splits(source, panoptic=False)
    if all(path.stat().st_size < limit for some in files.values() for path in some):
        return None
    for name, some in files.items():
        if len(some) > 1:
            raise DataError(
                f"expected one COCO file for {name}, since large files are read in parts, found {len(some)}: {some[0]} "
                f"and {some[1]}; join them, or name one with --{name}_json"
            )
    return LargeCoco(source, {name: some[0] for name, some in sorted(files.items())})


@dataclass
class OpenCoco:
    """Large COCO files, cut into parts."""

    large: LargeCoco
    parts: Mapping[str, CocoParts]
    categories: Categories
    folder: Path
    """Temporary files, which are of no use once the records are written."""

    @property
    def images(self) -> int:
        """Number of images that the files list."""
        return sum(parts.images for parts in self.parts.values())

    def records(self, name: str, config: PackConfig) -> Iterator[tuple[ImageRecord, ImageInfo]]:
        """The checked images of a split, one part after the other.

        Raises:
            DataError: the file seems to be misread, or, with `strict`, anything is left out.
        """
        source, parts = self.large.source, self.parts[name]
        file = describe_file(self.large.files[name], name, source)
        for part in parts:
            source.findings = Findings()
            numbers = part.image_numbers, part.annotation_numbers
            raw_split = read_records(part.content, file, source, categories=self.categories, numbers=numbers)
            raw = RawDataset("coco", str(source.root), {name: raw_split}, source.findings, [], is_part=True)
            raw.box_format = config.box_format
            split, infos = check_part(raw)
            if config.strict:
                source.findings.refuse_left_out(raw.source)
            self.large.counts.update(source.findings.counts())
            for image in split.images:
                yield image, infos[image.path]
            del part, raw_split, raw, split, infos  # before the next part takes as much memory
        self.large.counts.update(parts.findings.counts())


def open_large(large: LargeCoco, folder: Path, progress: Progress = lambda title, total: lambda done: None) -> OpenCoco:
    """Read the COCO files once, and cut them into parts.

    Args:
        large: the files.
        folder: where the temporary files are written.
        progress: see `CocoParts`.

    Raises:
        DataError: a file is no COCO json, or categories contradict each other.
    """
    temporary = folder / ".parts"
    parts, splits = {}, []
    for name, path in large.files.items():
        own = temporary / name
        own.mkdir(parents=True)
        findings = Findings()
        parts[name] = CocoParts(path, own, findings, progress)
        content = {"categories": parts[name].categories, "annotations": []}
        categories = read_categories(content, path, findings)
        splits.append(RawSplit(name, [], categories, "xywh", str(path)))
    _expect_one_split(large, parts)
    share_categories(splits, Findings())
    return OpenCoco(large, parts, splits[0].categories, temporary)


def _expect_one_split(large: LargeCoco, parts: Mapping[str, CocoParts]) -> None:
    """Refuse a file whose images say that they belong to several splits.

    Raises:
        DataError: they do, and no setting or file name says otherwise.
    """
    path, *others = large.files.values()
    named = bool(large.source.options.annotation_files) or any(large.source.image_dirs.values())
    names = next(iter(parts.values())).split_names
    if others or named or split_of_file(large.source.index, path) or not {"train"} < names:
        return
    raise DataError(
        f"expected the images of one split in {path}, which is read in parts for its size, found images of "
        f"{' and '.join(sorted(names))}; write one file per split, or use all for training with --train_json {path}"
    )
