"""Pack a data set into shards with an index."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrkit.config.options import config_from_options
from detrkit.config.packing import PackConfig
from detrkit.data.formats.detect import open_dataset
from detrkit.data.records import Split
from detrkit.data.shards.coco_parts import Progress
from detrkit.data.shards.pack_large import LargeCoco, find_large, open_large
from detrkit.data.shards.packed_images import PackedImages
from detrkit.data.shards.packed_index import KIND, MANIFEST, PACK_VERSION, open_split
from detrkit.data.shards.split_writer import SplitWriter
from detrkit.data.validation.findings import ACTIONS
from detrkit.data.validation.statistics import split_statistics
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ConfigError, DataError
from detrkit.files import atomic_folder, expect_new_folder, write_atomic
from detrkit.structures import Categories

_MANY = 2**31
"""More objects than any image has, so that none is reported for the number of queries."""


@dataclass(frozen=True)
class PackResult:
    """A packed data set."""

    path: Path
    """The folder that was written."""
    images: dict[str, int]
    """Split (train, val) -> number of images."""
    objects: int
    """Number of objects."""
    shards: int
    """Number of tar files."""
    notes: list[str]
    """What was left out and changed, by the check or by packing, one sentence each."""


def pack(data: str | os.PathLike[str], output: str | os.PathLike[str], **options: Any) -> PackResult:
    """Pack a data set of any format that detrkit reads into tar files with an index.

        result = detrkit.pack("DATA", "packed")
        detrkit.train(detrkit.TrainConfig.from_recipe("fast", data="packed"))

    Images, mask files and annotations stay what they are, bit for bit; only what the check leaves out is not packed.
    Training on the packed data gives the losses of the original to the bit.

    Args:
        data: folder or file of the data set.
        output: folder to write; it must be new or empty, and appears only when it is complete.
        options: further settings of `detrkit pack`, under the names of its flags (`PackConfig`).

    Raises:
        ConfigError: there is no such option, or the output has content or lies inside the data set.
        DataError: the data set cannot be read.
    """
    options = {"quiet": True, **options}
    return pack_dataset(config_from_options(PackConfig, data=os.fspath(data), output=os.fspath(output), **options))


def pack_dataset(config: PackConfig, progress: Progress = lambda title, total: lambda done: None) -> PackResult:
    """Pack a data set; see `pack`.

    Args:
        config: the settings of `detrkit pack`.
        progress: called with the title of a step and its number of images or bytes; returns a function that is called
            with the number of those that are done.
    """
    output = Path(config.output)
    expect_new_folder(output)
    _expect_outside(output, Path(config.data))
    large = find_large(config)
    if large is not None:
        return _pack_large(large, config, output, progress)
    raw = open_dataset(**config.dataset_kwargs(), val_fraction=0)
    if raw.is_packed:
        raise ConfigError(f"expected a data set to pack, found {config.data}, which is packed already")
    report = check_dataset(raw, num_queries=_MANY, compare_images="val" not in raw.splits)
    group_of = report.duplicates.group_of() if report.duplicates else {}
    categories = next(iter(report.splits.values())).categories
    advance = progress("Packing images", sum(map(len, report.splits.values())))
    with atomic_folder(output) as folder:
        pack = PackWriter(folder, categories, int(config.shard_mb * 1e6))
        for name, split in report.splits.items():
            with pack.split(name) as writer:
                for image in split.images:
                    writer.add(image, report.infos[image.path], group_of.get(image.path, -1))
                    advance(1)
        pack.close()
    return pack.result(output, [*report.notes, *_left_out(report.counts())])


def _pack_large(large: LargeCoco, config: PackConfig, output: Path, progress: Progress) -> PackResult:
    """Pack COCO files that do not fit into memory."""
    begin = time.monotonic()
    with atomic_folder(output) as folder:
        opened = open_large(large, folder, progress)
        seconds = time.monotonic() - begin
        advance = progress("Packing images", opened.images)
        pack = PackWriter(folder, opened.categories, int(config.shard_mb * 1e6))
        for name in opened.parts:
            with pack.split(name) as writer:
                for image, info in opened.records(name, config):
                    writer.add(image, info)
                    advance(1)
            if not writer.images:
                left_out = "; ".join(["", *_left_out(large.counts)])
                raise DataError(
                    f"expected images for {name} in {large.files[name]}, found none that can be used among the "
                    f"{opened.parts[name].images} listed{left_out}"
                )
        shutil.rmtree(opened.folder)
        pack.close()
    large.source.note_attributes()
    notes = [
        f"{path.name} ({path.stat().st_size / 1e6:.0f} MB) was read in {opened.parts[name].number} parts"
        for name, path in large.files.items()
    ]
    notes[-1] += f", in {seconds:.0f} s; copies of one image were not searched for, and unused files are not listed"
    return pack.result(output, [*large.source.notes, *notes, *_left_out(large.counts)])


class PackWriter:
    """Writes the splits of a packed data set.

    Args:
        folder: an existing folder.
        categories: classes of the data set.
        shard_bytes: see `TarWriter`.
    """

    def __init__(self, folder: Path, categories: Categories, shard_bytes: int) -> None:
        self.folder, self.categories, self.shard_bytes = folder, categories, shard_bytes
        self.splits: dict[str, Any] = {}
        self._suffixes: dict[str, int] = {}
        (folder / "index").mkdir()

    @contextmanager
    def split(self, name: str) -> Iterator[SplitWriter]:
        """A writer of the images of a split, which is finished at the end of the block."""
        writer = SplitWriter(self.folder, name, self.categories, self._suffixes, self.shard_bytes)
        try:
            yield writer
        finally:
            facts = writer.close()
        if not writer.images:
            return
        packed = open_split(str(self.folder), name, facts, tuple(self._suffixes), self.folder)
        split = Split(name, PackedImages(packed, self.categories), self.categories, str(self.folder))
        self.splits[name] = facts | {"statistics": split_statistics(split, _MANY)}

    def close(self) -> None:
        """Write the manifest, without which the folder is no packed data."""
        manifest = {
            "format": KIND,
            "version": PACK_VERSION,
            "categories": self.categories.to_plain(),
            "suffixes": list(self._suffixes),
            "splits": self.splits,
        }
        write_atomic(self.folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")

    def result(self, output: Path, notes: list[str]) -> PackResult:
        """The packed data set, once it is in place."""
        return PackResult(
            output,
            {name: facts["images"] for name, facts in self.splits.items()},
            sum(facts["objects"] for facts in self.splits.values()),
            sum(len(facts["shards"]) for facts in self.splits.values()),
            notes,
        )


def _expect_outside(output: Path, data: Path) -> None:
    """Refuse to write into the data set, where the shards would be read as a part of it.

    Raises:
        ConfigError: the output lies inside the data set.
    """
    if data.is_dir() and output.resolve().is_relative_to(data.resolve()):
        raise ConfigError(f"expected a folder outside of the data set {data} to write to, found {output}; name another")


def _left_out(counts: Mapping[str, int]) -> list[str]:
    """One sentence on the files and records that the check left out, if any."""
    kinds = [kind for kind in counts if ACTIONS[kind].outcome in ("dropped", "unused")]
    return (
        [f"left out by the check (see detrkit check): {', '.join(f'{counts[k]} {k}' for k in kinds)}"] if kinds else []
    )
