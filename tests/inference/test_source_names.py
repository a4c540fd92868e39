"""Folders whose names hold the signs of globs are folders."""

from pathlib import Path

from PIL import Image

from detrkit.inference.sources import find_images, find_sources


def test_signs_of_globs_in_the_names_of_folders(tmp_path: Path) -> None:
    folder = tmp_path / "set [1] *?" / "sub [a]"
    folder.mkdir(parents=True)
    for name in ("a [x].png", "b.png"):
        Image.new("RGB", (4, 4)).save(folder / name)
    named = [folder / "a [x].png", folder / "b.png"]
    assert find_images(folder / "*.png") == named
    assert find_images(tmp_path / "set [1] *?" / "**" / "*.png") == named
    assert find_images(tmp_path / "set*" / "sub*" / "[ab]*.png") == named
    actual = find_sources([str(folder / "*.png"), str(folder / "a [x].png")], output_dir=tmp_path / "out")
    assert [(item.path, item.name) for item in actual] == [(path, path.name) for path in named]
