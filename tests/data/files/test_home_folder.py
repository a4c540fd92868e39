"""`~` in the files of a data set is the folder of the user."""

from pathlib import Path

import pytest
from PIL import Image

from detrkit.data.formats.detect import open_dataset


@pytest.mark.parametrize(("stated", "entry"), [("~/set", "images"), (".", "~/set/images")])
def test_a_yaml_file_may_name_the_folder_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: str, entry: str
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    for name in ("images/a.png", "images/b.png"):
        path = home / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20)).save(path)
        label = home / "set/labels" / f"{path.stem}.txt"
        label.parent.mkdir(exist_ok=True)
        label.write_text("0 0.5 0.5 0.4 0.4\n")
    config = tmp_path / "elsewhere" / "data.yaml"
    config.parent.mkdir()
    config.write_text(f"path: {stated}\ntrain: {entry}\nval: {entry}\nnames: [scratch]\n")
    actual = open_dataset(str(config))
    assert [image.path.name for image in actual.splits["train"].images] == ["a.png", "b.png"]
    assert all(image.objects for image in actual.splits["train"].images)
