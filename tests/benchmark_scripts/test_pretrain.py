"""Pretraining on generated scenes: a stopped run resumes exactly, and its weights can be loaded."""

import json
from pathlib import Path

import pytest
import safetensors
import torch

import pretrain
from detrkit.data.synthetic.contours import FAMILIES
from detrkit.models import build_model
from detrkit.models.checkpoints import load_weights
from detrkit.structures import Batch
from detrkit.training.loop import Trainer

SMALL = "--size 64 --images 4 --val_images 2 --epochs 2 --batch_size 2 --eval_every 1 --device cpu --set num_queries=20"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain.main([*SMALL.split(), "--output_dir", str(tmp_path_factory.mktemp("whole") / "run")])


def test_a_stopped_run_ends_like_a_whole_one(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_step, calls = Trainer.train_step, []

    def stop(self: Trainer, batch: Batch) -> bool:
        calls.append(1)
        if len(calls) == 3:
            self.flags["stop"] = True
        return train_step(self, batch)

    arguments = [*SMALL.split(), "--output_dir", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stop)
        with pytest.raises(SystemExit, match="start again with the same flags"):
            pretrain.main(arguments)
    assert pretrain.main(arguments).read_bytes() == whole.read_bytes()


def test_weights_are_half_and_can_be_loaded(whole: Path) -> None:
    with safetensors.safe_open(whole, "pt") as file:
        metadata = json.loads(file.metadata()["detrkit"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    kinds = {value.dtype for name, value in tensors.items() if "running_" not in name and value.is_floating_point()}
    assert kinds == {torch.float16}
    assert whole.stat().st_size < 12e6
    assert [row["name"] for row in metadata["categories"]] == list(FAMILIES)
    assert metadata["preprocessing"]["image_size"] == 64
    model = build_model(**metadata["model_args"])
    model.load_state_dict(tensors)
    trained = load_weights(str(whole.with_name("best.ckpt")))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, trained.state_dict[name].to(value.dtype), rtol=1e-3, atol=1e-4)
