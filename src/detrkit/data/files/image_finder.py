"""Which file a name in an annotation file means: exactly that one, or, for names of other machines, as near as can be.

One finder for all formats. A name is looked for as it stands in one of the usual folders, then (an absolute one)
where it says. What is still not found is looked for by the end of its path in all of the data set, upper and lower
case and composed and decomposed letters (macOS) being alike: `/home/ann/set/a/1.JPG` is `images/a/1.jpg` here if no
other file ends as well. URLs lose host, query and quoting (`/data/local-files/?d=a%20b.jpg` of Label Studio is
`a b.jpg`), and where no file of that name exists, one with the ending of another image format counts. Two names never
mean one file: it goes to the one that fits better, or to neither. And a name never means a file of another folder
where its own folder is there without it: `day1/5.png` is missing then, not `day2/5.png`, nor is an image of train one
of val.
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
"""Folders that only say that images are in them, in lower case: the best guess first."""
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of an uploaded file."""

How = Literal["exact", "by_name", "moved", "other_ending", "ambiguous", "absent"]


@dataclass(frozen=True, slots=True)
class Match:
    """The file of a name."""

    path: Path
    """The file; one that does not exist where `how` is `ambiguous` or `absent`."""
    name: str
    """The relative name to call it by, with forward slashes."""
    how: How
    """exact: where the name says. by_name: elsewhere, but in all folders that it tells. moved: found by the end of its
    path, in another folder than the name tells. other_ending: the same name with the ending of another format.
    ambiguous: several files fit as well. absent: none does."""
    rivals: tuple[Path, ...] = ()
    """Files that fit an ambiguous name equally well."""


@dataclass(frozen=True, slots=True)
class _File:
    """An image file that may be meant."""

    path: Path
    parts: tuple[str, ...]
    """Of its path, in one spelling of upper and lower case."""
    folders: tuple[str, ...]
    """Those of its folders in the data set that tell it from others."""


@dataclass(frozen=True, slots=True)
class _Name:
    """A name that is looked for."""

    insides: Sequence[str]
    """What it may mean, as relative names."""
    folders: tuple[str, ...]
    """The folders that it tells, with those of the folder in which the others of its file lie."""
    split_name: str
    """The split that it is of, or nothing."""


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
        """The file of each name.

        Args:
            names: as the annotation file has them.
            folders: where they may lie, best guess first; the first one that holds most of a sample is preferred.
            outside: more of them, outside of the data set: they count only where none of `folders` holds any.
            within: the only folder that is searched for what is not there; default: the whole data set.
            role: the split that the annotation file tells, or nothing: images of another one are not meant.
        """
        tidy = {name: [tidy_name(spelling)[0] for spelling in spellings(name)] for name in dict.fromkeys(names)}
        sample = [inside[0] for inside in tidy.values()]
        best = self._best_folder(sample, folders)
        if best is None and outside:
            folders = [*folders, *outside]
            best = self._best_folder(sample, outside)
        ordered = [best, *(folder for folder in folders if folder != best)] if best else list(folders)
        found: dict[str, Match] = {}
        lost: dict[str, list[str]] = {}
        for name, insides in tidy.items():
            match = self._exactly(name, insides, ordered)
            if match is None:
                lost[name] = insides
            else:
                found[name] = match
        if lost:
            context = self._telling(best.parts if best else ())
            named = {name: self._name(name, insides, context, split_name) for name, insides in lost.items()}
            found |= self._by_ending(named, ordered, within, {match.path for match in found.values()})
        fallback = ordered[0] if ordered else self.index.root
        return {
            name: found.get(name) or Match(fallback / insides[0], insides[0], "absent")
            for name, insides in tidy.items()
        }

    def _best_folder(self, names: Sequence[str], folders: Sequence[Path]) -> Path | None:
        """The folder that holds most of a sample of the images, if one holds any."""
        sample = names[:: max(1, len(names) // 32)]
        hits = {folder: sum(self.index.holds(f"{folder}/{name}") for name in sample) for folder in folders}
        best = max(hits, key=lambda folder: hits[folder], default=None)  # the first of several
        return best if best is not None and hits[best] else None

    def _exactly(self, name: str, insides: Sequence[str], folders: Sequence[Path]) -> Match | None:
        for inside in insides:
            for folder in folders[:1]:
                if self.index.holds(f"{folder}/{inside}"):
                    return Match(folder / inside, inside, "exact")
        if tidy_name(name)[1] and Path(name).is_absolute() and self.index.holds(name):
            return Match(Path(name), insides[0], "exact")
        return None

    def _name(self, name: str, insides: Sequence[str], context: tuple[str, ...], split_name: str) -> _Name:
        """What a name tells; one that leads out of its folder, as on another machine, tells only its own folders."""
        told = tuple(_alike(part) for part in PurePosixPath(insides[0]).parts[:-1])
        own = tuple(part for part in told if part not in IMAGE_FOLDERS)
        if tidy_name(name)[1]:
            return _Name(insides, own, split_name)
        return _Name(insides, (*context, *own), split_name or split_of_parts((*context, *own)))

    def _telling(self, folder: tuple[str, ...]) -> tuple[str, ...]:
        """Those parts of the path of a folder that are below the root and tell it from others."""
        root = self.index.root.parts
        inside = folder[len(root) :] if folder[: len(root)] == root else folder[-1:]
        return tuple(part for part in map(_alike, inside) if part not in IMAGE_FOLDERS)

    def _by_ending(
        self, names: dict[str, _Name], folders: Sequence[Path], within: Path | None, taken: set[Path]
    ) -> dict[str, Match]:
        """The files whose paths end most like the names; none where several do, or where a file is another name's."""
        files: dict[str, list[_File]] = {}
        stems: dict[str, list[_File]] = {}
        known: set[str] = set()
        for path in self._images(folders, within):
            parts = tuple(map(_alike, path.parts))
            file = _File(path, parts, self._telling(path.parts[:-1]))
            known.update(file.folders)
            if path not in taken:
                files.setdefault(parts[-1], []).append(file)
                stems.setdefault(_stem(parts[-1]), []).append(file)
        found = self._claims(names, files, folders, known, stems=False)
        taken = taken | {match.path for match in found.values()}
        rest = {name: told for name, told in names.items() if name not in found}
        free = {stem: left for stem, fits in stems.items() if (left := [fit for fit in fits if fit.path not in taken])}
        return found | self._claims(rest, free, folders, known, stems=True)

    def _claims(
        self,
        names: dict[str, _Name],
        files: dict[str, list[_File]],
        folders: Sequence[Path],
        known: Collection[str],
        *,
        stems: bool,
    ) -> dict[str, Match]:
        claims: dict[Path, list[tuple[int, str, How]]] = {}
        found: dict[str, Match] = {}
        for name, told in names.items():
            best, most = _fitting(told, files, folders, known, stems=stems)
            if len(best) == 1:
                how: How = "other_ending" if stems else "by_name" if _agree(told, best[0]) else "moved"
                claims.setdefault(best[0].path, []).append((most, name, how))
            elif best:
                absent = (folders[0] if folders else self.index.root) / told.insides[0]
                found[name] = Match(absent, told.insides[0], "ambiguous", tuple(file.path for file in best))
        for path, claimed in claims.items():
            most = max(shared for shared, *_ in claimed)
            winners = [(name, how) for shared, name, how in claimed if shared == most]
            if len(winners) == 1:
                found[winners[0][0]] = Match(path, self._name_of(path, folders), winners[0][1])
        return found

    def _images(self, folders: Sequence[Path], within: Path | None) -> list[Path]:
        """All images of the data set, or of `within`, and those of `folders` that lie outside of it."""
        root = self.index.root
        places = [within] if within is not None else [root]
        places += [f for f in folders if not f.is_relative_to(places[0]) and not root.is_relative_to(f)]
        found: list[Path] = []
        for place in places:
            if place.is_relative_to(root):
                found += [p for p in self.index.images if place == root or p.is_relative_to(place)]
            elif place.is_dir():
                if place not in self._elsewhere:
                    self._elsewhere[place] = FileIndex(place)
                found += self._elsewhere[place].images
        return list(dict.fromkeys(found))

    def _name_of(self, file: Path, folders: Sequence[Path]) -> str:
        """Its name relative to the first of the folders that holds it, else to the data set."""
        return next(
            (file.relative_to(f).as_posix() for f in (*folders, self.index.root) if file.is_relative_to(f)), file.name
        )


def tidy_name(file_name: str) -> tuple[str, bool]:
    """A relative file name with forward slashes, and whether it led out of its folder: then without what did."""
    text = file_name.strip().replace("\\", "/")
    path = PurePosixPath(text)
    leaves = path.is_absolute() or ".." in path.parts or "://" in text or text[1:3] == ":/"
    if not leaves:
        return path.as_posix(), False
    parts = [part for part in path.parts if part not in ("/", "//", "..") and not part.endswith(":")]
    return PurePosixPath(*parts).as_posix(), True


def spellings(name: str) -> list[str]:
    """The name as it stands, and what else it may mean: without quoting, query, fragment, or the prefix of an upload.

    Examples:
        >>> spellings("/data/local-files/?d=a%20b.jpg")[-1]
        'a b.jpg'
    """
    text = name.strip().replace("\\", "/")
    if "%" not in text and "?" not in text and "#" not in text and "://" not in text:
        found = [text]
    else:
        split = urlsplit(text) if "://" in text else None
        bare = split.path if split else re.split(r"[?#]", text, maxsplit=1)[0]
        query = parse_qs(split.query if split else text.partition("?")[2])
        found = [text, unquote(text), bare, unquote(bare), *query.get("d", [])]
    last = PurePosixPath(found[-1])
    if _UPLOAD_PREFIX.match(last.name):
        found.append(str(last.with_name(_UPLOAD_PREFIX.sub("", last.name))))
    return [spelling for spelling in dict.fromkeys(found) if spelling.strip("/. ")] or [text]


def _fitting(
    name: _Name, files: dict[str, list[_File]], folders: Sequence[Path], known: Collection[str], *, stems: bool
) -> tuple[list[_File], int]:
    """The files that fit the first spelling which any fits, and how many parts of their paths do."""
    there = tuple(folder for folder in name.folders if folder in known)
    for inside in name.insides:
        target = tuple(map(_alike, PurePosixPath(inside).parts))
        if not target:
            continue
        alike = files.get(_stem(target[-1]) if stems else target[-1], [])
        own = [file for file in alike if _may_be(name.split_name, there, file)]
        fits = [(1 + _shared_end(file.parts[:-1], target[:-1]), file) for file in own]
        most = max((shared for shared, _ in fits), default=0)
        best = [file for shared, file in fits if shared == most]
        for folder in folders:
            if len(best) > 1:  # of train/1.jpg and val/1.jpg, a file of training images means the first
                nearer = [file for file in best if file.path.is_relative_to(folder)]
                best = nearer if len(nearer) == 1 else best
        if best:
            return best, most
    return [], 0


def _agree(name: _Name, file: _File) -> bool:
    """Whether a file lies in all folders that its name tells."""
    return _shared_end(file.folders, name.folders) == len(name.folders)


def _may_be(split_name: str, folders: tuple[str, ...], file: _File) -> bool:
    """Whether nothing says that another file is meant: neither its split nor a folder of the name that is there.

    Args:
        role: the split of what is looked for, or nothing.
        folders: those of its name that hold images.
        file: what may be it.
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
def _alike(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _stem(name: str) -> str:
    """The name without the ending of an image, so that `a.b.jpg` and `a.b` are alike."""
    stem, dot, ending = name.rpartition(".")
    return stem if dot and f".{ending}" in IMAGE_SUFFIXES else name


def _shared_end(a: Sequence[str], b: Sequence[str]) -> int:
    """How many of their last parts two paths share."""
    return next(
        (k for k, (x, y) in enumerate(zip(reversed(a), reversed(b), strict=False)) if x != y), min(len(a), len(b))
    )
