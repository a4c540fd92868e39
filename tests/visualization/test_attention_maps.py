"""What attention that samples points, or works on several levels, looks at: it is drawn where it belongs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from detrkit import Detector, build_model
from detrkit.commands.explain import explain
from detrkit.config.commands import ExplainConfig
from detrkit.data.decode.images import read_image
from detrkit.models.layers.attention import record_attention
from detrkit.models.layers.deformable_attention import DeformableAttention
from detrkit.models.layers.feature_levels import Level, Memory, flatten
from detrkit.structures import Preprocessing
from detrkit.visualization.attention import compute_attention, dotted, token_at
from detrkit.visualization.attention_maps import AttentionMap, SampledPoints, sampled_points, to_finest_level
from tests.inference.conftest import CATEGORIES, MODEL
from tests.visualization.conftest import size_of

HEADS, LEVELS, K = 4, 2, 2
OFFSETS = torch.tensor([[2.0, 0.0], [0.0, -2.0], [-1.0, 1.0], [0.0, 0.0]])  # of each head, x and y
TWO = {"backbone": "nano", "feature_levels": "16,32"}
SAMPLING = {
    **TWO,
    "encoder": "hybrid",
    "decoder": "deformable",
    "num_points": K,
    "query_init": "anchors",
    "box_refine": True,
}
KINDS = {
    "hybrid, deformable": SAMPLING,
    "deformable, deformable": {**SAMPLING, "encoder": "deformable", "query_init": "learned"},
    "dense, conditional": {"backbone": "nano", "decoder": "conditional", "query_init": "anchors"},
    "dense, dense": TWO,
    "hybrid, dense": {**TWO, "encoder": "hybrid"},
}


def made(**changes: Any) -> Detector:
    torch.manual_seed(0)
    return Detector(build_model(**{**MODEL, **changes}), CATEGORIES, 64)


def fix_offsets(attention: nn.Module) -> None:
    """Every query samples at `OFFSETS`, in all levels, the first point of the first level weighing all there is."""
    assert isinstance(attention, DeformableAttention)
    weighing = torch.zeros(HEADS, LEVELS, K)
    weighing[:, 0, 0] = 100
    with torch.no_grad():
        attention.sampling_offsets.weight.zero_()
        attention.sampling_offsets.bias.copy_(OFFSETS[:, None, None].expand(-1, LEVELS, K, -1).flatten())
        attention.attention_weights.weight.zero_()
        attention.attention_weights.bias.copy_(weighing.flatten())


def padded_memory() -> Memory:
    """One image on two levels: 6 x 4 of 8 x 8 places are image, and 3 x 2 of 4 x 4 (width, height)."""
    levels = []
    for side, width, height in ((8, 6, 4), (4, 3, 2)):
        padding = torch.ones(1, side, side, dtype=torch.bool)
        padding[:, :height, :width] = False
        levels.append(Level(torch.randn(1, 16, side, side), padding, torch.zeros(1, 16, side, side)))
    return flatten(levels)


@torch.no_grad()
def test_points_are_relative_to_the_image_without_its_padding() -> None:
    attention = DeformableAttention(16, HEADS, LEVELS, K)
    fix_offsets(attention)
    query = torch.randn(1, 1, 16)

    box = torch.tensor([[[0.5, 0.25, 0.2, 0.4]]])
    places = sampled_points(attention, query, box, padded_memory()).locations.view(HEADS, LEVELS, K, 2)
    expected = [[0.6, 0.25], [0.5, 0.05], [0.45, 0.35], [0.5, 0.25]]  # the right edge, the top, half way, the center
    torch.testing.assert_close(places, torch.tensor(expected)[:, None, None].expand_as(places))

    point = torch.tensor([[[0.5, 0.25]]])  # now offsets count places, of 6 x 4 and 3 x 2 that the image has
    some_detections = sampled_points(attention, query, point, padded_memory())
    for level, inside in enumerate(((6, 4), (3, 2))):
        steps = some_detections.locations.view(HEADS, LEVELS, K, 2)[:, level] - point[0]
        torch.testing.assert_close(steps, (OFFSETS / torch.tensor(inside))[:, None].expand_as(steps))
    torch.testing.assert_close(some_detections.weights.view(HEADS, -1)[:, 0], torch.full((HEADS,), 1 / HEADS))


@pytest.mark.parametrize("name", ["wide.png", "deep/tall.png"])
def test_a_query_looks_around_its_own_box(some_images: Path, name: str) -> None:
    detector = made(**SAMPLING)  # untrained heads refine nothing, so what is found is where the last layer looked
    fix_offsets(detector.model.transformer.decoder.layers[-1].multihead_attn)
    image = read_image(some_images / name)
    attention = compute_attention(detector, image)
    assert isinstance(attention.decoder, SampledPoints)
    assert attention.decoder.weights.shape == (9, HEADS * LEVELS * K)
    torch.testing.assert_close(attention.decoder.weights.sum(1), torch.ones(9))

    height, width = image.shape[1:]
    x1, y1, x2, y2 = attention.detections.xyxy.unbind(1)
    center = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2], 1)
    sides = torch.stack([x2 - x1, y2 - y1], 1)
    pixels = attention.decoder.locations.view(9, HEADS, -1, 2) * torch.tensor([width, height])
    expected = center[:, None] + OFFSETS * sides[:, None] / 4
    torch.testing.assert_close(pixels, expected[:, :, None].expand_as(pixels), atol=1e-3, rtol=1e-4)


def test_sampled_points_do_not_change_detections(some_images: Path) -> None:
    detector = made(**SAMPLING)
    image = read_image(some_images / "5.png")
    some_detections = compute_attention(detector, image).detections
    plain = detector.detect(detector.prepare([image]), top_k=0)[0]
    assert torch.equal(some_detections[some_detections.scores.argsort(descending=True, stable=True)].xyxy, plain.xyxy)
    attention = detector.model.transformer.decoder.layers[-1].multihead_attn
    assert not attention._forward_pre_hooks  # nothing is left behind


def test_tokens_of_a_deformable_encoder_sample_around_themselves(some_images: Path) -> None:
    detector = made(**KINDS["deformable, deformable"])
    attention_module = detector.model.transformer.encoder.layers[-1].self_attn
    fix_offsets(attention_module)
    attention = compute_attention(detector, read_image(some_images / "wide.png"))
    assert isinstance(attention.encoder, SampledPoints)
    h, w = 3, 7  # 43 x 107 at stride 16
    assert attention.covered == (h * 16 / 43, w * 16 / 107)
    assert attention.encoder.weights.shape == (h, w, HEADS * LEVELS * K)
    here = attention.encoder[token_at((50, 20), 40, 100, attention)].locations.view(HEADS, LEVELS, K, 2)
    center = torch.tensor([(3 + 0.5) / w, (1 + 0.5) / h])  # the pixel lies in row 1, column 3
    torch.testing.assert_close(here[3], center.expand(LEVELS, K, 2))
    torch.testing.assert_close(here[0, 0], (center + torch.tensor([2 / w, 0])).expand(K, 2))


def test_the_hybrid_encoder_shows_its_coarsest_level(some_images: Path) -> None:
    detector = made(**SAMPLING)
    with record_attention([detector.model.transformer.encoder.layers[-1].self_attn]) as weights:
        attention = compute_attention(detector, read_image(some_images / "wide.png"))
    h, w = 2, 4
    assert isinstance(attention.encoder, AttentionMap)
    assert attention.encoder.weights.shape == (h, w, h, w)
    assert attention.covered == attention.encoder.covered == (h * 32 / 43, w * 32 / 107)
    torch.testing.assert_close(attention.encoder.weights.flatten(), weights[0][0].mean(0).flatten())


def test_coarser_levels_are_spread_over_the_finest() -> None:
    weights = torch.zeros(2, 4 * 8 + 2 * 4)
    weights[0, 5], weights[0, 32 + 7] = 0.25, 0.75  # row 0 of the finest; the last place of the coarser
    weights[1, 9] = 1
    shown = to_finest_level(weights, [(4, 8), (2, 4)])
    torch.testing.assert_close(shown.sum((1, 2)), torch.ones(2))
    assert shown[0, 0, 5] == 0.25
    assert shown[0, 2:, 6:].sum() > 0.5  # most of it where the coarse place is
    assert shown[0, 3, 7] == shown[0, 1:].max()
    assert torch.equal(shown[1], weights[1, :32].view(4, 8))


def test_dots_are_where_the_points_are() -> None:
    places = torch.tensor([[0.25, 0.5], [0.75, 0.5], [1.5, 0.5], [float("nan"), 0.5]])
    one_image = np.full((100, 200, 3), 100, dtype=np.uint8)
    drawn = dotted(one_image, SampledPoints(places, torch.tensor([0.6, 0.1, 0.2, 0.1])), (255, 0, 0)).astype(int)
    redder = drawn[..., 0] - drawn[..., 1]
    rows, columns = np.nonzero(redder > 0)
    assert abs(rows - 50).max() <= 4
    assert ((abs(columns - 50) <= 4) | (abs(columns - 150) <= 4)).all()
    assert redder[50, 50] > redder[50, 150] > 0  # the weightier, the clearer
    assert (redder[:, :100] > 0).sum() > (redder[:, 100:] > 0).sum() > 0  # and larger


@pytest.mark.parametrize("kind", KINDS)
def test_explain_draws_every_kind(some_images: Path, tmp_path: Path, kind: str) -> None:
    args = {**MODEL, **KINDS[kind]}
    torch.manual_seed(0)
    header = {
        "version": 1,
        "model_args": args,
        "categories": CATEGORIES.to_plain(),
        "preprocessing": Preprocessing(64).to_plain(),
    }
    torch.save({"model": build_model(**args).state_dict(), "detrkit": header}, tmp_path / "x.ckpt")
    explain(
        ExplainConfig(
            weights=str(tmp_path / "x.ckpt"),
            image=str(some_images / "wide.png"),
            output_dir=str(tmp_path / "out"),
            device="cpu",
            threshold=0,
            max_detections=2,
            points="10,10 90,30",
        )
    )
    sizes = {path.name: size_of(path) for path in (tmp_path / "out").iterdir()}
    assert set(sizes) == {"decoder_attention.png", "encoder_attention.png"}
    assert sizes["decoder_attention.png"][0] > 4 * 420  # as for the classic model
    assert 3 * 420 < sizes["encoder_attention.png"][0] < 4 * 420
