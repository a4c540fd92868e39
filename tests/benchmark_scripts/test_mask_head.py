"""The benchmark of the mask head: what it counts, and how many masks each kind of step makes."""

import pytest
import torch

import mask_head
from mask_head import Cost


def test_ratios_of_the_step_and_of_the_masks() -> None:
    costs = {"none": Cost(2.0, 300, 0), "matched": Cost(3.0, 500, 28), "all": Cost(9.0, 1500, 400)}
    assert mask_head.ratios(costs) == {"whole step": (3.0, 3.0), "masks alone": (6.0, 7.0)}
    rows = mask_head.table(costs).splitlines()
    assert "| matched | 28 | 500 | 3.00 |" in rows
    assert "| masks alone | 6.0 | 7.0 |" in rows


@pytest.mark.parametrize(("kind", "masks"), [("none", 0), ("matched", 2 * 3), ("all", 2 * 8)])
def test_a_step_makes_only_the_masks_it_needs(kind: str, masks: int) -> None:
    sizes = {"size": 64, "batch": 2, "objects": 3, "queries": 8, "classes": 4, "backbone": "resnet18", "steps": 1}
    given = [f"--{name}={value}" for name, value in sizes.items()]
    cost = mask_head.measure(mask_head.parse([*given, f"--threads={torch.get_num_threads()}", f"--kind={kind}"]))
    assert cost.masks == masks
    assert cost.seconds > 0
