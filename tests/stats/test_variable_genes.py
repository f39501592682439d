"""Genes that vary more than others of their mean, within batches."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scfoundry.data.matrix.reader import CountsInMemory
from scfoundry.stats import variable_genes as module
from scfoundry.stats.variable_genes import variable_genes

N_GENES, MARKERS = 300, np.arange(20)


def reader(counts):
    return CountsInMemory(sparse.csr_matrix(counts.astype(np.float32)), np.arange(counts.shape[1]))


@pytest.fixture
def counts():
    """Poisson counts at rates of all sizes; of two kinds of cells, each expresses every other marker more."""
    rng = np.random.default_rng(0)
    rates = np.tile(rng.permutation(np.geomspace(3, 50, N_GENES)), (400, 1))
    rates[:, MARKERS] *= np.where((np.arange(400)[:, None] + MARKERS) % 2, 0.2, 1.8)
    return rng.poisson(rates)


def test_markers_of_any_expression_are_found(counts):
    np.testing.assert_array_equal(variable_genes([reader(counts)], len(MARKERS)), MARKERS)


def test_what_sets_batches_apart_makes_no_gene_variable(counts):
    apart, shifted = np.arange(100, 120), counts.copy()
    shifted[:, apart] += 60
    assert not np.isin(apart, variable_genes([reader(counts), reader(shifted)], len(MARKERS))).any()
    as_one = variable_genes([reader(np.vstack([counts, shifted]))], 2 * len(MARKERS))
    assert np.isin(apart, as_one).mean() > 0.5


def test_genes_that_do_not_vary_are_left_out():
    counts = np.tile([3, 5, 2], (10, 1))
    assert len(variable_genes([reader(counts)])) == 0


def test_blocks_and_cells_without_counts_play_no_part(counts, monkeypatch):
    whole = variable_genes([reader(counts)], 40)
    monkeypatch.setattr(module, "CELLS_PER_BLOCK", 7)
    gaps = np.insert(counts, [0, 50, 399], 0, axis=0)
    np.testing.assert_array_equal(variable_genes([reader(gaps)], 40), whole)
