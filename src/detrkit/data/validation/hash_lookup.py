"""Find all hashes within a Hamming distance of others, without comparing each with each."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from detrkit.data.validation.image_hash import Hashes

RADIUS = 11
"""Largest number of bits in which the hashes of two images that are compared may differ."""
_BANDS, _WIDTH = 4, 16


class HashIndex:
    """Banded lookup of 64-bit hashes: exact within `RADIUS` bits.

    A hash is cut into 4 bands of 16 bits. By the pigeonhole principle, hashes that differ in at most 11 bits differ in
    at most 2 bits of some band, so only the hashes that share a band up to 2 bits are compared (Norouzi et al. 2012,
    "Fast search in Hamming space with multi-index hashing", section 3).

    Args:
        hashes: [N].
    """

    def __init__(self, hashes: Hashes) -> None:
        self.hashes = hashes
        bands = hashes[:, None] >> _SHIFTS & _MASK  # [N, bands]
        self._order = [np.argsort(bands[:, band], kind="stable") for band in range(_BANDS)]
        self._starts = [
            np.searchsorted(bands[order, band], np.arange(2**_WIDTH + 1)) for band, order in enumerate(self._order)
        ]

    def query(self, queries: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
        """Find the hashes within `RADIUS` bits of any of the queries, all of one image.

        Args:
            queries: [Q].

        Returns:
            Rows of the hashes [n], rising; the nearest query of each [n]; and the bits in which they differ [n].
        """
        rows = self._candidates(queries)
        distances = np.bitwise_count(queries[:, None] ^ self.hashes[rows])  # [Q, n]
        nearest = distances.argmin(axis=0) if len(rows) else np.zeros(0, dtype=np.int64)
        least = distances[nearest, np.arange(len(rows))]
        near = least <= RADIUS
        return rows[near], nearest[near], least[near]

    def _candidates(self, queries: Hashes) -> NDArray[np.int64]:
        """Rows of the hashes that share a band with a query, up to 2 bits; or all rows, if these are as many."""
        chosen = np.zeros(len(self.hashes), dtype=np.bool_)
        for band in range(_BANDS):
            probes = ((queries >> _SHIFTS[band] & _MASK)[:, None] ^ _FLIPS).ravel().astype(np.int64)
            first, last = self._starts[band][probes], self._starts[band][probes + 1]
            counts = last - first
            total = int(counts.sum())
            if total > len(self.hashes) / 2:
                return np.arange(len(self.hashes))
            # positions first[k], first[k] + 1, ..., last[k] - 1 of every probe k
            positions = np.arange(total) + np.repeat(first - np.cumsum(counts) + counts, counts)
            chosen[self._order[band][positions]] = True
        return np.flatnonzero(chosen)


_SHIFTS = np.arange(0, 64, _WIDTH, dtype=np.uint64)
_MASK = np.uint64(2**_WIDTH - 1)
_FLIPS = np.array(
    [
        sum(1 << bit for bit in bits)
        for count in range(RADIUS // _BANDS + 1)
        for bits in combinations(range(_WIDTH), count)
    ],
    dtype=np.uint64,
)
"""All changes of up to 2 bits of a band."""
