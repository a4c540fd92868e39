"""A disk that is really full: one sentence, nothing half-written, and the same command works once there is room."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from detrkit import cli
from tests.small_disk import SmallDisk, small_disk

from .conftest import TINY_FLAGS, Command

# a file that is open when the error comes is closed late, by the garbage collector
pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]

SHARD = "results-00001-of-00001.jsonl"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "16m") as mounted:
        yield mounted


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """A run of one epoch."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detrkit.training.final_report.write_report", lambda *args, **kwargs: {})
        flags = ["--data", str(shapes), *TINY_FLAGS, "--epochs=1", "--quiet", "--output_dir", str(folder)]
        assert cli.main(["train", *flags]) == 0
    return folder


@pytest.mark.parametrize(
    ("words", "output"),
    [
        ("convert_data SHAPES OUT --to yolo", "out"),
        ("convert_data SHAPES OUT --to coco", "out"),
        ("pack SHAPES OUT", "out"),
        ("convert RUN OUT.pth", "out.pth"),
        ("export --weights RUN --format torch --output OUT.pt2", "out.pt2"),
    ],
)
def test_what_is_written_whole_is_not_there_on_a_full_disk(
    detrkit: Command, disk: SmallDisk, shapes: Path, run: Path, words: str, output: str
) -> None:
    places = {"SHAPES": str(shapes), "RUN": str(run), "OUT": str(disk.path / "out")}
    argv = [places.get(word, word).replace("OUT.", places["OUT"] + ".") for word in words.split()]
    disk.fill(20_000)
    expected = f"no space is left on the disk of {disk.path / output}; free some and start again"
    assert detrkit(*argv).sentence == expected
    assert disk.files() == {}
    disk.free()
    assert detrkit(*argv).status == 0
    assert output in disk.files()


def test_a_share_keeps_whole_lines_and_goes_on(detrkit: Command, disk: SmallDisk, shapes: Path, run: Path) -> None:
    argv = ["predict", "--weights", run, shapes / "images", "--shard", "1/1", "--threshold", "0"]
    assert detrkit(*argv, "--output_dir", disk.path.parent / "whole").status == 0
    disk.fill(4096)
    file = disk.path / "out" / SHARD
    assert f"no space is left on the disk of {file}" in detrkit(*argv, "--output_dir", file.parent).sentence
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) > 1
    assert all(line.endswith(b"\n") for line in lines)
    disk.free()
    assert detrkit(*argv, "--output_dir", file.parent).status == 0
    results = [list(map(json.loads, path.open())) for path in (file, disk.path.parent / "whole" / SHARD)]
    assert sorted(map(str, results[0])) == sorted(map(str, results[1]))


@pytest.mark.usefixtures("no_report")
def test_a_training_ends_with_a_sentence_and_is_resumed(detrkit: Command, disk: SmallDisk, shapes: Path) -> None:
    argv = ["train", "--data", shapes, *TINY_FLAGS, "--output_dir", disk.path / "run"]
    for left in (0, 8192):  # the second: TensorBoard writes in a thread of its own
        disk.fill(left)
        assert "no space is left on the disk of " in detrkit(*argv).sentence
    disk.free()
    assert detrkit(*argv, "--epochs=1").status == 0
    before = disk.files()
    disk.fill(100_000)
    sentence = detrkit("train", "--resume", "auto", "--output_dir", disk.path / "run", "--epochs=2").sentence
    assert "the disk is full; the checkpoint before it is intact" in sentence
    after = disk.files()
    assert not [name for name in after if Path(name).name.startswith(".")]
    assert after["run/last.ckpt"] == before["run/last.ckpt"]
    disk.free()
    done = detrkit("train", "--resume", "auto", "--output_dir", disk.path / "run", "--epochs=2")
    assert done.status == 0
    assert "epoch 2/2" in done.out
