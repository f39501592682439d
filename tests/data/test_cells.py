"""Cells of two data sets as one: which counts are read, and which cells belong together."""

from __future__ import annotations

import numpy as np
import pytest

from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.matrix.cells import Cells


@pytest.fixture
def datasets(make_adata):
    both = make_adata(160)
    return both[60:].copy(), both[:60].copy()


def cells_of(adata, batch_key=None):
    return Cells.of(adata, GeneVocabulary(adata.var_names), batch_key=batch_key, caller="test")


def test_cells_of_two_data_sets_are_read_as_one_and_only_the_shared_genes(datasets):
    reference, query = datasets
    joint = cells_of(reference).followed_by(cells_of(query), np.arange(5, 40))
    rows = np.random.default_rng(0).permutation(joint.n_obs)
    expected = np.concatenate([reference.X.toarray(), query.X.toarray()])[rows]
    expected[:, :5] = 0
    np.testing.assert_array_equal(joint.read(rows).toarray(), expected)
    np.testing.assert_array_equal(np.concatenate([b.toarray() for b in joint.blocks(33, rows)]), expected)
    assert joint.names.tolist() == [*reference.obs_names, *query.obs_names]


def test_contexts_of_one_name_are_one(datasets):
    reference, query = datasets
    (alone,) = cells_of(reference).followed_by(cells_of(query), np.arange(40)).contexts
    assert alone.rows.tolist() == list(range(160))
    query.obs["batch"] = query.obs["batch"].cat.rename_categories({"batch 1": "batch 9"})
    joint = cells_of(reference, "batch").followed_by(cells_of(query, "batch"), np.arange(40))
    both = {context.name: context.rows for context in joint.contexts}
    assert set(both) == {"batch 0", "batch 1", "batch 9"}
    assert both["batch 0"].max() >= 100 > both["batch 1"].max()
    assert sorted(np.concatenate(list(both.values()))) == list(range(160))


def test_cells_of_one_name_keep_an_order_of_their_own(make_adata):
    """It is that of their counts: the order of the data plays no part, whatever the names."""
    adata = make_adata(60)
    adata.obs_names = [f"cell {i % 7}" for i in range(60)]
    adata.obsm["spatial"] = np.random.default_rng(0).normal(size=(60, 2))
    shuffled = adata[np.random.default_rng(1).permutation(60)].copy()
    one, other = (
        Cells.of(data, GeneVocabulary(data.var_names), batch_key="batch", spatial_key="spatial", caller="test")
        for data in (adata, shuffled)
    )
    assert one.names[one.by_name].tolist() == sorted(adata.obs_names)
    np.testing.assert_array_equal(one.read(one.by_name).toarray(), other.read(other.by_name).toarray())
    for left, right in zip(one.ordered().contexts, other.ordered().contexts, strict=True):
        assert left.name == right.name
        np.testing.assert_array_equal(one.read(left.rows).toarray(), other.read(right.rows).toarray())
        np.testing.assert_array_equal(one.ordered().coordinates[left.name], other.ordered().coordinates[right.name])
