"""Switch by switch: what each idea adds to the classic model, and what the fast recipe loses without it.

    python benchmarks/switches.py --data path/to/bccd path/to/chess --epochs 20 --seeds 2 --output_dir runs/switches

Three series are trained on each data set:

    added      classic, then one group of settings after another turned to what the fast recipe has, and kept
    removed    the fast recipe with one group turned back to classic
    further    the fast recipe with one idea more, that it does without

Writes switches.md and, for each data set, NAME/results.json and NAME/added.png, removed.png, further.png. Started
again, it trains only what is not there.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from curves import by_name, draw_curves, markdown
from detrkit.config.presets import sigmoid_losses
from detrkit.config.train import TrainConfig
from detrkit.data.formats.detect import open_dataset
from detrkit.errors import ConfigError
from detrkit.files import write_atomic
from limited import limited_copy
from runner import (
    Results,
    Run,
    Variant,
    add_run_flags,
    check_flags,
    make_jobs,
    run_jobs,
    run_with_messages,
    words,
)

SERIES = ("added", "removed", "further")
AUGMENTATION = (
    "augmentation",
    "mosaic",
    "mixup",
    "copy_paste",
    "zoom_out",
    "iou_crop",
    "color_jitter",
    "vertical_flip",
    "multi_scale",
    "no_aug_epochs",
)


SIZE = ("backbone", "backbone_weights", "hidden_dim", "nheads")
"""Settings that make a model large or small."""


@dataclass(frozen=True)
class Switch:
    """The settings of one idea. Their values with the idea are those of the recipe `fast`."""

    name: str
    settings: tuple[str, ...]
    """Names of `TrainConfig`, some of which may be the same in both recipes."""
    off: Mapping[str, Any] = field(default_factory=dict)
    """Values without the idea in `fast`, where those of `classic` would break other parts; else those of `classic`."""


SWITCHES: tuple[Switch, ...] = (
    Switch(
        "schedule", ("lr", "lr_backbone", "lr_base_size", "lr_schedule", "warmup_steps", "clip_max_norm", "norm_decay")
    ),
    Switch("zero_dropout", ("dropout",)),
    Switch("square_resize", ("square_resize",)),
    Switch("augmentation", AUGMENTATION, off={"augmentation": "flip"}),
    Switch("small", ("enc_layers", "dec_layers", "dim_feedforward"), off={"enc_layers": 1}),
    Switch("class_loss", ("class_loss", "set_cost_class", "cls_loss_coef"), off=sigmoid_losses("focal")),
    Switch(
        "levels",
        ("feature_levels", "encoder", "encoder_expansion", "encoder_blocks", "separable_convs"),
        off={"feature_levels": "32"},
    ),
    Switch("deformable", ("decoder", "num_points"), off={"decoder": "conditional"}),
    Switch("box_refine", ("box_refine",)),
    Switch("selection", ("query_init", "num_queries"), off={"query_init": "anchors", "two_stage_head": "encoder"}),
    Switch("dense_head", ("dense_head", "dense_convs", "dense_loss_coef", "two_stage_head")),
    Switch("query_nms_iou", ("query_nms_iou",)),
    Switch("ema", ("ema",)),
    Switch("rare_classes", ("repeat_threshold",)),
)
"""Ideas in the order in which they are added; together they are all differences of `fast` and `classic` (tested)."""

FURTHER: dict[str, dict[str, Any]] = {
    "score_refine": {"score_refine": True},
    "look_forward_twice": {"look_forward_twice": True},
    "groups": {"query_groups": 3},
    "hybrid_branch": {"num_queries_one2many": 300},
    "two_stage": {"query_init": "two_stage"},
    "features": {"query_init": "topk_features"},
    "encoder_seeds": {"two_stage_head": "encoder"},
    "fcos": {"dense_head": "fcos"},
    "atss": {"dense_head": "atss"},
    "plain_denoising": {"denoising": "plain"},
    "contrastive_denoising": {"denoising": "contrastive", "dn_box_noise": 1.0},
    "matchability": {"class_loss": "matchability"},
    "deformable_encoder": {"encoder": "deformable", "enc_layers": 3},
    "one_encoder_block": {"encoder_blocks": 1},
    "separable_convs": {"separable_convs": True},
    "dropout": {"dropout": 0.1},
    "multi_scale": {"multi_scale": 0.3},
    "detr_crops": {"augmentation": "detr"},
}
"""What is tried on top of `fast`."""


def variants(series: Sequence[str] = SERIES, model: str = "") -> dict[str, list[Variant]]:
    """The rows of each series; the first is what the others are compared with.

    Args:
        series: names of the series.
        model: model of `fast`, where it is not that of the recipe. All rows, those of classic too, have its size
            (backbone, widths).
    """
    own = {"model": model} if model else {}
    fast, classic = TrainConfig.from_recipe("fast", **own).to_dict(), TrainConfig.from_recipe("classic").to_dict()
    size = {name: fast[name] for name in SIZE} if model else {}
    rows: dict[str, list[Variant]] = {}
    added: dict[str, Any] = dict(size)
    ladder = [Variant("classic", "classic", dict(size))]
    removed = [Variant("fast", "fast", own)]
    for number, switch in enumerate(SWITCHES, start=1):
        added |= {name: fast[name] for name in switch.settings}
        ladder.append(Variant(f"add{number:02d}_{switch.name}", "classic", dict(added)))
        without = {name: classic[name] for name in switch.settings} | dict(switch.off)
        if any(fast[name] != value for name, value in without.items()):
            removed.append(Variant(f"no_{switch.name}", "fast", own | without))
    rows["added"], rows["removed"] = ladder, removed
    rows["further"] = [removed[0]]
    rows["further"] += [
        Variant(f"with_{name}", "fast", own | settings)
        for name, settings in FURTHER.items()
        if any(fast[key] != value for key, value in settings.items())
    ]
    return {name: rows[name] for name in series}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 if every model was trained, 1 if one failed, and see `runner.run_with_messages`."""
    return run_with_messages(lambda: _compare(_parser().parse_args(arguments)))


def _compare(flags: argparse.Namespace) -> int:
    check_flags(flags)
    unknown = [name for name in flags.series if name not in SERIES]
    if unknown:
        raise ConfigError(f"--series knows {', '.join(SERIES)}, found {unknown[0]!r}")
    rows = _chosen(variants(flags.series, flags.model), flags.only)
    folder = Path(flags.output_dir)
    epochs = flags.epochs or 50
    names = [Path(data).resolve().stem for data in flags.data]
    if len(set(names)) < len(names):
        raise ConfigError(f"expected data sets of different names, found {', '.join(names)}")
    found: dict[str, list[Run]] = {}
    failures: list[str] = []
    for data in flags.data:
        open_dataset(data)  # an error in the data set is reported once, not by every training
    for name, data in zip(names, flags.data, strict=True):
        out_dir = folder / name
        # one training a name: `fast` heads two series
        once = {variant.name: variant for series in rows.values() for variant in series}
        jobs = make_jobs(
            list(once.values()),
            flags,
            data=limited_copy(data, flags.limit, out_dir) if flags.limit else data,
            epochs=epochs,
            image_size=flags.image_size or 320,
            batch_size=flags.batch_size or 16,
            eval_every=math.gcd(*(flags.eval_epochs or (epochs,))),
        )
        _refuse_other_data(out_dir, jobs[0].data)

        def finished(runs: list[Run], name: str = name, out_dir: Path = out_dir) -> None:
            found[name] = runs
            write_atomic(folder / "switches.md", tables(rows, found))
            for series, members in rows.items():
                shown = _of(members, runs)
                if shown:
                    draw_curves(out_dir / f"{series}.png", shown, f"{name}: {series}")

        _, failed = run_jobs(jobs, out_dir, parallel=flags.parallel or 1, finished=finished)
        failures += failed
    if found:
        print("\n" + (folder / "switches.md").read_text(encoding="utf-8"))
    return 1 if failures else 0


def tables(rows: Mapping[str, Sequence[Variant]], found: Mapping[str, Sequence[Run]]) -> str:
    """One table a series: of each data set AP at the end, mean ± deviation over the seeds, and what it changed.

    In `added` a row is compared with the row before it, else with the first one.
    """
    parts = []
    for series, members in rows.items():
        groups = {data: by_name(_of(members, runs)) for data, runs in found.items()}
        before = "the row above" if series == "added" else members[0].name
        head = ["settings"]
        for data in found:
            head += [f"{data} AP", f"against {before}", "s / epoch"]
        body = []
        for k, variant in enumerate(members):
            other = members[max(0, k - 1)] if series == "added" else members[0]
            cells = [variant.name]
            for data in found:
                cells += _cells(groups[data].get(variant.name, []), groups[data].get(other.name, []))
            body.append(cells)
        parts.append(f"### {series}\n\n{markdown(head, body)}")
    return "\n".join(parts)


def _cells(group: Sequence[Run], other: Sequence[Run]) -> list[str]:
    if not group:
        return ["", "", ""]
    values = [run.curve[-1].AP for run in group]
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    change = f"{mean(values) - mean(run.curve[-1].AP for run in other):+.3f}" if other and other is not group else ""
    return [f"{mean(values):.3f}{spread}", change, f"{mean(run.seconds_per_epoch for run in group):.1f}"]


def _of(members: Sequence[Variant], runs: Sequence[Run]) -> list[Run]:
    """The runs of a series, in its order."""
    return [run for variant in members for run in runs if run.job.name == variant.name]


def _chosen(rows: dict[str, list[Variant]], only: Sequence[str]) -> dict[str, list[Variant]]:
    """The rows named, and the first of each series, which the others need."""
    if not only:
        return rows
    known = [variant.name for members in rows.values() for variant in members]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ConfigError(f"--only knows {', '.join(dict.fromkeys(known))}, found {unknown[0]!r}")
    return {series: [v for v in members if v is members[0] or v.name in only] for series, members in rows.items()}


def _refuse_other_data(out_dir: Path, data: str) -> None:
    for run in Results(out_dir).runs:
        if run.job.data != data:
            raise ConfigError(f"{out_dir} holds results on {run.job.data}, now it is {data}; name another --output_dir")


def _parser() -> argparse.ArgumentParser:
    first, *rest = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=first, epilog="\n".join(rest), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", required=True, help="folders of the data sets")
    parser.add_argument("--series", type=words, default=SERIES, help=f"of {', '.join(SERIES)}; default: all")
    parser.add_argument("--model", default="", help="of fast, such as detrkit_n; default: the recipe's own")
    parser.add_argument("--only", type=words, default=(), metavar="NAME,...", help="only these rows")
    add_run_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
