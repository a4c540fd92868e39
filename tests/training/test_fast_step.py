"""A training step asks its device for numbers twice: once to match, once to tell what it came to."""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import Precision
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detrkit.training.compilation import compile_parts, fill_up
from detrkit.training.ema import Ema
from detrkit.training.launch import Autocast
from detrkit.training.loop import Trainer
from detrkit.training.optim import LRSchedule, build_optimizer
from detrkit.training.state import RunSchedule, TrainingState
from detrkit.training.step import DetectionLoss
from tests.guarantees.helpers import batch, make_setup

WAIT = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim", "bincount"}
"""Operators whose result a GPU can give only once it is done with all that came before."""
ASK = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__contains__", "__format__"}
"""Methods of tensors that do."""


class PretendDevice:
    """Plays that the model and its images lie on another device, and writes down what would wait for it.

    Tensors are on it if they were put there or made of some that are; it is their memory that is marked. A transfer
    back is a copy without the mark. `waits` has the line that asked, by how; `blocking` those that sent something there
    without `non_blocking`, which waits as well.
    """

    def __init__(self) -> None:
        self._memory: dict[int, Any] = {}  # held, so that no other takes its address
        self.waits: Counter[tuple[str, str]] = Counter()
        self.blocking: Counter[str] = Counter()

    def put(self, *tensors: Tensor) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._memory[storage._cdata] = storage

    def has(self, value: object) -> bool:
        return isinstance(value, Tensor) and value.untyped_storage()._cdata in self._memory

    def wait(self, how: str) -> None:
        self.waits[how, _line()] += 1

    def __enter__(self) -> PretendDevice:
        self._modes = (_Functions(self), _Operators(self))
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*args)


class _Operators(TorchDispatchMode):
    """Hands the mark on, and sees what operators need from the device."""

    def __init__(self, device: PretendDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        marked = any(self.device.has(value) for value in given)
        masked = name.startswith(("index", "_index")) and any(
            value.dtype == torch.bool and self.device.has(value) for value in tree_leaves(args[1]) if value is not None
        ) if name in ("index", "index_put", "index_put_", "_index_put_impl_") else False  # fmt: skip
        if marked and (name in WAIT or masked or (name == "repeat_interleave" and "output_size" not in (kwargs or {}))):
            self.device.wait(name)
        out = func(*args, **(kwargs or {}))
        if marked:
            self.device.put(*(value for value in tree_leaves(out) if isinstance(value, Tensor)))
        return out


class _Functions(TorchFunctionMode):
    """Sees what Python asks of tensors; on the CPU that is often no operator at all."""

    def __init__(self, device: PretendDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        device = self.device
        if name in ASK and args and device.has(args[0]):
            device.wait(name)
            with torch._C.DisableTorchFunction(), torch.utils._python_dispatch._disable_current_modes():
                return func(args[0].detach().clone(), *args[1:], **kwargs)
        out = func(*args, **kwargs)
        if name == "to" and not device.has(args[0]) and _names_a_device(args[1:], kwargs):
            if not kwargs.get("non_blocking"):
                device.blocking[_line()] += 1
            out = out.clone()
            device.put(out)
        return out


def _names_a_device(args: Any, kwargs: Any) -> bool:
    return "device" in kwargs or any(isinstance(value, torch.device) for value in args)


def _line() -> str:
    """The innermost line of ours, as file and code."""
    frames = [f for f in traceback.extract_stack() if "detrkit" in f.filename and "/tests/" not in f.filename]
    return f"{frames[-1].filename.rpartition('/')[2]}: {frames[-1].line}" if frames else "?"


def trainer_of(kind: str, precision: Precision | None = None, **settings: Any) -> Trainer:
    """The loop of a run on the CPU that is about to take its first step."""
    start = make_setup(kind)
    optimizer = build_optimizer(start.model, lr=1e-4, lr_backbone=1e-5, weight_decay=1e-4, fused=precision is None)
    return Trainer(
        Fabric(accelerator="cpu", devices=1, plugins=[precision or Precision()]),
        DetectionLoss(start.model.train(), start.criterion),
        optimizer,
        LRSchedule(base=(1e-4, 1e-5), kind="step", epochs=2, lr_drop=1, warmup_steps=0),
        range(100),  # type: ignore[arg-type]  # of a loader, a step needs the length
        lambda **_: None,
        TrainingState({"monitor": "AP"}),
        RunSchedule(epochs=2, **settings),
        run_dir=Path(),
        metadata={},
        clip_max_norm=0.1,
        seed=0,
        ema=Ema(0.9, start.model),
    )


def loss_of(kind: str) -> DetectionLoss:
    start = make_setup(kind)
    return DetectionLoss(start.model.train(), start.criterion)


@pytest.mark.parametrize(
    "kind", ["detr_resnet50", "detrkit_n", "dino_r50", "everything at once", "learned, groups, hybrid"]
)
def test_a_step_waits_for_its_device_twice(kind, monkeypatch):
    # looks at labels only where they lie in main memory, which no GPU's do
    monkeypatch.setattr("detrkit.models.arguments._check_labels", lambda labels, classes: None)
    trainer = trainer_of(kind)
    assert trainer.ema
    images = batch(3, 2)
    trainer.train_step(images)  # the optimizer makes its moments
    device = PretendDevice()
    device.put(*trainer.model.parameters(), *trainer.model.buffers(), *trainer.ema.average.values())
    device.put(*(value for state in trainer.optimizer.state.values() for value in state.values()))
    with device:
        trainer.train_step(images)
    waits = {line.partition(":")[0]: count for (_, line), count in device.waits.items()}
    assert waits.pop("assigner.py", 0) <= 1  # more only where the dense head's rule leaves an object out
    assert waits == {"matcher.py": 1, "step.py": 1}, device.waits
    assert not device.blocking
    assert (trainer.state.step, trainer.state.batches_summed) == (2, 2)


def test_the_last_batches_of_an_epoch_step_though_they_are_fewer_and_count_as_much_as_any(monkeypatch):
    trainer, gradients = trainer_of("detr_resnet50", accumulate_grad_batches=3), []
    monkeypatch.setattr(trainer, "loader", range(2))
    clip = trainer.clip_gradients

    def look() -> Tensor:
        gradients.extend(p.grad.clone() for p in trainer.model.parameters() if p.grad is not None)
        return clip()

    monkeypatch.setattr(trainer, "clip_gradients", look)
    assert [trainer.train_step(batch(3, seed=k)) for k in range(2)] == [False, True]
    loss = loss_of("detr_resnet50")
    for k in range(2):
        loss(batch(3, seed=k)).total.div(3).backward()
    expected = [p.grad for p in loss.parameters() if p.grad is not None]
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other)


def scaling(scale: float) -> Precision:
    return Autocast("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


def test_a_scaled_loss_gives_the_same_gradient_and_an_overflow_skips_the_step():
    """As on a GPU under 16-mixed, with the scaler of the CPU."""
    scaled, plain = trainer_of("detr_resnet50", scaling(2.0**7)), trainer_of("detr_resnet50")
    before = [parameter.detach().clone() for parameter in scaled.model.parameters()]
    norms = []
    for trainer in (scaled, plain):
        trainer.reporters = [SimpleNamespace(step_finished=lambda state, report: norms.append(report.grad_norm))]
        trainer.train_step(batch(3, 2))
    assert norms[0] == pytest.approx(norms[1], rel=0.05)
    after = [parameter.detach().clone() for parameter in scaled.model.parameters()]
    assert not all(map(torch.equal, before, after))
    scaled.model.class_embed.bias.register_hook(lambda gradient: torch.full_like(gradient, float("inf")))
    scaled.train_step(batch(3, 2))
    assert scaled.state_dict()["scaler"]["scale"] == 2.0**6
    assert all(map(torch.equal, scaled.model.parameters(), after))
    resumed = trainer_of("detr_resnet50", scaling(1.0))
    resumed.load_state_dict(scaled.state_dict())
    assert resumed.state_dict()["scaler"] == scaled.state_dict()["scaler"]
    assert resumed.state.step == 2  # the skipped step counts


def test_the_pretended_device_sees_what_waits():
    here, there = torch.rand(4), torch.rand(4)
    device = PretendDevice()
    device.put(there)
    with device:
        (there * 2).sum().item()
        there[there > 0.5]
        there.nonzero()
        bool((there > 0).all())
        (there + here).cpu().tolist()  # one transfer; what is here then, is asked for nothing
        here.nonzero(), here.sum().item(), here[here > 2]
        here.to(torch.device("cpu"))
        here.to(torch.device("cpu"), non_blocking=True).tolist()
    assert Counter(how for how, _ in device.waits.elements()) == Counter(
        {"item": 1, "index": 1, "nonzero": 1, "__bool__": 1, "cpu": 1, "tolist": 1}
    )
    assert sum(device.blocking.values()) == 1


def gradients(kind: str, checkpointed: bool, dropout: float) -> tuple[Tensor, dict[str, Tensor], int]:
    """Loss and gradients of a step, and the bytes kept for its backward pass."""
    start = make_setup(kind, dropout=dropout)
    if checkpointed:
        start.model.checkpoint_activations()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    taught = batch(3, 2, size=96)
    torch.manual_seed(7)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = start.model.train()(taught.images, taught.padding_mask, taught.targets)
        total = start.criterion.weighted_sum(start.criterion(out, taught.targets))
    total.backward()
    actual = {name: p.grad for name, p in start.model.named_parameters() if p.grad is not None}
    return total.detach(), actual, sum(kept.values())


@pytest.mark.parametrize("kind", ["detr_resnet50", "detrkit_n", "dino_r50"])
def test_checkpointed_activations_teach_the_same(kind):
    """Also with dropout, which is drawn again as it was."""
    loss, expected, kept = gradients(kind, False, 0.3)
    other, actual, less = gradients(kind, True, 0.3)
    assert torch.equal(loss, other)
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-5, atol=1e-6)
    assert less < 0.97 * kept, less / kept


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # that dynamo looks at
@pytest.mark.parametrize("kind", ["detr_resnet50", "detrkit_n"])
def test_a_compiled_model_teaches_the_same_and_few_shapes_are_compiled(kind):
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    losses = []
    for compiled in (False, True):
        module = loss_of(kind)
        if compiled:
            compile_parts(module.model, backend)
        module.compiled = True
        of_this: list[Tensor] = []
        counts = []
        for size in (96, 128, 60):
            taught = batch(3, 2, size=size)
            loss = module(taught).total
            loss.backward()
            of_this.append(loss.detach())
            counts.append(len(graphs))
        of_this += [p.grad for p in module.model.parameters() if p.grad is not None]
        losses.append(of_this)
    assert counts[0] > 0
    assert counts[-1] == counts[0]  # all of them were padded to one shape
    for one, other in zip(*losses, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_squares_are_not_filled_up():
    module = loss_of("detrkit_n")
    module.compiled = True  # nothing is: its parts are as they were
    seen = []
    module.model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-2:]))
    for square_resize in (True, False):
        module.square_resize = square_resize
        module(batch(3, 2, size=96))
    assert seen == [(96, 96), (128, 128)]


def test_batches_are_filled_up_with_padding():
    images, padding = fill_up(torch.ones(2, 3, 100, 256), torch.zeros(2, 100, 256, dtype=torch.bool))
    assert images.shape == (2, 3, 128, 256)
    assert images[:, :, 100:].sum() == 0
    assert padding[:, 100:].all()
    assert not padding[:, :100].any()


def test_a_fused_step_is_a_plain_one_and_takes_up_its_state():
    """AdamW in one go, beside parameter after parameter; a state of either goes on in the other."""
    parameters, states = [], []
    for order in ([True, True], [False, False], [False, True]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.LayerNorm(5))
        state = None
        for fused in order:
            optimizer = build_optimizer(
                model, lr=1e-2, lr_backbone=1e-3, weight_decay=0.1, norm_decay=False, fused=fused
            )
            if state:
                optimizer.load_state_dict(state)
            for k in range(5):
                optimizer.zero_grad()
                model(torch.ones(2, 7) + k).square().sum().backward()
                optimizer.step()
            state = optimizer.state_dict()
        parameters.append([p.detach().clone() for p in model.parameters()])
        states.append(state)
    for others in parameters[1:]:
        for one, other in zip(parameters[0], others, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_average_of_all_weights_at_once_is_that_of_each():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    ema = Ema(0.9, model)
    expected = {name: value.clone() for name, value in ema.average.items()}
    for n in range(3):
        model(torch.randn(4, 3))
        with torch.no_grad():
            model[0].weight.add_(1.0)
        decay = min(0.9, (1 + n) / (10 + n))
        for name, value in model.state_dict().items():
            expected[name] = expected[name].lerp(value, 1 - decay) if value.is_floating_point() else value.clone()
        ema.update(model)
    assert all(torch.equal(ema.average[name], value) for name, value in expected.items())
