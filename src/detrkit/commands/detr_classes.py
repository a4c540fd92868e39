"""The classes of `detrkit detr`: the rows of its class head and their categories."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detrkit.errors import ConfigError, DataError

if TYPE_CHECKING:  # imports torch, which `detrkit detr --help` must not wait for
    from detrkit.structures import Categories


def choose_classes(data: Categories, num_classes: int | None) -> Categories:
    """Choose the classes of the model from the categories of the data and `--num_classes`.

    Args:
        data: categories of the data set.
        num_classes: the number of categories in `data`: one class per category, in the order of their ids. A number
            above their highest id: one class per id, as in main.py; ids without a category are named "N/A". None:
            `one_class_per_id`.

    Raises:
        ConfigError: `num_classes` is another number.
    """
    from detrkit.structures import Categories

    if num_classes is None:
        return one_class_per_id(data)
    if num_classes == len(data):
        return data.by_id()
    highest = max(data.ids, default=0)
    if not all(0 <= i < num_classes for i in data.ids):
        raise ConfigError(
            f"--num_classes {num_classes}, but the data has {len(data)} classes with ids up to {highest}; use "
            f"--num_classes {len(data)} for one row per class, or at least {highest + 1} for one row per id"
        )
    names = dict(zip(data.ids, data.names, strict=True))
    things = data.thing_ids
    return Categories(
        tuple(range(num_classes)),
        tuple(names.get(i, f"N/A {i}") for i in range(num_classes)),
        tuple(i in things for i in range(num_classes)) if data.isthing else (),
    )


def rows_note(data: Categories, classes: Categories) -> str:
    """A note that the class head has more rows than the data has classes; empty for the classes of COCO."""
    from detrkit.models.checkpoints.published import COCO_CATEGORIES, COCO_PANOPTIC_CATEGORIES

    if {*data.names} <= {*(COCO_PANOPTIC_CATEGORIES if data.isthing else COCO_CATEGORIES).names}:
        return ""
    return (
        f"{len(classes)} rows of the class head are trained, one for each id from 0 to {len(classes) - 1} as in "
        f"main.py, though the data has {len(data)} classes; --num_classes {len(data)} trains one row per class"
    )


def one_class_per_id(data: Categories) -> Categories:
    """The 91 classes of main.py, or 250 for panoptic data, indexed by category id.

    A class has the name of its category in the data set, else its name in COCO, else "N/A".

    Raises:
        DataError: a category id is out of range.
    """
    from detrkit.models.checkpoints.published import COCO_CATEGORIES
    from detrkit.structures import Categories

    count = 250 if data.isthing else len(COCO_CATEGORIES)
    names = dict(zip(data.ids, data.names, strict=True))
    beyond = [category_id for category_id in data.ids if not 0 <= category_id < count]
    if beyond:
        raise DataError(
            f"main.py has {count} classes, for category ids 0 to {count - 1}, and this data set has the id {beyond[0]} "
            f"({names[beyond[0]]}); --num_classes {len(data)} trains one row per class, whatever its id"
        )
    free = {i: name for i, name in enumerate(COCO_CATEGORIES.names) if name not in data.names}
    things = {i for i, thing in zip(data.ids, data.isthing, strict=False) if thing}
    return Categories(
        tuple(range(count)),
        tuple(names.get(i, free.get(i, f"N/A {i}")) for i in range(count)),
        tuple(i in things for i in range(count)) if data.isthing else (),
    )
