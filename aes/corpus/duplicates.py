"""Texts or page images -> pairs that share much of their content, and groups of such pairs.

Two texts overlap by the share of the shorter one's character 5-grams that also stand in the
other one ("containment"), so that an excerpt counts as much as a copy. Case, width, punctuation
and white space do not count. Measured on the 300 essays of AES-Dataset: four pairs are identical
(overlap 1), one has 0.72 (an essay and its extended version), and of all other pairs the closest
has 0.038. ``NEAR_OVERLAP`` stands in that gap: texts of which every fifth character was changed
(0.8 ** 5 = 0.33) still count as near, essays that quote the same saying do not.

Images are compared by their bytes: two photos of one sheet are different images here.

This module knows no essay, no score and no policy: it compares strings and files.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NGRAM = 5
NEAR_OVERLAP = 0.3
SAME_JACCARD = 0.9
# Longer runs of texts with one 5-gram are compared with their neighbours only: copies of one text
# still hang together as a chain, and a stock phrase cannot make the work quadratic.
_WINDOW = 32
# What stands in many texts is thereby counted too seldom, so pairs are compared in full from a
# third of what makes them near.
_SUSPECT = NEAR_OVERLAP / 3
# Of larger corpora only every second, third ... 5-gram looks for pairs: a bound on memory. Of
# 100,000 texts with 700 5-grams, a pair that is just near is missed once in a million.
_MOST_KEYS = 16_000_000
# Odd 64-bit multiplier of the polynomial hash. Source: Steele, Lea & Flood (2014), SplitMix.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class Overlap(NamedTuple):
    """Two texts that share wording, or two essays that share pages.

    Attributes:
        first: Index of the earlier one.
        second: Index of the later one.
        shared: Share of the shorter one's 5-grams or pages that the other has, in ``(0, 1]``.
        jaccard: Shared 5-grams or pages over those of both together, in ``(0, 1]``.
    """

    first: int
    second: int
    shared: float
    jaccard: float

    @property
    def is_same(self) -> bool:
        """Whether the two are one essay, but for a slip or two."""
        return self.jaccard >= SAME_JACCARD


def fold(text: str) -> str:
    """Letters, digits and characters of a text alone: no width, case, punctuation or space."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text))).casefold()


def find_overlaps(texts: Sequence[str]) -> list[Overlap]:
    """All pairs of texts that share at least ``NEAR_OVERLAP`` of the shorter one's 5-grams.

    Time and memory grow with the number of characters, not with the number of pairs.

    Returns:
        Pairs in ascending order; texts without any letter are in none.
    Source: Broder (1997), On the resemblance and containment of documents.
    """
    grams = [_hash_text(text) for text in texts]
    num_grams = sum(map(len, grams))
    every = np.uint64(-(-num_grams // _MOST_KEYS))
    chosen = grams if every <= 1 else [g[g % every == 0] for g in grams]
    sizes = np.array([len(g) for g in chosen], dtype=np.int64)
    if not sizes.sum():
        return []
    keys = np.concatenate(chosen)
    owners = np.repeat(np.arange(len(texts), dtype=np.int64), sizes)
    order = np.argsort(keys, kind="stable")
    firsts, seconds, shared = _count_shared(keys[order], owners[order], len(texts))
    suspects = np.flatnonzero(shared >= _SUSPECT * np.minimum(sizes[firsts], sizes[seconds]))
    pairs = zip(firsts[suspects].tolist(), seconds[suspects].tolist(), strict=True)
    overlaps = (_compare(grams, first, second) for first, second in pairs)
    return [overlap for overlap in overlaps if overlap.shared >= NEAR_OVERLAP]


def _compare(grams: Sequence[NDArray[np.uint64]], first: int, second: int) -> Overlap:
    a, b = grams[first], grams[second]
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return Overlap(first, second, shared / min(len(a), len(b)), shared / (len(a) + len(b) - shared))


def find_shared_pages(essays: Sequence[Sequence[Path]]) -> list[Overlap]:
    """Pairs of essays that have an image file in common, to the byte.

    Only files of equal size are read. Of more than two such essays each is linked to the next.

    Args:
        essays: The image files of each essay; none for one that is typed.

    Returns:
        Pairs in ascending order.
    """
    sizes = Counter(page.stat().st_size for pages in essays for page in pages)
    contents = [{_identify(page, sizes) for page in pages} for pages in essays]
    owners: dict[frozenset[str], list[int]] = {}
    for i, content in enumerate(contents):
        # By all pages at once too, so that copies always find each other.
        whole = {frozenset(content)} if content else set()
        for key in whole | {frozenset({digest}) for digest in content}:
            owners.setdefault(key, []).append(i)
    # Neighbours only, as with texts: a sheet that all essays share must not cost a square.
    pairs = {pair for same in owners.values() for pair in pairwise(same)}
    overlaps = []
    for first, second in sorted(pairs):
        a, b = contents[first], contents[second]
        smaller = min(len(a), len(b))
        overlaps.append(Overlap(first, second, len(a & b) / smaller, len(a & b) / len(a | b)))
    return overlaps


def _identify(page: Path, sizes: Counter[int]) -> str:
    """Equal for files with equal bytes: a digest, or the name where no other has that size."""
    if sizes[page.stat().st_size] == 1:
        return str(page)
    with page.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def group_pairs(num_items: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Joins items that are linked, directly or through others.

    Returns:
        Groups of ascending indices in ``[0, num_items)``, ordered by their first; an item without
        a link is a group of its own.
    """
    parents = list(range(num_items))

    def root(item: int) -> int:
        while parents[item] != item:
            parents[item] = parents[parents[item]]
            item = parents[item]
        return item

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parents[high] = low
    groups: dict[int, list[int]] = {}
    for item in range(num_items):
        groups.setdefault(root(item), []).append(item)
    return list(groups.values())


@lru_cache(maxsize=1 << 10)
def _hash_text(text: str) -> NDArray[np.uint64]:
    """The check of a corpus and its split both ask for it; read only."""
    hashes = _hash_ngrams(fold(text))
    hashes.setflags(write=False)
    return hashes


def _hash_ngrams(text: str) -> NDArray[np.uint64]:
    """Distinct 64-bit hashes of a folded text's 5-grams; a shorter text counts as one 5-gram."""
    if not text:
        return np.empty(0, dtype=np.uint64)
    codes = np.frombuffer(text.ljust(NGRAM, "\0").encode("utf-32-le"), dtype=np.uint32)
    num_grams = len(codes) - NGRAM + 1
    hashes = np.zeros(num_grams, dtype=np.uint64)
    for offset in range(NGRAM):
        hashes = hashes * _MULTIPLIER + codes[offset : offset + num_grams].astype(np.uint64)
    return np.unique(hashes)


def _count_shared(
    keys: NDArray[np.uint64], owners: NDArray[np.int64], num_texts: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """First text, second text and number of shared 5-grams of each pair that shares any.

    Args:
        keys: Hashes in ascending order.
        owners: Text of each hash, ascending among equal hashes.
        num_texts: All owners are below it.
    """
    pairs = [np.empty(0, dtype=np.int64)]
    for step in range(1, min(_WINDOW, len(keys) - 1) + 1):
        same = keys[step:] == keys[:-step]
        if not same.any():
            break
        pairs.append(owners[:-step][same] * num_texts + owners[step:][same])
    codes, counts = np.unique(np.concatenate(pairs), return_counts=True)
    return codes // num_texts, codes % num_texts, counts
