"""Optimized and plain models have the same AP, on a trained model."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from detrkit.commands.demo import demo
from detrkit.commands.eval import evaluate
from detrkit.config.commands import DemoConfig, EvalConfig
from detrkit.data.synthetic.generate import make_demo_dataset


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_average_precision_of_the_demo_is_that_of_the_plain_model(tmp_path: Path) -> None:
    run = tmp_path / "demo"
    demo(DemoConfig(output_dir=str(run), minutes=4))
    held_out = make_demo_dataset(tmp_path / "held_out", images=1500, seed=7)  # of few objects, one swap is 0.002
    actual = {}
    for precision in ("plain", "fp32", "bf16"):
        config = EvalConfig(
            weights=str(run),
            data=str(held_out),
            output_dir=str(tmp_path / precision),
            device="cpu",
            precision=precision,
            num_workers=0,
            max_errors=0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            actual[precision] = evaluate(config)["coco"]["bbox"]["AP"]
    assert actual["plain"] > 0.5  # it did learn: of a model that has not, rounding moves more
    assert abs(actual["fp32"] - actual["plain"]) <= 0.001
    assert abs(actual["bf16"] - actual["plain"]) <= 0.002
