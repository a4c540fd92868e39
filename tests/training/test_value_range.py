"""The range of values that training finds is that of everything which is done with the model afterwards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detrkit import Detector
from detrkit.commands.convert import convert
from detrkit.commands.eval import evaluate
from detrkit.commands.explain import explain
from detrkit.commands.predict import predict
from detrkit.config.commands import ConvertConfig, EvalConfig, ExplainConfig, ExportConfig, PredictConfig
from detrkit.config.train import TrainConfig
from detrkit.data.decode.images import read_image
from detrkit.data.records import Split
from detrkit.errors import ConfigError
from detrkit.evaluation import evaluate_detector
from detrkit.evaluation.accumulator import collect_split
from detrkit.exporting.export_detector import _read_splits
from detrkit.exporting.formats.metadata import ExportMetadata
from detrkit.exporting.writing import calibration_samples, make_metadata
from detrkit.inference import detector as detector_module
from detrkit.inference.exported import ExportedBackend
from detrkit.models.checkpoints import load_weights
from detrkit.ops.value_range import UNKNOWN_RANGE, ValueRange
from detrkit.training import train

from .conftest import TINY

TWELVE = ValueRange(0, 4095)


@pytest.fixture(scope="module")
def thermal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 12 bits in 16, as bright rectangles on noise: those of train up to 4000, that of val beyond."""
    root = tmp_path_factory.mktemp("deep")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    for side, count, white in (("train", 4, 4000), ("val", 2, 6000)):
        images, objects = [], []
        for number in range(1, count + 1):
            values = rng.integers(100, 900, (48, 64)).astype(np.uint16)
            values[10:30, 8 * number : 8 * number + 20] = white
            name = f"{side}{number}.png"
            Image.fromarray(values).save(root / "images" / name)
            images.append({"id": number, "file_name": name, "width": 64, "height": 48})
            box = [8 * number, 10, 20, 20]
            objects.append({"id": number, "image_id": number, "category_id": 1, "bbox": box, "area": 400, "iscrowd": 0})
        content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "spot"}]}
        (root / f"{side}.json").write_text(json.dumps(content))
    return root


def settings(data: Path, run: Path, **changes: object) -> TrainConfig:
    return replace(TrainConfig(), **{**TINY, "data": str(data), "output_dir": str(run), "epochs": 1, **changes})


@pytest.fixture(scope="module")
def run(thermal: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "deep"
    train(settings(thermal, folder))
    return folder


def test_the_checkpoint_keeps_it_and_every_form_of_an_image_follows(run: Path, thermal: Path) -> None:
    assert torch.load(run / "best.ckpt", weights_only=True)["detrkit"]["preprocessing"]["value_range"] == [0, 4095]
    detector = Detector.load(run, device="cpu")
    assert detector.value_range == TWELVE
    path = thermal / "images" / "val1.png"
    values = np.array(Image.open(path))
    expected = np.rint(values.clip(0, 4095) / 4095 * 255).astype(np.uint8)
    boxes = detector.predict(torch.from_numpy(expected)[None], threshold=0).xyxy
    forms = [
        path,
        Image.open(path),
        values,
        values.astype(np.float32),
        torch.from_numpy(values.astype(np.float32))[None],
    ]
    for form in forms:
        assert np.array_equal(detector.read(form)[0].numpy(), expected)
        assert torch.equal(detector.predict(form, threshold=0).xyxy, boxes)
    ((_, streamed),) = detector.stream([(torch.from_numpy(values)[None], "a")], threshold=0)
    assert torch.equal(streamed.xyxy, boxes)
    other = Detector.load(run, device="cpu", value_range=(0, 8191))
    assert np.array_equal(other.read(path)[0].numpy(), np.rint(values / 8191 * 255))


def test_evaluation_scales_as_training_did(
    run: Path, thermal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = []

    def collected(model: object, split: Split, *rest: object, **settings: object) -> None:
        ranges.append(split.value_range)
        collect_split(model, split, *rest, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluate_detector, "collect_split", collected)
    config = EvalConfig(weights=str(run), data=str(thermal), output_dir=str(tmp_path), num_workers=0, device="cpu")
    evaluate(config)
    assert "in images of more than 8 bits per channel, 0..4095 is mapped to 0..255" in capsys.readouterr().out
    evaluate(replace(config, value_range="0,65535"))
    assert ranges == [TWELVE, ValueRange(0, 65535)]


def test_predict_draws_on_the_image_as_the_model_saw_it(run: Path, thermal: Path, tmp_path: Path) -> None:
    path = thermal / "images" / "train1.png"
    predict(PredictConfig(weights=str(run), source=[str(path)], output_dir=str(tmp_path), threshold=1, device="cpu"))
    with Image.open(tmp_path / "train1.png") as copy:
        spot = np.asarray(copy)[15 * 8, 15 * 8]  # eight times as large, so as to be drawn on
    assert spot.tolist() == [249, 249, 249]
    explain(ExplainConfig(weights=str(run), image=str(path), output_dir=str(tmp_path / "why"), device="cpu"))
    assert (tmp_path / "why" / "decoder_attention.png").is_file()


def test_exported_files_and_converted_weights_keep_it(
    run: Path, thermal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ExportConfig(weights=str(run), precision="int8", data=str(thermal), calibration=2)
    reference = Detector.load(run, device="cpu", precision="plain")
    metadata = make_metadata(config, reference)
    again = ExportMetadata.from_json(metadata.to_json(), "a.onnx")
    assert again == metadata
    backend = ExportedBackend(lambda inputs: {}, again, tmp_path / "a.onnx")  # type: ignore[arg-type]
    monkeypatch.setattr(detector_module, "open_exported", lambda path, device: backend)
    exported = Detector.load(tmp_path / "a.onnx", device="cpu")
    image = thermal / "images" / "val1.png"
    assert torch.equal(exported.read(image), read_image(image, TWELVE))
    assert Detector.load(tmp_path / "a.onnx", device="cpu", value_range=(0, 9)).value_range == ValueRange(0, 9)

    splits = _read_splits(config, reference.value_range)
    samples = calibration_samples(config, reference, splits)
    images = [read_image(image.path, TWELVE) for image in splits["train"].images[::2]]
    assert all(torch.equal(s["images"], reference.prepare([i]).images) for s, i in zip(samples, images, strict=True))

    convert(ConvertConfig(weights=str(run), output=str(tmp_path / "a.pth")))
    assert load_weights(tmp_path / "a.pth").preprocessing.value_range == TWELVE


def test_a_resumed_run_keeps_the_range_of_its_checkpoint(thermal: Path, tmp_path: Path) -> None:
    config = settings(thermal, tmp_path / "run", value_range="0,2000")
    train(config)
    again = replace(config, value_range="auto", resume="auto", epochs=2)
    with pytest.warns(
        UserWarning, match=r"0\.\.2000 is mapped to 0\.\.255, as when .*last\.ckpt was trained; 0\.\.4095"
    ):
        train(again)
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["detrkit"]["preprocessing"]["value_range"] == [
        0,
        2000,
    ]


def test_a_model_that_knows_no_range_says_once_what_it_does(run: Path, thermal: Path, tmp_path: Path) -> None:
    content = torch.load(run / "best.ckpt", weights_only=True)
    content["detrkit"]["preprocessing"]["value_range"] = None
    weights = tmp_path / "old.ckpt"
    torch.save(content, weights)
    detector = Detector.load(weights, device="cpu")
    with pytest.warns(UserWarning, match="no value range is known") as printed:
        actual = detector.predict(thermal / "images")
    assert len(actual) == 6
    assert [each.message.message for each in printed] == [UNKNOWN_RANGE]
    values = np.asarray(Image.open(thermal / "images" / "val1.png"))
    assert np.array_equal(detector.read(values)[0].numpy(), np.rint(values / 257))


def test_a_range_that_is_none_is_an_error_of_one_sentence(run: Path, thermal: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="LOW,HIGH"):
        train(settings(thermal, tmp_path / "run", value_range="12"))
    with pytest.raises(ConfigError, match="value_range"):
        Detector.load(run, device="cpu", value_range=(5, 1))
