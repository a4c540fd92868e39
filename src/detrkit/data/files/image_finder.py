"""Find the image file of a name in an annotation file, also if the name is a path of another machine or a URL.

All formats use this finder. It tries, in this order:

1. the name as written, in the usual folders; then, if it is absolute, where it points;
2. the longest common end of the path among all images of the data set, ignoring case and Unicode normalization (macOS
   decomposes letters): `/home/ann/set/a/1.JPG` matches `images/a/1.jpg` if no other file matches as well;
3. the same with the ending of another image format.

URLs lose their host, query and quoting: `/data/local-files/?d=a%20b.jpg` of Label Studio is `a b.jpg`. Two names never
match one file: it goes to the better match, or to neither. A name never matches a file of another folder if its own
folder exists: `day1/5.png` is missing then, and not `day2/5.png`. Nor does a name of train match an image of val.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

from detrkit.data.files.file_index import FileIndex
from detrkit.data.files.split_names import split_of_name, split_of_parts
from detrkit.data.formats.raw import IMAGE_SUFFIXES

IMAGE_FOLDERS = ("images", "jpegimages", "imgs", "img", "image", "data", "pictures", "photos", "frames")
"""Names of folders that hold images and say nothing else, in lower case; the best guess first."""
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""Prefix that Label Studio adds to the name of an uploaded file."""

How = Literal["exact", "by_name", "moved", "other_ending", "ambiguous", "absent"]


@dataclass(frozen=True, slots=True)
class Match:
    """An image file that matches a name, and how it was found."""

    path: Path
    """The file; it does not exist if `how` is `ambiguous` or `absent`."""
    name: str
    """Relative name of the file, with forward slashes."""
    how: How
    """exact: the file that the name points to. by_name: elsewhere, but below all folders that the name contains. moved:
    found by the end of its path, in another folder than the name contains. other_ending: same name, but the ending of
    another image format. ambiguous: several files match equally well. absent: no file matches."""
    rivals: tuple[Path, ...] = ()
    """Files that match an ambiguous name equally well."""


@dataclass(frozen=True, slots=True)
class _File:
    """An image file that a name may match."""

    path: Path
    parts: tuple[str, ...]
    """Parts of its path, case-folded."""
    folders: tuple[str, ...]
    """Its folders below the root, without generic ones such as `images`."""


@dataclass(frozen=True, slots=True)
class _Query:
    """A name that is searched for."""

    relative_names: Sequence[str]
    """The relative names that it may stand for, the most literal first."""
    folders: tuple[str, ...]
    """The folders of the name, after those of the folder that holds most images of the annotation file."""
    split_name: str
    """The split that the image belongs to, or empty."""


class ImageFinder:
    """Finds image files by name in a data set."""

    def __init__(self, index: FileIndex) -> None:
        self.index = index
        self._elsewhere: dict[Path, FileIndex] = {}

    def find(
        self,
        names: Iterable[str],
        folders: Sequence[Path],
        *,
        outside: Sequence[Path] = (),
        within: Path | None = None,
        split_name: str = "",
    ) -> dict[str, Match]:
        """Find the file of each name.

        Args:
            names: the names as written in the annotation file.
            folders: likely folders, best guess first; the first one that holds most of a sample is preferred.
            outside: likely folders outside of the data set, used only if none of `folders` holds an image.
            within: the only folder that is searched for images not in `folders`; default: the whole data set.
            split_name: the split of the annotation file, or empty; images of other splits do not match.
        """
        tidy = {name: [tidy_name(spelling)[0] for spelling in spellings(name)] for name in dict.fromkeys(names)}
        sample = [inside[0] for inside in tidy.values()]
        best = self._best_folder(sample, folders)
        if best is None and outside:
            folders = [*folders, *outside]
            best = self._best_folder(sample, outside)
        ordered = [best, *(folder for folder in folders if folder != best)] if best else list(folders)
        matches: dict[str, Match] = {}
        lost: dict[str, list[str]] = {}
        for name, relative_names in tidy.items():
            match = self._exactly(name, relative_names, ordered)
            if match is None:
                lost[name] = relative_names
            else:
                matches[name] = match
        if lost:
            context = self._distinctive_folders(best.parts if best else ())
            named = {
                name: self._query(name, relative_names, context, split_name) for name, relative_names in lost.items()
            }
            matches |= self._by_ending(named, ordered, within, {match.path for match in matches.values()})
        fallback = ordered[0] if ordered else self.index.root
        return {
            name: matches.get(name) or Match(fallback / relative_names[0], relative_names[0], "absent")
            for name, relative_names in tidy.items()
        }

    def _best_folder(self, names: Sequence[str], folders: Sequence[Path]) -> Path | None:
        """The folder that holds most of a sample of the images; None if no folder holds any."""
        sample = names[:: max(1, len(names) // 32)]
        hits = {folder: sum(self.index.holds(f"{folder}/{name}") for name in sample) for folder in folders}
        best = max(hits, key=lambda folder: hits[folder], default=None)  # the first of several
        return best if best is not None and hits[best] else None

    def _exactly(self, name: str, relative_names: Sequence[str], folders: Sequence[Path]) -> Match | None:
        for inside in relative_names:
            for folder in folders[:1]:
                if self.index.holds(f"{folder}/{inside}"):
                    return Match(folder / inside, inside, "exact")
        if tidy_name(name)[1] and Path(name).is_absolute() and self.index.holds(name):
            return Match(Path(name), relative_names[0], "exact")
        return None

    def _query(self, name: str, relative_names: Sequence[str], context: tuple[str, ...], split_name: str) -> _Query:
        """Prepare the search for a name; a path of another machine counts with its own folders alone."""
        folders = tuple(_fold(part) for part in PurePosixPath(relative_names[0]).parts[:-1])
        own = tuple(part for part in folders if part not in IMAGE_FOLDERS)
        if tidy_name(name)[1]:
            return _Query(relative_names, own, split_name)
        return _Query(relative_names, (*context, *own), split_name or split_of_parts((*context, *own)))

    def _distinctive_folders(self, folder: tuple[str, ...]) -> tuple[str, ...]:
        """The parts of a folder's path below the root, without generic ones such as `images`."""
        root = self.index.root.parts
        inside = folder[len(root) :] if folder[: len(root)] == root else folder[-1:]
        return tuple(part for part in map(_fold, inside) if part not in IMAGE_FOLDERS)

    def _by_ending(
        self, names: dict[str, _Query], folders: Sequence[Path], within: Path | None, taken: set[Path]
    ) -> dict[str, Match]:
        """Match names to files by the ends of their paths, then by names with the ending of another image format."""
        files: dict[str, list[_File]] = {}
        stems: dict[str, list[_File]] = {}
        known: set[str] = set()
        for path in self._images(folders, within):
            parts = tuple(map(_fold, path.parts))
            file = _File(path, parts, self._distinctive_folders(path.parts[:-1]))
            known.update(file.folders)
            if path not in taken:
                files.setdefault(parts[-1], []).append(file)
                stems.setdefault(_stem(parts[-1]), []).append(file)
        matches = self._assign(names, files, folders, known, stems=False)
        taken = taken | {match.path for match in matches.values()}
        rest = {name: query for name, query in names.items() if name not in matches}
        free = {stem: left for stem, fits in stems.items() if (left := [fit for fit in fits if fit.path not in taken])}
        return matches | self._assign(rest, free, folders, known, stems=True)

    def _assign(
        self,
        names: dict[str, _Query],
        files: dict[str, list[_File]],
        folders: Sequence[Path],
        known: Collection[str],
        *,
        stems: bool,
    ) -> dict[str, Match]:
        """Give each file to the one name that matches it best; of equally good names none gets it."""
        claims: dict[Path, list[tuple[int, str, How]]] = {}
        matches: dict[str, Match] = {}
        for name, query in names.items():
            best, most = _best_files(query, files, folders, known, stems=stems)
            if len(best) == 1:
                how: How = "other_ending" if stems else "by_name" if _agree(query, best[0]) else "moved"
                claims.setdefault(best[0].path, []).append((most, name, how))
            elif best:
                absent = (folders[0] if folders else self.index.root) / query.relative_names[0]
                matches[name] = Match(absent, query.relative_names[0], "ambiguous", tuple(file.path for file in best))
        for path, claimed in claims.items():
            most = max(shared for shared, *_ in claimed)
            winners = [(name, how) for shared, name, how in claimed if shared == most]
            if len(winners) == 1:
                matches[winners[0][0]] = Match(path, self._name_of(path, folders), winners[0][1])
        return matches

    def _images(self, folders: Sequence[Path], within: Path | None) -> list[Path]:
        """All images of the data set (or of `within`), and those of `folders` outside of it."""
        root = self.index.root
        searched = [within] if within is not None else [root]
        searched += [f for f in folders if not f.is_relative_to(searched[0]) and not root.is_relative_to(f)]
        images: list[Path] = []
        for folder in searched:
            if folder.is_relative_to(root):
                images += [p for p in self.index.images if folder == root or p.is_relative_to(folder)]
            elif folder.is_dir():
                if folder not in self._elsewhere:
                    self._elsewhere[folder] = FileIndex(folder)
                images += self._elsewhere[folder].images
        return list(dict.fromkeys(images))

    def _name_of(self, file: Path, folders: Sequence[Path]) -> str:
        """Name of a file relative to the first of the folders that holds it, else to the data set."""
        return next(
            (file.relative_to(f).as_posix() for f in (*folders, self.index.root) if file.is_relative_to(f)), file.name
        )


def tidy_name(file_name: str) -> tuple[str, bool]:
    """Return the name with forward slashes, made relative, and whether it was absolute, a URL or contained `..`."""
    text = file_name.strip().replace("\\", "/")
    path = PurePosixPath(text)
    leaves = path.is_absolute() or ".." in path.parts or "://" in text or text[1:3] == ":/"
    if not leaves:
        return path.as_posix(), False
    parts = [part for part in path.parts if part not in ("/", "//", "..") and not part.endswith(":")]
    return PurePosixPath(*parts).as_posix(), True


def spellings(name: str) -> list[str]:
    """The name as written, and without URL quoting, query, fragment, or the prefix of an upload.

    Examples:
        >>> spellings("/data/local-files/?d=a%20b.jpg")[-1]
        'a b.jpg'
    """
    text = name.strip().replace("\\", "/")
    if "%" not in text and "?" not in text and "#" not in text and "://" not in text:
        candidates = [text]
    else:
        split = urlsplit(text) if "://" in text else None
        bare = split.path if split else re.split(r"[?#]", text, maxsplit=1)[0]
        query = parse_qs(split.query if split else text.partition("?")[2])
        candidates = [text, unquote(text), bare, unquote(bare), *query.get("d", [])]
    last = PurePosixPath(candidates[-1])
    if _UPLOAD_PREFIX.match(last.name):
        candidates.append(str(last.with_name(_UPLOAD_PREFIX.sub("", last.name))))
    return [spelling for spelling in dict.fromkeys(candidates) if spelling.strip("/. ")] or [text]


def _best_files(
    query: _Query, files: dict[str, list[_File]], folders: Sequence[Path], known: Collection[str], *, stems: bool
) -> tuple[list[_File], int]:
    """The best matches of the first spelling that has any, and how many parts of their paths match."""
    there = tuple(folder for folder in query.folders if folder in known)
    for inside in query.relative_names:
        target = tuple(map(_fold, PurePosixPath(inside).parts))
        if not target:
            continue
        alike = files.get(_stem(target[-1]) if stems else target[-1], [])
        own = [file for file in alike if _is_possible(query.split_name, there, file)]
        fits = [(1 + _shared_end(file.parts[:-1], target[:-1]), file) for file in own]
        most = max((shared for shared, _ in fits), default=0)
        best = [file for shared, file in fits if shared == most]
        for folder in folders:
            if len(best) > 1:  # train/1.jpg rather than val/1.jpg, if the file lists training images
                nearer = [file for file in best if file.path.is_relative_to(folder)]
                best = nearer if len(nearer) == 1 else best
        if best:
            return best, most
    return [], 0


def _agree(query: _Query, file: _File) -> bool:
    """Whether a file lies below all folders of the name."""
    return _shared_end(file.folders, query.folders) == len(query.folders)


def _is_possible(split_name: str, folders: tuple[str, ...], file: _File) -> bool:
    """Whether a file may be the one searched for: neither its split nor an existing folder of the name excludes it.

    Args:
        split_name: the split of the name, or empty.
        folders: the folders of the name that hold images.
        file: the candidate.
    """
    place = split_of_parts(file.folders)
    if split_name and place and split_name != place:
        return False
    shared = _shared_end(file.folders, folders)
    if shared == len(folders):
        return True
    missing = folders[-1 - shared]
    if (
        split_name and split_name == place and split_of_name(missing)
    ):  # images that were sorted into splits after they were listed
        return True
    return missing in file.folders


@lru_cache(maxsize=4096)
def _fold(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _stem(name: str) -> str:
    """The name without the ending of an image format: `a.b` for `a.b.jpg`, and for `a.b`."""
    stem, dot, ending = name.rpartition(".")
    return stem if dot and f".{ending}" in IMAGE_SUFFIXES else name


def _shared_end(a: Sequence[str], b: Sequence[str]) -> int:
    """Number of last parts that two paths have in common."""
    return next(
        (k for k, (x, y) in enumerate(zip(reversed(a), reversed(b), strict=False)) if x != y), min(len(a), len(b))
    )
