"""The vocabulary of the text encoder depends on its texts, and on nothing else."""

import itertools
import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from scfoundry.model.langcell import _word_pieces
from scfoundry.model.langcell._tokenizer import SPECIAL, UNKNOWN, Tokenizer, learn_vocabulary
from scfoundry.model.langcell._word_pieces import INSIDE, joined, learn_pieces, with_joined

TEXTS = [
    f"cell type: {kind} {name}; tissue: {tissue}."
    for kind in ("naive", "memory", "activated", "CD4-positive, alpha-beta")
    for name in ("T cell", "B cell", "monocyte", "natural killer cell")
    for tissue in ("blood", "lung", "bone marrow", "Lieberkühn crypt")
]


def learn_by_definition(words, size):
    """Count all pairs anew before every join."""
    spelled = {word: [word[0], *(INSIDE + letter for letter in word[1:])] for word in words}
    letters = Counter()
    for word, pieces in spelled.items():
        for piece in pieces:
            letters[piece] += words[word]
    vocabulary = sorted(letters, key=lambda letter: (-letters[letter], letter))[:size]
    while len(vocabulary) < size:
        pairs = Counter()
        for word, pieces in spelled.items():
            for pair in itertools.pairwise(pieces):
                pairs[pair] += words[word]
        if not pairs or max(pairs.values()) < 2:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if joined(best) not in vocabulary:
            vocabulary.append(joined(best))
        spelled = {word: with_joined(pieces, best) for word, pieces in spelled.items()}
    return vocabulary


@pytest.mark.parametrize("size", [10, 40, 400])
@pytest.mark.parametrize("seed", range(5))
def test_pieces_are_those_of_the_definition(seed, size):
    """Few letters make pairs that repeat, overlap and tie in a word."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("aab"), rng.integers(1, 12))) for _ in range(40)]
    counted = {word: int(rng.integers(1, 4)) for word in words}
    assert learn_pieces(counted, size) == learn_by_definition(counted, size)


def test_the_order_of_texts_does_not_matter():
    expected = learn_vocabulary(TEXTS, 200)
    for seed in range(3):
        assert learn_vocabulary(np.random.default_rng(seed).permutation(TEXTS).tolist(), 200) == expected


@pytest.mark.parametrize("hash_seed", ["1", "2", "3"])
def test_every_process_learns_the_same_pieces(hash_seed):
    """The hash of a string, and with it the order of a set, differs from process to process."""
    code = (
        "import collections, json, runpy, sys; learn = runpy.run_path(sys.argv[1])['learn_pieces'];"
        "print(json.dumps(learn(collections.Counter(sys.argv[2:]), 200)))"
    )
    words = " ".join(TEXTS).split()
    command = [sys.executable, "-c", code, _word_pieces.__file__, *words]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603
    assert json.loads(done.stdout) == learn_pieces(Counter(words), 200)


@pytest.mark.parametrize("size", [60, 200, 8192])
def test_learned_pieces_spell_their_texts(size):
    vocabulary = learn_vocabulary(TEXTS, size)
    assert vocabulary[: len(SPECIAL)] == SPECIAL
    assert len(vocabulary) == len(set(vocabulary)) <= size
    tokens = Tokenizer(vocabulary, max_length=200)(TEXTS).tokens
    assert vocabulary.index(UNKNOWN) not in tokens


def test_frequent_words_become_one_piece():
    vocabulary = learn_vocabulary(TEXTS, 8192)
    assert {"monocyte", "naive", "lieberkuhn"} <= set(vocabulary)
    words = Tokenizer(vocabulary, max_length=20)(["naive monocyte"]).tokens
    assert [vocabulary[word] for word in words] == ["[CLS]", "naive", "monocyte", "[SEP]"]


def test_a_small_vocabulary_keeps_the_frequent_letters():
    assert learn_pieces({"ab": 3, "ac": 1}, 2) == ["a", "##b"]
    assert learn_pieces({}, 10) == []
