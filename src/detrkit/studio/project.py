"""The project folder of the studio: the folder that its pages may read, and where they write."""

from __future__ import annotations

import os
from pathlib import Path

from detrkit.errors import ConfigError, DataError


class Project:
    """A folder with images or a data set; labels and runs lie in it as the command line writes them.

        FOLDER/             images in any layout, or a data set in any format that detrkit reads
        FOLDER/runs/        training runs
        FOLDER/.studio/     thumbnails and other files that can be made again

    Args:
        folder: the project folder.

    Raises:
        ConfigError: there is no such folder, or it cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        path = Path(folder)
        if not path.is_dir():
            found = "a file" if path.exists() else "nothing"
            raise ConfigError(f"expected a folder with images or a data set, found {found} at {path}; name a folder")
        try:
            self.root = path.resolve(strict=True)
            next(self.root.iterdir(), None)
        except OSError as error:
            raise ConfigError(
                f"cannot read the folder {path}: {error.strerror or error}; look at its permissions"
            ) from None

    @property
    def runs(self) -> Path:
        """Folder of the training runs."""
        return self.root / "runs"

    @property
    def cache(self) -> Path:
        """Folder of files that can be made again."""
        return self.root / ".studio"

    def inside(self, name: str) -> Path:
        """The path of a file or folder of the project, with symbolic links resolved.

        Args:
            name: path relative to the project folder, with forward slashes.

        Raises:
            DataError: the path leads out of the project folder.
        """
        try:
            path = (self.root / name).resolve()
        except (OSError, ValueError, RuntimeError):  # too long, a zero byte, links in a circle
            path = self.root.parent
        if not path.is_relative_to(self.root):
            raise DataError(f"expected a path inside of the project folder, found {name[:200]!r}")
        return path
