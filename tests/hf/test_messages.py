"""Sentences for what cannot be read or done."""

import importlib
import json
import shutil

import pytest

from detrkit.errors import ConfigError, MissingExtraError, WeightsError
from detrkit.inference import Detector
from detrkit.models.checkpoints import load_weights
from detrkit.models.hf import network
from detrkit.visualization.attention import compute_attention

from . import tiny


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of a D-FINE to damage."""
    return shutil.copytree(saved("d_fine")[0], tmp_path / "model")


def change(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_without_transformers(folder, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(network.importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"a D-FINE of transformers, needs .*: pip install \"detrkit\[hf\]\""):
        load_weights(folder)


def test_with_an_old_transformers(folder, monkeypatch):
    transformers = importlib.import_module("transformers")
    monkeypatch.setattr(transformers, "__version__", "4.57.0")
    with pytest.raises(MissingExtraError, match=r"found transformers 4\.57\.0, older than 5.*detrkit\[hf\]"):
        load_weights(folder)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"architectures": ["RfDetrForInstanceSegmentation"], "model_type": "rf_detr"}, "segmentation"),
        ({"architectures": ["ViTForImageClassification"], "model_type": "vit"}, "classif"),
        (
            {"architectures": ["YolosForObjectDetection"], "model_type": "yolos"},
            "expected a detection transformer .*yol",
        ),
        ({"d_model": 31}, "expected the settings of a D-FINE"),
        ({"decoder_ffn_dim": 48}, r"expected the weights of the D-FINE .* found .* for .*; download the folder again"),
        ({"decoder_layers": 4}, "expected the weights of the D-FINE .* found no "),
    ],
)
def test_other_models_are_named(folder, settings, sentence):
    change(folder, **settings)
    with pytest.raises(WeightsError, match=sentence):
        load_weights(folder)


def test_half_a_download(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="expected all weights"):
        load_weights(folder)


def test_code_of_a_folder_is_not_run(folder):
    (folder / "modeling_evil.py").write_text("raise SystemExit(1)")
    change(folder, auto_map={"AutoModelForObjectDetection": "modeling_evil.Evil"})
    assert load_weights(folder).model_args["num_queries"] == 12


def test_settings_that_these_models_bring(folder):
    with pytest.raises(WeightsError, match=r"expected no (--)?nheads with .*, a model of transformers"):
        load_weights(folder, nheads=4)


def test_attention_is_not_shown(folder):
    with pytest.raises(ConfigError, match="expected a model of detrkit's own architectures to explain"):
        compute_attention(Detector.load(folder), tiny.images(1)[0][0])


def test_images_with_fewer_tokens_than_queries(folder):
    detector = Detector.load(folder, image_size=16)
    detector.model.network.config.num_queries = 99
    with pytest.raises(ConfigError, match="each of the 99 queries of this D-FINE, found images of 32 x 32 pixels"):
        detector.predict(tiny.images(1)[0][0])
