"""The weights that Flow-Attention implies: exact, whatever the chunks, and nothing from one context to another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import attention_of

from scfoundry.data.matrix.reader import CountsReader
from scfoundry.model._capabilities import AttendsToCells, can
from scfoundry.model.cellplm import _attention, _streaming
from scfoundry.model.cellplm._attention import FlowAttention, flow_context
from scfoundry.model.cellplm._cell_attention import attention_factors
from scfoundry.nn.counts import SparseCounts
from scfoundry.tasks.cell_attention import pairs


def test_cells_attend_to_each_other(tiny_model):
    assert can(tiny_model(), AttendsToCells)


@pytest.mark.parametrize("n_chunks", [1, 3])
def test_weights_times_values_are_the_output_of_the_layer(n_chunks):
    torch.manual_seed(0)
    attention, h = FlowAttention(32, 4).eval(), torch.randn(50, 32)
    parts = [dict(zip("qkv", attention.project(part), strict=True)) for part in h.chunk(n_chunks)]

    def sweep(names):
        return [tuple(part[name] for name in names) for part in parts]

    receiving, sending = (torch.cat(chunks) for chunks in zip(*attention_factors(sweep), strict=True))
    weights = torch.einsum("ihd,jhd->hij", receiving, sending)
    v, q = (torch.cat([part[name] for part in parts]) for name in "vq")
    output = torch.einsum("hij,jhd->ihd", weights, v).flatten(1)
    torch.testing.assert_close(output, _attention.attend(q, flow_context(sweep)), atol=1e-5, rtol=0)
    assert (weights > 0).all()


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_weights_of_a_model_are_those_of_the_layer_asked_for(tiny_model, make_adata, layer):
    model, adata = tiny_model(), make_adata(30)
    attention, inputs = model.module.layers[layer].attention, []
    handle = attention.register_forward_hook(lambda module, given, output: inputs.append(given[0]))
    counts = CountsReader(adata, model.genes, caller="test").read(np.arange(30))
    with torch.no_grad():
        model.module(SparseCounts.from_csr(counts))
        handle.remove()
        (factors,) = attention_factors(lambda names: [attention.project(inputs[0], names)])
    expected = torch.einsum("ihd,jhd->ij", *factors) / model.config.n_heads
    weights = attention_of(model, adata, scale="raw", layer=layer).weights.toarray()
    np.testing.assert_allclose(weights, expected, rtol=1e-4)


def test_no_weight_goes_from_one_context_to_another(tiny_model, make_adata):
    model, adata = tiny_model(), make_adata(40, n_batches=3)
    weights = attention_of(model, adata, batch_key="batch").weights.toarray()
    batch = adata.obs["batch"].to_numpy()
    assert ((weights > 0) == (batch[:, None] == batch)).all()
    alone = adata[batch == "batch 1"].copy()
    np.testing.assert_allclose(
        attention_of(model, alone).weights.toarray(), weights[batch == "batch 1"][:, batch == "batch 1"]
    )


@pytest.mark.parametrize("scale", ["raw", "shares", "specific"])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_chunks_and_the_order_of_cells_and_genes_do_not_matter(tiny_model, make_adata, scale, batch_size, monkeypatch):
    model, adata = tiny_model(), make_adata(25)
    adata.obs["group"] = adata.obs["cell_type"].cat.codes.astype("category")
    how = {"k": 5, "scale": scale, "groupby": "group", "spatial_key": "spatial"}
    expected = attention_of(model, adata, **how)
    for module in (_streaming, pairs):
        # A file in place of memory.
        monkeypatch.setattr(module, "resident_bytes", lambda device: 0)
    turned = np.random.default_rng(0).permutation(25)
    result = attention_of(model, adata[turned].copy()[:, ::-1].copy(), batch_size=batch_size, **how)
    np.testing.assert_allclose(
        result.weights.toarray(), expected.weights.toarray()[np.ix_(turned, turned)], rtol=1e-4, atol=1e-7
    )
    for table in ("observed", "expected", "n_pairs"):
        np.testing.assert_allclose(getattr(result, table), getattr(expected, table), rtol=1e-5)


def test_coordinates_change_the_weights_of_models_with_positions_only(tiny_model, make_adata):
    adata = make_adata(20)
    for positions, changes in (("sinusoid", True), ("none", False)):
        model = tiny_model(positions=positions)
        without, placed = attention_of(model, adata), attention_of(model, adata, spatial_key="spatial")
        assert (without.weights != placed.weights).nnz > 0 if changes else (without.weights != placed.weights).nnz == 0


@pytest.mark.parametrize("scale", ["raw", "shares", "specific"])
def test_cells_without_counts_stand_in_the_context_but_no_weight_of_theirs_is_kept(tiny_model, make_adata, scale):
    model, adata = tiny_model(), make_adata(12)
    present = ~np.isin(np.arange(12), [3, 4, 5, 9])
    adata.X = adata.X.multiply(present[:, None]).tocsr()
    how = {"groupby": "cell_type", "scale": scale}
    everything = attention_of(model, adata, **how)
    weights = everything.weights.toarray()
    np.testing.assert_array_equal(weights > 0, np.outer(present, present))
    assert everything.n_pairs.sum() == present.sum() ** 2
    np.testing.assert_allclose(everything.observed.sum(), weights.sum(), rtol=1e-5)
    if scale == "shares":
        assert (weights[present].sum(1) < 1).all()
    few = attention_of(model, adata, k=3, batch_size=3, **how).weights
    assert np.diff(few.indptr).tolist() == (3 * present).tolist()


def test_a_context_without_counts_keeps_no_weight(tiny_model, make_adata):
    model, adata = tiny_model(), make_adata(20, n_batches=2)
    adata.X = adata.X.multiply((adata.obs["batch"] == "batch 0").to_numpy()[:, None]).tocsr()
    weights = attention_of(model, adata, batch_key="batch").weights
    assert ((np.diff(weights.indptr) > 0) == (adata.obs["batch"] == "batch 0")).all()


def test_weights_are_told_apart_whatever_the_precision_of_the_caller(tiny_model, make_adata):
    model, adata = tiny_model(), make_adata(30)
    expected = attention_of(model, adata, k=5, scale="specific").weights
    with torch.autocast("cpu", torch.bfloat16):
        weights = attention_of(model, adata, k=5, scale="specific").weights
    np.testing.assert_array_equal(weights.toarray(), expected.toarray())


def test_raw_weights_of_a_cell_sum_to_less_than_one(tiny_model, make_adata):
    raw = attention_of(tiny_model(), make_adata(30), scale="raw").weights.toarray()
    assert (raw.sum(1) < 1).all()
