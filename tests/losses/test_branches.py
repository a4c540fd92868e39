"""Auxiliary outputs: their pairs, names and weights, and the number that each loss is divided by."""

from dataclasses import replace

import pytest
import torch

from detrkit import Output, build_criterion
from detrkit.errors import ConfigError
from detrkit.losses.assigner import DenseAssigner
from detrkit.losses.matcher import LayerOutputs, MatchingProblem
from detrkit.structures import Branch, Locations
from detrkit.training.evaluation import Validator
from tests.models.small import some_targets

C = 4
KINDS = ["focal", "varifocal", "matchability"]


def output(queries=6, layers=2, batch=2, seed=0, classes=C, sigmoid=True):
    generator = torch.Generator().manual_seed(seed)
    outs = [
        Output(
            torch.randn(batch, queries, classes + (not sigmoid), generator=generator).requires_grad_(),
            (0.2 + 0.5 * torch.rand(batch, queries, 4, generator=generator)).requires_grad_(),
            sigmoid=sigmoid,
        )
        for _ in range(layers)
    ]
    return replace(outs[-1], aux=outs[:-1])


def grid(batch=2, padded=False):
    """4 x 4 and 2 x 2 locations; with `padded`, the last column of the second image is padding."""
    centers, cells = [], []
    for n in (4, 2):
        y, x = torch.meshgrid(torch.arange(n) + 0.5, torch.arange(n) + 0.5, indexing="ij")
        centers.append(torch.stack([x, y], -1).flatten(0, 1) / n)
        cells.append(torch.full((n * n, 2), 1 / n))
    padding = torch.zeros(batch, 20, dtype=torch.bool)
    if padded:
        padding[1, 3:16:4] = True
    return Locations(torch.cat(centers).expand(batch, -1, -1), torch.cat(cells).expand(batch, -1, -1), padding, (16, 4))


def branches(batch=2, seed=10):
    """One of each kind."""
    pairs = [(torch.tensor([1, 4, 5]), torch.tensor([0, 1, 0])), (torch.tensor([2]), torch.tensor([0]))][:batch]
    return [
        Branch("dn", output(7, 3, batch, seed), pairs=pairs),
        Branch("dense", output(20, 1, batch, seed + 1), locations=grid(batch)),
        Branch("group", output(9, 2, batch, seed + 2), groups=3),
        Branch("one2many", output(10, 2, batch, seed + 3), repeat=3),
        Branch("encoder", output(8, 1, batch, seed + 4, classes=1), class_agnostic=True),
    ]


NAMES = ("loss_ce", "loss_bbox", "loss_giou")


def test_names_and_weights():
    out, targets = replace(output(), branches=branches()), some_targets(2, 1)
    criterion = build_criterion(
        C, dense_head="tood", class_loss="focal", cls_loss_coef=2, dn_loss_coef=0.5, dense_loss_coef=0.25
    )
    losses = criterion(out, targets)
    layers = {"dn": 3, "dense": 1, "group": 2, "one2many": 2, "encoder": 1}
    expected = {
        f"{branch}/{name}{suffix}"
        for branch, count in layers.items()
        for name in NAMES
        for suffix in ("", *(f"_{i}" for i in range(count - 1)))
    }
    assert {name for name in losses if "/" in name} == expected
    assert set(losses) - expected == set(criterion(replace(out, branches=[]), targets))

    coefs = {"loss_ce": 2, "loss_bbox": 5, "loss_giou": 2}
    total = 0
    for name, loss in losses.items():
        branch, _, term = name.rpartition("/")
        term = term.removesuffix("_0").removesuffix("_1")
        total += coefs.get(term, 0) * {"dn": 0.5, "dense": 0.25}.get(branch, 1) * loss
    torch.testing.assert_close(criterion.weighted_sum(losses), total)


def test_branches_change_nothing_in_the_decoder_layers():
    out, targets = output(), some_targets(2, 1)
    for kind in ("softmax", *KINDS):
        criterion = build_criterion(C, dense_head="tood", class_loss=kind)
        out = output(sigmoid=kind != "softmax")
        extra = Branch("group", output(9, seed=1, sigmoid=kind != "softmax"), groups=3)
        alone, beside = criterion(out, targets), criterion(replace(out, branches=[extra]), targets)
        assert all(torch.equal(beside[name], loss) for name, loss in alone.items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_of_a_branch_follow_its_pairs(kind):
    """Given pairs, groups, repeats and locations all come down to a list of pairs, divided by their number."""
    criterion, targets = build_criterion(C, class_loss=kind, dense_head="fcos"), some_targets(2, 1)
    dn, dense, group, one2many, encoder = branches()

    def matching(branch, **rule):
        return criterion.matcher.match_all([MatchingProblem(LayerOutputs.of([branch.output]), targets, **rule)])[0][0]

    agnostic = [{"labels": torch.zeros_like(t["labels"]), "boxes": t["boxes"]} for t in targets]
    cases = [
        (dn, dn.pairs, 4),
        (dense, DenseAssigner("fcos")(dense.output, dense.locations, targets), None),
        (group, matching(group, groups=3), 3 * 3),
        (one2many, matching(one2many, repeat=3), 3 * 3),
        (encoder, criterion.matcher(encoder.output, agnostic), 3),
    ]
    for branch, pairs, count in cases:
        losses = criterion(replace(output(), branches=[branch]), targets)
        pred_boxes = torch.cat([branch.output.boxes[i, queries] for i, (queries, _) in enumerate(pairs)])
        target_boxes = torch.cat([targets[i]["boxes"][objects] for i, (_, objects) in enumerate(pairs)])
        assert count in (None, len(pred_boxes))
        assert len(pred_boxes) >= 3
        expected = (pred_boxes - target_boxes).abs().sum() / len(pred_boxes)
        torch.testing.assert_close(losses[f"{branch.name}/loss_bbox"], expected)
        if kind == "focal":
            yes = torch.zeros_like(branch.output.logits)
            for i, (queries, objects) in enumerate(pairs):
                labels = agnostic if branch.class_agnostic else targets
                yes[i, queries, labels[i]["labels"][objects]] = 1
            p = branch.output.logits.sigmoid()
            each = yes * 0.25 * (1 - p) ** 2 * -p.log() + (1 - yes) * 0.75 * p**2 * -(1 - p).log()
            torch.testing.assert_close(losses[f"{branch.name}/loss_ce"], each.sum() / len(pred_boxes))


def test_given_pairs_hold_at_every_layer_and_matching_finds_them_anew():
    criterion, targets = build_criterion(C, dense_head="tood", class_loss="focal"), some_targets(2, 1)
    dn, _, group, *_ = branches()
    losses = criterion(replace(output(), branches=[dn, group]), targets)
    for i, layer in enumerate(dn.output.aux):
        alone = replace(dn, output=layer)
        expected = criterion(replace(output(), branches=[alone]), targets)
        assert losses[f"dn/loss_ce_{i}"] == expected["dn/loss_ce"]
        assert losses[f"dn/loss_bbox_{i}"] == expected["dn/loss_bbox"]
    expected = criterion(replace(output(), branches=[replace(group, output=group.output.aux[0])]), targets)
    assert losses["group/loss_giou_0"] == expected["group/loss_giou"]


@pytest.mark.parametrize("kind", ["softmax", *KINDS])
def test_ignored_queries_have_no_loss_and_do_not_count(kind):
    """A branch with queries that are ignored is the branch without them."""
    sigmoid = kind != "softmax"
    targets = some_targets(2, 1)
    criterion = build_criterion(C, dense_head="tood", class_loss=kind)
    keep = [0, 1, 3, 4, 6]
    ignored = torch.ones(2, 7, dtype=torch.bool)
    ignored[:, keep] = False
    whole = output(7, 1, sigmoid=sigmoid, seed=5)
    part = Output(whole.logits[:, keep], whole.boxes[:, keep], sigmoid=sigmoid)
    losses = criterion(
        replace(output(sigmoid=sigmoid), branches=[Branch("a", whole, ignored=ignored), Branch("b", part)]), targets
    )
    for name in NAMES:
        torch.testing.assert_close(losses[f"a/{name}"], losses[f"b/{name}"])


def test_locations_in_the_padding_are_ignored():
    targets = some_targets(2, 3)
    criterion = build_criterion(C, dense_head="tood", class_loss="focal")
    locations = grid(padded=True)
    out = output(20, 1)
    other = replace(out, logits=out.logits.masked_fill(locations.padding[..., None], 9.0))
    losses = [
        criterion(replace(output(), branches=[Branch("dense", one, locations=locations)]), targets)["dense/loss_ce"]
        for one in (out, other)
    ]
    assert losses[0] == losses[1]
    seen = criterion(replace(output(), branches=[Branch("dense", other, locations=grid())]), targets)
    assert seen["dense/loss_ce"] > losses[0]


class _Processes:
    """As many processes in one: each runs twice, first to say what it gives to the reduction, then to get the sum."""

    def __init__(self, monkeypatch, count):
        self.given, self.total, self.calls = [], None, 0
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: count)
        monkeypatch.setattr(torch.distributed, "all_reduce", self.reduce)

    def reduce(self, tensor):
        self.calls += 1
        if self.total is None:
            self.given.append(tensor.clone())
        else:
            tensor.copy_(self.total)

    def run(self, works):
        for work in works:
            work()
        assert len({given.shape for given in self.given}) == 1  # else real processes would wait for ever
        self.total, self.calls = sum(self.given), 0
        return [work() for work in works]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("counts", [(3, 1), (4, 0), (0, 0)])
def test_two_processes_with_one_image_each_equal_one_with_both(kind, counts, monkeypatch):
    """Also where one of them has no object, so that its denoising branch is empty of pairs."""
    criterion, targets = build_criterion(C, dense_head="tood", class_loss=kind), some_targets(*counts)
    every = branches()
    every[0] = replace(
        every[0],
        pairs=[(torch.arange(2 * n) % 7, torch.arange(2 * n) % max(n, 1)) if n < 4 else dealt(n) for n in counts],
    )
    out = replace(output(), branches=every)
    one = criterion(out, targets)

    def of(one_image):
        return lambda: criterion(_only(out, one_image), targets[one_image : one_image + 1])

    processes = _Processes(monkeypatch, 2)
    first, second = processes.run([of(0), of(1)])
    assert processes.calls == 2  # one per process, whatever the number of branches
    for name, loss in one.items():
        if name != "class_error":  # a mean over its own objects
            torch.testing.assert_close((first[name] + second[name]) / 2, loss)


@pytest.mark.parametrize("kind", ["softmax", "focal"])
def test_a_process_without_images_joins_validation(kind, monkeypatch):
    sigmoid = kind != "softmax"
    criterion, out, targets = (
        build_criterion(C, dense_head="tood", class_loss=kind),
        output(sigmoid=sigmoid),
        some_targets(2, 1),
    )
    monkeypatch.setattr("detrkit.training.evaluation._world_size", lambda: 2)
    validator = Validator(criterion, {"categories": []}, (1, 2, 3, None))
    alone = criterion(out, targets)
    losses, _ = _Processes(monkeypatch, 2).run(
        [lambda: criterion(out, targets), lambda: validator._take_part(torch.device("cpu"))]
    )
    torch.testing.assert_close(losses["loss_bbox_0"], 2 * alone["loss_bbox_0"])


def dealt(n):
    return torch.arange(n), torch.arange(n)


def _only(out, i):
    """The part of image i."""

    def part(output):
        return replace(
            output, logits=output.logits[i : i + 1], boxes=output.boxes[i : i + 1], aux=[part(a) for a in output.aux],
            branches=[],
        )  # fmt: skip

    cut = [
        replace(
            branch,
            output=part(branch.output),
            pairs=None if branch.pairs is None else branch.pairs[i : i + 1],
            locations=None if branch.locations is None else grid(1),
        )
        for branch in out.branches
    ]
    return replace(part(out), branches=cut)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trouble", ["no objects", "no size", "one pixel", "saturated", "bfloat16", "no queries"])
def test_nothing_becomes_nan(kind, trouble):
    criterion, targets = build_criterion(C, dense_head="tood", class_loss=kind), some_targets(2, 1)
    out = replace(output(), branches=branches())
    leaves = [t for b in (out, *(b.output for b in out.branches)) for o in (b, *b.aux) for t in (o.logits, o.boxes)]
    match trouble:
        case "no objects":
            targets = some_targets(0, 0)
            none = torch.zeros(0, dtype=torch.int64)
            out.branches[0] = replace(out.branches[0], pairs=[(none, none)] * 2)
        case "no size" | "one pixel":
            for target in targets:
                target["boxes"][:, 2:] = 0 if trouble == "no size" else 1 / 1333
            with torch.no_grad():
                leaves[1][..., 2:] = 0
        case "saturated":
            with torch.no_grad():
                for logits in leaves[::2]:
                    logits.copy_(50 * logits.sign())
        case "bfloat16":
            out = _as(out, torch.bfloat16)
        case "no queries":
            none = torch.zeros(0, dtype=torch.int64)
            empty = output(0, 3)
            out.branches[0] = replace(out.branches[0], output=empty, pairs=[(none, none)] * 2)
            out.branches[2] = replace(out.branches[2], output=empty)
            leaves = leaves[:2]
    losses = criterion(out, targets)
    criterion.weighted_sum(losses).backward()
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)


def _as(out, dtype):
    def cast(output):
        return replace(
            output, logits=output.logits.to(dtype), boxes=output.boxes.to(dtype), aux=[cast(a) for a in output.aux],
            branches=[],
        )  # fmt: skip

    return replace(cast(out), branches=[replace(b, output=cast(b.output)) for b in out.branches])


def test_an_empty_branch_without_objects_is_not_nan_with_softmax_either():
    none = torch.zeros(0, dtype=torch.int64)
    branch = Branch("dn", output(0, 1, sigmoid=False), pairs=[(none, none)] * 2)
    losses = build_criterion(C)(replace(output(sigmoid=False), branches=[branch]), some_targets(0, 0))
    assert losses["dn/loss_ce"] == losses["dn/loss_bbox"] == 0


def test_outputs_of_another_kind_than_the_loss_are_refused():
    for kind in KINDS:
        with pytest.raises(
            ConfigError, match="expected a model whose class scores are an independent sigmoid per class"
        ):
            build_criterion(C, dense_head="tood", class_loss=kind)(output(sigmoid=False), some_targets(2, 1))
    with pytest.raises(ConfigError, match="found one with an independent sigmoid per class"):
        build_criterion(C)(output(), some_targets(2, 1))
    mixed = replace(output(sigmoid=False), branches=[Branch("group", output())])
    with pytest.raises(ConfigError, match="build both for the same class_loss"):
        build_criterion(C)(mixed, some_targets(2, 1))


def test_locations_without_a_rule_to_assign_them_are_refused():
    out = replace(output(), branches=[branches()[1]])
    with pytest.raises(ConfigError, match=r'expected a dense_head .* the branch "dense" to objects, found "none"'):
        build_criterion(C, class_loss="focal", dense_head="none")(out, some_targets(2, 1))


def test_cardinality_of_sigmoid_classes_counts_scores_above_half():
    logits = torch.tensor([[[1.0, -1.0, -1.0, -1.0], [-1.0, -2.0, -1.0, -1.0], [2.0, 3.0, -1.0, -1.0]]])
    out = Output(logits, torch.full((1, 3, 4), 0.5), sigmoid=True)
    losses = build_criterion(C, dense_head="tood", class_loss="focal")(out, some_targets(3))
    assert losses["cardinality_error"] == 1  # two say something, three are there
