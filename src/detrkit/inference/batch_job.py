"""A batch job: detect objects in one share of very many images, and continue where an earlier process has ended."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrkit.config.commands import PredictConfig
from detrkit.config.options import config_from_options
from detrkit.errors import ConfigError, DataError
from detrkit.files import checkpoint_in
from detrkit.inference.batch_detect import DetectSettings, detect_rows
from detrkit.inference.batch_results import (
    VERSION,
    ResultFile,
    Row,
    compare_headers,
    lines_about,
    name_order,
    sorted_lines,
)
from detrkit.inference.batch_share import BatchImage, Listing, Share, images_of_share
from detrkit.inference.guards import check_settings
from detrkit.inference.load_detector import load_detector

THRESHOLD = 0.5
"""Default of `--threshold`."""

CHANGE_RESULTS = (
    *("threshold", "top_k", "image_size", "precision", "compile", "tiles", "tile_overlap", "max_overlap"),
    *("value_range", "dilation", "nheads"),
)
"""Settings that must be the same for all shares, and when one is continued."""


@dataclass(frozen=True)
class ShardResult:
    """The file of results of a shard, and what it holds."""

    path: Path
    images: int
    """Images of the shard."""
    total: int
    """Images of all shards."""
    before: int
    """Images of the shard that an earlier process had done."""
    errors: int
    """Images that could not be read this time; their rows state the reason."""


def predict_shard(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    weights: str | os.PathLike[str],
    shard: str = "1/1",
    **options: Any,
) -> ShardResult:
    """Detect objects in one share of very many images; a row per image is written to a file.

        detrkit.predict_shard("photos", "runs/mine", "3/64", output_dir="OUT")
        detrkit.merge("OUT")

    Args:
        source: images, folders (with their subfolders) and globs, one or several.
        weights: see `Detector.load`.
        shard: `i/n`, the i-th of n shards. Each image belongs to one of them, by a hash of its path below the source.
        options: further settings of `detrkit predict`, under the names of its flags: `output_dir`, `format`, `engine`,
            `threshold`, `batch_size`, ...

    Raises:
        ConfigError: a setting does not go with shards, or is not the one that the file was begun with.
        DataError: there are no images.
        WeightsError: the weights cannot be read.
        MissingExtraError: `engine` or `format` needs a package that is not installed.
    """
    sources = [source] if isinstance(source, str | os.PathLike) else source
    options = {"quiet": True, **options}
    given = {"source": [os.fspath(each) for each in sources], "weights": os.fspath(weights), "shard": shard}
    return run_share(config_from_options(PredictConfig, **given, **options))


def run_share(config: PredictConfig) -> ShardResult:
    """Detect objects in the images of one share and append a row per image to its file of results.

    Images that have a row already are not done again. See `inference.batch_results` for the file.

    Raises:
        ConfigError, DataError, WeightsError, MissingExtraError: see `predict_shard`.
    """
    _refuse_other_outputs(config)
    threshold = THRESHOLD if config.threshold is None else config.threshold
    settings = DetectSettings(*check_settings(threshold, config.top_k, config.batch_size))
    share, listing = Share.parse(config.shard or "1/1"), Listing()
    images = sorted(images_of_share(config.source, share, listing), key=lambda image: name_order(image.name))
    path = Path(config.output_dir) / f"{share.file_stem}.jsonl"
    table = path.with_suffix(".parquet")
    header, failed = _header(config, share), 0
    tabled, table_end = _read_table(table, header, wanted=config.format == "parquet")
    before = sum(image.name in tabled for image in images)
    if before < len(images) or table_end != listing.to_plain() | {"done": len(tabled)} or path.exists():
        with ResultFile(path, header, tabled) as results:
            before = sum(image.name in results.done for image in images)
            failed = _detect(config, results, images, settings, share)
            end = listing.to_plain() | {"done": len(results.done)}
            if results.end != end:
                results.close(end)
            if config.format == "parquet":
                _make_table(table, path, header, end)
                path.unlink()
    written = table if config.format == "parquet" else path
    return ShardResult(written, len(images), listing.images, before, failed)


def _detect(
    config: PredictConfig, results: ResultFile, images: list[BatchImage], settings: DetectSettings, share: Share
) -> int:
    """Detect objects in the images that are left, and count those that cannot be read.

    Raises:
        DataError: images came back without results.
    """
    from detrkit.ops.console import make_console, make_progress

    left, failed = [image for image in images if image.name not in results.done], 0
    with make_progress(make_console(stderr=True, quiet=config.quiet)) as progress:
        task = progress.add_task(f"Shard {share}", total=len(images), completed=len(images) - len(left))
        for row in _rows(config, left, settings):
            if row["file"] in results.done:  # a cluster may do an image again
                continue
            results.write(row)
            failed += "error" in row
            progress.advance(task)
    lost = sum(image.name not in results.done for image in left)
    if lost:
        raise DataError(
            f"expected results of {len(images)} images, but {lost} are missing; start the command again, which does "
            "only what is left"
        )
    return failed


def _read_table(table: Path, header: dict[str, Any], *, wanted: bool) -> tuple[set[str], Any]:
    """The names of images in a Parquet file of the share, and its counts; none if there is no file.

    Raises:
        ConfigError: it was made with other settings, or is there and --format is another.
        MissingExtraError: pyarrow is not installed.
    """
    if not wanted and not table.exists():
        return set(), None
    from detrkit.inference.batch_parquet import parquet_about, parquet_names, require_pyarrow

    if not wanted:
        raise ConfigError(f"expected --format parquet, in which {table} is; or move that file away")
    require_pyarrow()
    if not table.exists():
        return set(), None
    about = parquet_about(table)
    compare_headers(table, about["header"], header)
    return set(parquet_names(table)), about["end"]


def _make_table(table: Path, lines: Path, header: dict[str, Any], end: dict[str, Any]) -> None:
    """Write the rows of JSON lines, and those of an earlier Parquet file, to a Parquet file."""
    from detrkit.inference.batch_parquet import parquet_names, parquet_rows, write_parquet

    known = set(parquet_names(table)) if table.exists() else set()
    earlier = parquet_rows(table) if known else iter(())
    added = (row for row in sorted_lines(lines, in_order=lines_about(lines).in_order) if row["file"] not in known)
    rows = heapq.merge(earlier, added, key=lambda row: name_order(row["file"]))
    write_parquet(table, rows, {"header": header, "end": end})


def _rows(config: PredictConfig, images: list[BatchImage], settings: DetectSettings) -> Iterator[Row]:
    if not images:
        return iter(())
    if config.engine == "ray":
        from detrkit.inference.ray_engine import detect_with_ray

        return detect_with_ray(config, images, settings)
    return detect_rows(load_detector(config, precision=config.precision, compile=config.compile), images, settings)


def _header(config: PredictConfig, share: Share) -> dict[str, Any]:
    """The settings on which the results of a share depend."""
    settings = {name: getattr(config, name) for name in CHANGE_RESULTS}
    settings["threshold"] = THRESHOLD if config.threshold is None else config.threshold
    return {"version": VERSION, "shard": str(share), "weights": _fingerprint(config.weights), **settings}


def _fingerprint(weights: str) -> str:
    """A hash of the file of weights, which stays when it moves; or its name, if it is none."""
    path = checkpoint_in(weights)
    if not path.is_file():
        return weights
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_other_outputs(config: PredictConfig) -> None:
    """Refuse flags whose files would not be divided among shares.

    Raises:
        ConfigError: there is one.
    """
    flags: Iterable[str] = ("panoptic", "cutouts", "polygons", "label_map", "write", "track")
    for name in flags:
        if getattr(config, name):
            raise ConfigError(
                f"expected --shard or --engine ray without --{name}, found both; a shard writes one line per image"
            )
