"""Sources of images for a detector: every form gives the same results, and invalid ones are refused."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detrkit import Detections, Detector
from detrkit.cli import main
from detrkit.data.formats.raw import IMAGE_SUFFIXES
from detrkit.errors import DataError
from detrkit.inference.inputs import read_one
from detrkit.inference.sources import find_images, find_sources
from tests.inference.helpers import run


def pixels_of(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


class Upload:
    """As web frameworks have it: reading is asynchronous, but for the file within."""

    def __init__(self, path: Path) -> None:
        self.filename = path.name
        self.file = io.BytesIO()
        self.file.write(path.read_bytes())  # and so it stands at its end

    async def read(self) -> bytes:
        return b""


def forms_of_one(path: Path) -> dict[str, Any]:
    """One image in many forms."""
    data = path.read_bytes()
    (entry,) = (entry for entry in os.scandir(path.parent) if entry.name == path.name)
    return {
        "path": path,
        "text": str(path),
        "file URL": path.as_uri(),
        "directory entry": entry,
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "BytesIO": io.BytesIO(data),
        "upload": Upload(path),
        "numpy": pixels_of(path),
        "tensor": torch.from_numpy(pixels_of(path)).permute(2, 0, 1),
        "lazy PIL": Image.open(path),
    }


def several(folder: Path) -> dict[str, Callable[[], Any]]:
    """Sources of the images 12.png and 5.png, which have one shape; made anew for each test."""
    paths = [folder / "12.png", folder / "5.png"]
    arrays = [pixels_of(path) for path in paths]

    def closing() -> Iterator[Any]:
        for path in paths:
            with path.open("rb") as file:
                yield file

    def closing_pil() -> Iterator[Any]:
        for path in paths:
            with Image.open(path) as image:
                yield image

    class MapStyle:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, k: int) -> Path:
            return paths[k]

    return {
        "list": lambda: paths,
        "tuple of texts": lambda: tuple(map(str, paths)),
        "generator": lambda: (path for path in paths),
        "map": lambda: map(pixels_of, paths),
        "iterator": lambda: iter(paths),
        "filter": lambda: filter(lambda path: path.stem.isdecimal(), sorted(folder.glob("*.png"))),
        "values of a dict": lambda: dict(enumerate(paths)).values(),
        "generator that closes its files": closing,
        "generator that closes what PIL reads later": closing_pil,
        "map style": MapStyle,
        "array of texts": lambda: np.array([str(path) for path in paths]),
        "array of objects": lambda: np.array(paths, dtype=object),
        "batch of numpy": lambda: np.stack(arrays),
        "batch of torch": lambda: torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2),
        "list of PIL": lambda: [Image.open(path) for path in paths],
        "mixed": lambda: [paths[0].read_bytes(), arrays[1]],
        "loader": lambda: torch.utils.data.DataLoader([torch.from_numpy(a).permute(2, 0, 1) for a in arrays], 2),
    }


def boxes(actual: Any) -> list[Any]:
    return [each.xyxy.tolist() for each in actual]


def test_one_image_in_every_form(detector: Detector, some_images: Path) -> None:
    path = some_images / "5.png"
    expected = detector.predict(path, threshold=0)
    for name, form in forms_of_one(path).items():
        actual = detector.predict(form, threshold=0)
        assert isinstance(actual, Detections), name
        assert torch.equal(actual.xyxy, expected.xyxy), name
    with path.open("rb") as file:
        file.read()  # who reads it again starts at its start
        actual = detector.predict(file, threshold=0)
        assert actual.source == str(path)
    assert detector.predict(Upload(path)).source == "5.png"
    ((_, streamed),) = detector.stream(Upload(path), threshold=0)
    assert torch.equal(streamed.xyxy, expected.xyxy)
    assert torch.equal(read_one(path.read_bytes()), read_one(path))


def test_several_images_in_every_form(detector: Detector, some_images: Path) -> None:
    expected = boxes(detector.predict([some_images / "12.png", some_images / "5.png"], threshold=0))
    for name, source in several(some_images).items():
        assert boxes(detector.predict(source(), threshold=0)) == expected, name
        assert boxes(actual for _, actual in detector.stream(source(), threshold=0)) == expected, name
        together = detector.predict(source(), threshold=0, batch_size=2)
        assert torch.allclose(torch.tensor(boxes(together)), torch.tensor(expected), atol=1e-3), name
    assert len(detector.predict(some_images.glob("[!.]*.png"))) == 3
    assert len(detector.predict(os.scandir(some_images / "deep"))) == 2
    assert len(detector.predict(some_images.glob("deep*"))) == 2  # a folder


def test_panoptic_and_prepare_take_iterators_too(mask_detector: Detector, some_images: Path) -> None:
    paths = [some_images / "12.png", some_images / "5.png"]
    expected = mask_detector.panoptic(paths, threshold=0.1)
    for actual in (
        mask_detector.panoptic((path for path in paths), threshold=0.1),
        [each for _, each in mask_detector.stream_panoptic(iter(paths), threshold=0.1)],
        mask_detector.panoptic(map(Path.read_bytes, paths), threshold=0.1),
    ):
        assert [each.segments for each in actual] == [each.segments for each in expected]
    assert len(mask_detector.prepare(map(str, paths))) == 2
    assert len(list(mask_detector.stream_panoptic(some_images))) == 5
    with pytest.raises(DataError, match="at least one"):
        mask_detector.prepare([])


def test_a_stream_of_a_video_a_folder_and_pairs(
    detector: Detector, some_images: Path, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    clip = make_video(tmp_path / "clip.mp4", frames=3)
    frames = list(detector.stream(clip))
    assert [actual.source for _, actual in frames] == [f"{clip}#{k}" for k in range(3)]
    assert frames[0][0].shape == (3, 60, 80)
    assert [Path(actual.source or "").name for _, actual in detector.stream(str(some_images / "*.png"))] == [
        "12.png", "5.png", "wide.png"
    ]  # fmt: skip
    named = detector.stream((pixels_of(some_images / name), name) for name in ("5.png", "wide.png"))
    assert [actual.source for _, actual in named] == ["5.png", "wide.png"]


def test_an_iterator_that_gives_nothing_is_an_error(detector: Detector, some_images: Path, tmp_path: Path) -> None:
    used_up = (path for path in [some_images / "5.png"])
    assert len(detector.predict(used_up)) == 1
    for nothing in (used_up, tmp_path.glob("*.jpg"), os.scandir(tmp_path), map(str, ()), filter(None, [None])):
        for look in (detector.predict, lambda source: list(detector.stream(source)), detector.prepare):
            with pytest.raises(DataError, match=r"gives none: it was used up before|at least one image"):
                look(nothing)
    assert detector.predict([]) == []  # as many results as images, which the caller could count


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("https://example.com/a/bus.jpg", r"address https://example.com/a/bus.jpg; nothing is fetched.*download"),
        (Path("http://example.com/bus.jpg"), "address http:/example.com/bus.jpg; nothing is fetched"),
        ("s3://bucket/bus.jpg", "address s3://bucket/bus.jpg; nothing is fetched"),
        ("https://example.com/clip.mp4", "nothing is fetched"),
        ("rtsp://10.0.0.5:554/live", r"live stream rtsp://.*Detector\.stream"),
        ("0", r"camera.*0.*Detector\.stream"),
        (0, r"the number 0; a camera.*Detector\.stream"),
        ("/dev/video7", r"camera.*/dev/video7"),
        (os.devnull, "device"),
        ("-", "the pipe -"),
        ("", "empty text"),
        ("data:image/png;base64,iVBORw0", "base64"),
        ("/9j/" + "A" * 5000, "base64"),
        ("a\0b.jpg", "found nothing"),
        ("no/such.jpg", "at no/such.jpg, found nothing"),
        ("no/such.mts", "at no/such.mts, found nothing"),
        (b"not an image", "no image format"),
        (b"", "no image format"),
        (io.BytesIO(), "no bytes: it is empty"),
        (io.StringIO("text"), r"open it with open\(path, 'rb'\)"),
        ({"image": 1, "label": 2}, r"a dict with the keys image, label.*values"),
        ([[1, 2], [3, 4]], "image 1: expected an image, found a list of 2"),
        (zip(["a.jpg"], ["cat"], strict=True), "found a tuple of 2"),
        ([{"image": 1}], "a dict with the keys image"),
        (range(3), "the number 0; a camera"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((2, 2, 2, 2, 2))], "image 2: expected an image"),
        (Image, "found module"),
    ],
    ids=lambda value: repr(value).split(" at 0x")[0][:30],
)
def test_invalid_sources_are_refused(
    detector: Detector, source: Any, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("something was to be fetched")

    monkeypatch.setattr("socket.socket.connect", refuse)
    with pytest.raises(DataError, match=sentence) as caught:
        detector.predict(source)
    assert len(str(caught.value)) < 700


def test_closed_files_and_awaitables_are_refused(detector: Detector, some_images: Path) -> None:
    with (some_images / "5.png").open("rb") as file:
        pass
    with pytest.raises(DataError, match="closed file"):
        detector.predict(file)
    with (some_images / "5.png").open(encoding="utf-8") as text, pytest.raises(DataError, match="'rb'"):
        detector.predict(text)

    async def images() -> Any:
        yield some_images / "5.png"

    with pytest.raises(DataError, match="async for"):
        detector.predict(images())
    coroutine = Upload(some_images / "5.png").read()
    with pytest.raises(DataError, match="await it first"):
        detector.predict(coroutine)
    coroutine.close()
    with pytest.raises(DataError, match="cannot be decoded"):
        detector.predict(Image.open(io.BytesIO((some_images / "5.png").read_bytes()[:60])))


def test_a_video_among_several_is_named(detector: Detector, some_images: Path, tmp_path: Path) -> None:
    (tmp_path / "clip.m2ts").write_bytes(b"")
    with pytest.raises(DataError, match=r"expected images in a list, found the video .*clip\.m2ts"):
        detector.predict(iter([some_images / "5.png", tmp_path / "clip.m2ts"]))


def test_every_ending_is_found_and_others_are_counted(tmp_path: Path, some_images: Path) -> None:
    endings = [*IMAGE_SUFFIXES, *(suffix.upper() for suffix in IMAGE_SUFFIXES)]
    for k, ending in enumerate(endings):
        (tmp_path / f"{k}{ending}").write_bytes(b"")
    for name in ("a.heic", "b.HEIC", "c.txt", "no_ending", ".hidden.jpg", "clip.mp4"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "a.jpg").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"^5 files in .* left out.*: 2 \.heic, ") as caught:
        assert len(find_images(tmp_path)) == len(endings)
    assert all(f"1 {ending}" in str(caught[0].message) for ending in (".txt", "no ending", ".mp4"))
    with pytest.warns(UserWarning, match=r"^4 files in .* left out, since only images or videos"):
        assert len(find_sources([str(tmp_path)], output_dir=tmp_path / "out")) == len(endings) + 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.heic").write_bytes(b"")
    for look in (find_images, lambda folder: find_sources(folder, output_dir=tmp_path)):
        with pytest.raises(DataError, match=r"found only 1 \.heic; these are read: jpg, "):
            look(tmp_path / "other")


def test_linked_folders_are_followed_without_endless_loops(tmp_path: Path, some_images: Path) -> None:
    (tmp_path / "set" / "inner").mkdir(parents=True)
    try:
        (tmp_path / "set" / "a_link").symlink_to(some_images)
    except OSError:
        pytest.skip("this system makes no links")
    (tmp_path / "set" / "inner" / "loop").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "inner" / "x.png").write_bytes((some_images / "5.png").read_bytes())
    actual = [path.relative_to(tmp_path / "set").as_posix() for path in find_images(tmp_path / "set")]
    assert actual == [
        "a_link/12.png", "a_link/5.png", "a_link/deep/7.png", "a_link/deep/tall.png", "a_link/wide.png", "inner/x.png"
    ]  # fmt: skip


def test_the_home_folder(detector: Detector, some_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(some_images))
    monkeypatch.setenv("USERPROFILE", str(some_images))
    assert isinstance(detector.predict("~/5.png"), Detections)
    assert len(detector.predict("~/*.png")) == 3


def test_the_methods_agree(
    checkpoint: Path, some_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = ["--weights", str(checkpoint), "--output_dir", str(tmp_path / "out"), "--device", "cpu"]
    for source, sentence in (
        ("https://example.com/bus.jpg", "nothing is fetched"),
        ("0", "camera"),
        ("rtsp://10.0.0.5/live", "live stream"),
        (str(tmp_path / "no.jpg"), "found nothing"),
    ):
        for command in ("predict", "explain"):
            assert main([command, source, *fixed]) == 2
            assert sentence in capsys.readouterr().err
    for source, sentence in ((some_images, "several"), ("clip.mp4", "found nothing")):
        assert main(["explain", str(source), *fixed]) == 2
        assert sentence in capsys.readouterr().err
    (tmp_path / "odd.xyz").write_bytes(b"neither")
    assert main(["predict", str(tmp_path / "odd.xyz"), *fixed]) == 2
    assert "videos are known by their endings: .mp4" in capsys.readouterr().err
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "5.png").write_bytes((some_images / "5.png").read_bytes())
    (folder / "a.heic").write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["predict", str(folder), *fixed]) == 0
    assert "is left out, since only images or videos are read there: 1 .heic" in capsys.readouterr().err
    rows = run(checkpoint, tmp_path / "one", str(some_images / "5.png"), top_k=1)
    assert len(rows) == 1
