"""The classes of `detrkit detr`: which rows its class head has, and which category each of them is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detrkit.errors import ConfigError, DataError

if TYPE_CHECKING:  # these import torch, and `detrkit detr --help` answers at once
    from detrkit.structures import Categories


def choose_classes(data: Categories, num_classes: int | None) -> Categories:
    """The classes of the model, from those of the data and `--num_classes`.

    As many as the data has: these, in the order of their ids. More than its highest id: one for each id, as in main.py,
    of which those that the data lacks are called "N/A". None: `one_class_per_id`.

    Raises:
        ConfigError: it is neither.
    """
    from detrkit.structures import Categories

    if num_classes is None:
        return one_class_per_id(data)
    if num_classes == len(data):
        return data.by_id()
    highest = max(data.ids, default=0)
    if not all(0 <= i < num_classes for i in data.ids):
        raise ConfigError(
            f"--num_classes {num_classes}, but the data has {len(data)} classes with ids up to {highest}; say "
            f"--num_classes {len(data)} for a row for each of them, or at least {highest + 1} for one for each id"
        )
    names = dict(zip(data.ids, data.names, strict=True))
    things = data.thing_ids
    return Categories(
        tuple(range(num_classes)),
        tuple(names.get(i, f"N/A {i}") for i in range(num_classes)),
        tuple(i in things for i in range(num_classes)) if data.isthing else (),
    )


def rows_note(data: Categories, classes: Categories) -> str:
    """A line for those who train more rows than their data has classes, and did not ask for it; empty for COCO."""
    from detrkit.models.checkpoints.published import COCO_CATEGORIES, COCO_PANOPTIC_CATEGORIES

    if {*data.names} <= {*(COCO_PANOPTIC_CATEGORIES if data.isthing else COCO_CATEGORIES).names}:
        return ""
    return (
        f"{len(classes)} rows of the class head are trained, one for each id from 0 to {len(classes) - 1} as in "
        f"main.py, though the data has {len(data)} classes; --num_classes {len(data)} trains these alone"
    )


def one_class_per_id(data: Categories) -> Categories:
    """The 91 classes of main.py, or 250 for panoptic data, whose index is the category id: named as in the data set,
    else as in COCO.

    Raises:
        DataError: a category id is beyond these.
    """
    from detrkit.models.checkpoints.published import COCO_CATEGORIES
    from detrkit.structures import Categories

    count = 250 if data.isthing else len(COCO_CATEGORIES)
    names = dict(zip(data.ids, data.names, strict=True))
    beyond = [category_id for category_id in data.ids if not 0 <= category_id < count]
    if beyond:
        raise DataError(
            f"main.py has {count} classes, for category ids 0 to {count - 1}, and this data set has the id {beyond[0]} "
            f"({names[beyond[0]]}); --num_classes {len(data)} trains a row for each class, whatever its id"
        )
    free = {i: name for i, name in enumerate(COCO_CATEGORIES.names) if name not in data.names}
    things = {i for i, thing in zip(data.ids, data.isthing, strict=False) if thing}
    return Categories(
        tuple(range(count)),
        tuple(names.get(i, free.get(i, f"N/A {i}")) for i in range(count)),
        tuple(i in things for i in range(count)) if data.isthing else (),
    )
