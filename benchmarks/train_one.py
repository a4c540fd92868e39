"""One training of a comparison, in this process: `python benchmarks/train_one.py FOLDER` with FOLDER/job.json.

Leaves FOLDER/result.json (see `runner.Run`). `runner.run_jobs` calls it.
"""

from __future__ import annotations

import csv
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from detrkit.data.dataset import DetectionDataset
from detrkit.data.formats.detect import open_dataset
from detrkit.data.loader import eval_loader, train_loader
from detrkit.data.transforms.resize_crop import eval_transform, train_transform
from detrkit.data.validation.validate import check_dataset
from detrkit.errors import NonFiniteLossError
from detrkit.evaluation.coco_metrics import compute_coco_metrics
from peers import PEERS, Facts, Peer
from runner import Job, Point, Run, detrkit_config, peer_recipe


def main(folder: Path) -> None:
    """Train, and write what it gave."""
    job = Job(**json.loads((folder / "job.json").read_text(encoding="utf-8")))
    train = train_peer if job.base in PEERS else train_detrkit
    device = "cuda" if job.device == "auto" and torch.cuda.is_available() else job.device
    run = train(job, folder, torch.device("cpu" if device == "auto" else device))
    (folder / "result.json").write_text(json.dumps(asdict(run)), encoding="utf-8")


def train_detrkit(job: Job, folder: Path, device: torch.device) -> Run:
    """Through the public door, so that what is measured is what users get."""
    from detrkit.models import build_model  # here, so that peers do not pay for it in memory
    from detrkit.training import run_training

    result = run_training(detrkit_config(job, str(folder / "detrkit")), overwrite=True)
    memory = peak_memory(device)
    with (result.run_dir / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/AP")]
    curve = [
        Point(
            epoch=int(row["epoch"]),
            seconds=float(row["seconds"]),
            AP=float(row["val/AP"]),
            AP50=float(row["val/AP50"]),
        )
        for row in rows
    ]
    card = torch.load(result.run_dir / "last.ckpt", map_location="cpu", weights_only=True, mmap=True)["detrkit"]
    parameters = count(build_model(**card["model_args"]))
    for checkpoint in result.run_dir.glob("*.ckpt"):
        checkpoint.unlink()  # only metrics are needed, and there may be dozens of trainings
    return Run(job=job, curve=curve, parameters=parameters, memory=memory, machine=machine(device))


def train_peer(job: Job, folder: Path, device: torch.device, clock: Callable[[], float] = time.monotonic) -> Run:
    """A plain loop over the same images, measured by the same evaluation.

    Under `max_minutes` of `clock` the rates fall with the steps or with the time, whichever is further, and training
    ends with it, within an epoch, too; the last evaluation is not counted.
    """
    recipe = peer_recipe(job)
    torch.manual_seed(job.seed)
    splits = check_dataset(open_dataset(job.data)).splits
    train, val = splits["train"], splits["val"]
    augmented = train_transform(recipe.augmentation, job.image_size)
    plain = eval_transform(job.image_size)
    dataset = DetectionDataset(train, train.categories, augmented, seed=job.seed)
    loader = train_loader(dataset, batch_size=job.batch_size, num_workers=job.num_workers, seed=job.seed)
    val_loader = eval_loader(
        DetectionDataset(val, train.categories, plain), batch_size=job.batch_size, num_workers=job.num_workers
    )
    shapes = [plain.output_size(image.height, image.width) for image in [*train.images, *val.images]]
    facts = Facts(
        num_classes=len(train.categories),
        most_objects=max(len(image.objects) for image in train.images),
        image_size=job.image_size,
        tokens=min(sum(-(-h // s) * -(-w // s) for s in (8, 16, 32)) for h, w in shapes),
        coarse_tokens=min(sum(-(-h // s) * -(-w // s) for s in (16, 32)) for h, w in shapes),
    )
    model = recipe.build(facts).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    steps = job.epochs * len(loader)
    warmup = max(1, min(recipe.warmup_steps, steps // 10))

    limit, begun = 60 * job.max_minutes, clock()

    def share(step: int) -> float:
        return max(step / steps, (clock() - begun) / limit if limit else 0.0)

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(1.0, share(step))))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    gt, ids = val.to_coco(), train.categories.ids
    curve: list[Point] = []
    for epoch in range(1, job.epochs + 1):
        loader.set_epoch(epoch - 1)
        for batch in loader:
            loss = model.loss(batch.to(device))
            if not torch.isfinite(loss):
                raise NonFiniteLossError(f"the loss of {job.name} became {loss.item()} in epoch {epoch}")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.clip_max_norm:
                torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_max_norm)
            optimizer.step()
            schedule.step()
            if out_of_time := share(0) >= 1:
                break
        if epoch % job.eval_every == 0 or epoch == job.epochs or out_of_time:
            metrics = compute_coco_metrics(gt, list(detections(model, val_loader, device, ids))).metrics
            seconds = round(clock() - begun, 2)
            curve.append(Point(epoch=epoch, seconds=seconds, AP=metrics["AP"], AP50=metrics["AP50"]))
            print(f"epoch {epoch}: AP {metrics['AP']:.3f} AP50 {metrics['AP50']:.3f}, {seconds:.0f} s", flush=True)
        if out_of_time:
            break
    return Run(job=job, curve=curve, parameters=count(model), memory=peak_memory(device), machine=machine(device))


@torch.no_grad()
def detections(model: Peer, loader: Any, device: torch.device, ids: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """COCO results of all images, with the data set's own category ids."""
    model.eval()
    for batch in loader:
        for target, predicted in zip(batch.targets, model.detect(batch.to(device)), strict=True):
            for row in predicted.cpu().to_coco(int(target["image_id"])):
                yield {**row, "category_id": ids[row["category_id"]]}
    model.train()


def count(model: torch.nn.Module) -> int:
    """Parameters, training-only ones included."""
    return sum(p.numel() for p in model.parameters())


def peak_memory(device: torch.device) -> int:
    """Bytes: see `runner.Run`. That of main memory is this process's alone, without loading processes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would begin with the peak of the process that started this one
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def machine(device: torch.device) -> str:
    """What it ran on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
