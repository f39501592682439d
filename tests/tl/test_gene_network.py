"""Gene networks: groups, genes of one's own, and what is refused; the rest is in `test_every_verb`."""

from __future__ import annotations

import numpy as np
import pytest

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells
from scfoundry.tasks.gene_network.network import gene_network


@pytest.fixture(scope="module")
def model(make_adata):
    return sf.model.Celler(genes=make_adata().var_names, n_hidden=16, n_layers=2, n_heads=2)


def edges(adata, model, **arguments):
    how = {"model": model, "device": "cpu", "copy": True, "min_cells": 3} | arguments
    return sf.tl.gene_network(adata, **how).uns["gene_network"]["edges"]


def test_an_edge_leads_from_the_gene_attended_to_with_the_weight_of_the_core(model, make_adata):
    adata = make_adata(30)
    genes = list(adata.var_names[[3, 8, 1, 20]])
    found = edges(adata, model, genes=genes, top_k=5)
    cells = Cells.of(adata, model.genes, caller="test")
    positions, codes = np.sort(model.genes.index_of(genes)), np.zeros(30, dtype=int)
    core = gene_network(model, cells, positions, codes, 1, compute=Compute.resolve("cpu"))
    assert len(found) == 5
    assert found["group"].unique().tolist() == ["all"]
    for _, edge in found.iterrows():
        source, target = (np.flatnonzero(model.genes.ids[positions] == edge[end])[0] for end in ("source", "target"))
        assert edge["weight"] == np.float32(core.weights[0, target, source])
        assert edge["n_cells"] == core.n_cells[0, target, source]
    assert found["weight"].is_monotonic_decreasing


def test_groups_have_edges_of_their_own_cells(model, make_adata):
    adata = make_adata(40)
    found = edges(adata, model, groupby="cell_type", n_genes=20)
    for group, of_group in found.groupby("group", observed=True):
        alone = edges(adata[adata.obs["cell_type"] == group].copy(), model, genes=of_group["source"].unique())
        both = of_group.merge(alone, on=["source", "target"], suffixes=("", "_alone"))
        assert (both["n_cells"] == both["n_cells_alone"]).all()
    assert found["group"].value_counts().min() > 0


def test_cells_without_a_group_do_not_count(model, make_adata, logged):
    adata = make_adata(40)
    adata.obs.loc[adata.obs_names[:10], "cell_type"] = None
    found = edges(adata, model, groupby="cell_type")
    assert any("10 cells have no value in obs['cell_type']" in message for message in logged)
    named = edges(adata[10:].copy(), model, groupby="cell_type", genes=found["source"].unique())
    assert found["n_cells"].max() <= named["n_cells"].max()


def test_a_group_without_edges_is_named(model, make_adata, logged):
    adata = make_adata(40)
    adata.obs["one"] = ["alone"] + ["together"] * 39
    found = edges(adata, model, groupby="one")
    assert (found["group"] == "together").all()
    assert found["group"].cat.categories.tolist() == ["alone", "together"]
    assert any("'alone': no two genes are read of 3 cells" in message for message in logged)


REFUSED = {
    "group": ({"groupby": "tissue"}, r"adata.obs has no column 'tissue'.*as groupby, or None"),
    "layer": ({"encoder_layer": 2}, r"has 2 layers, 0 to 1; got encoder_layer=2"),
    "genes": ({"genes": ["ENSG00000000938", "NOT_A_GENE"]}, r"1 of the 2 genes is not measured in adata.*'NOT_A_GENE'"),
    "top_k": ({"top_k": 0}, r"top_k must be at least 1; got 0"),
    "cells": ({"min_cells": 41}, r"0 genes that the model knows vary and are expressed by 41 of the 40 cells"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_cannot_be_is_refused(model, make_adata, wrong):
    arguments, message = REFUSED[wrong]
    with pytest.raises(ValueError, match=message):
        edges(make_adata(40), model, **arguments)
