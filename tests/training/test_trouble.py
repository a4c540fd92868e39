"""Losses that are not finite, and memory that runs out."""

from contextlib import nullcontext

import pytest
import torch

from detrkit.errors import ConfigError, NonFiniteLossError, OutOfMemoryError, is_out_of_memory
from detrkit.losses import Criterion
from detrkit.models import build_model
from detrkit.training import train
from detrkit.training.auto_batch import explain_out_of_memory, find_batch_size
from detrkit.training.loop import Trainer
from detrkit.training.step import DetectionLoss

from .conftest import TINY

pytestmark = pytest.mark.timeout(240)


def test_a_loss_that_is_not_finite_names_step_and_images(tiny, monkeypatch, tmp_path):
    whole, calls = Criterion.weighted_sum, []

    def weighted_sum(self, losses):
        calls.append(torch.is_grad_enabled())
        return whole(self, losses) * (float("nan") if sum(calls) == 7 and calls[-1] else 1)

    monkeypatch.setattr(Criterion, "weighted_sum", weighted_sum)
    with pytest.raises(NonFiniteLossError) as caught:
        train(tiny())
    message = str(caught.value)
    assert "loss became nan at step 6 (epoch 2, batch 2)" in message
    assert message.count(".png") == 2
    last = tmp_path / "run" / "last.ckpt"
    assert f"the last good checkpoint is {last}; resume with resume {last} and a lower learning rate" in message
    assert "(lr 0.0001, this recipe's, in place of 0.001)" in message
    assert f"also check the data: detrkit check {tiny().data}" in message
    assert "no checkpoint" not in message
    kept = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert all(torch.isfinite(v).all() for v in kept["model"].values() if v.is_floating_point())


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(tiny, monkeypatch):
    clip = Trainer.clip_gradients

    def spoil(self):
        self.model.class_embed.bias.grad.fill_(float("inf"))
        return clip(self)

    monkeypatch.setattr(Trainer, "clip_gradients", spoil)
    with pytest.raises(
        NonFiniteLossError, match=r"gradient became (inf|nan) at step 0 .* no checkpoint was saved yet"
    ) as caught:
        train(tiny(clip_max_norm=0, lr=1e-5))
    assert "last" not in str(caught.value)  # there is none to go on from
    assert "start again with a lower learning rate (lr 2.5e-06), or clip_max_norm 0.1" in str(caught.value)


def test_weights_that_are_not_finite_are_reported_at_evaluation(tiny, monkeypatch):
    """The loss of the last step was fine, the step itself was not."""
    close = Trainer.end_epoch

    def spoil(self):
        close(self)
        with torch.no_grad():
            self.model.bbox_embed.layers[-1].bias.fill_(float("nan"))

    monkeypatch.setattr(Trainer, "end_epoch", spoil)
    with pytest.raises(
        NonFiniteLossError, match=r"validation images are not finite .* start again with a lower learning rate"
    ):
        train(tiny())


def test_a_single_place_for_a_norm_is_a_sentence(tiny):
    with pytest.raises(ConfigError, match=r"at \d+ x \d+ pixels; use a larger image_size or batch_size"):
        train(tiny(backbone="nano", backbone_norm="batch", image_size=32, square_resize=True, batch_size=1))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_is_a_sentence_with_flags(tiny, monkeypatch, error):
    def forward(*_):
        raise error

    monkeypatch.setattr(DetectionLoss, "predict", forward)
    with pytest.raises(
        OutOfMemoryError, match=r"batch_size 2 image_size 48 .*try batch_size 1 accumulate_grad_batches 2"
    ):
        train(tiny())


def test_other_errors_stay_what_they_are(tiny, monkeypatch):
    def forward(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    assert not is_out_of_memory(ValueError("memory"))
    monkeypatch.setattr(DetectionLoss, "predict", forward)
    with pytest.raises(RuntimeError, match="mat1"):
        train(tiny())


def test_advice_fits_what_is_used():
    output = explain_out_of_memory(batch_size=1, image_size=800, num_queries=100, precision="32", cuda=True)
    assert "try --image_size 600, or --precision bf16-mixed" in output
    output = explain_out_of_memory(batch_size=2, image_size=800, num_queries=9, precision="32", cuda=True, classic=True)
    assert "--batch_size 2 --num_queries 9; try --batch_size 1, or detrkit train" in output


def test_a_batch_size_is_found_and_written_down(tiny, monkeypatch):
    monkeypatch.setattr("detrkit.training.auto_batch.free_memory", lambda: 40_000_000)
    run_dir = train(tiny(batch_size="max", epochs=1)).run_dir
    actual = torch.load(run_dir / "last.ckpt", weights_only=True)["detrkit"]["config"]["batch_size"]
    assert actual in (1, 2, 4, 8)
    assert f"batch_size: {actual}\n" in (run_dir / "config.yaml").read_text()
    whole = train(tiny(batch_size=actual, epochs=1, output_dir=str(run_dir.parent / "given"))).run_dir
    one, other = (torch.load(d / "last.ckpt", weights_only=True)["model"] for d in (run_dir, whole))
    assert all(torch.equal(one[name], other[name]) for name in one)  # looking for it disturbed nothing


def test_batch_sizes_grow_with_memory_up_to_the_limit(monkeypatch):
    names = ("backbone", "hidden_dim", "nheads", "enc_layers", "dec_layers", "dim_feedforward", "num_queries")
    model = build_model(num_classes=2, backbone_norm="batch", **{name: TINY[name] for name in names})
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    actual = []
    for free in (10**6, 10**8, 10**12):
        monkeypatch.setattr("detrkit.training.auto_batch.free_memory", lambda free=free: free)
        precision = nullcontext
        size = find_batch_size(model, height=96, width=96, limit=100, device=torch.device("cpu"), precision=precision)
        actual.append(size)
    assert actual[0] == 1
    assert actual == sorted(actual)
    assert actual[2] == 64
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
