"""Merge the results of all shares of a batch job into one file."""

from __future__ import annotations

import contextlib
import heapq
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from detrkit.errors import ConfigError, DataError
from detrkit.files import JsonRows, atomic_path
from detrkit.inference.batch_parquet import parquet_about, parquet_rows, write_parquet
from detrkit.inference.batch_results import Row, lines_about, name_order, sorted_lines
from detrkit.inference.sources import SourceFile, image_ids
from detrkit.ops.text import first_names

_NAME = re.compile(r"results-(\d+)-of-(\d+)\.(?:jsonl|parquet)")


@dataclass(frozen=True)
class MergeResult:
    """The file that `merge` has written, and what it holds."""

    path: Path
    images: int
    """Images with results."""
    detections: int
    errors: int
    """Images that could not be read; JSON lines state the reason of each."""


@dataclass(frozen=True)
class _ShareFile:
    """A complete file of results."""

    path: Path
    header: Row
    end: Row
    rows: Callable[[], Iterator[Row]]
    """Reads the rows of images, sorted by name."""


def merge(folder: str | Path, output: str | Path = "") -> MergeResult:
    """Merge the results of all shares of a batch job, sorted by image; a few images are in memory at a time.

        detrkit.merge("predictions", "detections.json")

    Args:
        folder: the `output_dir` of `detrkit predict --shard`.
        output: file to write: .jsonl, a line per image; .parquet, a row per image; or .json, detections in the COCO
            format as `detrkit eval --detections` reads them. Empty: results.jsonl in the folder.

    Raises:
        DataError: shares are missing, not complete, overlap, or saw other images.
        ConfigError: shares were made with different settings, or the output has another ending.
        MissingExtraError: a file is Parquet, and pyarrow is not installed.
    """
    target = Path(output) if output else Path(folder) / "results.jsonl"
    if target.suffix not in _WRITERS:
        raise ConfigError(f"expected an output that ends in {' or '.join(sorted(_WRITERS))}, found {target.name}")
    shares = _find_shares(Path(folder))
    _compare(shares)
    counts = {"images": 0, "detections": 0, "errors": 0}

    def rows() -> Iterator[Row]:
        last = None
        for row in heapq.merge(*(share.rows() for share in shares), key=lambda row: name_order(row["file"])):
            if row["file"] == last:
                raise DataError(f"expected each image in one shard, found {last} in two; run one of them again alone")
            last = row["file"]
            counts["images"] += "error" not in row
            counts["errors"] += "error" in row
            counts["detections"] += len(row.get("detections", ()))
            yield row

    _WRITERS[target.suffix](target, rows, shares)
    return MergeResult(target, **counts)


def _find_shares(folder: Path) -> list[_ShareFile]:
    """Open the files of all shares.

    Raises:
        DataError: there are none, of several jobs, or some are missing or not complete.
    """
    found = sorted((path, match) for path in folder.glob("results-*") if (match := _NAME.fullmatch(path.name)))
    if not found:
        raise DataError(
            f"expected results of shards (results-i-of-n.jsonl or .parquet) in {folder}, found none; make them with: "
            "detrkit predict SOURCE --shard i/n"
        )
    counts = sorted({int(match[2]) for _, match in found})
    if len(counts) > 1:
        raise DataError(
            f"expected the shards of one job in {folder}, found files of {' and of '.join(map(str, counts))} shards; "
            "move those of the other job away"
        )
    missing = sorted({*range(1, counts[0] + 1)} - {int(match[1]) for _, match in found})
    if missing:
        which = first_names(f"{number}/{counts[0]}" for number in missing)
        raise DataError(
            f"expected {counts[0]} shards in {folder}, but {len(missing)} {'is' if len(missing) == 1 else 'are'} "
            f"missing: {which}; run detrkit predict with --shard of each"
        )
    for (path, match), (other, following) in pairwise(found):
        if match[1] == following[1]:
            raise DataError(
                f"expected one file per shard, found {path} and {other}: it was interrupted while the second was made; "
                "run the shard again with the same settings"
            )
    return [_open(path) for path, _ in found]


def _open(path: Path) -> _ShareFile:
    """Check a file of results; one of lines is read once.

    Raises:
        DataError: it is damaged or not complete.
    """
    if path.suffix == ".parquet":
        about = parquet_about(path)
        return _ShareFile(path, about["header"], about["end"], partial(parquet_rows, path))
    lines = lines_about(path)
    if not isinstance(lines.header, dict) or not isinstance(lines.end, dict):
        raise DataError(
            f"expected a complete shard in {path}, but it was interrupted or is still written; run it again with the "
            "same settings, which does only what is left"
        )
    return _ShareFile(path, lines.header, lines.end, partial(sorted_lines, path, in_order=lines.in_order))


def _compare(shares: Sequence[_ShareFile]) -> None:
    """Compare shares with the first one.

    Raises:
        ConfigError: settings are different.
        DataError: they saw different images.
    """
    first = shares[0]
    for share in shares[1:]:
        names = {*first.header, *share.header} - {"shard"}
        different = sorted(name for name in names if first.header.get(name) != share.header.get(name))
        if different:
            raise ConfigError(
                f"expected shards of the same settings, found another value of {', '.join(different)} in {share.path} "
                f"than in {first.path}; run one of them again"
            )
        if any(first.end.get(key) != share.end.get(key) for key in ("images", "checksum")):
            raise DataError(
                f"expected shards of the same images, but {first.path} saw {first.end['images']} and {share.path} saw "
                f"{share.end['images']}, or other names; run all shards again, which does only what is left"
            )
    total = sum(share.end["done"] for share in shares)
    if total != first.end["images"]:
        raise DataError(
            f"expected results of {first.end['images']} images, found {total}: images were removed since a shard was "
            "begun; delete the files of the shards and start them again"
        )


def _write_lines(path: Path, rows: Callable[[], Iterator[Row]], shares: Sequence[_ShareFile]) -> None:
    with atomic_path(path) as aside, aside.open("wb") as file:
        for row in rows():
            file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n")


def _write_parquet(path: Path, rows: Callable[[], Iterator[Row]], shares: Sequence[_ShareFile]) -> None:
    write_parquet(path, rows(), {"header": shares[0].header | {"shard": "1/1"}, "end": shares[0].end})


def _write_coco(path: Path, rows: Callable[[], Iterator[Row]], shares: Sequence[_ShareFile]) -> None:
    names = [row["file"] for share in shares for row in share.rows() if "error" not in row]
    names.sort(key=name_order)
    ids = image_ids(SourceFile(Path(name), name) for name in names)
    with contextlib.ExitStack() as stack:
        aside = stack.enter_context(atomic_path(path))
        file = stack.enter_context(aside.open("w", encoding="utf-8", newline="", errors="backslashreplace"))
        written = JsonRows(file, "[")
        for row in rows():
            for detection in row.get("detections", ()):
                entry: dict[str, Any] = {"image_id": ids[Path(row["file"])]} | detection
                written.add(entry | {"file_name": row["file"]})
        written.close("\n]\n")


_WRITERS = {".jsonl": _write_lines, ".parquet": _write_parquet, ".json": _write_coco}
