"""Every file of a data set, listed once: what the readers of all formats look through, and what was used in the end.

Hidden files and folders are passed over, with what operating systems and notebooks leave behind (`._x.jpg`,
`__MACOSX`, `.ipynb_checkpoints`). Linked folders are followed, a folder at most twice, so that loops end.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from detrkit.data.raw import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES

_LEFTOVERS = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}
_TIMES = 2
"""How often one folder may be met through links: data sets link `images` to a folder that lies in them as well."""


class FileIndex:
    """The files below a folder.

    Attributes:
        root: the folder.
        folders: folder -> sorted names of the files directly in it; all as text, folders from the root on.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders: dict[str, list[str]] = {}
        self._linked = False
        self._walk(str(root), Counter())

    def _walk(self, folder: str, met: Counter[str]) -> None:
        stack = [folder]
        while stack:
            here = stack.pop()
            names: list[str] = []
            inner: list[str] = []
            with os.scandir(here) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith(".") or name.lower() in _LEFTOVERS:
                        continue
                    if not entry.is_dir():
                        names.append(name)
                    elif not entry.is_symlink() or self._may_follow(entry.path, met):
                        inner.append(entry.path)
            self.folders[here] = sorted(names)
            stack += sorted(inner, reverse=True)

    def _may_follow(self, link: str, met: Counter[str]) -> bool:
        """Whether a linked folder is to be walked through: not one that the link lies in, and none too often."""
        self._linked = True
        target = os.path.realpath(link)
        met[target] += 1
        inside = os.path.realpath(Path(link).parent)
        return met[target] < _TIMES and not (inside + os.sep).startswith(target + os.sep)

    @cached_property
    def files(self) -> list[str]:
        """All files, folder by folder in the order of their names."""
        return [
            folder + os.sep + name if folder != os.sep else folder + name
            for folder in sorted(self.folders)
            for name in self.folders[folder]
        ]

    @cached_property
    def _known(self) -> set[str]:
        return set(self.files)

    @cached_property
    def images(self) -> list[Path]:
        """Files with the ending of an image that can be read, in the order of `files`."""
        return [Path(file) for file in self.files if file.lower().endswith(IMAGE_SUFFIXES)]

    @cached_property
    def image_set(self) -> set[Path]:
        """The same as a set."""
        return set(self.images)

    @cached_property
    def image_names(self) -> set[str]:
        """Their names without folders."""
        return {path.name for path in self.images}

    @cached_property
    def image_stems(self) -> set[str]:
        """Their names without folders and endings."""
        return {path.stem for path in self.images}

    @cached_property
    def other_images(self) -> list[Path]:
        """Files with the ending of an image that cannot be read."""
        return [Path(file) for file in self.files if file.lower().endswith(OTHER_IMAGE_SUFFIXES)]

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """Files of these endings, whatever their letter case."""
        return [Path(file) for file in self.files if file.lower().endswith(suffixes)]

    def holds(self, path: str) -> bool:
        """Whether there is such a file; outside of the root the disk is asked."""
        if path in self._known:
            return True
        try:
            return os.path.isfile(path)  # noqa: PTH113 - text is what we have, a hundred thousand times
        except (OSError, ValueError):  # such as a name longer than the file system allows, or with a zero in it
            return False

    def relative(self, path: Path) -> tuple[str, ...]:
        """The parts of a path below the root; those of the whole path outside of it."""
        text, above = str(path), f"{self.root}{os.sep}"
        if text.startswith(above):  # pathlib takes ten times as long, a hundred thousand times
            return tuple(text[len(above) :].split(os.sep))  # noqa: PTH206
        return path.relative_to(self.root).parts if path.is_relative_to(self.root) else path.parts

    def once(self, paths: Iterable[Path]) -> list[Path]:
        """The paths without those that links make lead to a file named before."""
        if not self._linked:
            return list(paths)
        return list({os.path.realpath(path): path for path in reversed(list(paths))}.values())[::-1]

    def same_files(self, paths: Iterable[str]) -> set[str]:
        """The paths, and with links all other paths of the same files."""
        known = set(paths)
        if self._linked:
            real = {os.path.realpath(path) for path in known}
            known |= {file for file in self.files if os.path.realpath(file) in real}
        return known
