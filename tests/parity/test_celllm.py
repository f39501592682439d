"""CellLM computes what the released code computed: every array of the fixtures, from the official file."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from torch.nn import functional as F

import scfoundry as sf
from scfoundry.model.celllm._module import ContrastiveHead
from scfoundry.model.celllm._tokens import CLS, PAD, CellBatch, TokenisedCells, expression_tokens
from scfoundry.nn.checkpoint import read_torch_file
from scfoundry.nn.favor import EPS, favor_attention, favor_weights, key_features, query_features

CLOSE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module")
def folder(parity_folder):
    return parity_folder("celllm")


@pytest.fixture(scope="module")
def meta(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="module")
def arrays(folder):
    return dict(np.load(folder / "arrays.npz"))


@pytest.fixture(scope="module")
def heads(folder):
    return {name: torch.from_numpy(array) for name, array in np.load(folder / "head_weights.npz").items()}


@pytest.fixture(scope="module")
def load(folder, meta):
    """The official model in a window of the fixtures."""
    genes = [f"ENSG{i:011d}" for i in range(meta["gene_num"])]

    def build(**config):
        config = {"max_length": meta["max_seq_len"], **config}
        return sf.model.CellLM.from_pretrained(folder, genes=genes, **config)

    return build


@pytest.fixture(scope="module")
def module(load):
    """As released for a batch."""
    return load(stabiliser="batch").module


def read(model, arrays, rows=None):
    """Cells of the fixtures as the model reads them."""
    cells = TokenisedCells(sparse.csr_matrix(arrays["x"].astype(np.float64)), model.config)
    return cells.batch(np.arange(len(arrays["x"])) if rows is None else np.asarray(rows))


def unfolded(found, cells, n_columns):
    """Positions (B, L, ...) where the padding that stands for all is in as many columns as in the released window."""
    columns = np.minimum(np.arange(n_columns), cells.present.sum(1, keepdim=True).numpy())
    return found.detach().numpy()[np.arange(len(columns))[:, None], columns.clip(max=found.shape[1] - 1)]


def close(found, cells, expected):
    np.testing.assert_allclose(unfolded(found, cells, expected.shape[1]), expected, **CLOSE)


# ---- files ---------------------------------------------------------------------------------------------------------


def test_sizes_are_read_from_the_tensors(module, meta):
    config = module.config
    assert (config.n_hidden, config.n_layers, config.n_heads) == (meta["dim"], meta["depth"], meta["heads"])
    assert (config.n_head, config.n_features) == (meta["dim_head"], meta["nb_features"])
    assert config.n_intermediate == meta["dim"] * meta["ff_mult"]


def test_the_table_of_genes_ends_with_ones_and_zeros(folder, module, meta):
    saved = read_torch_file(folder / "encoder_checkpoint.pth")["model_state_dict"]["pos_emb.emb.weight"]
    assert saved.dtype == torch.float64
    table = module.genes.weight
    assert torch.equal(table, saved.float())
    assert (table[meta["gene_num"]] == 1).all()
    assert (table[meta["gene_num"] + 1] == 0).all()


# ---- tokens --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "window"), [("", "max_seq_len"), ("_wide", "max_seq_len_wide")])
def test_tokens_genes_and_padding(load, arrays, meta, suffix, window):
    cells = read(load(max_length=meta[window]), arrays)
    tokens, genes = (unfolded(part, cells, meta[window]) for part in (cells.tokens, cells.genes))
    np.testing.assert_array_equal(tokens, arrays[f"token_ids{suffix}"])
    np.testing.assert_array_equal(genes, arrays[f"gene_ids{suffix}"])
    assert (tokens[:, 0] == CLS).all()
    # One padding counts as often as the released window has it.
    np.testing.assert_array_equal(cells.weights.sum(1), np.full(len(tokens), meta[window]))
    if not suffix:
        np.testing.assert_array_equal((tokens != PAD), arrays["mask"])


def test_levels_of_values_at_their_edges(arrays):
    edges = np.array([1e-6, 0.999, 1, 4.999, 5, 50])
    assert set(edges.astype(np.float32)) <= set(arrays["x"][3])
    np.testing.assert_array_equal(expression_tokens(edges), [0, 0, 1, 4, 5, 5])


# ---- attention -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first_two(module, arrays):
    """Cells 0 and 1 in the first layer, with every padding in a position of its own."""
    cells = read_whole(arrays, [0, 1])
    queries, keys, values = module.layers[0].project(torch.from_numpy(arrays["embed"][:2]), cells.present)
    return cells, queries, keys, values


def read_whole(arrays, rows):
    """The released window as it is: padding in many positions, each of which counts once."""
    tokens, genes = (torch.from_numpy(arrays[name][rows].astype(np.int64)) for name in ("token_ids", "gene_ids"))
    present = torch.from_numpy(arrays["mask"][rows])
    return CellBatch(torch.tensor(rows), tokens, genes, present, torch.ones(tokens.shape))


@torch.no_grad()
def test_projections_features_and_attention_of_the_first_layer(module, arrays, first_two):
    cells, queries, keys, values = first_two
    for found, name in ((queries, "l0_q"), (keys, "l0_k"), (values, "l0_v")):
        np.testing.assert_allclose(found, arrays[name], **CLOSE)
    omega = module.layers[0].omega
    of_queries = query_features(queries, omega)
    of_keys = key_features(keys, omega, cells.weights, "batch")
    for found, name in ((of_queries, "l0_phi_q"), (of_keys, "l0_phi_k")):
        np.testing.assert_allclose((found[:, :1] + EPS) * len(omega) ** -0.5, arrays[name], **CLOSE)
    attended = favor_attention(queries, keys, values, omega, cells.weights, "batch")
    np.testing.assert_allclose(attended, arrays["l0_attn_out"], **CLOSE)


@torch.no_grad()
def test_weights_are_those_that_the_attention_implies(module, arrays, first_two):
    cells, queries, keys, values = first_two
    omega = module.layers[0].omega
    weights = favor_weights(queries, keys, omega, cells.weights, "batch")
    np.testing.assert_allclose(weights @ values, arrays["l0_attn_out"], **CLOSE)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)


@torch.no_grad()
def test_attention_of_cls_and_of_all_positions(load, arrays):
    model = load()
    cells = read(model, arrays)
    found = model.module.cls_attention(cells)  # (B, layers, H, L)
    n_columns = arrays["attn_cls_single"].shape[-1]
    # Of the padding taken together every one has an equal share.
    shares = found / cells.weights.clamp(min=1)[:, None, None]
    np.testing.assert_allclose(
        unfolded(shares.permute(0, 3, 1, 2), cells, n_columns).transpose(0, 2, 3, 1), arrays["attn_cls_single"], **CLOSE
    )
    whole = read_whole(arrays, [1])
    x = model.module.embed_inputs(whole)
    for layer, expected in zip(model.module.layers, arrays["attn_cell1_headmean"], strict=True):
        queries, keys, _ = layer.project(x, whole.present)
        weights = favor_weights(queries, keys, layer.omega, whole.weights)
        np.testing.assert_allclose(weights[0].mean(0), expected, **CLOSE)
        x = layer(x, whole)


# ---- network -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_every_layer(load, module, arrays):
    model = load(stabiliser="batch")
    cells = read(model, arrays)
    x = module.embed_inputs(cells)
    close(x, cells, arrays["embed"])
    for number, layer in enumerate(module.layers):
        x = layer.attend(x, cells)
        close(x, cells, arrays[f"layer{number}_after_attn"])
        x = layer.feed_forward(x)
        close(x, cells, arrays[f"layer{number}_out"])
    states = module(cells)
    close(states, cells, arrays["encodings"])
    close(module.level_logits(states), cells, arrays["mlm_logits"])
    np.testing.assert_allclose(module(cells, n_wanted=1)[:, 0], arrays["encodings"][:, 0], **CLOSE)


@torch.no_grad()
def test_padding_in_many_positions_is_the_same(module, arrays):
    cells = read_whole(arrays, list(range(len(arrays["x"]))))
    np.testing.assert_allclose(module(cells), arrays["encodings"], **CLOSE)


@torch.no_grad()
def test_cells_by_themselves(load, arrays):
    model = load()
    cells = read(model, arrays)
    states = model.module(cells)
    close(states, cells, arrays["encodings_single"])
    close(model.module.level_logits(states), cells, arrays["mlm_logits_single"])
    assert np.abs(arrays["encodings"] - arrays["encodings_single"]).max() > 1e-3


@torch.no_grad()
def test_a_wider_window_has_more_padding(load, arrays, meta):
    model = load(stabiliser="batch", max_length=meta["max_seq_len_wide"])
    cells = read(model, arrays)
    close(model.module(cells), cells, arrays["encodings_wide"])


@torch.no_grad()
def test_without_padding(load, arrays):
    model = load(padding="none")
    cells = read(model, arrays)
    states = model.module(cells)
    expected = arrays["encodings_nopad"]
    np.testing.assert_allclose(states, expected[:, : states.shape[1]], **CLOSE)
    assert (expected[:, states.shape[1] :] == 0).all()
    assert np.abs(expected - arrays["encodings_single"]).max() > 0.1


# ---- heads ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_numbers_of_genes_and_the_heads_on_them(load, module, arrays, heads, meta):
    model = load(stabiliser="batch")
    cells = read(model, arrays)
    states = module(cells)
    head = ContrastiveHead(meta["dim"], meta["gene_num"] + 1, meta["cl_dim"])
    scalar = {"weight": heads["conv.weight"].view(1, -1), "bias": heads["conv.bias"]}
    head.scalar.load_state_dict(scalar)
    head.linear.load_state_dict({name: heads[f"cl_head.{name}"] for name in ("weight", "bias")})
    close(head.scalar(states)[..., 0], cells, arrays["conv_scalar"])
    raw = head.scattered(states, cells)
    np.testing.assert_allclose(raw, arrays["scatter_raw"], **CLOSE)
    np.testing.assert_allclose(head(states, cells), arrays["cl_repr"], **CLOSE)
    x = raw.relu()
    np.testing.assert_allclose(x, arrays["scatter_relu"], **CLOSE)
    for number in (1, 4, 7):
        x = F.linear(x if number == 1 else x.relu(), *(heads[f"pred_head.{number}.{n}"] for n in ("weight", "bias")))
    np.testing.assert_allclose(x, arrays["ctc_logits"], **CLOSE)


@torch.no_grad()
def test_tumour_head(load, arrays, heads):
    model = load(stabiliser="batch", tumour_head=True)
    model.module.tumour_head.load_state_dict({name: heads[f"cls_head.{name}"] for name in ("weight", "bias")})
    states = model.module(read(model, arrays), n_wanted=1)
    np.testing.assert_allclose(model.module.tumour_head(states[:, 0]), arrays["cls_logits"], **CLOSE)


# ---- from counts to results ----------------------------------------------------------------------------------------


def test_from_log_expression_to_embeddings(load, arrays, monkeypatch):
    """`sf.tl.embed` writes the states of ``<cls>``; cells of the fixtures are not of 10,000 counts, and stay so."""
    model, rows = load(), [0, 1, 2, 4, 5]  # the values of cell 3 are larger than logarithms are
    monkeypatch.setattr("scfoundry.model.celllm._tokens.log_cp10k", lambda counts: counts.log1p())
    adata = AnnData(sparse.csr_matrix(arrays["x"][rows]), var=pd.DataFrame(index=model.genes.ids))
    sf.tl.embed(adata, model=model, adapt=None, device="cpu")
    np.testing.assert_allclose(adata.obsm["X_celllm"], arrays["encodings_single"][rows, 0], **CLOSE)
