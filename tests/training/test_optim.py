"""Optimizer groups, learning rates, the moving average, and states of the original."""

import argparse
import math

import pytest
import torch

from detrkit.errors import WeightsError
from detrkit.models import build_model
from detrkit.training import run_training, train
from detrkit.training.ema import Ema
from detrkit.training.optim import LRSchedule, build_optimizer, rate_factor
from detrkit.training.step import seed_of

from .conftest import TINY

pytestmark = pytest.mark.timeout(240)

MODEL = {
    name: TINY[name]
    for name in ("backbone", "hidden_dim", "nheads", "enc_layers", "dec_layers", "dim_feedforward", "num_queries")
}


def schedule(**settings):
    return LRSchedule(**{"base": (1.0, 0.1), "kind": "step", "epochs": 10, "lr_drop": 4, "warmup_steps": 0, **settings})


def test_two_groups_as_in_the_original():
    model = build_model(2, **MODEL, position_embedding="learned")
    names = {parameter: name for name, parameter in model.named_parameters()}
    rest, backbone = build_optimizer(model, lr=1.0, lr_backbone=0.1, weight_decay=0.01).param_groups
    assert [names[p] for p in rest["params"]] == [n for n in names.values() if "backbone" not in n]
    learning = [n for p, n in names.items() if "backbone" in n and p.requires_grad]
    assert [names[p] for p in backbone["params"]] == learning
    assert (rest["lr"], backbone["lr"], backbone["weight_decay"]) == (1.0, 0.1, 0.01)


def test_a_rate_of_0_freezes_the_backbone_but_not_its_positions():
    model = build_model(2, **MODEL, position_embedding="learned")
    rest, backbone = build_optimizer(model, lr=1.0, lr_backbone=0.0, weight_decay=0.0).param_groups
    assert not backbone["params"]
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert not any(p.requires_grad for p, name in names.items() if name.startswith("backbone.0."))
    assert [names[p] for p in rest["params"]][-2:] == ["backbone.1.row_embed.weight", "backbone.1.col_embed.weight"]


def test_the_step_schedule_is_that_of_step_lr():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.StepLR(optimizer, 4)
    for epoch in range(10):
        assert schedule().rates(epoch, 0.5, 7)[0] == pytest.approx(optimizer.param_groups[0]["lr"])
        assert schedule().rates(epoch, 0.5, 7)[1] == pytest.approx(optimizer.param_groups[0]["lr"] / 10)
        optimizer.step()
        reference.step()


def test_the_cosine_falls_from_the_full_rate_to_0_and_warm_up_rises_to_it():
    cosine = schedule(kind="cosine")
    assert cosine.factor(0, 0.0, 0) == 1
    assert cosine.factor(5, 0.0, 50) == pytest.approx(0.5)
    assert cosine.factor(9, 1.0, 100) == pytest.approx(0)
    long = schedule(warmup_steps=1000)  # of a run of ten epochs: up at the end of the first
    assert [long.factor(0, 0.0, 0), long.factor(0, 0.5, 20), long.factor(1, 0.0, 40)] == [0.001, 0.5, 1.0]
    assert [schedule(warmup_steps=4).factor(0, 0.0, step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_flat_cosine_holds_the_full_rate_for_half_of_the_epochs_and_ends_at_a_twentieth():
    flat = schedule(kind="flat_cosine")
    assert [flat.factor(epoch, 0.0, 0) for epoch in range(6)] == [1.0] * 6
    assert flat.factor(7, 0.5, 0) == pytest.approx((1 + 0.05) / 2)
    assert flat.factor(5, 0.5, 0) == pytest.approx(0.05 + 0.95 * (1 + math.cos(math.pi / 10)) / 2)
    assert flat.factor(9, 1.0, 0) == pytest.approx(0.05)
    assert flat.factor(12, 0.0, 0) == pytest.approx(0.05)  # more epochs than were announced
    falling = [flat.factor(epoch, fraction / 4, 0) for epoch in range(5, 10) for fraction in range(4)]
    assert falling == sorted(falling, reverse=True)
    assert schedule(kind="flat_cosine", warmup_steps=4).rates(0, 0.5, 1) == [0.5, 0.05]


def test_parts_learn_at_rates_of_their_own_behind_the_two_groups_of_the_original():
    model = torch.nn.ModuleDict(
        {
            "sampling_offsets": torch.nn.Linear(2, 2),
            "norm": torch.nn.LayerNorm(2),
            "linear": torch.nn.Linear(2, 2),
            "backbone": torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.BatchNorm2d(2)),
        }
    )
    names = {parameter: name for name, parameter in model.named_parameters()}

    def groups(**settings):
        actual = build_optimizer(model, lr=1.0, lr_backbone=0.5, weight_decay=0.01, **settings).param_groups
        return [(group["lr"], group["weight_decay"], [names[p] for p in group["params"]]) for group in actual]

    plain = groups()
    assert [(lr, decay, len(actual)) for lr, decay, actual in plain] == [(1.0, 0.01, 6), (0.5, 0.01, 4)]
    assert groups(lr_linear_proj_mult=0.1, norm_decay=False) == [
        (1.0, 0.01, ["linear.weight"]),
        (0.5, 0.01, ["backbone.0.weight"]),
        (0.1, 0.01, ["sampling_offsets.weight"]),
        (0.1, 0.0, ["sampling_offsets.bias"]),
        (1.0, 0.0, ["norm.weight", "norm.bias", "linear.bias"]),
        (0.5, 0.0, ["backbone.0.bias", "backbone.1.weight", "backbone.1.bias"]),
    ]
    assert [actual for *_, actual in groups(lr_linear_proj_mult=0.1)][2] == [
        "sampling_offsets.weight",
        "sampling_offsets.bias",
    ]


def test_the_moving_average_is_that_of_its_formula():
    model = build_model(2, **MODEL)
    ema = Ema(0.5, model)
    expected = model.class_embed.bias.detach().clone()
    for step in range(20):
        torch.nn.init.constant_(model.class_embed.bias, float(step))
        ema.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    torch.testing.assert_close(ema.average["class_embed.bias"], expected)
    raw = model.class_embed.bias.detach().clone()
    with ema.applied(model):
        torch.testing.assert_close(model.class_embed.bias.detach(), expected)
    assert torch.equal(model.class_embed.bias, raw)


def test_seeds_differ_with_every_number_and_never_with_the_machine():
    assert seed_of(42, 0, 0, 0) == 302854793401962243
    assert len({seed_of(*key) for key in [(1, 2, 3), (1, 3, 2), (1, 2), (12, 3)]}) == 4


@pytest.fixture
def original(tmp_path):
    """A checkpoint as the original writes it after its first epoch."""
    torch.manual_seed(3)
    model = build_model(2, **MODEL)
    optimizer = build_optimizer(model, lr=7.0, lr_backbone=0.7, weight_decay=0.3)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    path = tmp_path / "checkpoint.pth"
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"last_epoch": 1},
        "epoch": 0,
        "args": argparse.Namespace(lr=7.0),
    }
    torch.save(content, path)
    return path


def test_a_run_of_the_original_goes_on(tiny, original, tmp_path, capsys):
    config = tiny(resume=str(original), backbone_norm="frozen", epochs=2)
    run_dir = run_training(config, classic_log=True).run_dir
    assert "at epoch 2" in capsys.readouterr().out
    kept = torch.load(run_dir / "last.ckpt", weights_only=True)
    states = kept["optimizer"]
    assert {int(state["step"]) for state in states["state"].values()} == {1 + 5}
    assert [group["lr"] for group in states["param_groups"]] == [1e-3, 1e-5]  # those given now
    assert (run_dir / "log.txt").read_text().count("\n") == 1
    assert '"epoch": 1' in (run_dir / "log.txt").read_text()
    again = run_training(tiny(resume="auto", backbone_norm="frozen", epochs=3)).run_dir
    assert torch.load(again / "last.ckpt", weights_only=True)["progress"]["step"] == 10


def test_an_original_that_does_not_fit_is_refused(tiny, original):
    with pytest.raises(WeightsError, match=r"checkpoint\.pth does not fit the model"):
        train(tiny(resume=str(original), backbone_norm="frozen", hidden_dim=32))


def test_bfloat16(tiny):
    assert train(tiny(precision="bf16-mixed", epochs=1)).metrics["AP"] >= 0


def test_rates_follow_the_square_root_of_the_images_per_step() -> None:
    assert rate_factor(16, 16) == 1.0
    assert rate_factor(16, 4) == 0.5
    assert rate_factor(16, 64) == 2.0
    assert rate_factor(0, 4) == 1.0  # not scaled
