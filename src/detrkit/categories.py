"""The classes of a data set; everybody imports them from `structures`, with the other nouns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from detrkit.errors import DataError


@dataclass(frozen=True)
class Categories:
    """The classes of a data set; the one owner of `num_classes` and of the mapping from class index to original id.

    Class index k (what the model and the targets hold, 0..C-1) stands for original id `ids[k]` and `names[k]`.
    Ids may be sparse and start anywhere; they are unique. Names are unique too, except for unused entries.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    isthing: tuple[bool, ...] = ()
    """Panoptic data only: whether class k is a countable thing; empty means that all are."""

    def __post_init__(self) -> None:
        for name in ("ids", "names", "isthing"):  # of lists and iterators as well
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.ids) != len(self.names) or len(self.isthing) not in (0, len(self.ids)):
            raise DataError(f"expected as many category names as ids, found {len(self.names)} and {len(self.ids)}")
        if len(set(self.ids)) != len(self.ids):
            twice = next(i for i in self.ids if self.ids.count(i) > 1)
            raise DataError(f"expected unique category ids, found id {twice} more than once")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def index_of_id(self) -> dict[int, int]:
        """Original id -> class index."""
        return {category_id: index for index, category_id in enumerate(self.ids)}

    @property
    def thing_ids(self) -> set[int]:
        """Original ids of the things; of all classes where nobody says."""
        return {i for i, thing in zip(self.ids, self.isthing or (True,) * len(self), strict=True) if thing}

    def index_map_from(self, other: Categories) -> dict[int, int]:
        """Original id in `other` -> class index here; matched by name where both are named, else by id.

        Ids of `other` that have no counterpart are absent. This is how a model meets a data set that numbers the
        same classes differently.
        """
        by_name = {name: index for index, name in enumerate(self.names)}
        if any(name in by_name for name in other.names):
            return {i: by_name[name] for i, name in zip(other.ids, other.names, strict=True) if name in by_name}
        return {i: index for i, index in self.index_of_id.items() if i in set(other.ids)}

    def by_id(self) -> Self:
        """The same classes in the order of their ids."""
        order = sorted(range(len(self)), key=lambda index: self.ids[index])
        isthing = tuple(self.isthing[k] for k in order) if self.isthing else ()
        return type(self)(tuple(self.ids[k] for k in order), tuple(self.names[k] for k in order), isthing)

    def to_plain(self) -> list[dict[str, Any]]:
        """As JSON-like data, one entry a class: what checkpoints and COCO files hold."""
        things = self.isthing or (True,) * len(self)
        rows: list[dict[str, Any]] = [{"id": i, "name": n} for i, n in zip(self.ids, self.names, strict=True)]
        if self.isthing:
            for row, thing in zip(rows, things, strict=True):
                row["isthing"] = int(thing)
        return rows

    @classmethod
    def from_plain(cls, rows: Iterable[Mapping[str, Any]]) -> Self:
        """The inverse of `to_plain`; entries keep their order."""
        rows = list(rows)
        things = tuple(bool(row["isthing"]) for row in rows) if rows and all("isthing" in r for r in rows) else ()
        return cls(tuple(int(r["id"]) for r in rows), tuple(str(r["name"]) for r in rows), things)

    @classmethod
    def unnamed(cls, num_classes: int) -> Self:
        """Classes 0..C-1 whose names are their numbers: what a bare state dict allows."""
        return cls(tuple(range(num_classes)), tuple(str(i) for i in range(num_classes)))
