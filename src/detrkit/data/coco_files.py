"""Where the pictures lie that a COCO file names: exactly there, or, for names of another machine, as near as can be.

A name is looked for as it stands in one of the usual folders, then (an absolute one) where it says. What is still not
found is looked for by the end of its path in all of the data set, upper and lower case and composed and decomposed
letters (macOS) being alike: `/home/ann/set/a/1.JPG` is `images/a/1.jpg` here if no other file ends as well. Two names
never mean one file: it goes to the one that fits better, or to neither.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from detrkit.data.raw import IMAGE_SUFFIXES
from detrkit.errors import DataError


def find_files(path: Path, names: Iterable[str], folders: Sequence[Path], within: Path) -> dict[str, tuple[Path, str]]:
    """Find the pictures of a COCO file.

    Args:
        path: the COCO file.
        names: the file names in it.
        folders: where they may lie, best guess first; the first one that holds some of them is taken.
        within: the folder that is searched for the others, with the folders in it.

    Returns:
        Name -> file, and the relative name to call it by. The file of a name that leads nowhere does not exist.

    Raises:
        DataError: no picture can be found.
    """
    tidy = {name: tidy_name(name) for name in dict.fromkeys(names)}
    folder = _best_folder([name for name, _ in tidy.values()], folders) or (folders[0] if folders else path.parent)
    found: dict[str, tuple[Path, str]] = {}
    lost: list[str] = []
    for name, (inside, leaves) in tidy.items():
        if _is_file(folder / inside):
            found[name] = folder / inside, inside
        elif leaves and Path(name).is_absolute() and _is_file(Path(name)):
            found[name] = Path(name), inside
        else:
            lost.append(name)
    if lost:
        taken = {file for file, _ in found.values()}
        for name, file in _by_ending({name: tidy[name][0] for name in lost}, [folder, *folders], within, taken).items():
            found[name] = file, _below(file, folder, within, *folders)
    if tidy and not found:
        looked = ", ".join(dict.fromkeys(str(folder) for folder in folders if folder.is_dir())) or "no existing folder"
        raise DataError(
            f"expected the {len(tidy)} pictures of {path} in one of its usual folders, found none such as "
            f"{next(iter(tidy.values()))[0]!r} in {looked}; name their folder with --train_images or --val_images"
        )
    return {name: found.get(name, (folder / inside, inside)) for name, (inside, _) in tidy.items()}


def tidy_name(file_name: str) -> tuple[str, bool]:
    """A relative file name with forward slashes, and whether it led out of its folder: then without what did."""
    text = file_name.strip().replace("\\", "/")
    path = PurePosixPath(text)
    leaves = path.is_absolute() or ".." in path.parts or "://" in text or text[1:3] == ":/"
    if not leaves:
        return path.as_posix(), False
    parts = [part for part in path.parts if part not in ("/", "//", "..") and not part.endswith(":")]
    return PurePosixPath(*parts).as_posix(), True


def _best_folder(names: Sequence[str], folders: Sequence[Path]) -> Path | None:
    """The folder that holds most of a sample of the pictures, if one holds any."""
    sample = names[:: max(1, len(names) // 32)]
    hits = {folder: sum(_is_file(folder / name) for name in sample) for folder in folders}
    best = max(hits, key=lambda folder: hits[folder], default=None)  # the first of several
    return best if best is not None and hits[best] else None


def _by_ending(names: dict[str, str], folders: Sequence[Path], within: Path, taken: set[Path]) -> dict[str, Path]:
    """The files whose paths end most like the names; none where several do, or where a file is another name's."""
    files: dict[str, list[tuple[Path, tuple[str, ...]]]] = {}
    for file in _pictures(folders, within) - taken:
        parts = tuple(map(_alike, file.parts))
        files.setdefault(parts[-1], []).append((file, parts))
    claims: dict[Path, list[tuple[int, str]]] = {}
    for name, inside in names.items():
        wanted = tuple(map(_alike, PurePosixPath(inside).parts))
        fits = [(_shared_end(parts, wanted), file) for file, parts in files.get(wanted[-1] if wanted else "", [])]
        most = max((shared for shared, _ in fits), default=0)
        best = [file for shared, file in fits if shared == most]
        for folder in folders:
            if len(best) > 1:  # of train/1.jpg and val/1.jpg, a file of training pictures means the first
                nearer = [file for file in best if file.is_relative_to(folder)]
                best = nearer if len(nearer) == 1 else best
        if len(best) == 1:
            claims.setdefault(best[0], []).append((most, name))
    found: dict[str, Path] = {}
    for file, claimed in claims.items():
        most = max(shared for shared, _ in claimed)
        winners = [name for shared, name in claimed if shared == most]
        if len(winners) == 1:
            found[winners[0]] = file
    return found


def _pictures(folders: Sequence[Path], within: Path) -> set[Path]:
    """All pictures directly in `folders`, and in `within` with the folders in it."""
    found: list[Path] = []
    for parent, inner, here in os.walk(within):
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [Path(parent, name) for name in here]
    for folder in folders:
        found += folder.iterdir() if folder.is_dir() else ()
    return {path for path in found if path.suffix.lower() in IMAGE_SUFFIXES}


def _alike(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _shared_end(a: Sequence[str], b: Sequence[str]) -> int:
    """How many of their last parts two paths share."""
    return next(
        (k for k, (x, y) in enumerate(zip(reversed(a), reversed(b), strict=False)) if x != y), min(len(a), len(b))
    )


def _below(file: Path, *folders: Path) -> str:
    """Its name relative to the first of the folders that holds it."""
    return next(file.relative_to(folder).as_posix() for folder in folders if file.is_relative_to(folder))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # such as a name longer than the file system allows, or with a zero in it
        return False
