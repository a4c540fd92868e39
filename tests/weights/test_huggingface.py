"""A reference model of transformers gives the same results from the same weights, in both directions."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit.errors import WeightsError
from detrkit.models import DETR, build_model
from detrkit.models.checkpoints import COCO_CATEGORIES, load_weights, write_huggingface
from detrkit.structures import Categories

from .small import fill, padded_batch, small_model, small_weights

transformers = pytest.importorskip("transformers")

RESNET18 = {
    "depths": [2, 2, 2, 2],
    "hidden_sizes": [64, 128, 256, 512],
    "layer_type": "basic",
    "out_features": ["stage4"],
}
SIZES = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_queries": 5,
}  # fmt: skip
TIMM = {"use_timm_backbone": True, "use_pretrained_backbone": False}


def hf_config(kind: str) -> Any:
    """Reference configurations: their own ResNet or timm's; learned positions; dilation, which only timm's has."""
    own: dict[str, Any] = {"backbone_config": transformers.ResNetConfig(**RESNET18)}
    kinds: dict[str, dict[str, Any]] = {
        "resnet18": own,
        "resnet18, learned positions, gelu": own
        | {"position_embedding_type": "learned", "activation_function": "gelu"},
        "resnet50": {"backbone_config": transformers.ResNetConfig(out_features=["stage4"])},
        "timm resnet18": TIMM | {"backbone": "resnet18"},
        "timm resnet50, dilation": TIMM | {"backbone": "resnet50", "dilation": True},
    }
    if "timm" in kind:
        pytest.importorskip("timm")
    names = {0: "cat", 1: "dog", 2: "bird"}
    labels = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    return transformers.DetrConfig(**kinds[kind], **SIZES, **labels)


def agree(reference: Any, model: DETR) -> None:
    """Logits and boxes within 1e-4 on a padded batch."""
    images, padding = padded_batch()
    with torch.no_grad():
        theirs = reference.eval()(pixel_values=images, pixel_mask=(~padding).long())
        ours = model.eval()(images, padding)
    assert theirs.logits.std() > 0.1  # the weights tell
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.boxes, theirs.pred_boxes, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "kind",
    ["resnet18", "resnet18, learned positions, gelu", "resnet50", "timm resnet18", "timm resnet50, dilation"],
)
def test_equals_the_reference_model(tmp_path: Path, kind: str) -> None:
    reference = transformers.DetrForObjectDetection(hf_config(kind))
    reference.load_state_dict(fill(reference.state_dict()))
    reference.save_pretrained(tmp_path / "theirs")
    weights = load_weights(tmp_path / "theirs")
    assert weights.categories == Categories((0, 1, 2), ("cat", "dog", "bird"))
    assert weights.model_args["dilation"] is ("dilation" in kind)
    model = build_model(**weights.model_args)
    model.load_state_dict(weights.state_dict)
    agree(reference, model)

    write_huggingface(weights, tmp_path / "ours")
    again, info = transformers.DetrForObjectDetection.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    agree(again, model)
    back = load_weights(tmp_path / "ours")
    assert back.model_args == weights.model_args
    assert back.state_dict.keys() == weights.state_dict.keys()
    assert all(torch.equal(back.state_dict[key], value) for key, value in weights.state_dict.items())


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_our_model_becomes_theirs(tmp_path: Path, norm: str) -> None:
    """With ids, names and image size; a batch norm with its statistics computes what a frozen one does."""
    weights = small_weights(backbone_norm=norm)
    weights = replace(weights, categories=Categories((7, 3, 90), ("cat", "dog", "bird")))
    write_huggingface(weights, tmp_path)
    reference, info = transformers.DetrForObjectDetection.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    agree(reference, small_model(backbone_norm=norm))
    assert reference.config.id2label == {0: "cat", 1: "dog", 2: "bird"}
    back = load_weights(tmp_path)
    assert back.categories == weights.categories
    assert back.preprocessing.image_size == weights.preprocessing.image_size
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert processor["size"] == {"shortest_edge": 320, "longest_edge": 533}


def test_processor_of_theirs_makes_our_input(tmp_path: Path) -> None:
    """transformers reads preprocessor_config.json and normalizes as our models expect."""
    write_huggingface(small_weights(), tmp_path)
    processor = transformers.DetrImageProcessor.from_pretrained(tmp_path)
    one_image = torch.full((3, 320, 320), 128, dtype=torch.uint8)
    made = processor(images=one_image, return_tensors="pt")
    model = build_model(backbone="resnet18")
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.backbone.mean, model.backbone.std))
    expected = ((one_image / 255 - mean) / std)[None]
    torch.testing.assert_close(made["pixel_values"], expected, rtol=0, atol=1e-4)


def legacy_folder(folder: Path, **config: Any) -> DETR:
    """A folder as facebook/detr-resnet-50 first had it: pickled, with counters, repeated names, size and max_size."""
    weights = small_weights(tuple(f"class {i}" for i in range(91)))
    write_huggingface(weights, folder)
    reference = transformers.DetrForObjectDetection.from_pretrained(folder)
    tensors = {  # as versions before 5 named them, with timm's backbone
        f"model.backbone.conv_encoder.model.{key.removeprefix('backbone.0.body.')}": value
        for key, value in weights.state_dict.items()
        if key.startswith("backbone.0.body.")
    }
    tensors["model.backbone.conv_encoder.model.bn1.num_batches_tracked"] = torch.tensor(0)
    saved = {
        key.replace(".o_proj.", ".out_proj.").replace(".mlp.", "."): value
        for key, value in reference.state_dict().items()
    }
    tensors |= {key: value for key, value in saved.items() if not key.startswith("model.backbone.")}
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (folder / "model.safetensors").unlink()
    settings = json.loads((folder / "config.json").read_text())
    for key in ("backbone_config", "use_timm_backbone", "category_ids", "dilation"):
        del settings[key]
    settings |= {"backbone": "resnet18", "id2label": {str(i): "N/A" if i in (0, 12) else f"c{i}" for i in range(91)}}
    (folder / "config.json").write_text(json.dumps(settings | config))
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 600, "max_size": 1000}))
    return small_model(num_classes=91)


def test_old_folder(tmp_path: Path) -> None:
    model = legacy_folder(tmp_path)
    weights = load_weights(tmp_path)
    rebuilt = build_model(**weights.model_args).eval()
    rebuilt.load_state_dict(weights.state_dict)
    with torch.no_grad():
        assert torch.equal(rebuilt(*padded_batch()).logits, model(*padded_batch()).logits)
    assert weights.preprocessing.image_size == 600
    assert weights.categories.names[12:14] == ("N/A 12", "c13")
    assert weights.model_args["dilation"] is False


def test_old_folder_without_names(tmp_path: Path) -> None:
    legacy_folder(tmp_path, id2label={str(i): f"LABEL_{i}" for i in range(91)})
    assert load_weights(tmp_path).categories == COCO_CATEGORIES


def test_a_file_of_the_folder_stands_for_it(tmp_path: Path) -> None:
    write_huggingface(small_weights(), tmp_path)
    assert load_weights(tmp_path / "model.safetensors").source == str(tmp_path)


def test_auxiliary_loss_of_theirs_is_noted(tmp_path: Path) -> None:
    write_huggingface(small_weights(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auxiliary_loss"] is False
    (tmp_path / "config.json").write_text(json.dumps(config | {"auxiliary_loss": True}))
    assert "normalizes between the decoder layers" in load_weights(tmp_path).notes[0]


def test_broken_and_foreign_folders(tmp_path: Path, own_readers_alone: Any) -> None:
    write_huggingface(small_weights(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, sentence in (
        ({"model_type": "rt_detr"}, "found DetrForObjectDetection of type rt_detr; choose"),
        ({"architectures": ["DetrModel"]}, "found DetrModel"),
        ({"decoder_ffn_dim": 7}, "one value of encoder_ffn_dim, decoder_ffn_dim"),
        ({"encoder_layers": 4}, r"found other or missing keys at .model\.encoder\.layers\.1"),
        ({"decoder_layers": 1}, r"found other or missing keys at .model\.decoder\.layers\.1"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with own_readers_alone(), pytest.raises(WeightsError, match=sentence):
            load_weights(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="expected JSON"):
        load_weights(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"beside .*config.json, found config.json, preprocessor_config.json; down"):
        load_weights(tmp_path)


@pytest.mark.parametrize("changes", [{"pre_norm": True}, {"activation": "glu"}, {"backbone_norm": "group"}], ids=str)
def test_models_that_the_format_cannot_hold(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match=r"Hugging Face's DETR has .*write a \.pth"):
        write_huggingface(small_weights(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()
