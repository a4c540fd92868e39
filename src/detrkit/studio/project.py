"""The project folder of the studio: the folder that its pages may read, and where they write."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from detrkit.errors import ConfigError, DataError
from detrkit.serving.refused import RefusedError
from detrkit.studio.catalog import Catalog
from detrkit.studio.label_store import LabelStore
from detrkit.studio.loaded_detector import LoadedDetector
from detrkit.studio.thumbnails import Thumbnails


class Project:
    """A folder with images or a data set; labels and runs lie in it as the command line writes them.

        FOLDER/                  images in any layout, or a data set in any format that detrkit reads
        FOLDER/runs/             training runs
        FOLDER/studio_labels/    labels that were saved in the studio, as COCO
        FOLDER/studio_exports/   data sets that were exported
        FOLDER/.studio/          thumbnails and other files that can be made again

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

    @cached_property
    def labels(self) -> LabelStore:
        """Labels of the images."""
        return LabelStore(self.root)

    @cached_property
    def catalog(self) -> Catalog:
        """Images of the project."""
        return Catalog(self.root, self.labels)

    @cached_property
    def thumbnails(self) -> Thumbnails:
        """Small copies of the images."""
        return Thumbnails(self.root, self.cache / "thumbnails")

    @cached_property
    def detector(self) -> LoadedDetector:
        """The detector that pages share."""
        return LoadedDetector()

    @property
    def data(self) -> Path:
        """The data set to train on: the labels of the studio if there are any, else the project folder."""
        return self.labels.folder if self.labels.has_changes else self.root

    def image(self, name: str) -> Path:
        """The path of an image of the project.

        Args:
            name: its path relative to the project folder.

        Raises:
            RefusedError: 404, there is no such image.
            DataError: the image is a link that leads out of the project folder.
        """
        self.catalog.wait()
        if name not in self.catalog.images:
            raise RefusedError(404, f"expected an image of the project, found none named {name[:200]!r}")
        return self.inside(name)

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

    def start(self) -> None:
        """Begin to find images and labels."""
        self.catalog.start()

    def close(self) -> None:
        """Write what has changed."""
        self.labels.close()
