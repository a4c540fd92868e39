"""Tensors that say they are on a GPU, for machines without one.

They are in main memory, under a device of another name. What mixes the two fails as it would on a real GPU, and
numbers are those of the CPU. Python's part of PyTorch is deceived, its compiled part is not; so backward passes, which
are PyTorch's own, run unwatched, and the few functions whose compiled part makes tensors by itself are replaced here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")
aten = torch.ops.aten

_INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
"""Their indices may be in main memory wherever the rest is."""


class DevicesMixedError(RuntimeError):
    """An operation was given tensors of two devices."""


class OnGpu(Tensor):
    """A tensor that says it is on a GPU, and holds one that is not."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnGpu:
        made = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})

    @property
    def device(self) -> torch.device:
        return GPU

    is_cuda = True

    def cpu(self) -> Tensor:
        return aten._to_copy.default(self, device=CPU)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        target = (args[0].device, args[0].dtype) if isinstance(args[0] if args else None, Tensor) else None
        device, dtype = target or torch._C._nn._parse_to(*args, **kwargs)[:2]
        device, dtype = device or GPU, dtype or self.dtype
        if device == GPU and dtype == self.dtype and not kwargs.get("copy"):
            return self
        return aten._to_copy.default(self, device=device, dtype=dtype)

    def tolist(self) -> Any:
        return self.inner.tolist()

    def numpy(self) -> Any:
        raise DevicesMixedError("numpy reads main memory alone")

    __array__ = numpy


class _Dispatch(TorchDispatchMode):
    """Sees what has no tensor of a GPU among its arguments, such as the making of one."""

    watched = True

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Inside, `cuda:0` is a device."""
    plain_tensor, plain_backward = torch.tensor, Tensor.backward

    def tensor(values: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
        made = plain_tensor(values, **kwargs)
        return made if device is None else made.to(device)

    def pad_sequence(parts: Sequence[Tensor], batch_first: bool) -> Tensor:
        assert batch_first
        most = max(map(len, parts))
        return torch.stack([torch.cat([part, part.new_zeros(most - len(part), *part.shape[1:])]) for part in parts])

    def backward(self: Tensor) -> None:
        _Dispatch.watched = False
        try:
            plain_backward(self)
        finally:
            _Dispatch.watched = True

    with pytest.MonkeyPatch.context() as patch, _Dispatch():
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch, "tensor", tensor)
        patch.setattr("detrkit.losses.assigner.pad_sequence", pad_sequence)
        patch.setattr(Tensor, "backward", backward)
        yield


def put_on_gpu(module: nn.Module) -> None:
    """Move what a module holds. `Module.to` cannot: it changes tensors in place, whose kind would have to change."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(OnGpu(parameter.detach()), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else OnGpu(buffer)


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What an operation gives, on the device where it would give it."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_gpu = any(isinstance(tensor, OnGpu) for tensor in tensors)
    moves = function in (aten._to_copy.default, aten.copy_.default)
    if on_gpu and not moves and _Dispatch.watched:
        _refuse_mixture(function, args, tensors)
    device = kwargs.get("device")
    if device is not None:
        on_gpu = torch.device(device).type == GPU.type
        kwargs = {**kwargs, "device": CPU}
    elif moves:
        on_gpu = isinstance(args[0], OnGpu)
    args, kwargs = tree_map(lambda leaf: leaf.inner if isinstance(leaf, OnGpu) else leaf, (args, kwargs))
    out = function(*args, **kwargs)
    given = {id(tensor.inner): tensor for tensor in tensors if isinstance(tensor, OnGpu)}

    def placed(leaf: Any) -> Any:
        if not on_gpu or not isinstance(leaf, Tensor):
            return leaf
        return given[id(leaf)] if id(leaf) in given else OnGpu(leaf)  # what was changed in place stays what it was

    return tree_map(placed, out)


def _refuse_mixture(function: Any, args: Any, tensors: Sequence[Tensor]) -> None:
    """Raise if some tensors are on the GPU and others are not; numbers without a dimension may be anywhere."""
    if function in _INDEXING and isinstance(args[0], OnGpu):
        tensors = [tensor for tensor in tensors if not any(tensor is index for index in args[1])]
    elsewhere = [tensor for tensor in tensors if not isinstance(tensor, OnGpu) and tensor.dim() > 0]
    if elsewhere:
        raise DevicesMixedError(f"{function} of a tensor on the GPU and one of {tuple(elsewhere[0].shape)} that is not")
