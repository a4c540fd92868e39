"""Index of all files below a folder: the folder is walked once, and all format loaders search the index.

Hidden files and folders are skipped, as are those that operating systems and notebooks leave behind (`._x.jpg`,
`__MACOSX`, `.ipynb_checkpoints`), and the folders that detrkit writes: runs, labels of the studio, and its exports.
Symbolic links to folders are followed, each folder at most twice, so that loops end.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from detrkit.data.formats.raw import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES

_LEFTOVERS = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"}
STUDIO_LABELS, STUDIO_EXPORTS = "studio_labels", "studio_exports"
"""Folders that `detrkit studio` writes: data sets of their own, not parts of the one around them."""
_RUN_FILES = {"config.yaml", "metrics.csv"}
"""Files by which a run folder is known; its images and annotations are results."""
_RESULTS = ("report", "tensorboard")
"""Beginnings of the names of folders with results in a run folder that is itself the root, as that of the demo."""
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
"""First bytes of JPEG, PNG, GIF, BMP, TIFF and JPEG 2000."""
_TIMES = 2
"""How often one folder may be visited through links: `images` may be a link to a folder of the same data set."""


class FileIndex:
    """The files below a folder.

    Attributes:
        root: the folder.
        folders: folder -> sorted names of the files directly in it; all as text, folders from the root on.
        memo: results of a format's detection, which its loader uses again.
        unread: path -> reason, of unreadable folders, broken links, pipes and the like.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders: dict[str, list[str]] = {}
        self._by_suffix: dict[tuple[str, ...], list[Path]] = {}
        self.memo: dict[str, Any] = {}
        self._prefix = str(root).rstrip(os.sep) + os.sep if str(root) != "." else ""
        self.unread: dict[str, str] = {}
        self._linked = False
        self._walk(str(root), Counter())

    def _walk(self, folder: str, met: Counter[str]) -> None:
        stack = [folder]
        while stack:
            here = stack.pop()
            names: list[str] = []
            inner: list[str] = []
            for entry in self._entries(here):
                name = entry.name
                if name.startswith(".") or name.lower() in _LEFTOVERS or name in (STUDIO_LABELS, STUDIO_EXPORTS):
                    continue
                kind = self._kind(entry)
                if kind == "file":
                    names.append(name)
                elif kind == "folder" and (not entry.is_symlink() or self._may_follow(entry.path, met)):
                    inner.append(entry.path)
            if not _RUN_FILES - set(names):
                if here != folder:
                    continue
                inner = [path for path in inner if not os.path.basename(path).startswith(_RESULTS)]  # noqa: PTH119
            self.folders[here] = sorted(names)
            stack += sorted(inner, reverse=True)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return list(entries)
        except OSError as error:
            self.unread[folder] = error.strerror or str(error)
            return []

    def _kind(self, entry: os.DirEntry[str]) -> str:
        """`file`, `folder`, or empty for entries that must not be opened, such as a pipe, which would block."""
        try:
            if entry.is_dir():
                return "folder"
            if entry.is_file():
                return "file"
            target = os.path.exists(entry.path)  # noqa: PTH110 - text is what we have
        except OSError as error:  # such as a link to itself
            self.unread[entry.path] = error.strerror or str(error)
            return "file"
        self.unread[entry.path] = "neither a file nor a folder" if target else "a link to what is not there"
        return "" if target else "file"

    def _may_follow(self, link: str, met: Counter[str]) -> bool:
        """Whether to follow a link to a folder: not to one that contains the link, and to none too often."""
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
        """Image files, by their ending, or by their first bytes if they have no ending; in the order of `files`."""
        return [Path(file) for file in self.files if file.lower().endswith(IMAGE_SUFFIXES) or _begins_as_image(file)]

    @cached_property
    def image_set(self) -> set[Path]:
        """`images` as a set."""
        return set(self.images)

    @cached_property
    def image_names(self) -> set[str]:
        """Names of `images`, without folders."""
        return {path.name for path in self.images}

    @cached_property
    def image_stems(self) -> set[str]:
        """Names of `images`, without folders and endings."""
        return {path.stem for path in self.images}

    @cached_property
    def other_images(self) -> list[Path]:
        """Files with the ending of an image format that cannot be decoded here."""
        return [Path(file) for file in self.files if file.lower().endswith(OTHER_IMAGE_SUFFIXES)]

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """Files with one of these endings, in upper or lower case."""
        if suffixes not in self._by_suffix:
            self._by_suffix[suffixes] = [Path(file) for file in self.files if file.lower().endswith(suffixes)]
        return list(self._by_suffix[suffixes])

    def holds(self, path: str) -> bool:
        """Whether a file exists; outside of the root the file system is queried."""
        if path in self._known:
            return True
        try:
            return os.path.isfile(path)  # noqa: PTH113 - text is what we have, a hundred thousand times
        except (OSError, ValueError):  # such as a name longer than the file system allows, or with a zero in it
            return False

    def relative(self, path: Path) -> tuple[str, ...]:
        """Parts of a path relative to the root (none for the root itself); all parts of a path outside of the root."""
        text = str(path)  # not its parts, which take ten times as long
        if self.is_below_root(path):
            return tuple(text[len(self._prefix) :].split(os.sep))  # noqa: PTH206
        return () if path == self.root else path.parts

    def is_below_root(self, path: Path) -> bool:
        """Whether a path lies below the root, compared as text, since this is called for every file."""
        text = str(path)
        return text.startswith(self._prefix) if self._prefix else not text.startswith((os.sep, ".."))

    def unique_files(self, paths: Iterable[Path]) -> list[Path]:
        """The paths without those that are links to a file listed before."""
        if not self._linked:
            return list(paths)
        return list({os.path.realpath(path): path for path in reversed(list(paths))}.values())[::-1]

    def with_linked_paths(self, paths: Iterable[str]) -> set[str]:
        """The paths, and all other paths that links give to the same files."""
        known = set(paths)
        if self._linked:
            real = {os.path.realpath(path) for path in known}
            known |= {file for file in self.files if os.path.realpath(file) in real}
        return known


def _begins_as_image(file: str) -> bool:
    """Whether a file without an ending begins with the signature of an image format."""
    if "." in file[file.rfind(os.sep) :]:
        return False
    try:
        with Path(file).open("rb") as content:
            head = content.read(16)
    except OSError:
        return False
    return head.startswith(_BEGINNINGS) or (head[:4], head[8:12]) == (b"RIFF", b"WEBP") or head[4:12] == b"ftypavif"
