"""Names what a folder holds that is not read here."""

from __future__ import annotations

from detrkit.data.file_index import FileIndex


def name_foreign(index: FileIndex) -> str:
    """One sentence about a data set of another format."""
    return ""
