"""Damaged, foreign and missing parts of packed data end a command with one sentence, and never give a wrong image."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from detrkit import cli
from detrkit.data.formats.detect import open_dataset
from detrkit.data.shards.packed_index import read_file
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import ConfigError, DataError, ShardError
from detrkit.training import train


def flip(path: Path, position: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def flip_image(folder: Path, row: int) -> Path:
    """Change one bit in the middle of an image of train; returns its path."""
    images = check_dataset(open_dataset(folder)).splits["train"].images
    columns = images.split.columns
    path = images[row].path
    flip(path.parent, int(columns["image_offset"][row] + columns["image_length"][row] // 2))
    return path


def edit_manifest(folder: Path, **entries: object) -> None:
    path = folder / "pack.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def empty_split(folder: Path) -> None:
    content = json.loads((folder / "pack.json").read_text())
    content["splits"]["val"]["images"] = 0
    edit_manifest(folder, splits=content["splits"])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "train-000001.tar").unlink(), "expected the shard .*train-000001.tar, found no such file"),
        (
            lambda f: (f / "train-000001.tar").write_bytes((f / "train-000001.tar").read_bytes()[:-1024]),
            r"expected \d+ bytes in the shard .*train-000001.tar, found \d+; copy it again, or pack",
        ),
        (lambda f: edit_manifest(f, version=7), "expected version 1 of packed data in .*pack.json, found 7; pack"),
        (lambda f: edit_manifest(f, splits={}), "expected the splits of a data set in .*pack.json, found none"),
        (empty_split, "expected images in val of .*pack.json, found none"),
        (lambda f: (f / "pack.json").write_text('{"format": "detrkit pack"'), "found something else; pack the data"),
        (lambda f: flip(f / "index" / "train.box.npy", 300), "expected the file .*box.npy as it was packed, found"),
        (lambda f: (f / "index" / "val.crowd.npy").unlink(), "expected a part of the index at .*val.crowd.npy"),
        (lambda f: (f / "index" / "val.crowd.npy").write_bytes(b""), "expected 1.. bytes in .*val.crowd.npy, found 0"),
        (lambda f: shutil.rmtree(f / "index"), "expected a part of the index at .*, found none"),
    ],
)
def test_a_broken_folder_is_refused_in_one_sentence(copy: Path, damage, sentence: str, capsys) -> None:
    damage(copy)
    with pytest.raises(ShardError, match=sentence):
        open_dataset(copy)
    assert cli.main(["check", str(copy)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_changed_byte_of_an_image_is_found_when_it_is_read(copy: Path) -> None:
    path = flip_image(copy, 3)
    with pytest.raises(ShardError, match=r"train-\d+.tar, found bytes with another checksum"):
        read_file(path)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_stops_at_a_changed_byte_with_a_sentence(copy: Path, config, num_workers: int) -> None:
    flip_image(copy, 4)
    with pytest.raises(ShardError, match=r"^expected \d+ bytes at \d+ of .*\.tar, found bytes with another checksum"):
        train(config(copy, "run", num_workers=num_workers))


def test_check_finds_a_changed_byte_outside_of_the_images(copy: Path, capsys) -> None:
    shard = copy / "train-000000.tar"
    flip(shard, shard.read_bytes().index(b'"objects"'))
    assert cli.main(["check", str(copy)]) == 2
    assert "train-000000.tar as it was packed, found another checksum" in capsys.readouterr().err


def test_a_shard_that_vanishes_during_a_run_is_named(copy: Path) -> None:
    image = check_dataset(open_dataset(copy)).splits["train"].images[0]
    image.path.parent.unlink()
    with pytest.raises(DataError, match=r"train-000000.tar, found no such file; look at the folder"):
        read_file(image.path)


def test_a_path_that_is_in_no_index_is_no_image(packed: Path) -> None:
    with pytest.raises(ShardError, match=r"found no train-000000.tar/000000099.png in its index"):
        read_file(packed / "train-000000.tar" / "000000099.png")


@pytest.mark.parametrize("name", ["packed", "auto"])
def test_a_folder_with_another_pack_json_is_no_packed_data(tmp_path: Path, name: str) -> None:
    (tmp_path / "pack.json").write_text('{"name": "texture pack"}')
    with pytest.raises(DataError, match=r"expected .*packed"):
        open_dataset(tmp_path, data_format=name)


def test_packed_data_are_not_packed_again(packed: Path, tmp_path: Path, capsys) -> None:
    assert cli.main(["pack", str(packed), str(tmp_path / "again")]) == 2
    assert "which is packed already" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_panoptic_training_needs_panoptic_maps(packed: Path) -> None:
    with pytest.raises(DataError, match=r"expected a panoptic map of each image .*, found images without"):
        open_dataset(packed, data_format="coco_panoptic")


def test_an_address_is_read_as_packed_data_alone() -> None:
    with pytest.raises(ConfigError, match="expected data_format packed for the address https://host/x, found yolo"):
        open_dataset("https://host/x", data_format="yolo")


def test_an_address_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ShardError, match=r"cannot read nothing://host/x: .*; see the file systems that fsspec opens"):
        open_dataset("nothing://host/x")


def test_an_index_of_a_million_rows_has_a_header_of_the_same_length(tmp_path: Path) -> None:
    from detrkit.data.shards.columns import ColumnWriter, open_column

    writer = ColumnWriter(tmp_path / "x.npy", ("<f8", 4))
    writer.add(np.arange(4_000_000))
    facts = writer.close()
    column = open_column(tmp_path / "x.npy", facts, ("<f8", 4))
    assert column.shape == (1_000_000, 4)
    assert column[-1].tolist() == [3999996, 3999997, 3999998, 3999999]
