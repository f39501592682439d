"""What functions that write to an AnnData do with cells that lie in files."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from anndata import AnnData, read_h5ad
from anndata.io import sparse_dataset

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary

WRITERS = {
    "rank_encode": lambda adata, **how: sf.pp.rank_encode(
        adata, genes=GeneVocabulary(adata.var_names, medians=np.ones(adata.n_vars)), **how
    ),
    "bin_expression": sf.pp.bin_expression,
    "split_perturbations": lambda adata, **how: sf.pp.split_perturbations(
        adata, perturbation_key="guide", control="ctrl", **how
    ),
}


@pytest.fixture
def file(make_adata, tmp_path):
    adata = make_adata(40, 60)
    adata.obs["guide"] = np.resize(["ctrl", *adata.var_names[:6]], adata.n_obs)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_can_be_added_to_a_view_of_a_file(name, file):
    view = read_h5ad(file, backed="r")[:30]
    with pytest.raises(ValueError, match=rf"sf.pp.{name}: adata is a view of .*adata = adata.to_memory\(\)"):
        WRITERS[name](view)
    assert WRITERS[name](view, copy=True).n_obs == 30


@pytest.mark.parametrize("name", WRITERS)
def test_a_copy_of_what_was_opened_in_a_file_is_in_memory(name, file):
    """`AnnData.copy` fails where ``X`` is an array in a file."""
    whole = read_h5ad(file)
    with h5py.File(file) as opened:
        adata = AnnData(sparse_dataset(opened["X"]), obs=whole.obs, var=whole.var)
        copied = WRITERS[name](adata, copy=True)
    assert (copied.X != whole.X).nnz == 0
    assert len(copied.uns) == 1
    assert not adata.uns
