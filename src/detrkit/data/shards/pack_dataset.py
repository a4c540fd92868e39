"""Pack a data set into shards with an index."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrkit.config.options import config_from_options
from detrkit.config.packing import PackConfig
from detrkit.data.formats.detect import open_dataset
from detrkit.data.shards.packed_index import KIND, MANIFEST, PACK_VERSION
from detrkit.data.shards.split_writer import SplitWriter
from detrkit.data.validation.findings import ACTIONS
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.errors import ConfigError
from detrkit.files import atomic_folder, expect_new_folder, write_atomic

_MANY = 2**31
"""More objects than any image has, so that none is reported for the number of queries."""

Progress = Callable[[int], Callable[[], object]]


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


def pack_dataset(config: PackConfig, progress: Progress = lambda total: lambda: None) -> PackResult:
    """Pack a data set; see `pack`.

    Args:
        config: the settings of `detrkit pack`.
        progress: called with the number of images; returns a function that is called once per packed image.
    """
    output = Path(config.output)
    expect_new_folder(output)
    _expect_outside(output, Path(config.data))
    raw = open_dataset(**config.dataset_kwargs(), val_fraction=0)
    if raw.is_packed:
        raise ConfigError(f"expected a data set to pack, found {config.data}, which is packed already")
    report = check_dataset(raw, num_queries=_MANY, compare_images="val" not in raw.splits)
    with atomic_folder(output) as folder:
        manifest = _write(folder, report, int(config.shard_mb * 1e6), progress)
        write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return PackResult(
        output,
        {name: facts["images"] for name, facts in manifest["splits"].items()},
        sum(facts["objects"] for facts in manifest["splits"].values()),
        sum(len(facts["shards"]) for facts in manifest["splits"].values()),
        [*report.notes, *_left_out(report)],
    )


def _write(folder: Path, report: CheckReport, shard_bytes: int, progress: Progress) -> dict[str, Any]:
    """Write shards and columns; returns the manifest."""
    (folder / "index").mkdir()
    suffixes: dict[str, int] = {}
    group_of = report.duplicates.group_of() if report.duplicates else {}
    categories = next(iter(report.splits.values())).categories
    advance = progress(sum(map(len, report.splits.values())))
    splits: dict[str, Any] = {}
    for name, split in report.splits.items():
        writer = SplitWriter(folder, name, categories, suffixes, shard_bytes)
        for image in split.images:
            writer.add(image, report.infos[image.path], group_of.get(image.path, -1))
            advance()
        splits[name] = writer.close() | {"statistics": report.statistics[name]}
    return {
        "format": KIND,
        "version": PACK_VERSION,
        "categories": categories.to_plain(),
        "suffixes": list(suffixes),
        "splits": splits,
    }


def _expect_outside(output: Path, data: Path) -> None:
    """Refuse to write into the data set, where the shards would be read as a part of it.

    Raises:
        ConfigError: the output lies inside the data set.
    """
    if data.is_dir() and output.resolve().is_relative_to(data.resolve()):
        raise ConfigError(f"expected a folder outside of the data set {data} to write to, found {output}; name another")


def _left_out(report: CheckReport) -> list[str]:
    """One sentence on the files and records that the check left out, if any."""
    counts = report.counts()
    kinds = [kind for kind in counts if ACTIONS[kind].outcome in ("dropped", "unused")]
    return (
        [f"left out by the check (see detrkit check): {', '.join(f'{counts[k]} {k}' for k in kinds)}"] if kinds else []
    )
