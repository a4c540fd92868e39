"""Tell the split (train, val, test) from the words of a file or folder name: one rule for all formats."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

_WORDS = {
    "train": ("train", "training", "trn", "训练"),
    "val": ("val", "valid", "validation", "validate", "dev", "development", "eval", "验证", "校验"),
    "test": ("test", "testing", "tst", "测试"),
}
_SPLIT_OF_WORD = {word: split for split, words in _WORDS.items() for word in words}
_ENDINGS = ("sets", "set", "data", "images", "imgs", "split", "集")
"""What may follow the word without a space: trainset, valdata, 训练集."""


@lru_cache(maxsize=4096)
def split_of_name(name: str) -> str:
    """`train`, `val`, `test` or empty, from the words of a name: `instances_val2017` and `ValSet` are val.

    Empty if the words contradict each other.
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    splits = {split for word in re.split(r"[\W_]+", spaced) if (split := _of_word(word.lower()))}
    splits |= {split for word in re.split(r"[\W_]+", name) if (split := _of_word(word.lower()))}
    return splits.pop() if len(splits) == 1 else ""


def split_of_parts(parts: Iterable[str]) -> str:
    """The split by the last part of a path that is the name of a split; empty if there is none."""
    return next((split_name for part in reversed(list(parts)) if (split_name := split_of_name(part))), "")


def _of_word(word: str) -> str:
    word = re.sub(r"\d+$", "", word)
    if word in _SPLIT_OF_WORD:
        return _SPLIT_OF_WORD[word]
    for ending in _ENDINGS:
        if word.endswith(ending) and word.removesuffix(ending) in _SPLIT_OF_WORD:
            return _SPLIT_OF_WORD[word.removesuffix(ending)]
    return ""
