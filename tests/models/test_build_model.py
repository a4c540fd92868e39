"""`build_model`: its defaults, and settings that do not fit each other."""

import re

import pytest
import torch

from detrkit import build_criterion, build_model
from detrkit.config.train import TrainConfig
from detrkit.errors import ConfigError, MissingExtraError
from detrkit.models.build import default_model_args
from detrkit.models.layers.feed_forward import ACTIVATIONS
from tests.models.small import SMALL, small_model, some_images, some_targets


def test_defaults_are_those_of_the_reference():
    defaults = default_model_args()
    classic = {
        "num_classes": 91, "backbone": "resnet50", "dilation": False, "position_embedding": "sine", "hidden_dim": 256,
        "enc_layers": 6, "dec_layers": 6, "dim_feedforward": 2048, "dropout": 0.1, "nheads": 8, "num_queries": 100,
        "pre_norm": False, "aux_loss": True, "masks": False, "backbone_norm": "frozen", "activation": "relu",
    }  # fmt: skip
    assert {name: defaults[name] for name in classic} == classic
    settings = TrainConfig()
    for name in defaults.keys() - classic.keys() - {"sigmoid", "class_agnostic", "input_mean", "input_std"}:
        assert defaults[name] == getattr(settings, name), name


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pre_norm": True},
        {"activation": "gelu"},
        {"activation": "glu"},
        {"position_embedding": "learned"},
        {"enc_layers": 0},
        {"dec_layers": 1},
        {"dilation": True},
        {"masks": True},
        {"masks": True, "dilation": True},
    ],
    ids=str,
)
def test_every_setting_gives_outputs_and_gradients(settings):
    model = small_model(**settings)
    out = model(*some_images((64, 96), (96, 64)))
    layers = settings.get("dec_layers", SMALL["dec_layers"])
    assert out.logits.shape == (2, 6, 5)
    assert out.boxes.shape == (2, 6, 4)
    assert out.masks is None  # made in evaluation, or when asked for
    assert (out.predict_masks is not None) == settings.get("masks", False)
    assert [(a.logits.shape, a.boxes.shape) for a in out.aux] == [((2, 6, 5), (2, 6, 4))] * (layers - 1)
    assert ((out.boxes >= 0) & (out.boxes <= 1)).all()

    criterion = build_criterion(4, masks=settings.get("masks", False))
    criterion.weighted_sum(criterion(out, some_targets(2, 1, mask_sizes=((64, 96), (96, 64))))).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_activations_differ_and_glu_has_its_width():
    torch.manual_seed(0)
    x = torch.randn(3, 8)
    assert ACTIVATIONS["relu"](x).min() == 0
    assert ACTIVATIONS["gelu"](x).min() < 0
    assert ACTIVATIONS["glu"](x).shape == (3, 4)
    widths = {
        name: small_model(activation=name).transformer.encoder.layers[0].linear1.out_features for name in ACTIVATIONS
    }
    assert widths == {"relu": 48, "gelu": 48, "glu": 96}


def test_pre_norm_has_a_norm_after_the_encoder_and_post_norm_has_none():
    assert small_model(pre_norm=True).transformer.encoder.norm is not None
    assert small_model().transformer.encoder.norm is None


def test_without_aux_loss_only_the_last_layer_comes_out():
    images = some_images((64, 64))
    with_aux, without = small_model().eval(), small_model(aux_loss=False).eval()
    a, b = with_aux(*images), without(*images)
    assert len(a.aux) == 1
    assert b.aux == []
    torch.testing.assert_close(a.logits, b.logits)
    torch.testing.assert_close(a.boxes, b.boxes)


def test_a_new_model_has_no_weights_from_elsewhere(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("build_model must not download by itself")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    small_model()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, found 0"),
        ({"num_queries": 0}, "num_queries must be at least 1, found 0"),
        ({"enc_layers": -1}, "enc_layers must be at least 0, found -1"),
        ({"dec_layers": 0}, "dec_layers must be at least 1, found 0"),
        ({"dim_feedforward": 0}, "dim_feedforward must be at least 1, found 0"),
        ({"dropout": 1.5}, "dropout must be at most 1, found 1.5"),
        ({"nheads": 0}, "nheads must be at least 1, found 0"),
        ({"hidden_dim": 36, "nheads": 8}, "multiple of 4 (for the position encoding) and of nheads 8, found 36"),
        ({"hidden_dim": 30, "nheads": 2}, "found 30"),
        ({"position_embedding": "v3"}, "position_embedding must be sine or learned, found 'v3'"),
        ({"position_embedding": "learned", "decoder": "deformable", "enc_layers": 0}, "position_embedding sine if"),
        (
            {"score_refine": True, "sigmoid": True, "aux_loss": False},
            "auxiliary losses with box_refine or score_refine",
        ),
        ({"activation": "swish"}, "activation must be relu, gelu or glu, found 'swish'"),
        ({"backbone_norm": "layer"}, "backbone_norm must be auto, frozen, batch or group, found 'layer'"),
        ({"encoder": "hybrid", "encoder_expansion": 0.0}, "encoder_expansion of at least 0.0"),
        ({"encoder": "hybrid", "encoder_expansion": float("nan")}, "found nan"),
        ({"dense_head": "fcos"}, "in build_model: sigmoid=True"),
        ({"backbone": "resnet51"}, "did you mean 'resnet50'?"),
        ({"num_queries": "auto"}, "which works in training only"),
        ({"hidden_dim": "256"}, "hidden_dim must be a whole number, found '256'"),
        ({"num_class": 3}, "no setting 'num_class'; did you mean 'num_classes'"),
        ({"hidden_dims": 256}, "no setting 'hidden_dims'; did you mean 'hidden_dim'"),
        ({"backbone": "vgg"}, "resnet101vd or timm:NAME, found 'vgg'"),
        (
            {"backbone": "nano", "dilation": True},
            "a backbone that can be dilated, such as resnet50, with dilation",
        ),
        ({"feature_levels": "8,16", "dilation": True}, "no dilation with feature_levels other than 16, found 8,16"),
        ({"backbone": "timm:x", "backbone_norm": "group"}, "frozen or batch with backbone timm:x, found group"),
        (
            {"denoising": "contrastive", "query_init": "anchors", "dn_queries": 1},
            "or 2 with denoising contrastive, found 1",
        ),
    ],
)
def test_contradicting_settings_are_refused(settings, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        build_model(**{**SMALL, **settings})


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"detrkit\[timm\]"):
        small_model(backbone="timm:efficientnet_lite0")


@pytest.mark.parametrize(("dilation", "stride"), [(False, 32), (True, 16)])
def test_dilation_halves_the_stride_and_the_head_has_a_row_for_no_object(dilation, stride):
    with torch.device("meta"):
        model = build_model(7, dilation=dilation)
    assert (model.stride, model.class_embed.out_features) == (stride, 8)


class _Tuple(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, padding_mask):
        out = self.model(images, padding_mask)
        return out.logits, out.boxes


def test_forward_exports_with_free_batch_and_image_size():
    model = small_model().eval()
    batch, height, width = (torch.export.Dim(n, min=low, max=1333) for n, low in (("B", 1), ("H", 64), ("W", 64)))
    shapes = ({0: batch, 2: height, 3: width}, {0: batch, 1: height, 2: width})
    program = torch.export.export(_Tuple(model), some_images((64, 96), (64, 96)), dynamic_shapes=shapes)
    other = some_images((100, 130), (90, 70), (64, 64))
    logits, boxes = program.module()(*other)
    expected = model(*other)
    torch.testing.assert_close(logits, expected.logits)
    torch.testing.assert_close(boxes, expected.boxes)


def test_pixels_and_normalized_images_give_the_same() -> None:
    torch.manual_seed(0)
    model = build_model(num_classes=3, backbone="resnet18", hidden_dim=32, enc_layers=1, dec_layers=1, nheads=2).eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    padding = torch.zeros(2, 64, 96, dtype=torch.bool)
    padding[1, :, 70:] = True
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.backbone.mean, model.backbone.std))
    images = ((pixels / 255 - mean) / std).masked_fill(padding[:, None], 0)
    with torch.no_grad():
        plain, same = model(images, padding), model(pixels, padding)
    torch.testing.assert_close(same.boxes, plain.boxes, rtol=0, atol=1e-6)
    torch.testing.assert_close(same.logits, plain.logits, rtol=0, atol=1e-5)
