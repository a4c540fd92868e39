"""What programs hand to the functions of the library: taken where its meaning is clear, else refused in a sentence."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detrkit import Categories, Detections, Detector, Output, build_criterion, build_model, panoptic, postprocess
from detrkit.errors import ConfigError, DataError, WeightsError
from detrkit.losses.matcher import HungarianMatcher
from detrkit.ops.boxes import cxcywh_to_xyxy
from detrkit.results import PanopticMap

CLASSES = 4


def output(images: int = 2, queries: int = 6, masks: bool = False) -> Output:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(images, queries, CLASSES + 1, generator=generator)
    boxes = torch.rand(images, queries, 4, generator=generator) * 0.4 + 0.3
    return Output(logits, boxes, masks=torch.randn(images, queries, 8, 8, generator=generator) if masks else None)


LABELS, BOXES = [1, 3, 0], [[0.5, 0.5, 0.2, 0.3], [0.3, 0.6, 0.2, 0.2], [0.7, 0.4, 0.1, 0.5]]


def targets(labels: Any = None, boxes: Any = None) -> list[dict[str, Any]]:
    """An image with three objects and one with none."""
    labels = torch.tensor(LABELS) if labels is None else labels
    boxes = torch.tensor(BOXES) if boxes is None else boxes
    none = {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}
    return [{"labels": labels, "boxes": boxes}, none]


CRITERION = build_criterion(num_classes=CLASSES)


def loss_of(given: Any, out: Output | None = None) -> float:
    return float(CRITERION.weighted_sum(CRITERION(out or output(), given)))


def test_targets_in_every_clear_form_give_the_same_losses() -> None:
    expected, pairs = loss_of(targets()), CRITERION.match(output(), targets())
    forms: dict[str, Any] = {
        "int32": targets(labels=torch.tensor(LABELS, dtype=torch.int32)),
        "uint8": targets(labels=torch.tensor(LABELS, dtype=torch.uint8)),
        "lists": targets(labels=LABELS, boxes=BOXES),
        "numpy": targets(labels=np.array(LABELS), boxes=np.array(BOXES, dtype=np.float32)),
        "float64": targets(boxes=torch.tensor(BOXES, dtype=torch.float64)),
        "tuple": tuple(targets()),
        "generator": (target for target in targets()),
        "empty tensors": [targets()[0], {"labels": torch.tensor([]), "boxes": torch.tensor([])}],
        "empty lists": [targets()[0], {"labels": [], "boxes": []}],
    }
    for name, given in forms.items():
        given = given if name == "generator" else list(given)
        assert loss_of(given) == pytest.approx(expected, rel=1e-6), name
    for matched in (
        CRITERION.match(output(), iter(forms["int32"])),
        HungarianMatcher()(output(), forms["empty tensors"]),
    ):
        assert [[half.tolist() for half in pair] for pair in matched] == [[h.tolist() for h in pair] for pair in pairs]


CORNERS = cxcywh_to_xyxy(torch.tensor(BOXES))
PIXELS = torch.tensor(BOXES) * torch.tensor([640, 480, 640, 480])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (targets()[:1], "a target for each of 2 images, found 1"),
        (targets() * 2, "a target for each of 2 images, found 4"),
        (targets()[0], "found a dict; put it into a list"),
        (None, "found a NoneType"),
        ([None, None], "labels .* for image 1 of the batch, found a NoneType"),
        ([{"class_labels": [], "boxes": []}] * 2, "found the keys class_labels, boxes"),
        (targets(boxes=PIXELS), r"found \[320, 240, 128, 144\] as object 1 of image 1 .*3 of 3.*divided by width"),
        (targets(boxes=PIXELS.int()), "divided by width"),
        (targets(boxes=cxcywh_to_xyxy(PIXELS)), "divided by width"),
        (targets(boxes=CORNERS), r"corners x1, y1, x2, y2.*xyxy_to_cxcywh"),
        (targets(labels=[1], boxes=[[0.1, 0.1, 0.5, 0.5]]), "corners"),
        (targets(boxes=[*BOXES[:2], [0.5, 0.5, -0.1, 0.2]]), r"object 3 of image 1.*\(1 of 3"),
        (targets(boxes=[*BOXES[:2], [0.5, float("nan"), 0.1, 0.2]]), r"finite.*\[0.5, nan, 0.1, 0.2\] as object 3"),
        ([targets()[1], targets(labels=[1, 1], boxes=[BOXES[0], [float("inf")] * 4])[0]], "object 2 of image 2"),
        (targets(boxes=BOXES[:2]), r"boxes of shape \[3, 4\], one for each label.*found \[2, 4\]"),
        (targets(boxes=torch.zeros(3, 5)), r"found \[3, 5\]"),
        (targets(boxes=torch.tensor([])), r"boxes of shape \[3, 4\]"),
        (targets(boxes="boxes"), "boxes of image 1 of the batch as a tensor, found a str"),
        (targets(labels=torch.tensor(1)), r"labels as integers of shape \[n\]"),
        (targets(labels=torch.tensor([1.0, 3.0, 0.0])), "labels as integers.*float32"),
        (targets(labels=torch.tensor([True, False, True])), "labels as integers.*bool"),
        (targets(labels=[1, 4, 0]), r"labels in 0\.\.3, found 4 in image 1"),
        (targets(labels=[1, -1, 0]), r"labels in 0\.\.3, found -1"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_targets_that_are_wrong_are_named(given: Any, sentence: str) -> None:
    for use in (CRITERION, CRITERION.match, HungarianMatcher()):
        with pytest.raises(DataError, match=sentence):
            use(output(), given)


def test_boxes_at_the_border_are_no_corners() -> None:
    """They reach out of the image by rounding, or a few of many do a little more."""
    inside = [[0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0], [0.75, 0.75, 0.5000001, 0.5]]
    assert loss_of(targets(boxes=inside)) > 0
    out_of_it = [[0.1, 0.5, 0.3, 0.3], [0.5, 0.5, 1.0, 1.0], [0.75, 0.75, 0.5, 0.5]]
    assert loss_of(targets(boxes=out_of_it)) > 0
    assert loss_of(targets(boxes=[[0.05, 0.5, 0.3, 0.3]] * 3)) > 0  # could not be corners: y2 is above y1


def test_training_with_denoising_takes_the_same_forms() -> None:
    small = {"backbone": "resnet18", "hidden_dim": 32, "enc_layers": 1, "dec_layers": 1, "dim_feedforward": 32}
    model = build_model(
        CLASSES, **small, nheads=4, num_queries=5, denoising="plain", query_init="anchors", backbone_norm="group"
    )
    images, padding = torch.rand(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.bool)
    given = [{"labels": [1], "boxes": [[0.5, 0.5, 0.2, 0.2]]}, {"labels": torch.tensor([]), "boxes": torch.tensor([])}]
    out = model(images, padding, (target for target in given))  # type: ignore[arg-type]
    assert [branch.name for branch in out.branches] == ["dn"]
    with pytest.raises(DataError, match="a target for each of 2 images, found 1"):
        model(images, padding, given[:1])  # type: ignore[arg-type]


def test_outputs_and_weights_of_others_are_refused() -> None:
    theirs = {"pred_logits": output().logits, "pred_boxes": output().boxes}
    for use in (
        lambda: CRITERION(theirs, targets()),
        lambda: CRITERION.match(theirs, targets()),
        lambda: postprocess(theirs, [(10, 10)] * 2),  # type: ignore[arg-type]
        lambda: panoptic(theirs, [(10, 10)] * 2, [(10, 10)] * 2, [True] * 4),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match="the keys pred_logits, pred_boxes"):
            use()
    for name, wrong in (("num_classes", "91"), ("eos_coef", None), ("giou_loss_coef", -1), ("set_cost_bbox", "5")):
        with pytest.raises(ConfigError, match=f"{name}.*found {wrong!r}"):
            build_criterion(**{name: wrong})
    with pytest.raises(ConfigError, match="classes"):
        build_criterion(num_classes=7)(output(), targets())


SIZES = [(60, 80), (50, 40)]


def test_sizes_in_every_clear_form_give_the_same() -> None:
    expected = postprocess(output(), torch.tensor(SIZES))
    forms: list[Any] = [
        SIZES,
        tuple(SIZES),
        iter(SIZES),
        np.array(SIZES),
        torch.tensor(SIZES, dtype=torch.int32),
        torch.tensor(SIZES, dtype=torch.float32),
        [torch.tensor(pair) for pair in SIZES],
        [torch.Size(pair) for pair in SIZES],
        np.array(SIZES, dtype=np.int32).tolist(),
    ]
    for sizes in forms:
        actual = postprocess(output(), sizes)
        assert [each.image_size for each in actual] == SIZES
        assert all(torch.equal(a.xyxy, b.xyxy) for a, b in zip(actual, expected, strict=True))
    (alone,) = postprocess(output(images=1), (60, 80))  # type: ignore[arg-type]
    assert alone.image_size == (60, 80)


@pytest.mark.parametrize(
    "sizes",
    [
        SIZES[:1],
        SIZES * 2,
        (60, 80),
        [60, 80],
        torch.tensor([60, 80]),
        torch.zeros(2, 3),
        None,
        640,
        "640",
        [("a", "b")] * 2,
    ],
    ids=str,
)
def test_sizes_that_are_not_one_per_image_are_refused(sizes: Any) -> None:
    out = output(masks=True)
    for use in (
        lambda: postprocess(out, sizes),
        lambda: panoptic(out, sizes, SIZES, [True] * 4),
        lambda: panoptic(out, SIZES, sizes, [True] * 4),
    ):
        with pytest.raises(ConfigError, match="sizes as 2 pairs of height and width"):
            use()
    for wrong in ([(0, 80), (50, 40)], [(60, -80), (50, 40)], [(60.5, 80), (50, 40)], [(float("nan"), 1), (2, 2)]):
        with pytest.raises(ConfigError, match="whole pixels above 0"):
            postprocess(out, wrong)  # type: ignore[arg-type]


def test_settings_are_numbers_or_left_out(detector: Detector, some_images: Path) -> None:
    out = output(masks=True)
    everything = postprocess(out, SIZES)
    assert [len(each) for each in postprocess(out, SIZES, threshold=None, mask_threshold=None)] == [6, 6]
    lowest = float(everything[0].scores.median())
    for number in (np.float32(lowest), torch.tensor(lowest), np.float64(lowest)):
        assert len(postprocess(out, SIZES, threshold=number)[0]) < 6  # type: ignore[arg-type]
    assert len(postprocess(out, SIZES, top_k=np.int64(3))[0]) == 3  # type: ignore[arg-type]
    path = some_images / "5.png"
    assert len(detector.predict(path, threshold=None)) == len(detector.predict(path))
    wrongs: list[tuple[str, Callable[[Any], Any], tuple[Any, ...]]] = [
        ("threshold", lambda value: postprocess(out, SIZES, threshold=value), ("0.5", "high", 50, float("nan"), [0.5])),
        ("mask_threshold", lambda value: postprocess(out, SIZES, mask_threshold=value), ("0.5", 2)),
        ("top_k", lambda value: postprocess(out, SIZES, top_k=value), ("5", -1, 2.5, True)),
        ("threshold", lambda value: panoptic(out, SIZES, SIZES, [True] * 4, value), ("0.5", -0.1)),
        ("threshold", lambda value: detector.predict(path, threshold=value), ("0.5", 2, {})),
        ("threshold", lambda value: detector.stream(path, threshold=value), ("0.5", 2)),
        ("top_k", lambda value: detector.predict(path, top_k=value), ("5", -1)),
        ("batch_size", lambda value: detector.predict(path, batch_size=value), (None, "4", 0, 1.5)),
        ("batch size", lambda value: detector.warmup(batch_sizes=[value]), ("4", 0)),
        ("sizes", lambda value: detector.warmup(sizes=value), ([(48,)], [("a", "b")], ["ab"])),
        ("image_size", lambda value: Detector(detector.model, detector.categories, value), ("800", None, 0)),
    ]
    for name, use, values in wrongs:
        for value in values:
            with pytest.raises(ConfigError, match=f"expected (a|an|)? ?{name}.*found"):
                use(value)


def test_is_thing_in_every_clear_form() -> None:
    out = output(masks=True)
    expected = panoptic(out, SIZES, SIZES, [True, False, True, False], 0.1)
    for things in (
        (True, False, True, False),
        iter([1, 0, 1, 0]),
        {0: True, 1: False, 2: True, 3: False},
        torch.tensor([True, False, True, False]),
        np.array([True, False, True, False]),
    ):
        actual = panoptic(out, SIZES, SIZES, things, 0.1)  # type: ignore[arg-type]
        assert [each.segments for each in actual] == [each.segments for each in expected]
    assert len(panoptic(out, SIZES, SIZES, [True] * 4, None)) == 2
    for wrong in ({0, 2}, None, True, "things"):
        with pytest.raises(ConfigError, match="is_thing as a list or dict of true or false"):
            panoptic(out, SIZES, SIZES, wrong)  # type: ignore[arg-type]


def test_detectors_need_fitting_parts(detector: Detector, checkpoint: Path) -> None:
    for wrong in (None, "", 5, {"model": {}}, detector.model, checkpoint.read_bytes()):
        with pytest.raises(WeightsError, match="expected weights as a run folder, a file or a published name, found"):
            Detector.load(wrong)  # type: ignore[arg-type]
    assert Detector.load(checkpoint, device=None, image_size=None).image_size == 64
    assert Detector.load(checkpoint, device=torch.device("cpu")).device.type == "cpu"
    for settings in (
        {"device": 1.5},
        {"image_size": "800"},
        {"image_size": -1},
        {"precision": None},
        {"compile": True},
    ):
        with pytest.raises(ConfigError, match=r"found|finds"):
            Detector.load(checkpoint, **settings)
    with pytest.raises(ConfigError, match="expected a model"):
        Detector(str(checkpoint), detector.categories, 64)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected Categories, found a list"):
        Detector(detector.model, ["scratch", "pit", "stain"], 64)  # type: ignore[arg-type]
    for count in (2, 4):
        with pytest.raises(ConfigError, match=f"each of the model's 3 classes, found {count}"):
            Detector(detector.model, Categories.unnamed(count), 64)
    with pytest.raises(ConfigError, match="expected a Batch"):
        detector.detect(torch.zeros(1, 3, 8, 8))  # type: ignore[arg-type]


def test_detections_in_every_clear_form() -> None:
    xyxy, scores, ids = [[1, 2, 3, 4], [5, 6, 7, 8]], [0.9, 0.8], [3, 7]
    expected = Detections(torch.tensor(xyxy).float(), torch.tensor(scores), torch.tensor(ids))
    for made in (
        Detections(xyxy, scores, ids),  # type: ignore[arg-type]
        Detections(np.array(xyxy), np.array(scores, np.float32), np.array(ids, np.int32)),  # type: ignore[arg-type]
        Detections(torch.tensor(xyxy), torch.tensor(scores), torch.tensor(ids, dtype=torch.int32)),
    ):
        assert torch.equal(made.xyxy, expected.xyxy)
        assert made.class_ids.dtype == torch.int64
        assert made.to_coco() == expected.to_coco()
    named = Detections(torch.zeros(2, 4), torch.ones(2), torch.ones(2).long(), class_names=iter("ab"))  # type: ignore[arg-type]
    assert named.class_names == ("a", "b")
    nothing = Detections(torch.tensor([]), torch.tensor([]), torch.tensor([]))
    assert (len(nothing), nothing.xyxy.shape, nothing.class_ids.dtype) == (0, (0, 4), torch.int64)
    assert nothing.to_coco() == []
    for wrong in (
        {"xyxy": torch.zeros(3, 4)},
        {"scores": None},
        {"class_ids": torch.tensor([1.5, 2.5])},
        {"xyxy": "boxes"},
        {"class_names": ("one",)},
    ):
        with pytest.raises(DataError, match="expected"):
            Detections(**({"xyxy": xyxy, "scores": scores, "class_ids": ids} | wrong))  # type: ignore[arg-type]
    for keep in (torch.tensor([True]), [True, False, True], "cat", None):
        with pytest.raises(DataError, match="expected"):
            expected[keep]  # type: ignore[index]
    with pytest.raises(DataError, match=r"class indices in 0\.\.2, found 3"):
        expected.with_categories(Categories.unnamed(3))
    assert Categories(iter([1, 2]), iter("ab")) == Categories((1, 2), ("a", "b"))  # type: ignore[arg-type]


def test_drawn_detections_must_fit_their_image(detector: Detector, mask_detector: Detector, some_images: Path) -> None:
    for actual in (
        detector.predict(some_images / "5.png", threshold=0),
        mask_detector.predict(some_images / "5.png", threshold=0.5),
        mask_detector.panoptic(some_images / "5.png", threshold=0.1),
    ):
        assert actual.draw(some_images / "12.png").shape[2] == 3  # of the same size
        with pytest.raises(DataError, match=r"60 x 80 pixels \(height x width\).*found one of 40 x 100"):
            actual.draw(some_images / "wide.png")
    anywhere = Detections(torch.tensor([[1.0, 1, 9, 9]]), torch.ones(1), torch.zeros(1).long())
    assert anywhere.draw(some_images / "wide.png").ndim == 3  # nobody said of what size
    broken = Detections(torch.tensor([[1.0, 1, 9, 9], [torch.nan] * 4]), torch.ones(2), torch.zeros(2).long())
    with pytest.warns(UserWarning, match="1 of 2 boxes are NaN"):
        broken.draw(some_images / "wide.png")


def test_numbers_of_detections_that_come_one_by_one() -> None:
    from detrkit.evaluation.coco_metrics import compute_coco_metrics

    box = {"bbox": [1.0, 2.0, 10.0, 10.0], "category_id": 1, "image_id": 1}
    gt = {
        "images": [{"id": 1, "height": 20, "width": 20}],
        "annotations": [box | {"id": 1, "iscrowd": 0, "area": 100.0}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    assert compute_coco_metrics(gt, (row for row in [box | {"score": 0.5}])).metrics["AP"] == pytest.approx(1)


def generator_states() -> tuple[Any, ...]:
    numpy = np.random.get_state()
    return torch.get_rng_state().tolist(), numpy[1].tolist(), numpy[2], random.getstate()


def test_no_public_function_disturbs_random_numbers(
    checkpoint: Path, mask_checkpoint: Path, mask_detector: Detector, some_images: Path, tmp_path: Path
) -> None:
    import rich.style  # which draws a number once, when it is imported

    from detrkit.cli import main
    from detrkit.data.synthetic.generate import make_demo_dataset

    assert rich.style
    fixed = ["--weights", str(mask_checkpoint), "--device", "cpu"]
    segments = PanopticMap(torch.zeros(60, 80, dtype=torch.int64), [])
    uses: dict[str, Callable[[], Any]] = {
        "load": lambda: Detector.load(checkpoint),
        "load plain": lambda: Detector.load(checkpoint, precision="plain"),
        "predict": lambda: mask_detector.predict(some_images),
        "panoptic": lambda: mask_detector.panoptic(some_images / "5.png"),
        "stream": lambda: list(mask_detector.stream(some_images)),
        "warmup": lambda: mask_detector.warmup([(48, 64)]),
        "postprocess": lambda: postprocess(output(masks=True), SIZES),
        "panoptic of an output": lambda: panoptic(output(masks=True), SIZES, SIZES, [True] * 4),
        "build_criterion": lambda: build_criterion(num_classes=CLASSES),
        "criterion": lambda: loss_of(targets()),
        "match": lambda: CRITERION.match(output(), targets()),
        "draw": lambda: mask_detector.predict(some_images / "5.png").draw(some_images / "5.png"),
        "draw a map": lambda: segments.draw(some_images / "5.png"),
        "to_supervision": lambda: mask_detector.predict(some_images / "5.png").to_supervision(),
        "demo data": lambda: make_demo_dataset(tmp_path / "data", images=4, size=64),
        "the command check": lambda: main(["check", str(tmp_path / "data")]),
        "the command predict": lambda: main(
            ["predict", str(some_images / "5.png"), "--output_dir", str(tmp_path / "out"), *fixed]
        ),
        "the command explain": lambda: main(
            ["explain", str(some_images / "5.png"), "--output_dir", str(tmp_path / "why"), *fixed]
        ),
        "the command eval": lambda: main(
            ["eval", str(tmp_path / "data"), "--output_dir", str(tmp_path / "metrics"), *fixed]
        ),
    }
    for name, use in uses.items():
        before = generator_states()
        use()
        assert generator_states() == before, name
