"""Convergence: detrkit and what people use instead, trained in the same run on the same images.

    python benchmarks/convergence.py --plan bccd --data path/to/bccd --output_dir runs/convergence-bccd
    python benchmarks/convergence.py --data path/to/mine --models fast,fcos --epochs 20 --output_dir runs/mine
    python benchmarks/convergence.py --data path/to/mine --models fast --set no_ema:ema=0 --output_dir runs/mine

Prints AP and AP50 at some epochs, wall time and memory of each model; writes table.md, results.json and curves.png.
Started again, it trains only what is not in results.json. README.md beside this file has the results.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from curves import by_name, draw_curves, reach_table, result_table, share_of_epochs
from detrkit.data.formats.detect import open_dataset
from detrkit.data.synthetic.generate import make_demo_dataset
from detrkit.errors import ConfigError
from detrkit.files import write_atomic
from limited import limited_copy
from peers import PEERS
from runner import (
    RECIPES,
    Job,
    Results,
    Run,
    Variant,
    add_run_flags,
    check_flags,
    make_jobs,
    parse_variant,
    run_jobs,
    run_with_messages,
    words,
)


@dataclass(frozen=True)
class Plan:
    """The settings behind a published figure; any flag that is given goes before it."""

    models: tuple[str, ...] = ("fast", "classic", *PEERS)
    sets: tuple[str, ...] = ()
    """As after --set; {backbone_weights} is that flag's file."""
    epochs: int = 50
    image_size: int = 320
    batch_size: int = 16
    eval_epochs: tuple[int, ...] = (1, 2, 5, 10, 20, 30, 40, 50)
    parallel: int = 1


SMALL_CLASSIC = "pre_norm=true,enc_layers=1,dec_layers=3,hidden_dim=128,dim_feedforward=256,dropout=0,lr=5e-4"

PLANS: dict[str, Plan] = {
    "bccd": Plan(),
    "chess": Plan(),
    "deeppcb": Plan(image_size=640, eval_epochs=(5, 10, 20, 30, 40, 50)),  # 300 images to measure on
    "nuclei": Plan(image_size=256),
    # 10 epochs on ImageNet's weights against 50 from scratch
    "pretrained": Plan(
        models=("fast",),
        sets=(
            "pretrained:backbone=timm:tf_efficientnet_lite0,backbone_weights={backbone_weights},epochs=10,batch_size=4,"
            "denoising=contrastive,dn_box_noise=1.0",
        ),
    ),
    # a fifth of the epochs of classic: as in the reference DETR, and as small and quick as it learns on this set
    "demo": Plan(
        models=("classic",),
        sets=(
            f"classic_small:base=classic,{SMALL_CLASSIC},lr_schedule=cosine,warmup_steps=50",
            "fast:epochs=12",
        ),
        epochs=60,
        image_size=64,
        eval_epochs=(1, 2, 4, 6, 8, 10, 12, 20, 30, 40, 50, 60),
    ),
    # bccd for two cores; Faster R-CNN would take as long as all others together
    "cpu": Plan(
        models=("fast", "fcos", "rtdetr"), epochs=6, image_size=160, eval_epochs=(1, 2, 3, 4, 5, 6), parallel=2
    ),
}
"""What to say after --plan; --data names where the data set is, except for `demo`, whose images are drawn."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 if every model was trained, 1 if one failed, and see `runner.run_with_messages`."""
    return run_with_messages(lambda: _compare(_parser().parse_args(arguments)))


def _compare(flags: argparse.Namespace) -> int:
    check_flags(flags)
    plan = _plan(flags)
    folder = Path(flags.output_dir)
    variants = _variants(plan, flags)
    data = flags.data
    if not data and flags.plan == "demo":
        data = str(make_demo_dataset(folder / "data"))
    if not data:
        raise ConfigError("expected a data set, found none; name its folder with --data")
    if flags.limit:
        data = limited_copy(data, flags.limit, folder)
    jobs = make_jobs(
        variants,
        flags,
        data=data,
        epochs=plan.epochs,
        image_size=plan.image_size,
        batch_size=plan.batch_size,
        eval_every=math.gcd(*plan.eval_epochs),
    )
    open_dataset(data)  # a wrong data set is an error now, not in every training
    _refuse_other_data(Results(folder).runs, jobs[0], folder)
    title = f"{flags.plan or Path(flags.data).name}, {plan.image_size} px, batch {plan.batch_size}"

    def finished(runs: list[Run]) -> None:
        write_atomic(folder / "table.md", tables(runs, plan.eval_epochs, title))
        draw_curves(folder / "curves.png", runs, title)

    runs, failures = run_jobs(jobs, folder, parallel=plan.parallel, finished=finished)
    if runs:
        print("\n" + (folder / "table.md").read_text(encoding="utf-8"))
        print(f"{folder / 'results.json'}\n{folder / 'curves.png'}")
    return 1 if failures else 0


def tables(runs: Sequence[Run], epochs: Sequence[int], title: str) -> str:
    """What is printed, as Markdown."""
    parts = [f"### {title}\n", result_table(runs, epochs, reference="fasterrcnn"), reach_table(runs)]
    groups = by_name(runs)
    for slow in ("classic", "classic_small"):
        shares = [
            share
            for quick, other in zip(groups.get("fast", []), groups.get(slow, []), strict=False)
            if (share := share_of_epochs(quick, other)) is not None
        ]
        if shares:
            parts.append(f"To any AP that {slow} reaches, fast needs at most {max(shares):.0%} of its epochs.\n")
    return "\n".join(part for part in parts if part)


def _plan(flags: argparse.Namespace) -> Plan:
    """The preset, under the flags that were given."""
    plan = PLANS[flags.plan] if flags.plan else Plan()
    given = {
        name: value
        for name in ("models", "epochs", "image_size", "batch_size", "eval_epochs", "parallel")
        if (value := getattr(flags, name)) is not None
    }
    plan = replace(plan, **given)
    unknown = [name for name in plan.models if name not in (*RECIPES, *PEERS)]
    if unknown:
        raise ConfigError(f"--models knows {', '.join((*RECIPES, *PEERS))}, found {unknown[0]!r}")
    return plan


def _variants(plan: Plan, flags: argparse.Namespace) -> list[Variant]:
    texts = [*plan.sets, *flags.set]
    if any("{backbone_weights}" in text for text in texts) and not flags.backbone_weights:
        raise ConfigError("this plan starts from weights, found none; name their file with --backbone_weights")
    variants = [Variant(name, name) for name in plan.models]
    variants += [parse_variant(text.replace("{backbone_weights}", flags.backbone_weights)) for text in texts]
    if not variants:
        raise ConfigError("expected a model to train, found none; name some with --models, or with --set")
    names = [variant.name for variant in variants]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"expected a name of its own for each model, found {twice[0]!r} more than once")
    return variants


def _refuse_other_data(runs: Sequence[Run], job: Job, folder: Path) -> None:
    """A folder holds one comparison."""
    for run in runs:
        if run.job.data != job.data:
            raise ConfigError(
                f"{folder} holds results on {run.job.data}, but now the data is {job.data}; name another --output_dir"
            )


def _parser() -> argparse.ArgumentParser:
    first, *rest = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=first, epilog="\n".join(rest), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--plan", choices=list(PLANS), help="the settings behind a published figure")
    add("--data", default="", help="folder or file of the data set (COCO, Pascal VOC or YOLO)")
    add("--models", type=words, help=f"of {', '.join((*RECIPES, *PEERS))}; default: all")
    add("--set", action="append", default=[], metavar="NAME:KEY=VALUE,...", help=parse_variant.__doc__.split("\n")[0])
    add("--backbone_weights", default="", metavar="FILE", help="what --plan pretrained starts from")
    add_run_flags(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
