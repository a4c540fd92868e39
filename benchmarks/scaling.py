"""Training on many GPUs, by simulation: what images, network and all-reduce allow; and gloo processes, measured.

    python benchmarks/scaling.py simulate
    python benchmarks/scaling.py gloo --processes 1 2 4

`simulate` plays steps of data-parallel training: every rank computes for a time that varies from batch to batch, its
gradients become ready one bucket after the other during the backward pass, rings of all ranks add the buckets up as the
network allows, and the next step begins when the slowest rank has its batch and all gradients. Rates of GPUs, networks
and loader cores are assumptions, given as flags; parameters and GFLOPs are those of docs/benchmarks/models.md.

`gloo` trains one model with N processes on this machine, on the same images per step, and reports seconds of CPU per
step and the largest difference of the weights from those of one process.
"""

from __future__ import annotations

import argparse
import socket
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

MODELS = {
    "detrkit_n": (2.6, 8),
    "detrkit_s": (22.4, 92),
    "detrkit_l": (45.0, 164),
    "detr_resnet50": (41.5, 77),
    "detr_resnet101_dc5": (60.4, 210),
    "dino_r50": (47.5, 236),
    "rtdetr_r18": (20.1, 60),
    "rtdetr_r50": (42.8, 134),
}
"""Millions of parameters and GFLOPs of one image at 640 x 640 pixels (docs/benchmarks/models.md)."""
BUCKET_MB = 25.0
"""Size of the buckets of gradients of PyTorch's DistributedDataParallel, in MB."""
BYTES_PER_PARAMETER = 4 + 4 + 8 + 4
"""Weights, gradients, two moments of AdamW and the moving average, in float32."""


@dataclass(frozen=True)
class Cluster:
    """The hardware that is assumed."""

    tflops: float
    """TFLOP/s that a GPU attains in training."""
    overhead_ms: float
    """Least time of a step, for launching kernels, matching and the optimizer."""
    inside: float
    """GB/s of the links of a GPU inside a machine."""
    between: float
    """GB/s of the network of a machine."""
    latency_us: float
    """Microseconds of one hop of a ring."""
    variation: float
    """Standard deviation of the compute time of a batch, as a fraction."""
    per_node: int = 8


def step_seconds(model: str, gpus: int, batch: int, cluster: Cluster, steps: int = 200) -> tuple[float, float, float]:
    """Simulate steps.

    Args:
        model: a key of `MODELS`.
        gpus: number of GPUs.
        batch: images per GPU.
        cluster: the hardware.
        steps: number of steps.

    Returns:
        Mean seconds of a step, of the computation of one rank, and of waiting for gradients after the last backward.
    """
    rng = np.random.default_rng(gpus)
    parameters, gflops = MODELS[model]
    compute = 3 * gflops * batch / (1000 * cluster.tflops) + cluster.overhead_ms / 1000  # forward once, backward twice
    backward = compute * 2 / 3
    megabytes = 4 * parameters
    buckets = [BUCKET_MB] * int(megabytes // BUCKET_MB) + [megabytes % BUCKET_MB]
    nodes = -(-gpus // cluster.per_node)
    speed = cluster.inside if nodes == 1 else min(cluster.inside, cluster.between)
    total, waiting = 0.0, 0.0
    for _ in range(steps):
        slowest = compute * max(1.0, 1 + cluster.variation * rng.standard_normal(gpus).max())
        ready = slowest - backward + backward * np.cumsum(buckets) / megabytes
        free = 0.0
        for at, size in zip(ready, buckets, strict=True):
            hops = 2 * (gpus - 1)
            share = hops / gpus if gpus > 1 else 0.0
            free = max(free, at) + share * size / 1000 / speed + hops * cluster.latency_us / 1e6
        total += max(free, slowest)
        waiting += max(free, slowest) - slowest
    return total / steps, compute, waiting / steps


def simulate(arguments: argparse.Namespace) -> None:
    """Print what each model asks of images, cores and networks, and its efficiency with more GPUs."""
    cluster = Cluster(
        arguments.tflops,
        arguments.overhead_ms,
        arguments.inside,
        arguments.between[0],
        arguments.latency_us,
        arguments.variation,
    )
    print(
        "| model | images/s of a GPU | loader cores per GPU | MB/s per GPU | cores, MB/s of 8 | of 64 | GB of states |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    for model, (parameters, _) in MODELS.items():
        rate = arguments.batch / step_seconds(model, 1, arguments.batch, cluster)[0]
        cores, megabytes = rate / arguments.images_per_core, rate * arguments.image_kb / 1000
        many = " | ".join(f"{cores * n:.0f}, {megabytes * n:.0f}" for n in (8, 64))
        states = parameters * BYTES_PER_PARAMETER / 1000
        print(f"| `{model}` | {rate:.0f} | {cores:.1f} | {megabytes:.0f} | {many} | {states:.2f} |")
    for between in arguments.between:
        slow = Cluster(
            arguments.tflops,
            arguments.overhead_ms,
            arguments.inside,
            between,
            arguments.latency_us,
            arguments.variation,
        )
        print(f"\n{between:g} GB/s between machines of 8 GPUs, efficiency (and waiting for gradients):\n")
        print(f"| model | {' | '.join(f'{gpus} GPUs' for gpus in arguments.gpus)} |")
        print(f"|---|{'--:|' * len(arguments.gpus)}")
        for model in MODELS:
            alone, *_ = step_seconds(model, 1, arguments.batch, slow)
            cells = []
            for gpus in arguments.gpus:
                seconds, _, waiting = step_seconds(model, gpus, arguments.batch, slow)
                cells.append(f"{alone / seconds:.0%} ({waiting / seconds:.0%})")
            print(f"| `{model}` | {' | '.join(cells)} |", flush=True)


def _rank(rank: int, processes: int, port: int, steps: int, images: int, size: int, queue: Any) -> None:
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from detrkit.models import build_model

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model(
        num_classes=20, num_queries=100, backbone="nano", backbone_norm="group", hidden_dim=128, nheads=8
    )
    model.eval()  # without dropout, so that the results can be compared
    if processes > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    wrapped = DistributedDataParallel(model) if processes > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    share = images // processes
    begin = 0.0
    for step in range(steps + 1):
        if step == 1:
            begin = time.process_time()
        noise = torch.Generator().manual_seed(step)
        batch = torch.rand(images, 3, size, size, generator=noise)[rank * share : (rank + 1) * share]
        out = wrapped(batch, torch.zeros(share, size, size, dtype=torch.bool))
        loss = (out.logits.square().sum(dim=(1, 2)) + out.boxes.square().sum(dim=(1, 2))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seconds = (time.process_time() - begin) / steps
    weights = torch.cat([value.detach().double().ravel() for value in model.state_dict().values()])
    queue.put((rank, seconds, weights.numpy() if rank == 0 else None))
    if processes > 1:
        dist.barrier()
        dist.destroy_process_group()


def measure_gloo(arguments: argparse.Namespace) -> None:
    """Train with several processes on this machine."""
    import torch.multiprocessing as mp

    alone, reference = 0.0, None
    print("| processes | images per process | s of CPU per step, all processes | efficiency | largest difference |")
    print("|--:|--:|--:|--:|--:|")
    for processes in arguments.processes:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = mp.get_context("spawn")
        queue = context.Queue()
        args = (processes, port, arguments.steps, arguments.images, arguments.size, queue)
        ranks = [context.Process(target=_rank, args=(rank, *args)) for rank in range(processes)]
        for each in ranks:
            each.start()
        results = sorted((queue.get() for _ in ranks), key=lambda result: result[0])
        for each in ranks:
            each.join()
        total, weights = sum(seconds for _, seconds, _ in results), results[0][2]
        alone = alone or total
        reference = weights if reference is None else reference
        difference = float(np.abs(weights - reference).max() / np.abs(reference).max())
        share = arguments.images // processes
        print(f"| {processes} | {share} | {total:.2f} | {alone / total:.0%} | {difference:.1e} |", flush=True)


def main() -> None:
    """Run the simulation or the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["simulate", "gloo"])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--batch", type=int, default=8, help="images per GPU")
    parser.add_argument("--tflops", type=float, default=100.0, help="TFLOP/s that a GPU attains")
    parser.add_argument("--overhead_ms", type=float, default=20.0, help="least time of a step")
    parser.add_argument("--inside", type=float, default=200.0, help="GB/s of the links of a GPU inside a machine")
    parser.add_argument("--between", type=float, nargs="+", default=[25.0, 1.25], help="GB/s between machines")
    parser.add_argument("--latency_us", type=float, default=10.0, help="microseconds per hop")
    parser.add_argument("--variation", type=float, default=0.05, help="deviation of the compute time of a batch")
    parser.add_argument("--images_per_core", type=float, default=234.0, help="images per second of a loader core")
    parser.add_argument("--image_kb", type=float, default=160.0, help="size of an image file in KB")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--images", type=int, default=8, help="images per step of all processes")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    {"simulate": simulate, "gloo": measure_gloo}[arguments.part](arguments)


if __name__ == "__main__":
    main()
