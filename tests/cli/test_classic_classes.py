"""`detrkit detr --num_classes`, and hints that name the flags there are."""

import pytest
import torch

from detrkit.commands import detr as classic
from detrkit.commands.detr_classes import choose_classes, rows_note
from detrkit.errors import ConfigError
from detrkit.models.checkpoints.published import COCO_CATEGORIES
from detrkit.structures import Categories

NAMES = ("crack", "dent", "scratch", "hole", "stain")


@pytest.mark.parametrize(
    ("ids", "num_classes", "chosen", "names"),
    [
        ((1, 2, 3, 4, 5), 5, (1, 2, 3, 4, 5), NAMES),
        ((0, 1, 2, 3, 4), 5, (0, 1, 2, 3, 4), NAMES),
        ((5, 4, 3, 2, 1), 5, (1, 2, 3, 4, 5), NAMES[::-1]),  # in the order of their ids, however the file lists them
        ((1, 2, 3, 4, 5), 6, (0, 1, 2, 3, 4, 5), ("N/A 0", *NAMES)),  # as in main.py: highest id + 1
        ((0, 1, 2, 3, 4), 7, (0, 1, 2, 3, 4, 5, 6), (*NAMES, "N/A 5", "N/A 6")),  # never "bus"
        ((7, 900, 3, 4, 5), 5, (3, 4, 5, 7, 900), ("scratch", "hole", "stain", "crack", "dent")),
    ],
)
def test_rows(ids: tuple[int, ...], num_classes: int, chosen: tuple[int, ...], names: tuple[str, ...]) -> None:
    assert choose_classes(Categories(ids, NAMES), num_classes) == Categories(chosen, names)


def test_things_and_stuff() -> None:
    data = Categories((2, 1), ("sky", "kite"), (False, True))
    assert choose_classes(data, 2) == Categories((1, 2), ("kite", "sky"), (True, False))
    assert choose_classes(data, 3) == Categories((0, 1, 2), ("N/A 0", "kite", "sky"), (False, True, False))


@pytest.mark.parametrize("num_classes", [0, 4, -1])
def test_neither(num_classes: int) -> None:
    with pytest.raises(ConfigError, match=r"5 classes with ids up to 5; use num_classes 5 .* or at least 6"):
        choose_classes(Categories((1, 2, 3, 4, 5), NAMES), num_classes)


def test_the_line_for_other_data_than_coco() -> None:
    data = Categories((1, 2, 3, 4, 5), NAMES)
    line = rows_note(data, choose_classes(data, None))
    assert line.startswith("91 rows of the class head are trained, one for each id from 0 to 90 as in main.py")
    assert line.endswith("the data has 5 classes; --num_classes 5 trains one row per class")
    assert rows_note(COCO_CATEGORIES, COCO_CATEGORIES) == ""
    assert rows_note(Categories((1, 3), ("person", "car")), COCO_CATEGORIES) == ""


@pytest.mark.parametrize(
    ("sentence", "here"),
    [
        ("if it has, add --dilation", "if it has, add --dilation"),
        ("trained with --dilation false --pre_norm", "trained with no --dilation --pre_norm"),
        ("trained with --dilation true", "trained with --dilation"),
        ("look at --data, or --nheads 4", "look at --coco_path, or --nheads 4"),
        ("try a smaller --image_size", "try a smaller --image_size (--image_size is a flag of detrkit train)"),
        ("expected weights at my--data.pth", "expected weights at my--data.pth"),
        ("start anew with --weights", "start anew with --resume WEIGHTS.pth (written by detrkit convert)"),
        ("see detrkit train --weights W --data DATA, or --val_json", "see detrkit train --weights W --data DATA, or "
         "--val_json (--val_json is a flag of detrkit train)"),
    ],
)  # fmt: skip
def test_hints_name_the_flags_that_there_are(sentence: str, here: str) -> None:
    assert classic.translate(sentence) == here


def test_no_gpu_names_the_flag_for_the_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for more in ([], ["--eval", "--resume", "w.pth"]):
        with pytest.raises(ConfigError, match=r"device cuda: PyTorch .* finds no such device here; use device cpu"):
            classic.main(["--coco_path", str(tmp_path), *more])
