"""Models of transformers give what transformers gives, under detrkit's interface."""

import copy
import subprocess
import sys

import pytest
import torch

from detrkit.inference import Detector
from detrkit.losses.transformers_losses import TransformersCriterion
from detrkit.models.checkpoints import fit_weights, load_weights
from detrkit.models.hf.fit_classes import with_classes
from detrkit.structures import Categories

from . import tiny


def test_nothing_imports_transformers_before_it_is_needed():
    code = (
        "import sys, detrkit, detrkit.inference, detrkit.models.hf.network, detrkit.losses.transformers_losses; "
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_outputs_are_those_of_transformers(saved, loaded, model_type):
    _, reference = saved(model_type)
    model, (pixels, padding) = loaded(model_type), tiny.images()
    with torch.no_grad():
        out = model(pixels, padding)
        expected = reference(pixel_values=model.normalize(pixels, padding))
    assert out.logits.std() > 0.1
    assert torch.equal(out.logits, expected.logits)
    assert torch.equal(out.boxes, expected.pred_boxes)
    assert out.sigmoid == (model_type != "detr")
    assert (model.num_classes, model.num_queries) == (3, out.logits.shape[1])


def test_boxes_are_relative_to_the_image_without_its_padding(saved, loaded, model_type):
    _, reference = saved(model_type)
    model, (pixels, _) = loaded(model_type), tiny.images(2, 96, 128)
    padding = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding[0, 48:], padding[1, :, 64:] = True, True
    with torch.no_grad():
        out = model(pixels, padding)
        expected = reference(pixel_values=model.normalize(pixels, padding), pixel_mask=(~padding).long())
    scale = torch.ones(2, 4)
    if not model.model_type.heeds_padding:
        scale = torch.tensor([[1.0, 0.5, 1.0, 0.5], [0.5, 1.0, 0.5, 1.0]])
    assert torch.equal(out.logits, expected.logits)
    torch.testing.assert_close(out.boxes * scale[:, None], expected.pred_boxes)


def test_images_of_any_size(loaded, model_type):
    model = loaded(model_type)
    pixels, padding = tiny.images(1, 70, 99)
    with torch.no_grad():
        out = model(pixels, padding)
    assert out.boxes.isfinite().all()
    assert out.boxes.shape == (1, model.num_queries, 4)


@pytest.mark.parametrize("objects", [(2, 1), (0, 3), (0, 0)])
def test_the_loss_is_that_of_transformers(saved, loaded, model_type, objects):
    _, reference = saved(model_type)
    model, (pixels, padding) = loaded(model_type).train(), tiny.images()
    criterion, truth = TransformersCriterion(model.network.config), tiny.targets(*objects)
    torch.manual_seed(3)
    losses = criterion(model(pixels, padding, truth), truth)
    total = criterion.weighted_sum(losses)
    total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    torch.manual_seed(3)
    theirs = copy.deepcopy(reference).train()(pixel_values=model.normalize(pixels, padding), labels=tiny.labels(truth))
    if model_type not in ("d_fine", "deimv2"):
        torch.testing.assert_close(total, theirs.loss, rtol=1e-5, atol=1e-5)
        return
    # transformers pairs the distributions of each layer with the layer before: what does not concern them is equal
    kind = "loss_vfl" if model_type == "d_fine" else "loss_mal"
    names = {kind: kind, "pre/" + kind: f"{kind}_aux_0", f"{kind}_0": f"{kind}_aux_1"}
    for ours, name in names.items():
        torch.testing.assert_close(losses[ours], theirs.loss_dict[name], rtol=1e-5, atol=1e-5)
    if sum(objects):
        torch.testing.assert_close(losses["dn_pre/loss_giou"] * 2, theirs.loss_dict["loss_giou_dn_0"])


def test_names_of_losses_do_not_depend_on_the_objects(loaded, model_type):
    model, (pixels, padding) = loaded(model_type).train(), tiny.images()
    criterion = TransformersCriterion(model.network.config)
    names = [list(criterion(model(pixels, padding, t), t)) for t in (tiny.targets(2, 1), tiny.targets(0, 0))]
    assert names[0] == names[1]


def test_half_precision_gives_nearly_the_same(loaded, model_type):
    model, (pixels, padding) = loaded(model_type), tiny.images()
    with torch.no_grad():
        exact = model(pixels, padding)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(pixels, padding)
    assert half.boxes.dtype == half.logits.dtype == torch.float32
    assert half.logits.isfinite().all()
    scores = (exact.logits.sigmoid().mean(), half.logits.sigmoid().mean())
    assert abs(scores[0] - scores[1]) < 0.05
    model.train()
    truth = tiny.targets(2, 1)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(pixels, padding, truth)
    criterion = TransformersCriterion(model.network.config)
    total = criterion.weighted_sum(criterion(out, truth))
    total.backward()
    assert total.dtype == torch.float32
    assert total.isfinite()


def test_classes_of_the_same_name_keep_their_rows(saved, loaded, model_type):
    folder, _ = saved(model_type)
    weights = load_weights(folder)
    categories = Categories((1, 2, 5, 6), ("bird", "horse", "cat", "boat"))
    fitted = with_classes(weights, categories, num_queries=8)
    torch.manual_seed(5)
    model = fitted.build_model()
    rows = fit_weights(model, weights, categories)
    assert [row.kept_from for row in rows] == ["bird", None, "cat", None]
    assert (model.num_classes, model.num_queries) == (4, 8)
    (pixels, padding), before = tiny.images(), loaded(model_type)
    model.eval()
    heads = "class_labels_classifier" if model_type in ("detr", "conditional_detr") else "class_embed"
    new, old = ({k: v for k, v in m.state_dict().items() if heads in k} for m in (model, before))
    assert new
    for key, value in new.items():
        if "denoising" in key:
            continue
        assert torch.equal(value[0], old[key][2]), key
        assert torch.equal(value[2], old[key][0]), key
        if model_type == "detr":
            assert torch.equal(value[4], old[key][3])
    with torch.no_grad():
        out = model(pixels, padding)
    assert out.logits.shape == (2, 8, 4 + (model_type == "detr"))
    assert model.network.config.id2label == dict(enumerate(categories.names))


def test_a_detector_predicts_with_the_names_of_the_folder(saved, model_type):
    detector = Detector.load(saved(model_type)[0])
    assert detector.image_size == tiny.SIZE
    detections = detector.predict(tiny.images(1, 80, 120)[0][0].permute(1, 2, 0).numpy(), threshold=0.0)
    assert set(detections.class_names) <= set(tiny.NAMES.values())
    plain = Detector.load(saved(model_type)[0], precision="plain")
    again = plain.predict(tiny.images(1, 80, 120)[0][0].permute(1, 2, 0).numpy(), threshold=0.0)
    assert torch.allclose(detections.scores, again.scores, atol=1e-4)
