"""Training, resuming and evaluating models of transformers by detrkit's own commands."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit.config.train import TrainConfig
from detrkit.data.synthetic.generate import make_demo_dataset
from detrkit.errors import DetrkitError
from detrkit.evaluation.evaluate_detector import evaluate
from detrkit.inference import Detector
from detrkit.models.checkpoints import load_weights
from detrkit.training.training_run import train

from . import tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_demo_dataset(tmp_path_factory.mktemp("data"), images=8, size=tiny.SIZE)


def config_of(data: Path, weights: Path, output: Path, **changes: Any) -> TrainConfig:
    """A short run that does the same whether or not it is interrupted."""
    given = {
        "image_size": tiny.SIZE, "batch_size": 4, "epochs": 2, "augmentation": "none", "no_aug_epochs": 0,
        "lr_schedule": "step", "warmup_steps": 0, "num_workers": 0, "quiet": True, "eval_every": 2,
    }  # fmt: skip
    return TrainConfig.from_recipe(
        "fast", data=str(data), weights=str(weights), output_dir=str(output), **given | changes
    )


@pytest.mark.parametrize(
    "model_type",
    ["d_fine", *(pytest.param(name, marks=pytest.mark.slow) for name in tiny.CONFIGS if name != "d_fine")],
)
def test_a_resumed_run_is_exact(saved, data, tmp_path, model_type):
    folder, _ = saved(model_type)
    whole = train(config_of(data, folder, tmp_path / "whole"))
    train(config_of(data, folder, tmp_path / "parts", epochs=1, eval_every=1))
    train(config_of(data, folder, tmp_path / "parts", resume="auto"))
    tensors = [torch.load(tmp_path / name / "last.ckpt", weights_only=True)["model"] for name in ("whole", "parts")]
    assert tensors[0].keys() == tensors[1].keys()
    for key, value in tensors[0].items():
        assert torch.equal(value, tensors[1][key]), key
    before = load_weights(folder).state_dict
    assert any(
        not torch.equal(value, before[key]) for key, value in tensors[0].items() if value.shape == before[key].shape
    )

    shutil.copytree(tmp_path / "whole", tmp_path / "alone")  # a checkpoint needs nothing of the folder it began with
    detector = Detector.load(tmp_path / "alone")
    assert detector.categories.names[:2] == ("scratch", "crack")
    assert detector.image_size == tiny.SIZE
    metrics = evaluate(tmp_path / "alone", data).metrics
    assert metrics["AP"] == pytest.approx(whole.metrics["AP"], abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"hidden_dim": 128}, "expected no hidden_dim with .*, a D-FINE of transformers .* found hidden_dim 128"),
        ({"denoising": "plain"}, "found denoising plain"),
        ({"bbox_loss_coef": 1.0}, "found bbox_loss_coef 1.0"),
        ({"box_refine": True}, "found box_refine; leave it out"),
        ({"task": "instance"}, "expected task detect with .* found task instance"),
        ({"nheads": 4}, "expected no nheads with"),
    ],
)
def test_settings_of_other_architectures_are_refused(saved, data, tmp_path, settings, sentence):
    with pytest.raises(DetrkitError, match=sentence):
        train(config_of(data, saved("d_fine")[0], tmp_path / "run", **settings))
    assert not (tmp_path / "run").exists()
