"""Word pieces learned from texts (Wu et al. 2016): the most frequent neighbours are joined, again and again."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["INSIDE", "learn_pieces"]

# In front of a piece that does not begin a word.
INSIDE = "##"

# A pair seen once tells nothing of the language.
_RAREST = 2


def learn_pieces(words: Mapping[str, int], size: int) -> list[str]:
    """Pieces that spell words, the letters first, then what they were joined to.

    Letters come by frequency. Of pairs as frequent as each other, the first by the alphabet is joined: the result is a
    function of the words and their numbers alone.

    ``words``: word -> how often it was seen. ``size``: most pieces.
    """
    spelled = [[word[0], *(INSIDE + letter for letter in word[1:])] for word in words]
    numbers = list(words.values())
    letters: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    where: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for i, (pieces, number) in enumerate(zip(spelled, numbers, strict=True)):
        for piece in pieces:
            letters[piece] += number
        for pair in itertools.pairwise(pieces):
            pairs[pair] += number
            where[pair].add(i)

    vocabulary = dict.fromkeys(sorted(letters, key=lambda letter: (-letters[letter], letter))[:size])
    queue = [(-number, pair) for pair, number in pairs.items()]
    heapq.heapify(queue)
    while queue and len(vocabulary) < size:
        number, pair = heapq.heappop(queue)
        if -number != pairs[pair]:
            continue  # counted anew since it was queued
        if -number < _RAREST:
            break
        vocabulary[joined(pair)] = None
        touched = set()
        for i in where[pair]:
            touched |= recount(pairs, where, i, spelled[i], -numbers[i])
            spelled[i] = with_joined(spelled[i], pair)
            touched |= recount(pairs, where, i, spelled[i], numbers[i])
        for changed in touched:
            heapq.heappush(queue, (-pairs[changed], changed))
    return list(vocabulary)


def joined(pair: tuple[str, str]) -> str:
    """The piece that a pair makes."""
    return pair[0] + pair[1].removeprefix(INSIDE)


def with_joined(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """A word after its occurrences of a pair are joined, from left to right."""
    result, i = [], 0
    while i < len(pieces):
        found = tuple(pieces[i : i + 2]) == pair
        result.append(joined(pair) if found else pieces[i])
        i += 1 + found
    return result


def recount(
    pairs: Counter[tuple[str, str]],
    where: defaultdict[tuple[str, str], set[int]],
    i: int,
    pieces: list[str],
    number: int,
) -> set[tuple[str, str]]:
    """Add a word's pairs, or take them away with a negative number; which pairs it has."""
    own = set(itertools.pairwise(pieces))
    for pair in itertools.pairwise(pieces):
        pairs[pair] += number
    if number > 0:
        for pair in own:
            where[pair].add(i)
    return own
