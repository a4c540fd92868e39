"""A step and an evaluation leave nothing behind in main memory. Without a GPU, on a pretended one."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor

import detrkit
from detrkit.structures import Target

from .fake_gpu import GPU, DevicesMixedError, OnGpu, fake_gpu, put_on_gpu
from .helpers import KINDS, batch, loss_and_gradients, make_setup, with_random_heads


def moved(target: Target) -> Target:
    placed: Any = {name: value.to(GPU) if isinstance(value, Tensor) else value for name, value in target.items()}
    return cast(Target, placed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_on_a_gpu_mixes_no_devices_and_equals_the_cpu(kind):
    setup, on_cpu = with_random_heads(make_setup(kind)), batch(3, 0, 9, seed=1)
    expected = loss_and_gradients(setup, on_cpu)
    gradients = {name: p.grad for name, p in setup.model.named_parameters() if p.grad is not None}
    with fake_gpu():
        put_on_gpu(setup.model)
        put_on_gpu(setup.criterion)
        on_gpu = detrkit.Batch(on_cpu.images.to(GPU), on_cpu.padding_mask.to(GPU), [moved(t) for t in on_cpu.targets])
        loss = loss_and_gradients(setup, on_gpu)
    assert isinstance(loss, OnGpu)
    torch.testing.assert_close(loss.inner, expected, rtol=1e-4, atol=1e-4)
    for name, parameter in setup.model.named_parameters():
        if name in gradients:
            value = parameter.grad.inner if isinstance(parameter.grad, OnGpu) else parameter.grad
            torch.testing.assert_close(value, gradients[name], rtol=1e-2, atol=1e-3, msg=name)


@pytest.mark.parametrize("task", ["detect", "instance", "panoptic"])
@pytest.mark.parametrize("kind", ["detr_resnet50", "fast"])
def test_post_processing_on_a_gpu_mixes_no_devices(kind, task):
    model = with_random_heads(make_setup(kind, task=task)).model.eval()
    images, padding = torch.rand(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool)
    sizes = torch.tensor([[64, 96], [64, 80]])
    with fake_gpu(), torch.no_grad():
        put_on_gpu(model)
        out = model(images.to(GPU), padding.to(GPU))
        assert out.boxes.device == GPU
        for where in (torch.device("cpu"), GPU):  # the sizes of images may be anywhere
            value = detrkit.postprocess(out, sizes.to(where))
            assert value[0].xyxy.device == GPU
            if task == "panoptic":
                maps = detrkit.panoptic(out, sizes.to(where), sizes.to(where), [True, False, True], threshold=0.0)
                assert [one.ids.shape for one in maps] == [(64, 96), (64, 80)]


def test_a_mixture_is_found():
    with fake_gpu():
        on_gpu, here = torch.ones(3, device=GPU), torch.arange(3)
        assert on_gpu.device == GPU
        assert (on_gpu + 1).cpu().tolist() == [2, 2, 2]
        assert on_gpu[here].device == GPU  # as on a real one
        for mixture in (lambda: on_gpu + here, lambda: torch.cat([on_gpu, here]), on_gpu.numpy):
            with pytest.raises(DevicesMixedError):
                mixture()
