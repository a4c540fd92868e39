"""An RT-DETR of transformers gives the same results here, at every decoder layer; and training can go on from it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit.config.train import TrainConfig
from detrkit.errors import WeightsError
from detrkit.inference import Detector
from detrkit.models.backbones.base import IMAGENET_MEAN
from detrkit.models.checkpoints import COCO_CATEGORIES, load_weights
from detrkit.structures import Categories, Target
from detrkit.training.setup import build_training_model

from .reference_models import LABELS, RESNET18, agree, ours, saved, under_names_of_today

transformers = pytest.importorskip("transformers")

SIZES = {
    "d_model": 32, "encoder_hidden_dim": 32, "decoder_in_channels": [32, 32, 32], "encoder_layers": 1,
    "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "num_queries": 6,
}  # fmt: skip
BACKBONES: dict[str, dict[str, Any]] = {
    "resnet18vd": RESNET18,
    "resnet50vd": {"out_features": ["stage2", "stage3", "stage4"]},
    "nano": RESNET18 | {"depths": [1, 1, 1, 1], "hidden_sizes": [32, 64, 128, 256], "embedding_size": 32},
}


def make_reference(backbone: str, version: str = "RTDetr", **settings: Any) -> Any:
    body = transformers.RTDetrResNetConfig(**BACKBONES[backbone])
    channels = {"encoder_in_channels": body.hidden_sizes[1:]}
    config = getattr(transformers, f"{version}Config")(backbone_config=body, **channels, **LABELS, **SIZES | settings)
    return getattr(transformers, f"{version}ForObjectDetection")(config)


@pytest.mark.parametrize(
    ("backbone", "version", "settings"),
    [
        ("resnet18vd", "RTDetr", {"hidden_expansion": 0.5}),
        ("resnet50vd", "RTDetr", {}),
        ("nano", "RTDetrV2", {"decoder_n_points": 2, "num_denoising": 0}),
        ("nano", "RTDetr", {"freeze_backbone_batch_norms": False, "encoder_layers": 2, "num_queries": 120}),
    ],
)
def test_equals_the_reference_model(tmp_path: Path, backbone: str, version: str, settings: dict[str, Any]) -> None:
    reference = saved(make_reference(backbone, version, **settings), tmp_path)
    model, weights = ours(tmp_path)
    assert weights.model_args["backbone"] == backbone
    assert weights.categories == Categories((0, 1, 2), ("cat", "dog", "bird"))
    for size in ((96, 128), (64, 512)):  # transformers' knows no padding; the wide one has places that are not used
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            out = reference(pixel_values=images)
        layers = list(zip(out.intermediate_logits.unbind(1), out.intermediate_reference_points.unbind(1), strict=True))
        torch.testing.assert_close(layers[-1], (out.logits, out.pred_boxes))
        agree(model, images, torch.zeros(2, *size, dtype=torch.bool), layers)


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rtdetr")
    saved(make_reference("nano"), folder)
    transformers.RTDetrImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(small_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_folder, tmp_path / "copy"))


def change(folder: Path, file: str = "config.json", **settings: Any) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | settings))


def test_images_are_not_normalized(folder: Path) -> None:
    weights = load_weights(folder)
    assert weights.preprocessing.image_size == 640
    assert (weights.preprocessing.mean, weights.preprocessing.std) == ((0.0,) * 3, (1.0,) * 3)
    assert weights.preprocessing.square_resize  # as it was trained
    detector = Detector.load(folder, device="cpu", image_size=64)
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = detector.prepare([image])
    seen = detector.model.normalize(batch.images, batch.padding_mask)
    torch.testing.assert_close(seen[0], image / 255)
    assert detector.prepare([image[:, :30], image]).images.shape == (2, 3, 64, 64)
    change(folder, "preprocessor_config.json", do_normalize=True, size={"shortest_edge": 320})
    weights = load_weights(folder)
    assert weights.preprocessing.mean == IMAGENET_MEAN
    assert weights.preprocessing.image_size == 320
    assert weights.messages == ()
    change(folder, "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])
    assert load_weights(folder).preprocessing.mean == (0.5, 0.5, 0.5)
    (folder / "preprocessor_config.json").unlink()
    assert load_weights(folder).preprocessing.image_size == 640
    assert load_weights(folder).preprocessing.std == (1.0, 1.0, 1.0)


def test_names_of_all_versions(folder: Path) -> None:
    before = load_weights(folder).state_dict
    under_names_of_today(transformers.RTDetrForObjectDetection.from_pretrained(folder), folder)
    after = load_weights(folder).state_dict
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.filterwarnings("ignore:.*stretched to:UserWarning")
def test_training_continues_with_other_classes(folder: Path) -> None:
    config = TrainConfig.from_recipe("fast", weights=str(folder), data="none", device="cpu", num_queries=4)
    ours = Categories((1, 2), ("bird", "plate"))
    start = build_training_model(config, ours, None)
    assert [row.kept_from for row in start.class_rows] == ["bird", None]
    assert start.model_args["num_queries"] == 4
    assert start.model_args["denoising"] == "contrastive"
    assert start.model.backbone.mean == (0.0, 0.0, 0.0)
    theirs = load_weights(folder).state_dict
    for key in ("class_embed.0.weight", "query_embed.enc_class.weight", "denoising.label_embed.weight"):
        assert torch.equal(start.model.state_dict()[key][0], theirs[key][2])
    targets: list[Target] = [{"labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4]])}]
    out = start.model.train()(torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool), targets)
    assert {branch.name for branch in out.branches} == {"dn", "enc"}
    losses = start.criterion(out, targets)
    assert all(loss.isfinite().all() for loss in losses.values())


def test_names_of_coco(folder: Path) -> None:
    """The published folders have Pascal VOC's names for some classes, and no category ids."""
    published = {"motorcycle": "motorbike", "airplane": "aeroplane", "couch": "sofa", "tv": "tvmonitor"}
    published |= {"potted plant": "pottedplant", "dining table": "diningtable"}
    named = [(i, name) for i, name in enumerate(COCO_CATEGORIES.names) if not name.startswith("N/A")]
    reference = transformers.RTDetrForObjectDetection.from_pretrained(folder)
    reference.config.id2label = {k: published.get(name, name) for k, (_, name) in enumerate(named)}
    for head in (reference.model.enc_score_head, *reference.model.decoder.class_embed):
        head.weight, head.bias = (torch.nn.Parameter(torch.zeros(80, *p.shape[1:])) for p in (head.weight, head.bias))
    reference.model.denoising_class_embed = torch.nn.Embedding(81, 32)
    reference.save_pretrained(folder)
    categories = load_weights(folder).categories
    assert list(zip(categories.ids, categories.names, strict=True)) == named


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"encoder_hidden_dim": 48}, "expected encoder_hidden_dim 32"),
        ({"learn_initial_query": True}, "expected learn_initial_query False"),
        ({"encode_proj_layers": [1, 2]}, r"expected encode_proj_layers \[2\]"),
        ({"model_type": "rt_detr_v2", "architectures": ["RTDetrV2ForObjectDetection"], "decoder_method": "discrete"},
         "expected decoder_method default"),
        ({"encoder_attention_heads": 2}, "expected one value of encoder_attention_heads, decoder_attention_heads"),
        ({"decoder_layers": 1}, "found other or missing keys at"),
        ({"decoder_layers": 3}, "found other or missing keys at"),
        ({"backbone_config": {"model_type": "resnet"}}, "expected one of the backbones nano, resnet18vd"),
        ({"backbone_config": {"model_type": "rt_detr_resnet", "depths": [2, 2, 2, 2]}}, "expected one of the back"),
        ({"model_type": "d_fine"}, "found RTDetrForObjectDetection of type d_fine"),
    ],
)  # fmt: skip
def test_unsupported_settings_are_refused(
    folder: Path, own_readers_alone: Any, settings: dict[str, Any], sentence: str
) -> None:
    change(folder, **settings)
    with own_readers_alone(), pytest.raises(WeightsError, match=sentence):
        load_weights(folder)
