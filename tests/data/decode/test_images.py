"""Every kind of image comes out as the same 8-bit RGB that PIL, or arithmetic on the stored values, gives."""

import io
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps

from detrkit.data.decode.images import read_image, to_tensor
from detrkit.errors import DataError
from detrkit.ops.value_range import ValueRange

FULL = ValueRange(0, 65535)


@pytest.fixture
def rgb() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (47, 61, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def as_array(image: torch.Tensor) -> np.ndarray:
    assert image.dtype == torch.uint8
    assert image.ndim == 3
    assert image.shape[0] == 3
    return image.permute(1, 2, 0).numpy()


HOLDS = {
    "jpg": ["RGB", "L", "1", "CMYK"],
    "png": ["RGB", "L", "1", "P", "RGBA", "LA"],
    "webp": ["RGB", "L", "P", "RGBA", "CMYK"],
    "bmp": ["RGB", "L", "1", "P", "RGBA"],
    "tif": ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK"],
    "gif": ["RGB", "L", "1", "P", "RGBA"],
}


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in HOLDS.items() for mode in modes])
def test_equals_pil(tmp_path: Path, rgb: np.ndarray, suffix: str, mode: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rgb).convert(mode).save(path)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    got = as_array(read_image(path))
    # Decoders of the same JPEG may differ by a level or two in a few pixels.
    assert np.abs(got.astype(int) - expected).max() <= (3 if suffix == "jpg" else 0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, rgb: np.ndarray, suffix: str, orientation: int) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rgb).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        from_pil = as_array(to_tensor(image))
    got = as_array(read_image(path))
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).max() <= (3 if suffix == "jpg" else 0)
    assert np.array_equal(from_pil, expected)


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    values = np.array([[0, 128, 257, 32768, 65534, 65535]], np.uint16).repeat(3, 0)
    expected = np.rint(values / 257).astype(np.uint8)
    for suffix in ("png", "tif"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(values).save(path)
        got = as_array(read_image(path, FULL))
        assert np.array_equal(got, expected[..., None].repeat(3, 2))
    color = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / "c.png"), color[..., ::-1])
    assert np.abs(as_array(read_image(tmp_path / "c.png", FULL)) - color / 257).max() <= 0.5


def test_float_and_32_bit_images(tmp_path: Path) -> None:
    unit = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    for scale, kind in ((1, np.float32), (255, np.float32), (65535, np.float32), (65535, np.int32)):
        path = tmp_path / "a.tif"
        Image.fromarray((unit * scale).astype(kind)).save(path)
        assert np.abs(as_array(read_image(path, ValueRange(0, scale)))[..., 0] - unit * 255).max() <= 0.51


def test_transparency_is_dropped(tmp_path: Path, rgb: np.ndarray) -> None:
    alpha = np.zeros((*rgb.shape[:2], 1), np.uint8)
    Image.fromarray(np.concatenate([rgb, alpha], 2)).save(tmp_path / "a.png")
    assert np.array_equal(as_array(read_image(tmp_path / "a.png")), rgb)


def test_palette_with_transparency_bytes(tmp_path: Path, rgb: np.ndarray) -> None:
    path = tmp_path / "a.png"
    palette = Image.fromarray(rgb).quantize(16)
    palette.save(path, transparency=bytes(range(16)))
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGBA"))[..., :3]
    assert np.array_equal(as_array(read_image(path)), expected)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animated_gives_the_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (16, 12), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    got = as_array(read_image(tmp_path / f"a.{suffix}"))
    assert got.shape == (12, 16, 3)
    assert got.reshape(-1, 3).tolist() == [[255, 0, 0]] * 192


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_images_are_decoded_up_to_the_cut(tmp_path: Path, rgb: np.ndarray, suffix: str) -> None:
    big = np.ascontiguousarray(rgb.repeat(4, 0).repeat(4, 1))
    buffer = io.BytesIO()
    Image.fromarray(big).save(buffer, {"jpg": "JPEG", "png": "PNG"}[suffix])
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.warns(UserWarning, match="truncated"):
        got = as_array(read_image(path))
    assert got.shape == big.shape
    assert np.abs(got[:20].astype(int) - big[:20]).mean() < 10
    assert len(np.unique(got[-1])) == 1
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_jpeg_with_bytes_after_its_end_is_whole(tmp_path: Path, rgb: np.ndarray) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(rgb).save(path)
    whole = read_image(path)
    path.write_bytes(path.read_bytes() + b"\0\0camera")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(read_image(path), whole)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_unreadable_is_a_data_error_with_the_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.jpg"):
        read_image(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jpg"):
        read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(DataError):
        read_image(tmp_path)


def test_to_tensor_takes_the_usual_forms(tmp_path: Path, rgb: np.ndarray) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(rgb).save(path)
    expected = torch.from_numpy(rgb).permute(2, 0, 1)
    for form in (
        path,
        str(path),
        Image.fromarray(rgb),
        rgb,
        rgb[::-1][::-1],
        np.dstack([rgb, rgb[..., :1]]),
        expected,
        expected.float() / 255,
        (expected.double() / 255).half().double(),
        rgb.astype(np.float32) / 255,
    ):
        assert torch.equal(to_tensor(form), expected)
    gray = expected[:1].expand(3, -1, -1)
    for form in (rgb[..., 0], rgb[..., :1], expected[:1]):
        assert torch.equal(to_tensor(form), gray)


@pytest.mark.parametrize(
    "form",
    [
        np.zeros((4, 4, 2), np.uint8),
        np.full((4, 4, 3), 200.0),
        np.zeros((4, 4, 3), np.int64),
        np.zeros((4, 4, 3), bool),
        np.zeros(4, np.uint8),
        torch.zeros(4, 4, 3),
        torch.zeros(3, 4, 4, dtype=torch.int64),
        torch.full((3, 4, 4), 200.0),
        torch.full((3, 4, 4), float("nan")),
        np.zeros((0, 4, 3), np.uint8),
        torch.zeros(3, 4, 0),
        None,
        [],
        b"photo.jpg",
    ],
)
def test_to_tensor_refuses_other_forms(form: object) -> None:
    with pytest.raises(DataError, match="expected"):
        to_tensor(form)  # type: ignore[arg-type]


def test_real_images(shared_data: Path) -> None:
    for path in sorted((shared_data / "coco_mini" / "images").rglob("*.jpg"))[:12]:
        with Image.open(path) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        assert np.abs(as_array(read_image(path)).astype(int) - expected).max() <= 3
