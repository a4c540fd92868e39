"""The mask heads: of chosen queries alone, in every kind of model, with padding, in half precision, under the
keys of the reference DETR."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detrkit.errors import ConfigError
from detrkit.models import DETR
from detrkit.models.dynamic_mask_head import DynamicMaskHead, PixelFeatures
from detrkit.models.mask_head import AttentionMap, MaskHead
from detrkit.models.mask_predictor import all_queries
from tests.models.small import small_model, some_images

DEFORMABLE: dict[str, Any] = {"decoder": "deformable", "box_refine": True, "sigmoid": True}
KINDS: dict[str, dict[str, Any]] = {
    "classic": {},
    "DC5": {"dilation": True, "position_embedding": "learned"},
    "conditional": {"decoder": "conditional", "query_init": "anchors", "sigmoid": True},
    "deformable": {**DEFORMABLE, "feature_levels": "8,16,32,64", "encoder": "deformable", "query_init": "two_stage"},
    "hybrid": {
        **DEFORMABLE,
        "backbone": "nano",
        "feature_levels": "8,16,32",
        "encoder": "hybrid",
        "query_init": "mixed_selection",
        "two_stage_head": "dense",
        "dense_head": "tood",
        "query_groups": 2,
    },
    "one fine level": {"feature_levels": "4", "enc_layers": 0},
    "one coarse level": {"feature_levels": "32", "encoder": "hybrid"},
}


def with_masks(kind: str = "classic", **changes: Any) -> DETR:
    return small_model(masks=True, backbone_norm="batch", **{**KINDS[kind], **changes})


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> DETR:
    return with_masks(request.param).eval()


@torch.no_grad()
def test_masks_of_chosen_queries_are_those_among_the_masks_of_all(model: DETR) -> None:
    batch = some_images((68, 96), (90, 60))
    out = model(*batch)
    assert out.masks is not None
    assert out.masks.shape == (2, 6, 23, 24)  # a quarter, rounded up
    assert out.padded_size == (90, 96)
    assert out.masks.std() > 1e-3
    images, queries = torch.tensor([1, 0, 1, 1]), torch.tensor([2, 5, 2, 0])
    chosen = model.forward_detection(*batch).predict_masks(images, queries)
    torch.testing.assert_close(chosen, out.masks[images, queries], rtol=1e-5, atol=1e-5)
    assert model.forward_detection(*batch).masks is None
    assert out.predict_masks(images[:0], queries[:0]).shape == (0, 23, 24)


def test_training_makes_masks_on_request_only(model: DETR) -> None:
    made: list[int] = []
    assert model.mask_head
    model.mask_head.register_forward_hook(lambda head, given, masks: made.append(len(masks)))
    out = model.train()(*some_images((64, 64), (64, 64)))
    assert out.masks is None
    assert made == []
    out.predict_masks(torch.tensor([1]), torch.tensor([3]))
    assert made == [1]


def test_a_model_for_boxes_has_neither() -> None:
    model = small_model().eval()
    out = model(*some_images((64, 64)))
    assert (out.masks, out.predict_masks, out.padded_size, model.backbone.num_high_res) == (None, None, None, 0)
    assert not any(key.startswith("detr.") for key in model.state_dict())


def test_mask_losses_reach_every_part_but_the_boxes() -> None:
    """What a mask is made of learns from it; the box that it is made beside has losses of its own."""
    model = with_masks("hybrid").train()
    out = model(*some_images((64, 64), (64, 64)))
    out.predict_masks(torch.tensor([0, 1]), torch.tensor([0, 4])).square().sum().backward()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"backbone", "input_proj", "transformer", "mask_head"} <= trained
    assert "bbox_embed" not in trained


@torch.no_grad()
@pytest.mark.parametrize("kind", [kind for kind, settings in KINDS.items() if "feature_levels" in settings])
def test_padding_changes_nothing(kind: str) -> None:
    """From the levels on; the backbone itself sees padding as zeros that went through a layer."""
    model = with_masks(kind).eval()
    images, padding = some_images((128, 128))
    maps = model.backbone(images)
    high_res, projected = maps[: model.backbone.num_high_res], model.input_proj(maps[model.backbone.num_high_res :])
    hs, boxes = torch.randn(1, 1, 32), torch.tensor([[[0.4, 0.5, 0.3, 0.6]]])

    def see(high_res: list[torch.Tensor], maps: list[torch.Tensor], padding: torch.Tensor) -> torch.Tensor:
        levels = model.backbone.to_levels(maps, padding)
        memory = model.transformer.encoder(levels)
        predictor = model._mask_predictor(hs, boxes, levels, high_res, memory, padding, padding.shape[1:])
        return predictor.predict(torch.tensor([0]), torch.tensor([0]))

    def padded(maps: list[torch.Tensor]) -> list[torch.Tensor]:
        return [F.pad(m, (0, m.shape[3], 0, (m.shape[2] + 1) // 2), value=3.0) for m in maps]

    alone = see(high_res, projected, padding)
    wide = F.pad(padding, (0, 128, 0, 64), value=True)
    beside = see(padded(high_res), padded(projected), wide)[..., :32, :32]
    assert alone.std() > 1e-3
    torch.testing.assert_close(beside, alone, rtol=0, atol=1e-4)
    unmarked = see(padded(high_res), padded(projected), torch.zeros_like(wide))[..., :32, :32]
    assert (unmarked - alone).abs().max() > 1e-3  # so the law is not empty


@torch.no_grad()
@pytest.mark.parametrize("kind", ["classic", "hybrid"])
def test_half_precision_is_that_of_the_model_whenever_masks_are_made(kind: str) -> None:
    model, batch = with_masks(kind).eval(), some_images((64, 96))
    exact = model(*batch).masks
    with torch.autocast("cpu", torch.bfloat16):
        out = model.forward_detection(*batch)
        inside = out.predict_masks(*all_queries(out.boxes))
    outside = out.predict_masks(*all_queries(out.boxes))
    assert outside.dtype == torch.float32
    assert torch.equal(inside, outside)
    assert 0 < (outside.view_as(exact) - exact).abs().max() < 0.2 * exact.abs().max()


def test_keys_have_the_prefix_of_the_reference_and_load_with_or_without() -> None:
    model = with_masks()
    state = model.state_dict()
    parts = {key.partition(".")[0] for key in state}
    assert parts == {"detr", "bbox_attention", "mask_head"}
    plain = {key.removeprefix("detr."): value + 1 for key, value in state.items()}
    for given in (plain, {f"detr.{key}" if f"detr.{key}" in state else key: v for key, v in plain.items()}):
        other = with_masks()
        other.load_state_dict(given)
        assert all(torch.equal(value, state[key] + 1) for key, value in other.state_dict().items())

    whole = nn.ModuleDict({"model": copy.deepcopy(model)})  # as a checkpoint of training has it
    assert list(whole.state_dict()) == [f"model.{key}" for key in state]
    whole.load_state_dict({f"model.{key}": value for key, value in state.items()})
    with pytest.raises(RuntimeError, match="Unexpected"):
        model.load_state_dict({**state, "detr.further": torch.zeros(1)})


def test_attention_is_spread_over_heads_and_cells_but_not_padding() -> None:
    """By hand: q k / sqrt(D / heads) of each head."""
    torch.manual_seed(0)
    part = AttentionMap(8, heads=2)
    objects, memory = torch.randn(1, 3, 8), torch.randn(1, 8, 2, 4)
    padding = torch.tensor([[[False, False, False, True]] * 2])
    actual = part(objects, memory, padding)
    q = part.q_linear(objects)[0, 1].view(2, 4)
    k = part.k_linear(memory[0, :, 1, 2]).view(2, 4)
    torch.testing.assert_close(actual[0, 1, :, 1, 2], (q * k).sum(1) / 2)
    assert (actual[..., 3] == -torch.inf).all()
    assert part(objects, memory, torch.ones_like(padding)).isfinite().all()


def test_the_classic_head_follows_the_paper() -> None:
    """Against the plain computation: the image joined with the attention maps, once per pair."""
    torch.manual_seed(0)
    head = MaskHead(32, 2, (5, 6, 7))
    projected, attention = torch.randn(2, 32, 3, 4), torch.randn(3, 2, 3, 4)
    high_res = [torch.randn(2, c, 3 * 2**k, 4 * 2**k) for c, k in ((5, 3), (6, 2), (7, 1))]
    images = torch.tensor([1, 0, 1])
    weights = attention.flatten(1).softmax(1).view(3, 2, 3, 4)
    x = torch.cat([projected[images], weights], 1)
    x = head.gn1(head.lay1(x)).relu()
    x = head.gn2(head.lay2(x)).relu()
    for k, adapter in enumerate((head.adapter1, head.adapter2, head.adapter3)):
        fine = high_res[2 - k]
        x = adapter(fine)[images] + F.interpolate(x, size=fine.shape[2:], mode="nearest")
        x = getattr(head, f"gn{k + 3}")(getattr(head, f"lay{k + 3}")(x)).relu()
    expected = head.out_lay(x)[:, 0]
    torch.testing.assert_close(head(projected, high_res, images, attention), expected, rtol=1e-4, atol=1e-4)


def test_mask_coordinates_are_relative_to_the_box_of_the_query() -> None:
    """Weights by which a logit is how far the pixel lies to the right of, or below, the center, in box sizes."""
    head = DynamicMaskHead(8, channels=(3,))
    features = PixelFeatures(torch.zeros(2, 8, 4, 8), x=_centers(8, 8, 4), y=_centers(4, 4, 2))
    parameters = torch.zeros(len(head.controller.layers[-1].bias))
    # hidden 0 = relu(dx), hidden 1 = relu(dy); both pass the second layer; logit = hidden 0 + 10 * hidden 1
    parameters[64], parameters[67] = 1, 1
    parameters[64 + 24], parameters[64 + 24 + 9] = 1, 1
    parameters[64 + 24 + 72], parameters[64 + 24 + 73] = 1, 10
    nn.init.zeros_(head.controller.layers[-1].weight)
    head.controller.layers[-1].bias.data = parameters
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.25], [0.25, 0.5, 0.1, 0.5]])
    masks = head(features, torch.tensor([0, 1]), torch.randn(2, 8), boxes)
    # image 0: column 6 of 8 is centerd on 0.8125, row 3 of 4 on 0.875
    torch.testing.assert_close(masks[0, 3, 6], torch.tensor(0.3125 / 0.5 + 10 * 0.375 / 0.25))
    # image 1 is 4 columns wide and 2 rows high, the rest is padding: column 2 is centerd on 0.625, row 1 on 0.75
    torch.testing.assert_close(masks[1, 1, 2], torch.tensor(0.375 / 0.1 + 10 * 0.25 / 0.5))
    assert masks[1, 0, 0] == 0
    assert masks[1, 1, 7] == 4 + 10 * 0.25 / 0.5  # so far out that it does not matter how far


def _centers(count: int, *inside: int) -> torch.Tensor:
    return torch.stack([(torch.arange(count) + 0.5) / n for n in inside])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["classic", "hybrid"])
def test_masks_compile_into_one_graph(kind: str) -> None:
    model = with_masks(kind).eval()
    out = model.forward_detection(*some_images((64, 64)))
    compiled = torch.compile(out.predict_masks.predict, backend="eager", fullgraph=True)
    pairs = torch.tensor([0, 0]), torch.tensor([1, 5])
    torch.testing.assert_close(compiled(*pairs), out.predict_masks(*pairs))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["classic", "hybrid"])
def test_the_forward_pass_compiles_and_returns_a_predictor(kind: str) -> None:
    model, batch = with_masks(kind).eval(), some_images((64, 64))
    out, compiled = (
        f(*batch) for f in (model.forward_detection, torch.compile(model.forward_detection, backend="eager"))
    )
    pairs = torch.tensor([0, 0]), torch.tensor([1, 5])
    torch.testing.assert_close(compiled.predict_masks(*pairs), out.predict_masks(*pairs))


def test_backbones_that_pad_images_or_have_no_fine_map() -> None:
    pytest.importorskip("timm")
    model = small_model(masks=True, backbone="timm:test_convnext", feature_levels="8,16,32", **DEFORMABLE,
                        query_init="two_stage").eval()  # fmt: skip
    model.backbone.multiple = 32
    assert model(*some_images((66, 90))).masks.shape == (1, 6, 17, 23)
    with pytest.raises(ConfigError, match="expected a backbone with a map at stride 4 for masks, found timm:test_vit"):
        small_model(masks=True, backbone="timm:test_vit")
