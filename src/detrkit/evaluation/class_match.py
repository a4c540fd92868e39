"""Matching a model's classes to those of a data set."""

from __future__ import annotations

from dataclasses import dataclass

from detrkit.structures import Categories


@dataclass(frozen=True)
class ClassMatch:
    """Correspondence of the classes of a model and the categories of a data set."""

    id_of: dict[int, int]
    """Class index of the model -> category id of the data set."""
    unknown_to_data: tuple[str, ...]
    """Names of the model's classes that the data set does not have; their detections are dropped."""
    unknown_to_model: tuple[str, ...]
    """Names of the data set's classes that the model does not have; their objects count as missed."""
    by_id: str = ""
    """One pair as an example, "1 cell = scratch", where no name is shared and classes are matched by id; else empty."""


def match_classes(model: Categories, data: Categories) -> ClassMatch:
    """Match a model's classes to a data set's, by name where they share names, else by id."""
    index_of = model.index_map_from(data)
    id_of = {index: category_id for category_id, index in index_of.items()}
    name_of = dict(zip(data.ids, data.names, strict=True))
    pairs = [(i, model.names[index], name_of[i]) for i, index in index_of.items()]
    agree = any(ours == theirs for _, ours, theirs in pairs)
    return ClassMatch(
        by_id="" if agree or not pairs else f"{pairs[0][0]} {pairs[0][1]} = {pairs[0][2]}",
        id_of=id_of,
        unknown_to_data=tuple(name for index, name in enumerate(model.names) if index not in id_of),
        unknown_to_model=tuple(n for i, n in zip(data.ids, data.names, strict=True) if i not in index_of),
    )
