"""A step and an evaluation leave nothing behind in main memory. Without a GPU, on a pretended one."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor

import detrkit
from detrkit.structures import Target

from .fake_gpu import GPU, DevicesMixedError, OnGpu, fake_gpu, put_on_gpu
from .helpers import KINDS, batch, begin, excited, supervised


def moved(target: Target) -> Target:
    placed: Any = {name: value.to(GPU) if isinstance(value, Tensor) else value for name, value in target.items()}
    return cast(Target, placed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_on_a_gpu_mixes_no_devices_and_learns_the_same(kind):
    start, taught = excited(begin(kind)), batch(3, 0, 9, seed=1)
    expected = supervised(start, taught)
    gradients = {name: p.grad for name, p in start.model.named_parameters() if p.grad is not None}
    with fake_gpu():
        put_on_gpu(start.model)
        put_on_gpu(start.criterion)
        there = detrkit.Batch(taught.images.to(GPU), taught.padding_mask.to(GPU), [moved(t) for t in taught.targets])
        loss = supervised(start, there)
    assert isinstance(loss, OnGpu)
    torch.testing.assert_close(loss.inner, expected, rtol=1e-4, atol=1e-4)
    for name, parameter in start.model.named_parameters():
        if name in gradients:
            found = parameter.grad.inner if isinstance(parameter.grad, OnGpu) else parameter.grad
            torch.testing.assert_close(found, gradients[name], rtol=1e-2, atol=1e-3, msg=name)


@pytest.mark.parametrize("task", ["detect", "instance", "panoptic"])
@pytest.mark.parametrize("kind", ["detr_resnet50", "fast"])
def test_post_processing_on_a_gpu_mixes_no_devices(kind, task):
    model = excited(begin(kind, task=task)).model.eval()
    images, padding = torch.rand(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool)
    sizes = torch.tensor([[64, 96], [64, 80]])
    with fake_gpu(), torch.no_grad():
        put_on_gpu(model)
        out = model(images.to(GPU), padding.to(GPU))
        assert out.boxes.device == GPU
        for where in (torch.device("cpu"), GPU):  # the sizes of images may be anywhere
            found = detrkit.postprocess(out, sizes.to(where))
            assert found[0].xyxy.device == GPU
            if task == "panoptic":
                maps = detrkit.panoptic(out, sizes.to(where), sizes.to(where), [True, False, True], threshold=0.0)
                assert [one.ids.shape for one in maps] == [(64, 96), (64, 80)]


def test_a_mixture_is_found():
    with fake_gpu():
        there, here = torch.ones(3, device=GPU), torch.arange(3)
        assert there.device == GPU
        assert (there + 1).cpu().tolist() == [2, 2, 2]
        assert there[here].device == GPU  # as on a real one
        for mixture in (lambda: there + here, lambda: torch.cat([there, here]), there.numpy):
            with pytest.raises(DevicesMixedError):
                mixture()
