"""Folders that transformers reads: written from its own models after training, and read again."""

import json

import pytest
import torch
import transformers

from detrkit.commands.convert import convert
from detrkit.config.commands import ConvertConfig
from detrkit.errors import ConfigError
from detrkit.inference import Detector
from detrkit.models.checkpoints import fit_weights, load_weights
from detrkit.models.hf.fit_classes import with_classes
from detrkit.structures import Categories

from . import tiny


def test_what_is_written_transformers_reads(saved, model_type, tmp_path):
    weights = load_weights(saved(model_type)[0])
    categories = Categories((4, 9), ("bird", "boat"))
    model = with_classes(weights, categories).build_model()
    fit_weights(model, weights, categories)
    with torch.no_grad():
        for parameter in model.parameters():  # layers of heads that began as one may differ, or not
            parameter += 0.01 * torch.randn_like(parameter)
    trained = {
        "model": model.state_dict(),
        "detrkit": {
            "version": 1,
            "model_args": model.model_args,
            "categories": categories.to_plain(),
            "preprocessing": weights.preprocessing.to_plain(),
        },
    }
    torch.save(trained, tmp_path / "trained.ckpt")
    convert(ConvertConfig(weights=str(tmp_path / "trained.ckpt"), output=str(tmp_path / "out")))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json", "model.safetensors", "preprocessor_config.json",
    }  # fmt: skip
    pixels, padding = tiny.images()
    theirs = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path / "out").eval()
    assert theirs.config.id2label == {0: "bird", 1: "boat"}
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out", use_fast=True)
    values = processor(list(pixels), return_tensors="pt")["pixel_values"]
    model.eval()
    torch.testing.assert_close(values, model.normalize(pixels, padding), atol=1e-5, rtol=1e-5)
    again = load_weights(tmp_path / "out")
    assert (again.categories, again.preprocessing) == (categories, weights.preprocessing)
    ours = again.build_model()
    fit_weights(ours, again, categories)
    with torch.no_grad():
        out, expected, read = model(pixels, padding), theirs(pixel_values=values), ours.eval()(pixels, padding)
    torch.testing.assert_close(out.logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.boxes, expected.pred_boxes, atol=1e-4, rtol=1e-4)
    assert torch.equal(out.logits, read.logits)
    Detector.load(tmp_path / "out").predict(pixels[0])


def test_other_formats_are_refused(saved, tmp_path):
    weights = str(saved("d_fine")[0])
    with pytest.raises(ConfigError, match=r"expected a folder to write .* found .*x\.pth; leave the ending"):
        convert(ConvertConfig(weights=weights, output=str(tmp_path / "x.pth")))
    assert json.loads((saved("d_fine")[0] / "config.json").read_text())["model_type"] == "d_fine"
