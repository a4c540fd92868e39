"""All images of a project, with the findings of `detrkit check` on each, found in the background."""

from __future__ import annotations

import threading
import traceback
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from detrkit.data.decode.mask_files import FileMask
from detrkit.data.files.file_index import FileIndex
from detrkit.data.formats.detect import open_dataset
from detrkit.data.formats.raw import RawDataset
from detrkit.data.records import Split
from detrkit.data.validation.findings import Finding
from detrkit.data.validation.image_probe import ImageInfo, probe_images
from detrkit.data.validation.near_duplicates import find_near_duplicates
from detrkit.data.validation.validate import CheckReport, check_dataset
from detrkit.data.validation.value_extents import find_value_range
from detrkit.errors import DetrkitError
from detrkit.ops.value_range import ValueRange
from detrkit.studio.label_store import LabelStore

_MANY = 2**31
"""More objects than any image has, so that none is reported for the number of queries."""


class Catalog:
    """The images of a project by their paths relative to its folder, in the order of these.

    Args:
        root: project folder.
        labels: labels of the project, which get their source from here.
    """

    def __init__(self, root: Path, labels: LabelStore) -> None:
        self.root, self.labels = root, labels
        self.images: dict[str, ImageInfo] = {}
        self.findings: dict[str, list[Finding]] = {}
        self.notes: list[str] = []
        """Sentences on the labels as a whole: what they were read as, and why they were not."""
        self.value_range: ValueRange | None = None
        """Values that are shown as black and white in images of more than 8 bits."""
        self.groups: dict[str, int] | None = None
        """Number of the group of near-duplicates of an image; None: they were not searched for."""
        self.compared = 0
        """Images that a running search for near-duplicates has read."""
        self._ready, self._comparing = threading.Event(), threading.Lock()

    def start(self) -> None:
        """Find images and labels in a thread."""
        threading.Thread(target=self._scan, name="detrkit catalog", daemon=True).start()

    @property
    def ready(self) -> bool:
        """Whether all images and labels are found."""
        return self._ready.is_set()

    def wait(self) -> None:
        """Wait until all images and labels are found."""
        self._ready.wait()

    def compare(self) -> None:
        """Search for near-duplicates in a thread, unless that is running or done."""
        if self.groups is None and self._comparing.acquire(blocking=False):
            threading.Thread(target=self._compare, name="detrkit duplicates", daemon=True).start()

    @property
    def comparing(self) -> bool:
        """Whether a search for near-duplicates is running."""
        return self._comparing.locked()

    def _compare(self) -> None:
        def advance() -> None:
            self.compared += 1

        try:
            self.wait()
            usable = {name: info for name, info in self.images.items() if not info.problem}
            orientations = [info.orientation for info in usable.values()]
            copies = find_near_duplicates([self.root / name for name in usable], orientations, advance)
            self.groups = {path.relative_to(self.root).as_posix(): k for path, k in copies.group_of().items()}
        except DetrkitError as error:
            self.notes.append(f"near-duplicates were not found: {error}")
        finally:
            self._comparing.release()

    def _scan(self) -> None:
        splits: dict[str, Split] = {}
        paths: Sequence[Path] = ()
        try:
            paths = FileIndex(self.root).images
            report = self._check()
            splits, self.value_range = report.splits, report.value_range
            self.notes = [f"read as {report.format.upper()}", *report.notes]
        except DetrkitError as error:
            self.notes = [str(error)]
        except Exception as error:  # a bug must not leave the pages waiting
            traceback.print_exc()
            self.notes = [f"a bug of detrkit ({type(error).__name__}) while labels were read; the log has more"]
        masks = _mask_files(splits) | _panoptic_maps(paths)
        names = sorted(self._names([path for path in paths if path not in masks]))
        find = self.value_range is None  # there are no labels, or none on images of more than 8 bits
        probed = probe_images((self.root / name for name in names), values=find)
        if find:
            self.value_range = find_value_range(info.extent for info in probed if info.extent)
        self.images = dict(zip(names, probed, strict=True))
        for name, info in self.images.items():
            if info.problem and not self.findings.get(name):
                self.findings[name] = [Finding(info.problem, name, detail=info.detail)]
        self.labels.set_source(splits, self.root)
        self._ready.set()

    def _names(self, paths: Sequence[Path]) -> list[str]:
        """Names of the images that can be shown."""
        names = [
            path.relative_to(self.root).as_posix()
            for path in paths
            if (path.resolve().is_relative_to(self.root) and is_text(str(path)))
        ]
        if len(names) < len(paths):
            self.notes.append(
                f"{len(paths) - len(names)} images are not shown, since they are links that lead out of the project "
                "folder, or their names are no valid text"
            )
        return names

    def _check(self) -> CheckReport:
        """Read and check the labels, and file the findings by image.

        Raises:
            DetrkitError: there are none, or they cannot be used.
        """
        raw = open_dataset(self.root, val_fraction=0)
        owners = _owners(raw)
        try:
            return check_dataset(raw, num_queries=_MANY)
        finally:
            findings: dict[str, list[Finding]] = defaultdict(list)
            for finding in raw.findings:
                path = owners.get((finding.file, finding.record), Path(finding.file))
                if path.is_relative_to(self.root):
                    findings[path.relative_to(self.root).as_posix()].append(finding)
            self.findings = dict(findings)


def _owners(raw: RawDataset) -> dict[tuple[str, str], Path]:
    """Annotation file and record -> the image that the record is about."""
    owners: dict[tuple[str, str], Path] = {}
    for split in raw.splits.values():
        for image in split.images:
            owners[image.file, image.where] = image.path
            for obj in image.objects:
                owners[image.file, obj.where] = image.path
    return owners


def _mask_files(splits: dict[str, Split]) -> set[Path]:
    """Images that hold the masks of others."""
    files: set[Path] = set()
    for split in splits.values():
        for image in split.images:
            files |= {image.panoptic} if image.panoptic else set()
            files |= {obj.segmentation.path for obj in image.objects if isinstance(obj.segmentation, FileMask)}
    return files


def _panoptic_maps(paths: Sequence[Path]) -> set[Path]:
    """The maps of COCO panoptic annotations, `panoptic_x.json` beside the folder `panoptic_x`."""
    folders = {path.parent for path in paths if path.parent.name.startswith("panoptic_")}
    folders = {folder for folder in folders if folder.with_suffix(".json").is_file()}
    return {path for path in paths if path.parent in folders and path.suffix == ".png"}


def is_text(name: str) -> bool:
    """Whether a file name is valid text, which browsers can send back."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
