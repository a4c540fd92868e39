"""Find the batch size that fits into memory, and advise after memory ran out."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from detrkit.models import DetectionModel
from detrkit.structures import Output, Target

MASKS = 20
"""Number of masks per image in the memory test: as many objects as a crowded image of COCO has."""


def explain_out_of_memory(
    *, batch_size: int | str, image_size: int, num_queries: int, precision: str, cuda: bool, classic: bool = False
) -> str:
    """Make the message after memory ran out: the sizes in use, and flags that reduce the memory.

    Args:
        batch_size: number of images per step.
        image_size: shorter side of the images in pixels.
        num_queries: number of object queries of the model.
        precision: number format of the training.
        cuda: whether training runs on an Nvidia GPU.
        classic: whether `detrkit detr` trains, which has the flags of main.py.
    """
    if classic:
        smaller = f"--batch_size {batch_size // 2}, or " if isinstance(batch_size, int) and batch_size > 1 else ""
        return (
            f"memory ran out with --batch_size {batch_size} --num_queries {num_queries}; try {smaller}detrkit train "
            "--recipe classic, which has --image_size and --accumulate_grad_batches too"
        )
    advice = (
        [f"--batch_size {max(1, batch_size // 2)} --accumulate_grad_batches 2"] if isinstance(batch_size, int) else []
    )
    if batch_size == 1:
        advice = []
    advice.append(f"--image_size {image_size * 3 // 4}")
    if cuda and precision == "32":
        advice.append("--precision bf16-mixed")
    return (
        f"memory ran out with --batch_size {batch_size} --image_size {image_size} --num_queries {num_queries} "
        f"--precision {precision}; try {', or '.join(advice)}"
    )


def find_batch_size(
    model: DetectionModel,
    *,
    height: int,
    width: int,
    limit: int,
    device: torch.device,
    precision: Callable[[], AbstractContextManager[Any]],
) -> int:
    """Find the largest power of two of images whose training step fits into memory; the same on every rank.

    On CUDA, steps of doubling size are tried on noise, leaving a tenth of the memory free. Elsewhere, exhausted memory
    would freeze the machine; so the memory that one image keeps for the backward pass is measured, and a batch may take
    60 % of the free memory. Weights, statistics, gradients and the states of random generators do not change.

    Args:
        model: model in training mode, on its device.
        height: height of the largest batch in pixels.
        width: width of the largest batch in pixels.
        limit: largest batch size, the number of training images per rank.
        device: device of the model.
        precision: context in which the model is run.
    """
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    indices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=indices):
        if device.type == "cuda":
            size = _try_on_cuda(model, height, width, limit, device, precision)
        else:
            size = _estimate(model, height, width, limit, device, precision)
    for name, buffer in model.named_buffers():
        buffer.copy_(kept[name])
    model.zero_grad(set_to_none=True)
    return _least_over_ranks(size)


def _step(model: DetectionModel, count: int, height: int, width: int, device: torch.device, precision: Any) -> None:
    """Run forward and backward on noise, without the criterion, which takes little memory and needs the other ranks.

    One object per image is enough for the largest number of denoising queries.
    """
    images = torch.randn(count, 3, height, width, device=device)
    label, box = torch.zeros(1, dtype=torch.int64, device=device), torch.full((1, 4), 0.5, device=device)
    targets = [Target(labels=label, boxes=box) for _ in range(count)]
    with precision():
        out: Output = model(images, torch.zeros(count, height, width, dtype=torch.bool, device=device), targets)
    outputs = [out, *(branch.output for branch in out.branches)]
    layers = [layer for output in outputs for layer in (output, *output.aux)]
    means = [layer.logits.float().mean() + layer.boxes.float().mean() for layer in layers]
    if out.predict_masks:
        each = min(MASKS, out.boxes.shape[1])
        places = torch.arange(count * each, device=device)
        means.append(out.predict_masks(places // each, places % each).mean())
    torch.stack(means).sum().backward()  # type: ignore[no-untyped-call]


def _try_on_cuda(
    model: DetectionModel, height: int, width: int, limit: int, device: torch.device, precision: Any
) -> int:
    total = torch.cuda.get_device_properties(device).total_memory
    # AdamW's two moments come with the first real step
    moments = 2 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    size, fits = 1, 1
    while size <= limit:
        try:
            torch.cuda.reset_peak_memory_stats(device)
            _step(model, size, height, width, device, precision)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            break
        finally:
            model.zero_grad(set_to_none=True)
        if torch.cuda.max_memory_reserved(device) + moments > 0.9 * total:
            break
        fits, size = size, size * 2
    torch.cuda.empty_cache()
    return fits


def _estimate(model: DetectionModel, height: int, width: int, limit: int, device: torch.device, precision: Any) -> int:
    seen: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        _step(model, 1, height, width, device, precision)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    # the backward pass makes about as much again as it frees on the way
    image = 1.5 * sum(size for pointer, size in seen.items() if pointer not in own)
    room = 0.6 * free_memory() / _ranks_here() - 3 * weights  # gradients and two moments
    size = 1
    while 2 * size <= limit and 2 * size * image <= room:
        size *= 2
    return size


def free_memory() -> int:
    """Free main memory in bytes, within the limit of a container."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        rows = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(rows["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free = min(free, max(0, int(limit.read_text()) - int(used.read_text())))
    return free


def _ranks_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size() if dist.is_initialized() else 1))


def _least_over_ranks(size: int) -> int:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return size
    sizes: list[Any] = [0] * dist.get_world_size()
    dist.all_gather_object(sizes, size)
    return int(min(sizes))
