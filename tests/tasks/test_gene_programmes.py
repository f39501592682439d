"""Programmes of genes with similar vectors."""

from __future__ import annotations

import numpy as np
import pytest

from scfoundry.tasks.gene_programmes.programmes import gene_programmes

HOW = {"resolution": 1.0, "n_neighbors": 8, "min_genes": 4, "seed": 0}


@pytest.fixture
def vectors():
    """Three groups of genes with a direction each, of 12, 30 and 3 genes, mixed."""
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat([0, 1, 2], [12, 30, 3]))
    return group, (4 * np.eye(8)[group] + 0.3 * rng.normal(size=(45, 8))).astype(np.float32)


def test_genes_of_one_direction_are_together_and_the_largest_programme_is_the_first(vectors):
    group, values = vectors
    found = gene_programmes(values, **HOW)
    np.testing.assert_array_equal(found == 0, group == 0)
    sizes = np.bincount(found[found >= 0])
    assert (np.diff(sizes) <= 0).all()
    assert sizes.min() >= HOW["min_genes"]


def test_the_length_of_a_vector_plays_no_part(vectors):
    _, values = vectors
    lengths = np.random.default_rng(1).uniform(0.1, 10, (45, 1)).astype(np.float32)
    np.testing.assert_array_equal(gene_programmes(values * lengths, **HOW), gene_programmes(values, **HOW))


def test_few_genes_are_clustered_by_as_many_neighbours_as_there_are(vectors):
    _, values = vectors
    assert len(gene_programmes(values[:5], **HOW)) == 5
