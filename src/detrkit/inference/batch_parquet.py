"""Results of a batch job as Parquet: a row per image, with the columns that a JSON line has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from detrkit.errors import DataError, MissingExtraError
from detrkit.files import atomic_path
from detrkit.inference.batch_results import Row
from detrkit.inference.streaming import batched

ROWS = 1000
"""Rows that are in memory at a time."""


def write_parquet(path: Path, rows: Iterable[Row], about: Mapping[str, Any]) -> None:
    """Write rows of images to a Parquet file, whole or not at all.

    Args:
        path: file to write.
        rows: see `batch_results.Row`.
        about: settings and counts, which become JSON in the metadata of the file, under the key `detrkit`.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    require_pyarrow()
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema().with_metadata({"detrkit": json.dumps(about)})
    with atomic_path(path) as aside, parquet.ParquetWriter(aside, schema) as writer:
        for batch in batched(rows, ROWS):
            writer.write_batch(pa.RecordBatch.from_pylist(list(batch), schema=schema))


def parquet_about(path: Path) -> Row:
    """The settings and counts in the metadata of a Parquet file of results.

    Raises:
        MissingExtraError: pyarrow is not installed.
        DataError: it is no such file.
    """
    require_pyarrow()
    import pyarrow as pa
    from pyarrow import parquet

    try:
        about = json.loads((parquet.read_schema(path).metadata or {}).get(b"detrkit", b"{}"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"expected results as Parquet in {path}, but they cannot be read: {error}") from error
    if not isinstance(about, dict) or not {"header", "end"} <= about.keys():
        raise DataError(f"expected the results of a share in {path}, found another Parquet file; move it away")
    return about


def parquet_rows(path: Path) -> Iterator[Row]:
    """Read the rows of a Parquet file of results, which are sorted by name."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS):
            for row in batch.to_pylist():
                yield _without_nulls(row)


def parquet_names(path: Path) -> Iterator[str]:
    """Read the names of the images of a Parquet file of results."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS, columns=["file"]):
            yield from batch.column(0).to_pylist()


def require_pyarrow() -> None:
    """Raise `MissingExtraError` if pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("--format parquet", "parquet") from error


@cache
def _schema() -> Any:
    """The columns."""
    import pyarrow as pa

    mask = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])
    detection = pa.struct(
        [
            ("category_id", pa.int64()),
            ("category_name", pa.string()),
            ("bbox", pa.list_(pa.float64())),
            ("score", pa.float64()),
            ("segmentation", mask),
        ]
    )
    return pa.schema(
        [
            ("file", pa.string()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("detections", pa.list_(detection)),
            ("error", pa.string()),
        ]
    )


def _without_nulls(row: Row) -> Row:
    """A row as its JSON line has it, without the columns that it has no value for."""
    kept = {key: value for key, value in row.items() if value is not None}
    if "detections" in kept:
        kept["detections"] = [{k: v for k, v in each.items() if v is not None} for each in kept["detections"]]
    return kept
