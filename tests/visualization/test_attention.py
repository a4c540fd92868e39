"""Attention maps: they are the model's own, lie where they belong, and are drawn."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detrkit import Detections, Detector
from detrkit.cli import main
from detrkit.commands.explain import explain
from detrkit.config.commands import ExplainConfig
from detrkit.data.decode.images import read_image
from detrkit.errors import ConfigError
from detrkit.structures import Preprocessing
from detrkit.visualization.attention import (
    Attention,
    compute_attention,
    draw_decoder,
    overlay,
    parse_point,
    strongest,
    token_at,
)
from detrkit.visualization.attention_maps import AttentionMap
from tests.inference.conftest import MODEL
from tests.visualization.conftest import size_of


def test_maps_are_distributions_over_the_tokens_of_the_image(detector: Detector, some_images: Path) -> None:
    image = read_image(some_images / "wide.png")  # 40 x 100, resized to 43 x 107, so features of 2 x 4
    attention = compute_attention(detector, image)
    height, width = detector.transform.output_size(40, 100)
    h, w = math.ceil(height / 32), math.ceil(width / 32)
    assert isinstance(attention.decoder, AttentionMap)
    assert isinstance(attention.encoder, AttentionMap)
    assert attention.decoder.weights.shape == (9, h, w)
    assert attention.encoder.weights.shape == (h, w, h, w)
    for weights in (attention.decoder.weights, attention.encoder.weights):
        assert (weights >= 0).all()
        torch.testing.assert_close(weights.sum((-2, -1)), torch.ones(weights.shape[:-2]))
    covered = (h * 32 / height, w * 32 / width)
    assert attention.covered == attention.decoder.covered == attention.encoder.covered == covered


def test_attention_maps_do_not_change_detections(detector: Detector, some_images: Path) -> None:
    path = some_images / "5.png"
    some_detections = compute_attention(detector, read_image(path)).detections
    order = some_detections.scores.argsort(descending=True, stable=True)
    plain = detector.predict(path, threshold=0)
    assert torch.equal(some_detections[order].xyxy, plain.xyxy)
    assert some_detections[order].class_names == plain.class_names


@torch.no_grad()
@pytest.mark.parametrize(("part", "name"), [("decoder", "multihead_attn"), ("encoder", "self_attn")])
def test_the_weights_are_those_that_make_the_output(
    detector: Detector, some_images: Path, part: str, name: str
) -> None:
    """Softmax(q k) v, projected, is what the module put out; and what is shown is its mean over the heads."""
    from detrkit.models.layers.attention import record_attention

    module = getattr(getattr(detector.model.transformer, part).layers[-1], name)
    image = read_image(some_images / "wide.png")
    seen = {}
    hook = module.register_forward_hook(lambda module, given, out: seen.update(value=given[2], out=out))
    try:
        with record_attention([module]) as weights:
            attention = compute_attention(detector, image)
    finally:
        hook.remove()
    dim, heads = MODEL["hidden_dim"], MODEL["nheads"]
    projected = seen["value"] @ module.in_proj_weight[2 * dim :].T + module.in_proj_bias[2 * dim :]
    values = projected.unflatten(-1, (heads, dim // heads)).transpose(1, 2)  # [1, heads, S, D / heads]
    mixed = (weights[0] @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(module.out_proj(mixed), seen["out"])
    shown = getattr(attention, part).weights
    torch.testing.assert_close(shown.flatten(), weights[0][0].mean(0).flatten())


def test_points_belong_to_the_token_that_covers_them(some_detections: Detections) -> None:
    recorded = AttentionMap(torch.full((3, 5, 3, 5), 1 / 15), (1.0, 1.0))
    exact = Attention(some_detections, recorded, recorded, covered=(1.0, 1.0))
    assert token_at((0, 0), 30, 50, exact) == (0, 0)
    assert token_at((49.9, 29.9), 30, 50, exact) == (2, 4)
    assert token_at((19.9, 10.1), 30, 50, exact) == (1, 1)
    reaching_over = replace(exact, covered=(1.5, 1.25))
    assert token_at((49.9, 29.9), 30, 50, reaching_over) == (1, 3)  # the last ones lie outside the image


def test_heat_is_where_the_weight_is() -> None:
    weights = torch.zeros(2, 4)
    weights[1, 2] = 1
    heat = overlay(np.full((100, 200, 3), 100, dtype=np.uint8), weights, (1.0, 1.0)).astype(int)
    brightest = np.unravel_index(heat.sum(axis=2).argmax(), (100, 200))
    assert 50 <= brightest[0] < 100
    assert 100 <= brightest[1] < 150
    reaching_over = overlay(np.full((100, 200, 3), 100, dtype=np.uint8), weights, (2.0, 1.0)).astype(int)
    assert reaching_over.sum(axis=2).argmax() // 200 >= 90  # the lower row of places begins below the image


def test_the_strongest_or_else_a_few(detector: Detector, some_images: Path) -> None:
    some_detections = compute_attention(detector, read_image(some_images / "5.png")).detections
    order = some_detections.scores.argsort(descending=True, stable=True).tolist()
    assert strongest(some_detections, 0.0, 6) == order[:6]
    assert strongest(some_detections, float(some_detections.scores.max()), 6) == order[:1]
    assert strongest(some_detections, 1.0, 6) == order[:3]
    assert strongest(some_detections, 1.0, 2) == order[:2]


def test_points_are_read() -> None:
    assert parse_point("12.5,3", 40, 100) == (12.5, 3)
    for wrong in ("12", "1,2,3", "a,b", "100,0", "0,40", "-1,0", "nan,1"):
        with pytest.raises(ConfigError, match=f"{wrong}"):
            parse_point(wrong, 40, 100)


def test_explain_draws_both(
    checkpoint: Path, some_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = {"weights": str(checkpoint), "image": str(some_images / "wide.png"), "device": "cpu"}
    explain(ExplainConfig(**fixed, output_dir=str(tmp_path / "a"), threshold=0, max_detections=2, points="10,10 90,30"))
    sizes = {path.name: size_of(path) for path in (tmp_path / "a").iterdir()}
    assert set(sizes) == {"decoder_attention.png", "encoder_attention.png"}
    assert sizes["decoder_attention.png"][0] > 4 * 420  # two detections, each beside its map
    assert 3 * 420 < sizes["encoder_attention.png"][0] < 4 * 420  # the points, and two maps
    explain(ExplainConfig(**fixed, output_dir=str(tmp_path / "b"), threshold=1))
    assert "No detection reaches 1" in capsys.readouterr().out
    assert size_of(tmp_path / "b" / "decoder_attention.png")[1] > sizes["decoder_attention.png"][1]


def test_a_mask_head_shows_its_attention(mask_detector: Detector, some_images: Path) -> None:
    image = read_image(some_images / "wide.png")
    attention = compute_attention(mask_detector, image)
    plain = mask_detector.predict(some_images / "wide.png", threshold=0)
    order = attention.detections.scores.argsort(descending=True, stable=True).tolist()
    assert attention.segment is not None
    assert torch.equal(torch.cat([attention.segment(k) for k in order]), plain.masks)
    assert attention.mask_head is not None
    height, width = mask_detector.transform.output_size(40, 100)
    covered = (2 * 32 / height, 4 * 32 / width)
    assert attention.covered == attention.mask_head.covered == attention.decoder.covered == covered
    weights = attention.mask_head.weights
    assert weights.shape == attention.decoder.weights.shape
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum((-2, -1)), torch.ones(9))
    assert len(weights.flatten(1).unique(dim=0)) == 9
    batch = mask_detector.prepare([image])
    seen = []
    hook = mask_detector.model.mask_head.register_forward_pre_hook(lambda module, given: seen.append(given[3]))
    with torch.no_grad():
        mask_detector.model(batch.images, batch.padding_mask)
    hook.remove()
    torch.testing.assert_close(seen[0].flatten(1).softmax(1).view_as(seen[0]).sum(1), weights)
    without = replace(attention, mask_head=None, segment=None)
    one_image = image.permute(1, 2, 0).numpy()
    drawn = draw_decoder(one_image, attention, [order[0]])
    assert drawn.shape[1] > 1.4 * draw_decoder(one_image, without, [order[0]]).shape[1]  # one image more


def test_a_model_without_encoder_shows_its_decoder(
    some_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from detrkit import build_model

    args = {**MODEL, "enc_layers": 0}
    header = {"version": 1, "model_args": args, "categories": [{"id": k, "name": f"c{k}"} for k in range(3)]}
    header["preprocessing"] = Preprocessing(64).to_plain()
    torch.save({"model": build_model(**args).state_dict(), "detrkit": header}, tmp_path / "x.ckpt")
    explain(ExplainConfig(weights=str(tmp_path / "x.ckpt"), image=str(some_images / "5.png"), output_dir=str(tmp_path)))
    assert "no encoder" in capsys.readouterr().out
    assert not (tmp_path / "encoder_attention.png").exists()
    assert (tmp_path / "decoder_attention.png").exists()


def test_the_command_line(
    checkpoint: Path, some_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = ["--weights", str(checkpoint), "--output_dir", str(tmp_path), "--device", "cpu"]
    assert main(["explain", str(some_images / "5.png"), "--points", "5,5 10,20", *fixed]) == 0
    assert main(["explain", str(some_images / "5.png"), "--points", "500,5", *fixed]) == 2
    assert main(["explain", str(tmp_path / "no.png"), *fixed]) == 2
    assert main(["explain", str(some_images / "5.png"), "--threshold", "7", *fixed]) == 2
    stderr = capsys.readouterr().err
    assert "80 x 60" in stderr
    assert "no.png" in stderr
    assert "--threshold must be at most 1, found 7" in stderr
