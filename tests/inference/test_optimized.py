"""Each way to be fast against the plain one, for every kind of model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from detrkit import Categories, Detector
from detrkit.errors import ConfigError
from detrkit.inference.backend import PlainBackend
from detrkit.inference.optimized import OptimizedBackend, chosen_precision, compiles
from detrkit.inference.shape_buckets import ShapeBuckets
from detrkit.models import DETR
from detrkit.models.mask_predictor import all_queries
from detrkit.structures import Output
from tests.models.small import small_model
from tests.models.test_folding import with_statistics

RECIPE = {
    "backbone": "nano",
    "backbone_norm": "batch",
    "feature_levels": "8,16,32",
    "encoder": "hybrid",
    "decoder": "deformable",
    "query_init": "mixed_selection",
    "two_stage_head": "dense",
    "dense_head": "tood",
    "query_nms_iou": 0.8,
    "box_refine": True,
    "score_refine": True,
    "sigmoid": True,
}
"""What detrkit_n is made of."""
KINDS: dict[str, dict[str, Any]] = {
    "classic": {},
    "classic masks": {"masks": True},
    "deformable two-stage": {
        "feature_levels": "8,16,32",
        "encoder": "deformable",
        "decoder": "deformable",
        "query_init": "two_stage",
        "box_refine": True,
        "sigmoid": True,
    },
    "conditional": {"decoder": "conditional", "query_init": "anchors", "sigmoid": True},
    "fast recipe": RECIPE,
    "dynamic masks": RECIPE | {"masks": True},
}


def model_of(kind: str) -> DETR:
    """With statistics in its norms, and heads that say something different of each query."""
    model = with_statistics(small_model(**KINDS[kind]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "class_embed" in name or "bbox_embed" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return model


def batch_of(*sizes: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of coarse squares, so that images differ in what is in them."""
    generator = torch.Generator().manual_seed(0)
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    images = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
    padding = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for i, (h, w) in enumerate(sizes):
        coarse = torch.randint(0, 256, (1, 3, 5, 5), generator=generator).float()
        images[i, :, :h, :w] = torch.nn.functional.interpolate(coarse, size=(h, w))[0].byte()
        padding[i, :h, :w] = False
    return images, padding


def assert_same(actual: Output, expected: Output, tolerance: float) -> None:
    assert actual.logits.dtype == actual.boxes.dtype == torch.float32
    assert actual.aux == []
    assert expected.logits.std() > 20 * tolerance  # else all would be the same
    torch.testing.assert_close(actual.logits, expected.logits, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(actual.boxes, expected.boxes, atol=tolerance, rtol=tolerance)
    if expected.predict_masks is not None:
        assert actual.predict_masks is not None
        masks = [out.predict_masks(*all_queries(expected.boxes)) for out in (actual, expected)]
        torch.testing.assert_close(*masks, atol=10 * tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_the_plain_model(kind: str) -> None:
    model = model_of(kind)
    batch = batch_of((96, 64), (70, 90))
    with torch.no_grad():
        expected = PlainBackend(model).forward_detection(*batch)
        assert_same(OptimizedBackend(model).forward_detection(*batch), expected, 1e-4)
        normalized = model.normalize(*batch), batch[1]
        # images that are floats already
        assert_same(OptimizedBackend(model).forward_detection(*normalized), expected, 1e-4)


def test_weights_and_maps_are_channels_last() -> None:
    backend = OptimizedBackend(model_of("fast recipe"))
    weights = [p for p in backend.model.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert len(weights) > 10
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    seen: list[torch.Tensor] = []
    backend.model.backbone.register_forward_hook(lambda module, given, maps: seen.extend(maps))
    with torch.no_grad():
        backend.forward_detection(*batch_of((96, 64)))
    assert len(seen) == 3
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in seen)


@pytest.mark.parametrize("kind", ["classic", "classic masks", "deformable two-stage", "fast recipe", "dynamic masks"])
def test_half_precision_is_close(kind: str) -> None:
    model = model_of(kind)
    batch = batch_of((96, 64), (70, 90))
    with torch.no_grad():
        expected = PlainBackend(model).forward_detection(*batch)
        actual = OptimizedBackend(model, half=torch.bfloat16).forward_detection(*batch)
    assert actual.logits.dtype == actual.boxes.dtype == torch.float32
    # places that score alike may change ranks, so compare what is there whatever the order
    far = torch.cdist(expected.boxes, actual.boxes, p=torch.inf).amin(2)
    assert far.median() < 0.02
    assert not torch.equal(actual.logits, expected.logits)  # it did run in bf16
    if expected.predict_masks is not None:
        assert actual.predict_masks(*all_queries(actual.boxes)).isfinite().all()


def test_half_weights_are_stored_so_and_norms_are_not() -> None:
    backend = OptimizedBackend(model_of("classic"), half=torch.bfloat16)
    layer = backend.model.transformer.decoder.layers[0]
    assert layer.linear1.weight.dtype == layer.self_attn.in_proj_weight.dtype == torch.bfloat16
    assert layer.norm1.weight.dtype == backend.model.query_embed.weight.dtype == torch.float32


@pytest.mark.parametrize("kind", ["classic", pytest.param("dynamic masks", marks=pytest.mark.slow)])
def test_compiled_values_are_those_of_the_padded_batch(kind: str) -> None:
    torch._dynamo.reset()
    model = model_of(kind)
    images, padding = batch_of((96, 64), (90, 60), (96, 64))
    backend = OptimizedBackend(model, buckets=ShapeBuckets.of(64, 107), compile_backend="eager")
    with torch.no_grad():
        actual = backend.forward_detection(images[:, :, :90, :60], padding[:, :90, :60])
        images[:, :, 90:], images[..., 60:] = 0, 0
        padding[:, 90:], padding[..., 60:] = True, True
        assert_same(actual, OptimizedBackend(model).forward_detection(images, padding), 1e-5)
    assert list(backend.compiled) == [(4, 96, 64)]  # the next power of 2
    assert actual.logits.shape[0] == 3


def test_a_image_in_its_bucket_has_the_exact_values() -> None:
    torch._dynamo.reset()
    model = tiny_model()
    batch = batch_of((96, 64))
    with torch.no_grad():
        actual = OptimizedBackend(model, buckets=ShapeBuckets.of(64, 107), compile_backend="eager").forward_detection(
            *batch
        )
        assert_same(actual, PlainBackend(model).forward_detection(*batch), 1e-4)


def test_images_of_any_size_do_not_compile_without_end() -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    buckets = ShapeBuckets.of(32, 53)
    backend = OptimizedBackend(tiny_model(), buckets=buckets, compile_backend=counter)
    detector = Detector(backend, Categories.unnamed(4), 32)
    generator = torch.Generator().manual_seed(0)
    sizes = [tuple(torch.randint(20, 200, (2,), generator=generator).tolist()) for _ in range(39)] + [(50, 50)]
    assert len({detector.transform.output_size(*size) for size in sizes}) > 20
    detector.warmup([(90, 60)])
    assert list(backend.compiled) == [(1, 64, 32)]
    for size in sizes:
        detector.predict(torch.zeros(3, *size, dtype=torch.uint8))
    assert set(backend.compiled) == {(1, *shape) for shape in buckets.shapes()}
    assert counter.frame_count == len(buckets.shapes()) == 3
    detector.warmup()  # all there is
    assert counter.frame_count == 3


def tiny_model() -> DETR:
    """Quickly traced."""
    return small_model(backbone="nano", hidden_dim=16, dec_layers=1).eval()


def test_images_larger_than_all_buckets_run_uncompiled() -> None:
    model = model_of("classic")
    batch = batch_of((96, 200))
    backend = OptimizedBackend(model, buckets=ShapeBuckets.of(64, 107), compile_backend="eager")
    with torch.no_grad():
        assert_same(backend.forward_detection(*batch), PlainBackend(model).forward_detection(*batch), 1e-4)
    assert backend.compiled == {}


@pytest.mark.parametrize("image_size", [64, 256, 480, 800, 1024])
def test_buckets_hold_every_image_and_are_few(image_size: int) -> None:
    from detrkit.data.transforms.resize_crop import eval_transform

    transform = eval_transform(image_size)
    buckets = ShapeBuckets.of(image_size, transform.longest)
    assert len(buckets.shapes()) <= 15
    for ratio in torch.logspace(-1, 1, 41).tolist():
        height, width = transform.output_size(round(500 * max(1, ratio)), round(500 * max(1, 1 / ratio)))
        shape = buckets.fit(height, width)
        assert shape in buckets.shapes()
        assert shape[0] >= height
        assert shape[1] >= width
        if image_size == 800 and 0.6 < ratio < 1 / 0.6:
            assert shape[0] * shape[1] <= 1.2 * height * width


def test_square_images_have_one_shape() -> None:
    buckets = ShapeBuckets.of(100, 167, square_resize=True)
    assert buckets.shapes() == [(100, 100)]
    assert buckets.fit(100, 100) == (100, 100)
    assert buckets.fit(101, 100) is None


def test_warm_up_runs_also_where_nothing_is_compiled() -> None:
    model = tiny_model()
    seen: list[torch.Size] = []
    model.backbone.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape))
    Detector(model, Categories.unnamed(4), 32).warmup([(40, 60), (60, 40)], batch_sizes=(1, 3))
    assert [tuple(shape) for shape in seen] == [(1, 3, 32, 48), (3, 3, 32, 48), (1, 3, 48, 32), (3, 3, 48, 32)]


@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["classic", "fast recipe"])
def test_images_of_odd_sizes_give_numbers_in_any_precision(kind: str, half: torch.dtype | None) -> None:
    detector = Detector(OptimizedBackend(model_of(kind), half=half), Categories.unnamed(4), 32)
    for height, width in [(1, 1), (1, 300), (300, 1), (3, 7), (97, 131), (1500, 1499)]:
        actual = detector.predict(torch.full((3, height, width), 90, dtype=torch.uint8), threshold=0)
        assert len(actual.scores) == detector.backend.num_queries
        assert actual.scores.isfinite().all()
        assert actual.xyxy.isfinite().all()
        assert actual.image_size == (height, width)


def test_a_missing_compiler_is_an_error() -> None:
    def broken(graph: object, inputs: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found in cpp.cxx: (None, 'g++')")

    torch._dynamo.reset()
    backend = OptimizedBackend(tiny_model(), buckets=ShapeBuckets.of(64, 107), compile_backend=broken)
    with pytest.raises(ConfigError, match=r"expected a C\+\+ compiler .* compile off"):
        backend.forward_detection(*batch_of((64, 64)))


def test_resolution_of_auto() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert chosen_precision("auto", cpu) is None
    assert chosen_precision("fp32", gpu) is None
    assert chosen_precision("bf16", cpu) == torch.bfloat16
    assert chosen_precision("fp16", gpu) == torch.float16
    assert not compiles("auto", cpu)
    assert compiles("on", cpu)
    assert not compiles("off", gpu)
    with pytest.raises(ConfigError, match=r"expected a precision of auto, .* found 'half'"):
        chosen_precision("half", cpu)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected compile to be auto, off or on, found 'yes'"):
        compiles("yes", cpu)  # type: ignore[arg-type]
