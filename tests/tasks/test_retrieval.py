"""The best cells of a text and the best texts of a cell, from any model of both."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from scfoundry._device import Compute
from scfoundry.data.labels import Label
from scfoundry.tasks import retrieval
from scfoundry.tasks.retrieval import best_cells, best_texts, nearest_cells, text_directions


def unit(rng, *shape):
    values = rng.normal(size=shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


class Texts:
    """Embeds a text in the direction of its last letters."""

    def embed_texts(self, texts, compute):
        return np.eye(3, dtype=np.float32)[[int(text[-1]) for text in texts]]


def test_a_label_lies_in_the_mean_direction_of_its_texts():
    labels = [Label("a", ("text 0",)), Label("b", ("text 1", "text 2")), Label("c", ("text 2", "text 2"))]
    directions = text_directions(Texts(), labels, Compute.resolve("cpu"))
    half = np.sqrt(0.5)
    np.testing.assert_allclose(directions, [[1, 0, 0], [0, half, half], [0, 0, 1]], atol=1e-6)


@pytest.mark.parametrize("k", [2, 99])
def test_cells_that_are_not_present_are_not_found(k):
    latent, directions = unit(np.random.default_rng(0), 6, 4), unit(np.random.default_rng(1), 2, 4)
    present = np.array([True, True, False, True, False, True])
    hits = best_cells(latent, directions, present, k)
    assert hits.rows.shape == (2, min(k, 4))
    assert present[hits.rows].all()
    assert hits.labels.tolist() == [[0] * min(k, 4), [1] * min(k, 4)]
    np.testing.assert_allclose(hits.scores, np.einsum("qkz,qz->qk", latent[hits.rows], directions), atol=1e-6)
    assert (np.diff(hits.scores, axis=1) <= 0).all()


def test_the_best_texts_of_cells_that_are_present():
    probabilities = np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.4, 0.4, 0.2]], np.float32)
    hits = best_texts(probabilities, np.array([True, False, True]), 2)
    assert hits.labels.tolist() == [[1, 2], [0, 1]]
    assert hits.rows.tolist() == [[0, 0], [2, 2]]
    np.testing.assert_array_equal(hits.scores, np.float32([[0.5, 0.3], [0.4, 0.4]]))


def test_queries_that_the_graph_gives_up_on_are_searched_exactly(monkeypatch):
    rng = np.random.default_rng(0)
    cells, queries = unit(rng, 50, 4), unit(rng, 3, 4)
    expected, cosines = nearest_cells(cells, queries, 5)

    def gives_up_once(cells, queries, k):
        rows = expected.copy()
        rows[1, 3:] = -1
        return rows

    monkeypatch.setattr(retrieval, "EXACT_PAIRS", 0)
    monkeypatch.setattr(retrieval, "_by_graph", gives_up_once)
    rows, found = nearest_cells(cells, queries, 5)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(found, cosines, atol=1e-6)


def test_ties_go_to_the_first_cells():
    cells = np.repeat(np.eye(2, dtype=np.float32), 4, axis=0)
    rows, cosines = nearest_cells(cells, np.eye(2, dtype=np.float32), 3)
    assert rows.tolist() == [[0, 1, 2], [4, 5, 6]]
    assert cosines.tolist() == [[1, 1, 1]] * 2


# In plain Python, since compiling the search takes longer than it runs.
BY_GRAPH = """
import numpy as np
from scfoundry.tasks import retrieval

def unit(*shape):
    values = rng.normal(size=shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)

rng = np.random.default_rng(0)
cells, queries = unit(300, 8), unit(5, 8)
rows, cosines = retrieval.nearest_cells(cells, queries, 10)
retrieval.EXACT_PAIRS = 0
found, found_cosines = retrieval.nearest_cells(cells, queries, 10)
assert np.mean([len(set(a) & set(b)) for a, b in zip(rows, found)]) > 9
np.testing.assert_allclose(found_cosines[:, 0], cosines[:, 0], atol=1e-5)
assert (np.diff(found_cosines, axis=1) <= 0).all()
print("found the same")
"""


def test_the_search_through_a_graph_finds_what_the_exact_search_finds():
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    ran = subprocess.run([sys.executable, "-c", BY_GRAPH], env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    assert ran.stdout == "found the same\n", ran.stderr
