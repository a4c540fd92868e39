"""What a user can fix ends with status 2 and one sentence; Ctrl-C with 130; a bug of ours with a traceback."""

import errno
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit import cli
from detrkit.models import build_model

from .conftest import TINY_FLAGS, Command

pytestmark = pytest.mark.timeout(120)

NO_DATA = "expected a data set at nowhere, found no such file or folder"
NO_WEIGHTS = "expected weights at nowhere, found no such file or folder, nor a model of that name"
JUNK = "found a file that is truncated or no checkpoint"
EMPTY_DATA = "in empty, found an empty folder"
EMPTY_RUN = "expected a run folder (best.ckpt or last.ckpt) or a Hugging Face folder (config.json) at empty"
BARE = ["--weights", "bare.pth", "--dilation", "false", "--nheads", "4"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare state dict: random weights of a detector of two classes with four heads."""
    torch.manual_seed(0)
    model = build_model(
        2, backbone="resnet18", hidden_dim=16, nheads=4, enc_layers=1, dec_layers=1, dim_feedforward=16, num_queries=5
    )
    path = tmp_path_factory.mktemp("weights") / "bare.pth"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture
def place(tmp_path: Path, shapes: Path, bare: Path) -> Path:
    """The working folder, with good and bad things in it."""
    for name in ("empty", "junk"):
        (tmp_path / name).mkdir()
    (tmp_path / "junk/best.ckpt").write_bytes(b"junk")
    (tmp_path / "cut.pth").write_bytes(bare.read_bytes()[:5000])
    (tmp_path / "text").write_text("x")
    (tmp_path / "photo.png").symlink_to(shapes / "images/val_00.png")
    (tmp_path / "shapes").symlink_to(shapes)
    (tmp_path / "bare.pth").symlink_to(bare)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("check nowhere", NO_DATA),
        ("check empty", EMPTY_DATA),
        ("check text", "found the file text"),
        ("convert_data nowhere out --to coco", NO_DATA),
        ("convert_data empty out --to coco", EMPTY_DATA),
        ("convert_data shapes out", "expected --to, found none"),
        ("convert_data shapes out --to labelme", "--to: expected coco, voc or yolo, found 'labelme'"),
        ("convert_data shapes text --to coco", "expected a new or empty folder to write to, found a file at text"),
        ("convert_data shapes shapes --to coco", "expected a new or empty folder to write to, found"),
        (
            "convert_data shapes out --to yolo --polygon_tolerance -1",
            "--polygon_tolerance must be at least 0, found -1",
        ),
        ("pack nowhere out", NO_DATA),
        ("pack empty out", EMPTY_DATA),
        ("pack shapes", "expected OUTPUT, found none"),
        ("pack shapes text", "expected a new or empty folder to write to, found a file at text"),
        ("pack shapes shapes/packed", "expected a folder outside of the data set shapes to write to"),
        ("pack shapes out --shard_mb 0", "--shard_mb must be above 0, found 0"),
        ("check shapes --data_format packed", "expected packed (pack.json and tar files, of detrkit pack)"),
        ("train", "name its folder or file, as in detrkit train DATA"),
        ("train --data nowhere", NO_DATA),
        ("train --data empty", EMPTY_DATA),
        ("train --data shapes --weights nowhere", NO_WEIGHTS),
        ("train --data shapes --weights empty", EMPTY_RUN),
        ("train --data shapes --weights cut.pth", JUNK),
        (
            "train --data shapes --resume nowhere.ckpt",
            "expected a checkpoint to resume from at nowhere.ckpt, found none",
        ),
        ("train --data shapes --resume junk/best.ckpt", JUNK),
        ("train --data shapes --backbone resnet19", "--backbone must be resnet18, resnet34, "),
        (
            "train --data shapes --backbone_weights nowhere",
            "expected a checkpoint file at nowhere, found none",
        ),
        ("train --data shapes --output_dir text", "expected a folder, or nothing yet, at text"),
        ("train --data shapes --output_dir text/run", "expected a folder, or nothing yet, at text/run"),
        ("train --data shapes --frozen_weights box.ckpt", "found no --task instance or panoptic"),
        ("train --data shapes --precision 16-mixed", "--precision 16-mixed needs a GPU"),
        ("eval --data shapes", "expected either --weights or --detections, found neither"),
        ("eval --data shapes --weights nowhere", NO_WEIGHTS),
        ("eval --data shapes --weights empty", EMPTY_RUN),
        ("eval --data shapes --weights junk", JUNK),
        ("eval --data nowhere --detections text", NO_DATA),
        ("eval --data shapes --detections nowhere", "expected COCO results in nowhere, found no such file"),
        ("eval --data shapes --detections text", "expected COCO results in text, but it is not JSON"),
        ("predict photo.png --weights nowhere", NO_WEIGHTS),
        ("predict photo.png --weights junk", JUNK),
        (
            "predict nowhere.jpg --weights junk",
            "folder, glob or video at nowhere.jpg, found nothing",
        ),
        ("predict empty --weights junk", "expected images or videos in empty, found none"),
        ("predict photo.png --weights junk --threshold 3", "--threshold must be at most 1, found 3"),
        ("predict photo.png --weights junk --max_overlap 3", "--max_overlap must be at most 1, found 3"),
        (
            "predict photo.png --weights junk --write csv",
            "--write must be coco, yolo, voc, labelme, cvat or label_studio",
        ),
        ("plot nowhere", "expected a run folder at nowhere, found none"),
        ("plot empty", "expected metrics.csv, log.txt or report/metrics.json in empty"),
        ("explain photo.png --weights junk", JUNK),
        ("explain nowhere.jpg --weights junk", "nowhere.jpg"),
        ("explain text --weights junk", "expected an image in text"),
        ("convert nowhere out", NO_WEIGHTS),
        ("convert empty out", EMPTY_RUN),
        ("convert cut.pth out", JUNK),
        ("convert bare.pth out --nheads 3", "hidden_dim 16, which 3 heads do not divide"),
        ("demo --output_dir text", "expected a folder, or nothing yet, at text"),
        ("demo --images 0", "--images must be at least 1, found 0"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*does not say whether its backbone has dilation")
def test_user_errors_are_one_sentence(detrkit: Command, place: Path, command: str, sentence: str) -> None:
    argv = command.split()
    if "shapes" in argv and argv[0] == "train":
        argv[1:1] = TINY_FLAGS  # flags of the case come later and win
    assert sentence in detrkit(*argv).sentence


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="an Apple GPU is there")
@pytest.mark.parametrize(
    "words", ["train --data shapes", "eval --data shapes", "predict photo.png", "explain photo.png"]
)
def test_a_device_that_is_not_there(detrkit: Command, place: Path, words: str) -> None:
    argv = [*words.split(), *([] if words.startswith("train") else BARE)]
    assert "--device mps: PyTorch" in detrkit(*argv, "--device", "mps").sentence


def test_unstated_settings_of_a_bare_file_come_from_flags(detrkit: Command, place: Path) -> None:
    result = detrkit("predict", "photo.png", *BARE, "--threshold", "0", "--image_size", "64", "--device", "cpu")
    assert (result.status, result.err.strip()) == (0, "")
    assert "5 detections" in result.out
    other = detrkit("convert", "bare.pth", "other.pth", "--nheads", "2", "--dilation", "false")
    assert other.status == 0, other.err
    again = detrkit("explain", "photo.png", "--weights", "other.pth", "--nheads", "4")
    assert "trained with nheads 2, found --nheads 4" in again.sentence


def test_assumptions_are_one_warning_line(detrkit: Command, place: Path) -> None:
    argv = ["predict", "photo.png", "--weights", "bare.pth", "--nheads", "4", "--image_size", "64", "--device", "cpu"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = detrkit(*argv)
    assert result.status == 0
    line = result.err.splitlines()[0]
    assert line.startswith("detrkit: warning: bare.pth does not say whether its backbone has dilation")
    assert line.endswith("if it has, add --dilation")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x/a.csv"),
            "no space is left on the disk of runs/x/a.csv",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left on the disk of the output folder"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no space is left"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), "found no permission for /root/x"),
        (OSError(errno.EROFS, "Read-only file system", "/cdrom/x"), "found no permission for /cdrom/x"),
    ],
)
def test_disk_errors_are_one_sentence(
    detrkit: Command, monkeypatch: pytest.MonkeyPatch, error: OSError, sentence: str
) -> None:
    monkeypatch.setattr("detrkit.commands.check.check", raiser(error))
    assert sentence in detrkit("check", "d").sentence


def test_torch_and_torchvision_of_different_builds(detrkit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("operator torchvision::nms does not exist")  # raised by its import
    monkeypatch.setattr("detrkit.commands.check.check", raiser(error))
    sentence = detrkit("check", "d").sentence
    assert "found torch 2" in sentence
    assert "install both from one index" in sentence
    monkeypatch.setattr("detrkit.commands.check.check", raiser(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        detrkit("check", "d")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(detrkit: Command, place: Path) -> None:
    (place / "empty").chmod(0o500)
    result = detrkit("train", *TINY_FLAGS, "--data=shapes", "--output_dir=empty/run")
    assert "found no permission for empty/run" in result.sentence


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_disk_under_stdout() -> None:
    with Path("/dev/full").open("w") as full:
        code = "import sys; from detrkit.cli import main; s = main(['--help']); sys.stdout.flush(); sys.exit(s)"
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no space is left" in done.stderr


def test_a_bug_of_ours_is_a_traceback(detrkit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detrkit.commands.check.check", raiser(ZeroDivisionError("ours")))
    with pytest.raises(ZeroDivisionError, match="ours"):
        detrkit("check", "d")
    monkeypatch.setattr("detrkit.commands.check.check", raiser(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output"):
        detrkit("check", "d")


def test_ctrl_c_is_130(detrkit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detrkit.commands.check.check", raiser(KeyboardInterrupt()))
    result = detrkit("check", "d")
    assert (result.status, result.err) == (130, "interrupted\n")


def test_a_sentence_stays_on_one_line(detrkit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detrkit.commands.check.check", raiser(cli.DetrkitError("first\n  second")))
    assert detrkit("check", "d").sentence == "first second"


def test_exit_statuses_of_the_real_program(tmp_path: Path) -> None:
    def status(*argv: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-m", "detrkit", *argv], capture_output=True, text=True, cwd=tmp_path)
        return done.returncode, done.stderr

    assert status("--version") == (0, "")
    assert status("train", "--help") == (0, "")
    code, text = status("check", "nowhere")
    assert code == 2
    assert text.startswith("detrkit: error: expected a data set at nowhere")
    assert "Traceback" not in text


def test_a_reader_that_has_gone_is_no_bug(tmp_path: Path) -> None:
    command = f"{sys.executable} -m detrkit train --help | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == ""


def test_predictions_go_on_past_a_broken_image(detrkit: Command, place: Path) -> None:
    (place / "broken.jpg").write_bytes(b"x")
    settings = ["--threshold=0", "--image_size=64", "--device=cpu", "--no_images"]
    result = detrkit("predict", "photo.png", "broken.jpg", *BARE, *settings)
    assert result.status == 0
    assert "broken.jpg" in result.err
    rows = json.loads((place / "predictions/detections.json").read_text())
    assert {row["file_name"] for row in rows} == {"photo.png"}


def raiser(error: BaseException) -> Any:
    """A door that fails."""

    def fail(config: object) -> None:
        raise error

    return fail
