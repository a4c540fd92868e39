"""`detrkit bench`: what it measures, writes and prints, and what it says when it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import detrkit
import others
from detrkit import cli
from detrkit.benchmark import suites as parts
from detrkit.benchmark.machine import Machine
from detrkit.benchmark.rows import Row
from detrkit.benchmark.target import make_target
from detrkit.commands import bench as run
from detrkit.config.commands import BenchConfig
from detrkit.data.synthetic.generate import make_demo_dataset
from detrkit.structures import Categories, Preprocessing

QUICK = ["--image_size=64", "--seconds=0", "--images=2", "--evaluation_images=4", "--device=cpu", "--output_dir=out"]
NANO = [*QUICK, "--model=detrkit_n"]
TINY: dict[str, Any] = {
    "backbone": "resnet18", "hidden_dim": 16, "nheads": 2, "enc_layers": 1, "dec_layers": 2, "dim_feedforward": 16,
    "num_queries": 5,
}  # fmt: skip

Bench = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In an empty folder, on one thread, on a machine that needs not be measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    known = Machine("cpu", "abacus", 1, {"fp32": 1e12, "bf16": 2e12}, bandwidth=1e10)
    monkeypatch.setattr(run, "measure_machine", lambda *of: known)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def bench(*arguments: str) -> dict[str, Any]:
    """What bench.json says after such a run."""
    assert cli.main(["bench", *arguments]) == 0
    content: dict[str, Any] = json.loads(Path("out/bench.json").read_text(encoding="utf-8"))
    return content


def variants(content: dict[str, Any]) -> dict[str, list[str]]:
    """Part and thing -> the variants that were measured."""
    actual: dict[str, list[str]] = {}
    for row in content["rows"]:
        actual.setdefault(f"{row['part']}, {row['what']}", []).append(row["variant"])
    return actual


def write_weights(path: Path, classes: int = 3, **changes: Any) -> Path:
    """Random weights of a tiny classic DETR."""
    torch.manual_seed(0)
    args = TINY | changes
    model = detrkit.build_model(classes, **args)
    card = {
        "version": 1,
        "model_args": {"num_classes": classes, **args},
        "categories": Categories.unnamed(classes).to_plain(),
        "preprocessing": Preprocessing(96).to_plain(),
    }
    torch.save({"model": model.state_dict(), "detrkit": card}, path)
    return path


def test_all_parts(capsys: pytest.CaptureFixture[str]) -> None:
    content = bench(*NANO)
    actual = variants(content)
    both = ["plain", "fast"]
    assert actual == {
        "inference, model": both,
        "inference, from files": both,
        "training, step": both,
        "data, images": ["fast", "cached"],
        "postprocessing, boxes": ["fast"],
        "evaluation, COCO metrics": ["fast"],
    }
    assert (content["format"], content["model"]) == (1, "detrkit_n")
    assert (content["height"], content["width"]) == (64, 85)
    assert content["settings"]["seconds"] == 0
    assert content["machine"]["name"] == "abacus"
    assert content["notes"] == []
    plain = {(row["part"], row["what"]): row for row in content["rows"] if row["variant"] == "plain"}
    for row in content["rows"]:
        beside = plain.get((row["part"], row["what"]))
        assert row["ratio"] == (pytest.approx(beside["p50_ms"] / row["p50_ms"]) if beside else None)
        assert row["images_per_second"] == pytest.approx(1000 * row["images"] / row["p50_ms"])
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert row["calls"] == 3
        if row["flops"]:
            assert row["of_peak"] == pytest.approx(1000 * row["flops"] / 1e12 / row["p50_ms"])
    pass_, step = plain["inference", "model"], plain["training", "step"]
    assert 2.5 < step["flops"] / pass_["flops"] < 4.5  # the backward pass is twice the forward pass
    assert 10e6 < pass_["memory_bytes"] < step["memory_bytes"]
    for row in content["rows"]:
        assert (row["shares"] is not None) == (row["part"] == "training")
    assert sum(step["shares"].values()) == pytest.approx(1)
    with Image.open("out/bench.png") as one_image:
        assert one_image.width > 800
    shown = capsys.readouterr().out
    assert "detrkit_n, 64 x 85 pixels, batch 1" in shown
    assert "abacus, 1 thread: at its peak 1 TFLOP/s in fp32" in shown
    assert "Written: out/bench.json" in shown


def test_weights_data_and_batches() -> None:
    make_demo_dataset("DATA", images=3, size=64)
    weights = write_weights(Path("mine.pth"), classes=5)
    content = bench("inference", *QUICK, f"--weights={weights}", "--data=DATA", "--batch_size=2", "--precision=bf16")
    assert variants(content) == {work: ["plain", "fast"] for work in ("inference, model", "inference, from files")}
    assert content["model"] == "mine.pth"
    assert (content["height"], content["width"]) == (64, 64)
    assert [row["precision"] for row in content["rows"]] == ["fp32", "bf16"] * 2
    assert {row["images"] for row in content["rows"]} == {2}
    model = [row for row in content["rows"] if row["what"] == "model"]
    assert model[1]["arithmetic_ms"] == pytest.approx(model[0]["arithmetic_ms"] / 2)
    assert model[1]["bytes"] == model[0]["bytes"] // 2


def test_masks_and_panoptic_maps() -> None:
    content = bench("postprocessing", *NANO, "--masks")
    assert list(variants(content)) == ["postprocessing, masks", "postprocessing, panoptic"]
    assert list(variants(bench("inference", *NANO, "--masks"))) == ["inference, model", "inference, from files"]


def test_the_model_of_transformers_gives_the_same(tmp_path: Path) -> None:
    weights = write_weights(Path("mine.pth"))
    target = make_target(BenchConfig(weights=str(weights), image_size=64, images=2), tmp_path)
    reference = others.find_reference(target, tmp_path / "theirs")
    assert not isinstance(reference, str)
    batch = target.batch(2)
    model = target.setup.model.eval()
    theirs = others.reference_forward(reference, model, batch.images, batch.padding_mask)()
    with torch.no_grad():
        ours = model(batch.images, batch.padding_mask)
    torch.testing.assert_close(theirs.logits, ours.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(theirs.pred_boxes, ours.boxes, atol=1e-4, rtol=1e-4)


def test_the_script_beside_others(capsys: pytest.CaptureFixture[str]) -> None:
    weights = write_weights(Path("mine.pth"))
    small = ["--image_size=64", "--seconds=0", "--images=2", "--evaluation_images=4"]
    others.main([*small, f"--weights={weights}"])
    rows = [line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines()[2:]]
    actual = {work: [name for other, name in rows if other == work] for work, _ in rows}
    if "pycocotools" in actual["| evaluation, COCO metrics"]:
        actual["| evaluation, COCO metrics"].remove("pycocotools")
    assert actual == {
        "| inference, model": ["plain", "fast", "transformers"],
        "| inference, from files": ["plain", "fast", "transformers"],
        "| training, step": ["plain", "fast", "transformers"],
        "| postprocessing, boxes": ["baseline", "fast", "transformers"],
        "| data, images": ["baseline", "fast", "cached"],
        "| evaluation, COCO metrics": ["faster_coco_eval", "fast"],
    }
    others.main([*small, "--model=detrkit_n", "--masks", "postprocessing"])
    output = capsys.readouterr().out
    assert "this model has a mask head" in output
    assert "| postprocessing, panoptic | baseline |" in output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("speed", "PART: expected all, inference, training, data, postprocessing or evaluation, found 'speed'"),
        ("--model detrkit_x", "found 'detrkit_x'; did you mean 'detrkit_"),
        ("--model detrkit_n --weights a", "expected either --weights or --model, found both"),
        ("--masks --weights a", "--masks is for a model without weights"),
        ("--weights nowhere", "nowhere"),
        ("--data nowhere", "expected a data set at nowhere, found no such file or folder"),
        ("--batch_size 0", "--batch_size must be at least 1, found 0"),
        ("--device cuda", "--device cuda: PyTorch"),
        ("--compile yes", "--compile: expected auto, off or on, found 'yes'"),
    ],
)
def test_mistakes_are_one_sentence(arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert cli.main(["bench", *arguments.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
    assert not Path("bench").exists()


def a_row(part: str) -> Row:
    return Row(part, "thing", "plain", "fp32", 1, 3, 1.0, 2.0, 3.0, 1000.0, 1.0, None, None, None, None, None, None)


def stopped_by(error: BaseException) -> dict[str, Callable[..., Iterator[list[Row]]]]:
    """Parts of which the second is stopped on its way."""

    def fine(context: parts.BenchmarkContext) -> Iterator[list[Row]]:
        yield [a_row("inference")]

    def stopped(context: parts.BenchmarkContext) -> Iterator[list[Row]]:
        yield [a_row("training")]
        raise error

    return {"inference": fine, "training": stopped}


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (KeyboardInterrupt(), 130, "interrupted while training was measured"),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "--batch_size 4 --image_size 64; try --batch_size 2 or "),
        (MemoryError(), 2, "memory ran out while training was measured"),
    ],
)
def test_rows_before_a_failure_are_kept(
    error: BaseException, status: int, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "PARTS", stopped_by(error))
    assert cli.main(["bench", *NANO, "--batch_size=4"]) == status
    content = json.loads(Path("out/bench.json").read_text(encoding="utf-8"))
    assert [row["part"] for row in content["rows"]] == ["inference", "training"]
    assert sentence in content["notes"][-1]
    assert Path("out/bench.png").exists()
