"""ResNet-D backbones: structure, keys and dilation."""

import pytest
import torch

from detrkit.errors import ConfigError, WeightsError
from detrkit.models.backbones.families import build_features
from detrkit.models.backbones.resnet_d import RESNETS_VD, resnet_vd


def randomize(module):
    """Norms that are no identity, so that one in a wrong position shows."""
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            for tensor in (norm.weight, norm.running_var):
                tensor.data.uniform_(0.5, 1.0, generator=generator)
            for tensor in (norm.bias, norm.running_mean):
                tensor.data.normal_(0, 0.2, generator=generator)


@pytest.mark.parametrize("name", RESNETS_VD)
def test_widths_and_strides(name):
    with torch.device("meta"):
        features = resnet_vd(name, strides=(4, 8, 16, 32))
        maps = features(torch.zeros(1, 3, 65, 97))
    widest = {"micro": 256, "nano": 256, "resnet18vd": 512, "resnet34vd": 512}.get(name, 2048)
    assert features.channels == (widest // 8, widest // 4, widest // 2, widest)
    assert [tuple(each.shape[1:]) for each in maps] == [
        (channels, -(-65 // stride), -(-97 // stride))
        for channels, stride in zip(features.channels, features.strides, strict=True)
    ]


@pytest.mark.parametrize("name", ["nano", "micro"])
def test_small_backbones_are_small(name):
    assert sum(p.numel() for p in resnet_vd(name, "batch").parameters()) < 1.3e6


def test_lean_stem_has_no_pooling_and_a_convolution_less():
    lean, deep = (resnet_vd(name, "batch").body for name in ("micro", "nano"))
    assert not hasattr(lean, "maxpool")
    assert [sum(isinstance(m, torch.nn.Conv2d) for m in body.conv1) for body in (lean, deep)] == [2, 3]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnet18vd", {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}),
        ("resnet50vd", {"layer_type": "bottleneck", "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 6, 3]}),
    ],
)
def test_outputs_are_those_of_transformers(name, settings):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.RTDetrResNetConfig(
        **settings, embedding_size=64, downsample_in_first_stage=False, out_features=["stage2", "stage3", "stage4"]
    )
    theirs = transformers.RTDetrResNetBackbone(config).eval()
    randomize(theirs)
    ours = build_features(name, strides=(8, 16, 32)).eval()

    given = theirs.state_dict()
    stem = {"conv1.0": "0.convolution", "conv1.1": "0.normalization", "conv1.3": "1.convolution"}
    stem |= {"conv1.4": "1.normalization", "conv1.6": "2.convolution", "bn1": "2.normalization"}
    of_block = {"conv": "convolution", "bn": "normalization"}

    def name_there(key):
        module, leaf = key.rsplit(".", 1)
        if module in stem:
            return f"embedder.embedder.{stem[module]}.{leaf}"
        stage, block, kind = module.removeprefix("layer").split(".", 2)
        there = f"encoder.stages.{int(stage) - 1}.layers.{block}"
        if kind.startswith("downsample"):
            part = {"1": "convolution", "2": "normalization"}[kind[-1]]
            pooled = f"{there}.shortcut.1.{part}.{leaf}"
            return pooled if pooled in given else f"{there}.shortcut.{part}.{leaf}"
        return f"{there}.layer.{int(kind[-1]) - 1}.{of_block[kind[:-1]]}.{leaf}"

    mapped = {key: name_there(key) for key in ours.body.state_dict()}
    assert set(mapped.values()) == {key for key in given if not key.endswith("num_batches_tracked")}
    ours.body.load_state_dict({key: given[there] for key, there in mapped.items()})
    images = torch.randn(2, 3, 75, 101)  # odd at every stride
    with torch.no_grad():
        expected = theirs(images).feature_maps
        for our_map, their_map in zip(ours(images), expected, strict=True):
            scale = float(their_map.abs().max())
            torch.testing.assert_close(our_map, their_map, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_norms(norm):
    features = resnet_vd("nano", norm)
    still = {name.split(".")[0] for name, p in features.body.named_parameters() if not p.requires_grad}
    assert still == ({"conv1", "layer1"} if norm == "frozen" else set())
    (last,) = features.train()(torch.randn(2, 3, 64, 64))
    assert last.isfinite().all()
    assert any("running_mean" in key for key in features.state_dict()) == (norm != "group")


def test_keys_are_those_of_timm():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        theirs = {k: v.shape for k, v in timm.create_model("resnet50d", num_classes=0).state_dict().items()}
        ours = {k: v.shape for k, v in resnet_vd("resnet50vd", "batch").body.state_dict().items()}
    assert ours == theirs


def test_refusals():
    for settings, error, sentence in (
        ({"dilation": True}, ConfigError, "expected dilation=False for nano, found True"),
        ({"weights": "imagenet"}, WeightsError, "expected a file of weights for nano, .* backbone_weights none"),
        ({"strides": (8, 64)}, ConfigError, r"strides of nano \(4, 8, 16, 32\), found 64"),
    ):
        with pytest.raises(error, match=sentence):
            build_features("nano", **settings)
    with pytest.raises(ConfigError, match=r"did you mean 'resnet50vd'\?"):
        build_features("resnet50v")
