"""Which json files of a folder are COCO's, instances or panoptic, which side each is, and where their pictures lie."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from detrkit.data.coco import looks_like_coco
from detrkit.data.panoptic import looks_like_panoptic
from detrkit.errors import DataError

_ROLES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"}
_ROLES["test"] = "test"
_OTHER_JSON = ("panoptic", "captions", "person_keypoints", "stuff_", "image_info")


@dataclass(frozen=True)
class Candidate:
    """A json file that may be a side of a data set."""

    path: Path
    role: str
    """train, val, test or nothing."""


def describe(root: Path, *, panoptic: bool = False) -> str:
    """The COCO files there, in words; empty if there are none."""
    found = candidates(root, panoptic=panoptic)
    return ", ".join(str(c.path.relative_to(root) if root.is_dir() else c.path.name) for c in found[:4])


def candidates(root: Path, *, panoptic: bool = False) -> list[Candidate]:
    """The COCO files at `root`, in `annotations/`, and in folders named after a side; with `panoptic` those alone."""
    if root.is_file():
        fits = root.suffix.lower() == ".json" and looks_like_panoptic(root) == panoptic
        return [Candidate(root, role_of(root.stem) if panoptic else "")] if fits else []
    folders = [root, root / "annotations", *(p for p in sorted(root.iterdir()) if p.is_dir() and role_of(p.name))]
    found: list[Candidate] = []
    for folder in folders:
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
            if path.name.startswith("."):
                continue
            if looks_like_panoptic(path) if panoptic else _is_instances(path):
                role = role_of(path.stem) or (role_of(folder.name) if folder != root else "")
                found.append(Candidate(path, role))
    return found


def _is_instances(path: Path) -> bool:
    return not path.name.startswith(_OTHER_JSON) and looks_like_coco(path) and not looks_like_panoptic(path)


def role_of(name: str) -> str:
    """`train`, `val`, `test` or nothing, from the words in a file's or folder's name: `instances_val2017` is val."""
    words = [re.sub(r"\d+$", "", word) for word in re.split(r"[^a-z0-9]+", name.lower())]
    roles = {_ROLES[word] for word in words if word in _ROLES}
    return roles.pop() if len(roles) == 1 else ""


def sides(root: Path, notes: list[str], *, panoptic: bool = False) -> dict[str, Path]:
    """`train` and `val`, or one of them, of the COCO files at `root`.

    Raises:
        DataError: several could be the same side, or none has a name that tells its side.
    """
    found = candidates(root, panoptic=panoptic)
    by_role: dict[str, list[Path]] = {}
    for candidate in found:
        by_role.setdefault(candidate.role, []).append(candidate.path)
    if set(by_role) == {""}:  # a folder with one json of any name
        by_role = {"train": by_role[""]}
    files: dict[str, Path] = {}
    for role in ("train", "val", "test"):
        paths = by_role.get(role, [])
        if len(paths) > 1:
            paths = [p for p in paths if p.name.startswith(("instances_", "panoptic_"))] or paths
        if len(paths) > 1:
            listed = ", ".join(str(p.relative_to(root)) for p in paths)
            raise DataError(
                f"expected one json file of the {role} pictures in {root}, found {len(paths)}: {listed}; choose with "
                "--train_json and --val_json"
            )
        if paths:
            files[role] = paths[0]
    if "test" in files:
        test = files.pop("test")
        if "val" not in files and "train" in files:
            files["val"] = test
            notes.append(f"there is no validation split; {test.name} is used for it")
        elif not files:
            files["val"] = test
        else:
            notes.append(f"{test.relative_to(root)} is left alone: only train and val are used")
    if not files:
        listed = ", ".join(str(c.path.relative_to(root)) for c in found)
        raise DataError(
            f"expected json files named after train and val in {root}, found {listed}; choose with --train_json"
        )
    return files


def picture_folders(root: Path, path: Path, given: Path | None) -> list[Path]:
    """Where the pictures of a json file may lie, best guess first."""
    if given is not None:
        return [given]
    base = root if root.is_dir() else root.parent
    role = role_of(path.stem) or role_of(path.parent.name)
    words = _role_words(path)
    names = [*words, role, *(word for word, of in _ROLES.items() if of == role), path.stem]
    folders: list[Path] = []
    for parent in dict.fromkeys((path.parent, base, path.parent.parent)):
        pictures = [parent / inner for inner in ("images", "JPEGImages", "imgs", "data")]
        folders += [*pictures, parent]
        for name in filter(None, names):
            folders += [parent / name, parent / name / "images", *(inner / name for inner in pictures)]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def png_folders(root: Path, path: Path, given: Path | None) -> list[Path]:
    """Where the PNGs of a panoptic json file may lie: in a folder of its name beside it, or one or two folders up."""
    base = root if root.is_dir() else root.parent
    words = _role_words(path)
    names = [path.stem, *(f"panoptic_{word}" for word in words), "panoptic"]
    if given is None:  # folders of bare names such as val2017 hold pictures, which may be called like the PNGs
        folders = [p / n for p in (path.parent, path.parent.parent, base, base / "annotations") for n in names]
    else:
        folders = [*(given / name for name in (*names, *words)), given]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _role_words(path: Path) -> list[str]:
    """The words of a file's name that tell its side: train2017 of instances_train2017."""
    return [word for word in re.split(r"[^a-zA-Z0-9]+", path.stem) if role_of(word)]
