"""The benchmarks: what they would train, how they count it, and one small comparison for real."""

import argparse
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import convergence
import curves
import limited
import peers
import runner
import switches
import train_one
from detrkit.config.train import TrainConfig
from detrkit.data.synthetic.generate import make_demo_dataset
from detrkit.structures import Batch, Categories, Target
from detrkit.training.setup import build_training_model
from tests.conftest import ROOT


def a_run(name: str, aps: list[float], *, seed: int = 0, seconds: float = 10.0, base: str = "fcos") -> runner.Run:
    """A run evaluated after each epoch."""
    job = runner.Job(name=name, base=base, data="d", epochs=len(aps), image_size=64, batch_size=4, seed=seed)
    curve = [
        runner.Point(epoch=epoch, seconds=seconds * epoch, AP=ap, AP50=min(1.0, 2 * ap))
        for epoch, ap in enumerate(aps, start=1)
    ]
    return runner.Run(job=job, curve=curve, parameters=20_000_000, memory=2**30, machine="CPU")


def cells_of(table: str, name: str) -> list[str]:
    """The row of a Markdown table that begins so."""
    row = next(line for line in table.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip() for cell in row.strip("|").split("|")]


def flags_of(*more: str) -> argparse.Namespace:
    return convergence._parser().parse_args(["--output_dir", "out", *more])


@pytest.mark.parametrize("name", convergence.PLANS)
def test_every_plan_makes_jobs_that_can_be_made(name: str, tmp_path: Path) -> None:
    plan = convergence.PLANS[name]
    flags = flags_of("--plan", name, "--data", "d", "--backbone_weights", "lite0.pth")
    jobs = runner.make_jobs(
        convergence._variants(plan, flags), flags, data="d", epochs=plan.epochs, image_size=plan.image_size,
        batch_size=plan.batch_size, eval_every=1,
    )  # fmt: skip
    assert len({job.name for job in jobs}) == len(jobs) >= 2
    assert max(plan.eval_epochs) == plan.epochs
    assert any(job.base == "fast" for job in jobs)


def test_values_of_a_variant_reach_the_settings_with_their_types() -> None:
    variant = runner.parse_variant("x:feature_levels=8,16,32,lr=1e-4,box_refine=true,num_queries=50,epochs=3,dropout=0")
    assert variant.base == "fast"
    [job] = runner.make_jobs(
        [variant], flags_of("--seeds", "1"), data="d", epochs=50, image_size=320, batch_size=16, eval_every=1
    )
    config = runner.detrkit_config(job)
    assert (config.feature_levels, config.lr, config.box_refine, config.num_queries) == ("8,16,32", 1e-4, True, 50)
    assert (config.epochs, config.image_size, config.backbone_weights, config.recipe) == (3, 320, "none", "fast")
    assert isinstance(config.dropout, float)
    peer = runner.parse_variant("slow:base=fcos,lr=1e-5,augmentation=detr")
    [job] = runner.make_jobs([peer], flags_of(), data="d", epochs=50, image_size=320, batch_size=16, eval_every=1)
    recipe = runner.peer_recipe(job)
    assert (recipe.lr, recipe.augmentation, recipe.build) == (1e-5, "detr", peers.fcos)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "x"], "expected NAME:key=value"),
        (["--set", "x:base=yolo,lr=1"], "base must be one of fast, classic"),
        (["--set", "x:lr=much"], "expected a number for lr"),
        (["--set", "x:box_refine=maybe"], "expected true or false for box_refine, found 'maybe'"),
        (["--set", "x:denoising=nope"], "--denoising must be none, plain or contrastive, found 'nope'"),
        (["--models", ""], "expected a model to train, found none"),
        (["--models", "fcos"], "expected a data set at d, found no such file"),
        (["--set", "x:dropuot=0.1"], "did you mean 'dropout'"),
        (["--set", "x:base=fcos,dropout=0.1"], "no setting 'dropout' of fcos"),
        (["--set", "fcos:base=fcos"], "a name of its own"),
        (["--models", "fast,yolo"], "--models knows"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--plan", "pretrained"], "name their file with --backbone_weights"),
    ],
)
def test_mistakes_are_refused_before_training(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convergence.main(["--data", "d", "--output_dir", str(tmp_path / "out"), *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tables_give_means_over_seeds_and_ratios() -> None:
    runs = [
        a_run("fasterrcnn", [0.1, 0.2]),
        a_run("fast", [0.3, 0.5], seconds=5.0),
        a_run("fast", [0.3, 0.3], seed=1, seconds=5.0),
    ]
    table = curves.result_table(runs, (1, 2, 7), reference="fasterrcnn")
    cells = cells_of(table, "fast")
    assert cells[:4] == ["fast", "20.0", "0.300 / 0.60", "0.400 / 0.80"]
    assert cells[4:] == ["0.400 ± 0.141", "5.0", "0.2", "1.00", "2.00", "0.50", "1.00"]
    assert "epoch 7" not in table
    reach = curves.reach_table(runs)
    assert cells_of(reach, "0.20") == ["0.20", "2 (0.3 min)", "1 (0.1 min)"]
    assert cells_of(reach, "0.40") == ["0.40", "never", "never"]  # one of two seeds is not enough


def test_share_of_epochs_looks_at_every_ap_that_the_slow_one_reached() -> None:
    slow = a_run("classic", [0.0, 0.1, 0.05, 0.2, 0.2, 0.3])
    assert curves.share_of_epochs(a_run("fast", [0.1, 0.25, 0.3]), slow) == pytest.approx(0.5)
    assert curves.share_of_epochs(a_run("fast", [0.1, 0.25]), slow) == float("inf")
    assert curves.share_of_epochs(slow, a_run("classic", [0.0])) is None


def test_results_are_replaced_by_name_and_seed_and_looked_up_by_job(tmp_path: Path) -> None:
    results = runner.Results(tmp_path)
    old, other, new = a_run("a", [0.1]), a_run("b", [0.1]), a_run("a", [0.1, 0.2])
    for run in (old, other, new):
        results.add(run)
    again = runner.Results(tmp_path)
    assert again.runs == [other, new]
    assert again.find(new.job) == new
    assert again.find(old.job) is None
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(runner.DataError, match="results of this benchmark"):
        runner.Results(tmp_path)


@pytest.mark.parametrize(("script", "why"), [("kill -9 $$", "killed by signal 9"), ("echo oh; exit 1", "oh")])
def test_a_failed_training_is_reported_and_leaves_the_others_alone(
    script: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(runner.sys, "executable", str(program))
    kept, lost = a_run("kept", [0.1]), a_run("lost", [0.1])
    runner.Results(tmp_path).add(kept)
    runs, failures = runner.run_jobs([kept.job, lost.job], tmp_path)
    assert runs == [kept]
    assert len(failures) == 1
    assert f"lost seed 0 failed: {why}" in failures[0]


def test_a_limited_copy_keeps_boxes_and_spreads_its_images(tmp_path: Path) -> None:
    data = make_demo_dataset(tmp_path / "data", images=10, size=32)
    whole = json.loads((data / "train.json").read_text())
    copy = Path(limited.limited_copy(str(data), 5, tmp_path))
    part = json.loads((copy / "train.json").read_text())
    assert [row["id"] for row in part["images"]] == [1, 3, 5, 7, 9]
    boxes = {row["id"]: row["bbox"] for row in whole["annotations"]}
    assert part["annotations"]
    assert all(row["bbox"] == boxes[row["id"]] and row["image_id"] % 2 for row in part["annotations"])
    assert len(json.loads((copy / "val.json").read_text())["images"]) == 2
    (copy / "val.json").write_text("is not made again")
    assert str(copy) == limited.limited_copy(str(data), 5, tmp_path)
    other = Path(limited.limited_copy(str(make_demo_dataset(tmp_path / "other", images=10, size=40)), 5, tmp_path))
    assert json.loads((other / "train.json").read_text())["images"][0]["width"] == 40


def test_switches_hold_all_differences_of_fast_and_classic() -> None:
    fast, classic = TrainConfig.from_recipe("fast").to_dict(), TrainConfig.from_recipe("classic").to_dict()
    same_for_all = {"recipe", "model", "backbone", "epochs", "image_size", "batch_size", "eval_every"}
    switched = [name for switch in switches.SWITCHES for name in switch.settings]
    assert len(set(switched)) == len(switched)
    assert {name for name in fast if fast[name] != classic[name]} - same_for_all <= set(switched)
    rows = switches.variants()
    [top] = runner.make_jobs(
        rows["added"][-1:], flags_of(), data="d", epochs=9, image_size=64, batch_size=4, eval_every=1
    )
    [goal] = runner.make_jobs(
        rows["removed"][:1], flags_of(), data="d", epochs=9, image_size=64, batch_size=4, eval_every=1
    )
    added, complete = runner.detrkit_config(top).to_dict(), runner.detrkit_config(goal).to_dict()
    assert {name for name in complete if added[name] != complete[name]} <= {"recipe", "model"}


def test_every_switched_model_can_be_built() -> None:
    categories = Categories((1, 2), ("a", "b"))
    rows = {variant.name: variant for series in switches.variants().values() for variant in series}
    jobs = runner.make_jobs(
        list(rows.values()), flags_of(), data="d", epochs=9, image_size=64, batch_size=4, eval_every=1
    )
    assert len(jobs) > 2 * len(switches.SWITCHES)
    for job in jobs:
        small = {"hidden_dim": 16, "nheads": 2, "dim_feedforward": 16, "num_queries": 5}
        config = TrainConfig.from_dict(runner.detrkit_config(job).to_dict() | small)
        build_training_model(config, categories, None)


def test_peers_get_boxes_in_their_own_form() -> None:
    """Two images of different sizes in one batch, 3 x 5 and 4 x 4 tens of pixels, files twice as large."""
    batch = Batch(
        torch.zeros(2, 3, 40, 50),
        torch.zeros(2, 40, 50, dtype=torch.bool),
        [
            Target(labels=torch.tensor([1]), boxes=torch.tensor([[0.5, 0.5, 0.2, 0.4]]), size=(30, 50)),
            Target(labels=torch.tensor([0]), boxes=torch.tensor([[0.5, 0.5, 1.0, 1.0]]), size=(40, 40)),
        ],
    )
    for target in batch.targets:
        target["original_size"] = (2 * target["size"][0], 2 * target["size"][1])
    inputs = {}

    class Listener(torch.nn.Module):
        def forward(self, images: object = None, targets: object = None, **named: object) -> object:
            inputs.update(images=images, targets=targets, **named)
            if targets is not None:
                return {"a": torch.tensor(1.0), "b": torch.tensor(2.0)}
            if "labels" in named:
                return type("Out", (), {"loss": torch.tensor(3.0)})
            if images is not None:
                return [{"boxes": torch.tensor([[20.0, 9.0, 30.0, 21.0]]), "labels": torch.tensor([2]),
                         "scores": torch.tensor([0.5])}] * 2  # fmt: skip
            boxes = torch.tensor([[[0.1, 0.1, 0.1, 0.1], [0.390625, 0.234375, 0.15625, 0.1875]]]).repeat(2, 1, 1)
            return type("Out", (), {"logits": torch.tensor([[[-9.0, -9.0], [-9.0, 2.0]]] * 2), "pred_boxes": boxes})

    vision = peers.TorchvisionPeer(Listener(), first_label=1)
    assert vision.loss(batch) == 3.0
    first, second = inputs["targets"]
    assert first["boxes"].tolist() == [pytest.approx([20, 9, 30, 21])]
    assert (first["labels"].tolist(), second["labels"].tolist()) == ([2], [1])
    assert [tuple(image.shape) for image in inputs["images"]] == [(3, 30, 50), (3, 40, 40)]
    actual = vision.detect(batch)[0]
    assert actual.xyxy.tolist() == [pytest.approx([40, 18, 60, 42])]
    assert actual.class_ids.tolist() == [1]

    other = peers.RTDetrPeer(Listener())
    assert other.loss(batch) == 3.0
    assert tuple(inputs["pixel_values"].shape) == (2, 3, 64, 64)
    assert inputs["labels"][0]["boxes"].tolist() == [pytest.approx([25 / 64, 15 / 64, 10 / 64, 12 / 64])]
    actual = other.detect(batch)[0]
    assert actual.xyxy[0].tolist() == pytest.approx([40, 18, 60, 42])
    assert (actual.class_ids[0].item(), actual.scores[0].item()) == (
        1,
        pytest.approx(torch.tensor(2.0).sigmoid().item()),
    )


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_can_overfit_an_image(name: str) -> None:
    """The loss falls well below its beginning, and detections lie in the file's pixels and among the classes."""
    torch.manual_seed(0)
    facts = peers.Facts(num_classes=2, most_objects=1, image_size=64, tokens=84, coarse_tokens=20)
    peer = peers.PEERS[name].build(facts).train()
    target = Target(
        labels=torch.tensor([1]), boxes=torch.tensor([[0.5, 0.5, 0.5, 0.5]]), size=(64, 64), original_size=(128, 192)
    )
    batch = Batch(torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.bool), [target, target])
    optimizer = torch.optim.AdamW(peer.parameters(), lr=3e-4)
    losses = []
    for _ in range(3 if name == "fasterrcnn" else 6):  # it is slow, and needs no more
        losses.append(peer.loss(batch))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    with torch.no_grad():
        actual = peer.eval().detect(batch)
    assert len(actual) == 2
    for one in actual:
        assert len(one) <= peers.MOST_DETECTIONS
        assert set(one.class_ids.tolist()) <= {0, 1}
        if name != "rtdetr":  # whose boxes may reach out of the image
            assert (one.xyxy >= 0).all()
            assert (one.xyxy <= torch.tensor([192, 128, 192, 128])).all()


def test_memory_and_machine_are_recorded() -> None:
    cpu = torch.device("cpu")
    assert 2**26 < train_one.peak_memory(cpu) < 2**36
    assert torch.__version__ in train_one.machine(cpu)
    assert train_one.count(torch.nn.Linear(3, 2)) == 8


@pytest.mark.slow
def test_a_small_comparison_is_trained_once(tmp_path: Path) -> None:
    """Every peer and a small classic for two epochs: tables, JSON and image are there, and nothing runs twice."""
    data = make_demo_dataset(tmp_path / "data", images=12, size=64)
    out = tmp_path / "out"
    small = "hidden_dim=16,nheads=2,dim_feedforward=16,enc_layers=1,dec_layers=1,num_queries=5"
    command = [
        sys.executable, str(ROOT / "benchmarks" / "convergence.py"), "--data", str(data), "--epochs", "2",
        "--models", "fasterrcnn,fcos,rtdetr", "--set", f"small:base=classic,{small}", "--image_size", "64",
        "--batch_size", "4", "--eval_epochs", "1,2", "--device", "cpu", "--output_dir", str(out),
    ]  # fmt: skip
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout + first.stderr
    runs = runner.Results(out).runs
    assert [run.job.name for run in runs] == ["fasterrcnn", "fcos", "rtdetr", "small"]
    for run in runs:
        assert [point.epoch for point in run.curve] == [1, 2]
        assert 0 <= run.curve[0].AP <= run.curve[0].AP50 <= 1
        assert 0 < run.curve[0].seconds < run.curve[1].seconds
        assert 2**27 < run.memory < 2**34
    assert [round(run.parameters / 1e6) for run in runs[:3]] == [28, 19, 20]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "| rtdetr " in first.stdout
    assert not list(out.rglob("*.ckpt"))
    before = (out / "results.json").read_bytes()
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "4 of 4 trainings are already in" in second.stdout
    assert (out / "results.json").read_bytes() == before
    assert {f.name for f in fields(runner.Run)} == set(json.loads(before)["runs"][0])
