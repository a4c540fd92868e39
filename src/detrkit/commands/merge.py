"""`detrkit merge`: one file of the results of all shards."""

from __future__ import annotations

from detrkit.config.commands import MergeConfig
from detrkit.inference.batch_merge import merge as merge_shares


def merge(config: MergeConfig) -> None:
    """Merge the results of `detrkit predict --shard`, see `inference.batch_merge.merge`.

    Raises:
        DataError: shares are missing, not complete, overlap, or saw other images.
        ConfigError: shares were made with different settings, or the output has another ending.
    """
    from detrkit.ops.console import make_console

    result = merge_shares(config.folder, config.output)
    console = make_console()
    console.print(
        f"{result.detections} detections in {result.images} images"
        + (f"; {result.errors} images could not be read" if result.errors else "")
    )
    console.print(f"Written to {result.path}")
