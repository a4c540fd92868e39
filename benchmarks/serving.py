"""How many images per second `detrkit serve` answers, beside the same detector in a loop, and whether anything is lost.

    python benchmarks/serving.py [--model detrkit_n] [--size 96] [--seconds 8] [--images 2000]
        [--queue 64] [--device cpu] [--output_dir runs/serving]

Starts a server on this machine with random weights, and asks it over connections that stay open: 1, 8 and 64 clients,
each of which sends its next image once it has the answer to the last. The loop is `Detector.predict` in this process
with lists of the same files, before and after, image by image and in batches; server and loop use one thread for the
model. Then three times as many clients as the queue holds ask for `--images` images, a tenth of whose attempts end
in the middle of a request; it and whoever gets a 503 asks again. Every answer must name the file that was sent and its
size. Prints a table and writes it to serving.json.

Clients run in this process, so that on a machine of few cores they take time from the server. Seconds of CPU, all
threads together, are given besides: on a machine that does other things too, they are the steadier ones.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from detrkit import Categories, Detector, build_model
from detrkit.config.train import TrainConfig
from detrkit.files import write_atomic
from detrkit.models.checkpoints.file_kinds import VERSION
from detrkit.structures import Preprocessing

BATCH = 8


@dataclass
class Load:
    """What clients measured."""

    clients: int
    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    killed: int = 0
    wrong: int = 0
    """Answers that are not those of the image that was sent."""
    cpu: float = 0.0
    """Milliseconds of CPU of the server per answered image."""

    @property
    def per_second(self) -> float:
        """Answered images per second."""
        return self.statuses[200] / self.seconds

    def percentile(self, percent: int) -> float:
        """Milliseconds within which so many answers came."""
        return 1000 * statistics.quantiles(self.latencies, n=100)[percent - 1]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="detrkit_n", help="a named model, with random weights")
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--seconds", type=float, default=8, help="per measurement")
    parser.add_argument("--images", type=int, default=2000, help="to answer under overload")
    parser.add_argument("--queue", type=int, default=64, help="images that the server accepts at a time")
    parser.add_argument("--device", default="cpu", help="of the server and the loop: cpu or cuda")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/serving"))
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images = [jpeg(options.size, k) for k in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.ckpt"
        write_weights(weights, options.model, options.size)
        detector = Detector.load(weights, device=options.device)
        with server(weights, options.queue, options.device) as port:
            rows = measure(detector, images, port, options.seconds)
            overload = asyncio.run(ask(port, 3 * options.queue, images, count=options.images, kill=0.1))
            after = metric(port, "process_resident_memory_bytes")
            more = asyncio.run(ask(port, 3 * options.queue, images, count=options.images, kill=0.1))
            figures = rows | {
                "overload": summary(overload),
                "overload again": summary(more),
                "memory MiB": [
                    after / 2**20,
                    metric(port, "process_resident_memory_bytes") / 2**20,
                ],
            }
    print(json.dumps(figures, indent=1))
    write_atomic(options.output_dir / "serving.json", json.dumps(figures, indent=1))
    for load in (overload, more):
        assert load.wrong == 0
        assert load.statuses[200] == options.images
        assert set(load.statuses) <= {200, 503}


def measure(detector: Detector, images: list[bytes], port: int, seconds: float) -> dict[str, object]:
    """Images per second of the loop and of the server, in turns, and milliseconds of answers."""
    singly, batched = [], []
    loads = []
    for clients in (1, 8, 64):
        singly.append(loop_rate(lambda: detector.predict(images[:16], batch_size=1), 16, seconds / 2))
        batched.append(loop_rate(lambda: detector.predict(images[:32], batch_size=BATCH), 32, seconds / 2))
        before = metric(port, "process_cpu_seconds_total")
        load = asyncio.run(ask(port, clients, images, seconds=seconds))
        load.cpu = 1000 * (metric(port, "process_cpu_seconds_total") - before) / load.statuses[200]
        loads.append(load)
    batched.append(loop_rate(lambda: detector.predict(images[:32], batch_size=BATCH), 32, seconds / 2))
    for k, load in enumerate(loads):
        around, cpu = ((batched[k][i] + batched[k + 1][i]) / 2 for i in (0, 1))
        share = load.per_second / around
        print(
            f"{load.clients} clients: {load.per_second:.1f} images/s, "
            f"{share:.2f} of the loop in batches ({around:.1f}/s; one by one {singly[k][0]:.1f}/s); "
            f"{load.cpu:.1f} ms of CPU per image ({cpu:.1f} in the loop; one by one {singly[k][1]:.1f}); "
            f"p50 {load.percentile(50):.0f} ms, p99 {load.percentile(99):.0f} ms",
            flush=True,
        )
    return {
        "loop, one by one": singly,
        "loop, batched": batched,
        **{f"{load.clients} clients": summary(load) for load in loads},
    }


def summary(load: Load) -> dict[str, object]:
    """The figures of a load."""
    values = asdict(replace(load, statuses=Counter(), latencies=[])) | {"statuses": dict(load.statuses)}
    values |= {"per_second": load.per_second, "p50": load.percentile(50), "p99": load.percentile(99)}
    return {name: value for name, value in values.items() if name != "latencies"}


def loop_rate(call: Callable[[], object], images: int, seconds: float) -> tuple[float, float]:
    """Images per second of a call that is repeated, and milliseconds of CPU per image."""
    call()
    started, cpu, calls = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - started < seconds:
        call()
        calls += 1
    count = calls * images
    return count / (time.perf_counter() - started), 1000 * (time.process_time() - cpu) / count


async def ask(
    port: int, clients: int, images: list[bytes], *, seconds: float = 1e9, count: int = 10**9, kill: float = 0.0
) -> Load:
    """Ask from many clients at a time, until so many seconds have gone or so many images are answered.

    The share `kill` of the attempts ends in the middle; another attempt follows.
    """
    load, numbers, end = Load(clients), iter(range(count)), time.perf_counter() + seconds

    async def client(seed: int) -> None:
        rng, streams = random.Random(seed), None
        for number in numbers:
            if time.perf_counter() > end:
                break
            name, status = f"{number}.jpg", 0
            started = time.perf_counter()
            while status != 200:
                streams = streams or await asyncio.open_connection("127.0.0.1", port)
                reader, writer = streams
                data = request(images[number % len(images)], name)
                if rng.random() < kill:  # some before the request is complete, some before the answer
                    writer.write(data[: rng.choice([len(data) // 2, len(data)])])
                    writer.close()
                    streams, load.killed = None, load.killed + 1
                    continue
                writer.write(data)
                status, answer = await read_answer(reader)
                load.statuses[status] += 1
                if status == 200:
                    (image,) = answer["images"]
                    load.wrong += image["name"] != name or image["width"] != width_of(images[number % len(images)])
                else:
                    await asyncio.sleep(0.2 * rng.random())
            if status == 200:
                load.latencies.append(time.perf_counter() - started)
        if streams:
            streams[1].close()

    started = time.perf_counter()
    await asyncio.gather(*(client(seed) for seed in range(clients)))
    load.seconds = time.perf_counter() - started
    return load


def request(image: bytes, name: str) -> bytes:
    """A request with one image."""
    body = (
        f'--edge\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'.encode()
        + image
        + b"\r\n--edge--\r\n"
    )
    head = (
        "POST /v1/predict?threshold=0.3 HTTP/1.1\r\nHost: here\r\nContent-Type: multipart/form-data; boundary=edge\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict]:
    """Status and content of an answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    length = int(re.findall(r"(?i)content-length: (\d+)", head)[0])
    return int(head.split()[1]), json.loads(await reader.readexactly(length))


def jpeg(size: int, k: int) -> bytes:
    """Image k, of a size of its own, which its answer states."""
    coarse = np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    side = size + k
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR).save(file, "JPEG", quality=90)
    return file.getvalue()


def width_of(image: bytes) -> int:
    """Pixels of an image file, which tell it from its neighbors."""
    return Image.open(io.BytesIO(image)).width


def write_weights(path: Path, name: str, size: int) -> None:
    """A checkpoint of a named model with random weights."""
    settings = asdict(TrainConfig.from_recipe("classic", model=name).model_config(num_classes=20))
    model = build_model(**settings)
    header = {
        "version": VERSION,
        "model_args": settings,
        "categories": Categories.unnamed(20).to_plain(),
        "preprocessing": Preprocessing(size, square_resize=True).to_plain(),
    }
    torch.save({"model": model.state_dict(), "detrkit": header}, path)


@contextmanager
def server(weights: Path, queue: int, device: str) -> Iterator[int]:
    """A server process; gives its port."""
    command = ["serve", str(weights), "--port", "0", "--device", device]
    command += ["--batch_size", str(BATCH), "--max_queue", str(queue), "--deadline", "300"]
    process = subprocess.Popen(
        [sys.executable, "-m", "detrkit", *command],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdout
    try:
        for line in process.stdout:
            if found := re.search(r"Listening at http://127\.0\.0\.1:(\d+)", line):
                yield int(found[1])
                break
    finally:
        process.terminate()
        assert process.wait(60) == 0
        process.stdout.close()


def metric(port: int, name: str) -> float:
    """A figure of the server."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        return float(re.findall(rf"^{name} (\S+)", response.read().decode(), re.MULTILINE)[0])


if __name__ == "__main__":
    main()
