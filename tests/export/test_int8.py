"""int8 that keeps its AP: groups of convolutions, and the search for those that stay in floating point."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from detrkit.config.commands import ExportConfig
from detrkit.errors import ConfigError
from detrkit.exporting import int8_search
from detrkit.exporting.formats.export_format import ExportFormat, TracedGraph
from detrkit.exporting.int8 import group_of, groups_of, measure_ranges, quantize
from detrkit.exporting.parity import Accuracy, prediction_error
from detrkit.structures import Output

from .small import metadata, small_model


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.backbone.0.body.layer1.0.conv1.17", "backbone.layer1"),
        ("model.backbone.0.body.conv1.3", "backbone.conv1"),
        ("model.backbone.0.body.conv1.0.3", "backbone.conv1"),
        ("core.model.transformer.encoder.fpn_blocks.0.conv2.conv.40", "encoder.fpn_blocks"),
        ("model.input_proj.1.0.5", "input_proj"),
        ("model.input_proj.5", "input_proj"),
        ("model.network.model.backbone.model.encoder.stages.2.blocks.0.conv.9", "backbone.encoder.stages.2"),
        ("model.dense_head.classes.0.conv.1", None),
        ("model.transformer.decoder.layers.0.conv.1", None),
    ],
)
def test_groups_are_the_parts_that_people_know(name, group):
    assert group_of(name) == group


@pytest.fixture(scope="module")
def two_convs():
    """A graph of a convolution of the backbone and one of the encoder, and samples."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    noise = np.random.default_rng(0)
    value = onnx.helper.make_tensor_value_info
    weights = [
        onnx.numpy_helper.from_array(noise.normal(size=(4, 4, 3, 3)).astype(np.float32), name) for name in ("w", "v")
    ]
    biases = [onnx.numpy_helper.from_array(noise.normal(size=4).astype(np.float32), name) for name in ("b", "c")]
    names = "model.backbone.0.body.layer1.0.conv1.0", "model.transformer.encoder.out_projs.0.1"
    nodes = [
        onnx.helper.make_node("Conv", ["images", "w", "b"], ["x"], name=names[0]),
        onnx.helper.make_node("Conv", ["x", "v", "c"], ["y"], name=names[1]),
    ]
    ends = [value("images", onnx.TensorProto.FLOAT, [1, 4, 9, 9])], [value("y", onnx.TensorProto.FLOAT, None)]
    graph = onnx.helper.make_graph(nodes, "two", *ends, [*weights, *biases])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    return proto, [{"images": torch.randn(1, 4, 9, 9, generator=torch.Generator().manual_seed(k))} for k in range(3)]


def test_groups_in_floating_point_have_no_integers_around_them(two_convs):
    import onnxruntime

    proto, samples = two_convs
    assert groups_of(proto) == ["backbone.layer1", "encoder.out_projs"]
    measured = measure_ranges(proto, samples)
    given = {"images": samples[0]["images"].numpy()}
    (expected,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, given)
    integers, errors = {}, {}
    for left in ((), ("backbone.layer1",), ("encoder.out_projs",), ("backbone.layer1", "encoder.out_projs")):
        quantized = quantize(measured, left)
        integers[left] = {each.name[0] for each in quantized.graph.initializer if each.data_type == 3}
        (out,) = onnxruntime.InferenceSession(quantized.SerializeToString()).run(None, given)
        errors[left] = float(np.abs(out - expected).max())
    assert [sorted(each & {"w", "v"}) for each in integers.values()] == [["v", "w"], ["v"], ["w"], []]
    assert errors["backbone.layer1", "encoder.out_projs"] < 1e-5
    assert all(0 < errors[left] < 0.2 * np.abs(expected).max() for left in list(errors)[:3])
    assert all(errors[left] < errors[()] for left in list(errors)[1:])


def test_biases_stay_in_floating_point_for_tensorrt(two_convs):
    to_array = pytest.importorskip("onnx").numpy_helper.to_array
    measured = measure_ranges(*two_convs)
    for with_bias, expected in ((True, 2), (False, 0)):
        proto = quantize(measured, with_bias=with_bias)
        whole = [to_array(each) for each in proto.graph.initializer if each.data_type == 6]  # int32, zero points too
        assert sum(bool(each.any()) for each in whole) == expected


def output(scores, boxes):
    return Output(torch.tensor(scores)[None].logit(), torch.tensor(boxes)[None], sigmoid=True)


def test_the_error_of_predictions_does_not_depend_on_the_order_of_queries():
    boxes = [[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]]
    first = output([[0.9, 0.1], [0.2, 0.3]], boxes)
    assert prediction_error(first, output([[0.2, 0.3], [0.9, 0.1]], boxes[::-1])) == pytest.approx(0, abs=1e-6)
    moved = [[0.5, 0.5, 0.2, 0.3], boxes[1]]
    assert prediction_error(first, output([[0.8, 0.1], [0.2, 0.3]], moved)) == pytest.approx(0.1, abs=1e-6)


GROUPS = {"stem": 0.010, "stages": 0.001, "encoder": 0.030}
"""Group -> the AP that it costs in int8."""


@pytest.fixture
def search(tmp_path, monkeypatch):
    """Searches with a format whose files are the names of the groups in floating point, and lists what it measured."""
    measured = []

    def measure(config, reference, exported, split, aps):
        measured.append(exported.left)
        return [Accuracy("AP of boxes", aps[0], aps[0] - sum(GROUPS[g] for g in GROUPS if g not in exported.left))]

    def load(path, device):
        left = path.read_text().split()
        backend = SimpleNamespace(makes_masks=False, forward_detection=lambda *of: left)
        return SimpleNamespace(left=tuple(left), backend=backend)

    patches = {
        "to_onnx": lambda graph: None,
        "groups_of": lambda proto: list(GROUPS),
        "measure_aps": lambda *of, **settings: [0.6],
        "compare_accuracy": measure,
        "prediction_error": lambda expected, left: sum(GROUPS[g] for g in GROUPS if g not in left),
        "Detector": SimpleNamespace(load=load),
    }
    for name, patch in patches.items():
        monkeypatch.setattr(int8_search, name, patch)
    write = lambda graph, path: path.write_text(" ".join(sorted(graph.float_groups)))  # noqa: E731
    fake = ExportFormat("fake", ".txt", (), ("int8",), write, open=lambda *of: None)
    sample = {"images": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}
    graph = TracedGraph(None, metadata(small_model("classic"), precision="int8"), [sample])
    split = SimpleNamespace(has_masks=False)

    def run(max_ap_drop):
        config = ExportConfig(weights="w", max_ap_drop=max_ap_drop)
        return int8_search.write_int8(graph, tmp_path / "best.txt", fake, None, split, config), measured

    return run


def test_int8_that_is_good_enough_is_measured_once(search, tmp_path: Path):
    steps, measured = search(0.05)
    assert measured == [()]
    assert [step.float_groups for step in steps] == [()]
    assert (tmp_path / "best.txt").read_text() == ""


def test_the_groups_that_cost_most_are_left_out_until_the_drop_is_allowed(search, tmp_path: Path):
    steps, measured = search(0.005)
    assert measured == [(), ("encoder",), ("encoder", "stem")]
    assert [step.drop for step in steps] == pytest.approx([0.041, 0.011, 0.001])
    assert all(step.ms > 0 for step in steps)
    assert (tmp_path / "best.txt").read_text() == "encoder stem"
    assert [path.name for path in tmp_path.iterdir()] == ["best.txt"]


def test_nothing_is_written_if_no_file_keeps_its_ap(search, tmp_path: Path):
    (tmp_path / "best.txt").write_text("older")
    with pytest.raises(
        ConfigError, match=r"found none: at best, with encoder, stem in fp32, AP of boxes falls from 0\.6"
    ):
        search(0.0001)
    assert (tmp_path / "best.txt").read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["best.txt"]


def test_the_number_of_measured_files_is_bounded(search, monkeypatch):
    many = {f"stage{k:02}": 0.01 for k in range(40)}
    monkeypatch.setitem(globals(), "GROUPS", many)
    monkeypatch.setattr(int8_search, "groups_of", lambda proto: list(many))
    steps, measured = search(0.1)
    assert len(steps) <= int8_search.MOST_STEPS
    assert steps[-1].drop == pytest.approx(0.08)
    assert len(measured) == len(steps)
