"""`detrkit predict --engine ray`: the results of one process, also if an actor dies in the middle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from detrkit.cli import main
from detrkit.config.commands import PredictConfig
from tests.inference.test_batch_shares import folder, predict_share, rows_of, settings

ray = pytest.importorskip("ray", reason="the extra `ray` is missing")
__all__ = ["folder"]  # a fixture
pytestmark = pytest.mark.filterwarnings("ignore::Warning")  # of Ray and of its packages


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two processors of this machine, on which workers find this package and these tests."""
    paths = [str(Path(__file__).parents[2] / name) for name in ("src", "")] + [os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": environment})
    yield
    ray.shutdown()


@pytest.mark.slow  # Ray starts a dozen processes, and each actor imports PyTorch
@pytest.mark.usefixtures("cluster")
def test_a_cluster_gives_the_results_of_one_process_even_if_an_actor_dies(
    folder: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = rows_of(predict_share(settings(folder, checkpoint, tmp_path / "one")))
    monkeypatch.setattr("detrkit.inference.ray_engine.CHUNK", 4)
    config = settings(folder, checkpoint, tmp_path / "ray", engine="ray", num_actors=2)
    assert by_name(rows_of(predict_share(config))) == by_name(one)

    marker = tmp_path / "died"
    monkeypatch.setattr("detrkit.inference.ray_engine.DetectionActor", dying_actor(marker, "a/13.png"))
    config = settings(folder, checkpoint, tmp_path / "dying", engine="ray", num_actors=2)
    rows = rows_of(predict_share(config))
    assert marker.is_file(), "no actor died"
    assert len(rows) == len(one)
    assert by_name(rows) == by_name(one)
    assert main(["merge", str(tmp_path / "dying")]) == 0
    assert rows_of(tmp_path / "dying" / "results.jsonl") == one


def by_name(rows: list[dict]) -> dict[str, dict]:
    return {row["file"]: row for row in rows}


def dying_actor(marker: Path, name: str) -> type:
    """An actor that its system kills the first time that it has an image, after half of the chunk."""
    from detrkit.inference import ray_engine

    class DyingActor(ray_engine.DetectionActor):
        def __call__(self, chunk: dict) -> dict[str, list[str]]:
            if name in list(chunk["name"]) and not marker.exists():
                super().__call__({key: column[:2] for key, column in chunk.items()})
                marker.touch()
                os.kill(os.getpid(), 9)
            return super().__call__(chunk)

    return DyingActor


@pytest.mark.slow  # likewise
@pytest.mark.usefixtures("cluster")
def test_an_interrupted_job_continues_on_a_cluster(
    folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = predict_share(settings(folder, checkpoint, tmp_path, "1/2"))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[4][:9])
    predict_share(settings(folder, checkpoint, tmp_path, "1/2", engine="ray", num_actors=1))
    assert path.read_text().startswith("".join(lines[:4]))
    assert sorted(path.read_text().splitlines()) == sorted("".join(lines).splitlines())
    flags = ["--engine", "ray", "--output_dir", str(tmp_path / "no"), "--device", "cpu"]
    (tmp_path / "wrong.ckpt").write_bytes(b"no weights")
    assert main(["predict", str(folder), "--weights", str(tmp_path / "wrong.ckpt"), *flags]) == 2
    assert "wrong.ckpt" in capsys.readouterr().err


def test_rows_are_plain_json(folder: Path, checkpoint: Path) -> None:
    from detrkit.inference.batch_detect import DetectSettings
    from detrkit.inference.ray_engine import DetectionActor

    config = PredictConfig(source=[str(folder)], weights=str(checkpoint), device="cpu", engine="ray")
    chunk = {"name": ["0.png", "x"], "path": [str(folder / "0.png"), str(folder / "a" / "broken.png")]}
    rows = [json.loads(row) for row in DetectionActor(config, DetectSettings())(chunk)["row"]]
    assert [row["file"] for row in rows] == ["0.png", "x"]
    assert "error" in rows[1]
