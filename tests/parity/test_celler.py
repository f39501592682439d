"""Celler computes what the released code computed: every array of the fixtures, from the official folders."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

import scfoundry as sf
from scfoundry.data.tokens.bin_kernel import draw_bin
from scfoundry.data.tokens.bins import BinnedGenes, bin_values, gene_keys
from scfoundry.model.celler._module import N_SPECIAL, PADDED, CellBatch
from scfoundry.model.celler._objectives import cell_similarity_loss, masked_loss
from scfoundry.model.celler._tokens import TokenisedCells

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def folder(parity_folder):
    return parity_folder("celler")


@pytest.fixture(scope="module")
def meta(folder):
    return json.loads((folder / "meta.json").read_text())


@pytest.fixture(scope="module")
def models(folder):
    names = ("pretrained", "finetuned", "integration")
    return {name: sf.model.Celler.from_pretrained(folder / name) for name in names}


@pytest.fixture(scope="module")
def arrays(folder):
    names = ("inputs", "zeroshot", "finetune", "masked", "integration")
    return {name: dict(np.load(folder / f"{name}.npz")) for name in names}


@pytest.fixture(scope="module")
def tokens_of(folder, models):
    """Our tokens of released ids: of genes by name, then the special ones."""
    genes = models["pretrained"].genes

    def translate(ids):
        vocabulary = json.loads((folder / "pretrained" / "vocab.json").read_text())
        names = {number: name for name, number in vocabulary.items()}
        special = {name: len(genes) + i for i, name in enumerate(["<pad>", "<cls>", "<eoc>"])}
        ours = {number: special.get(name, -1) for number, name in names.items()}
        ours |= {number: int(genes.index_of([name])[0]) for number, name in names.items() if name not in special}
        return np.vectorize(ours.__getitem__, otypes=[np.int64])(ids)

    return translate


@pytest.fixture(scope="module")
def batch_of(tokens_of):
    """Cells of an array file as the module reads them."""

    def build(arrays, values="values", prefix="", batch=0):
        genes, values = tokens_of(arrays[f"{prefix}gene_ids"]), arrays[f"{prefix}{values}"]
        assert np.array_equal(values, values.astype(np.int64))
        padding = arrays.get(f"{prefix}padding_mask")
        present = None if padding is None else torch.from_numpy(~padding)
        batches = torch.full((len(genes),), batch)
        parts = (torch.from_numpy(genes), torch.from_numpy(values).long())
        return CellBatch(torch.arange(len(genes)), *parts, present, batches)

    return build


def close(found, expected, padding=None):
    """Compare; at padded positions every implementation has other values."""
    found = found.detach().numpy()
    real = slice(None) if padding is None else ~padding
    np.testing.assert_allclose(found[real], expected[real], **CLOSE)


# ---- bins ----------------------------------------------------------------------------------------------------------

ROUTES = {"zs": "n_bins_zeroshot", "ft": "n_bins_finetune"}


def values_of(inputs, route):
    """Values that were binned: counts of the kept genes, without the empty cell, or normalised values."""
    return inputs["counts"][:-1][:, inputs["kept_gene_mask"]] if route == "zs" else inputs["normalized"]


def binned(values, n_bins, ties):
    matrix = sparse.csr_matrix(values)
    bins = bin_values(matrix, n_bins=n_bins, ties=ties, keys=gene_keys(map(str, range(values.shape[1]))))
    return sparse.csr_matrix((bins, matrix.indices, matrix.indptr), shape=values.shape).toarray()


@pytest.mark.parametrize("route", ROUTES)
def test_bins_that_suit_a_value(arrays, meta, route):
    inputs, n_bins = arrays["inputs"], meta[ROUTES[route]]
    values = values_of(inputs, route)
    lowest, highest = (inputs[f"{route}_bin_{end}"] for end in ("lo", "hi"))
    np.testing.assert_array_equal(binned(values, n_bins, "low"), lowest)
    np.testing.assert_array_equal(binned(values, n_bins, "high"), highest)
    np.testing.assert_array_equal(binned(values, n_bins, "mid"), (lowest + highest) // 2)
    drawn = binned(values, n_bins, "random").astype(int)
    assert ((lowest <= drawn) & (drawn <= highest)).all()


@pytest.mark.parametrize("route", ROUTES)
def test_the_bin_that_a_number_draws(arrays, meta, route):
    inputs, n_bins = arrays["inputs"], meta[ROUTES[route]]
    values = values_of(inputs, route)
    ends = (binned(values, n_bins, ties).astype(int) for ties in ("low", "high"))
    drawn = np.vectorize(draw_bin, otypes=[int])(*ends, np.nan_to_num(inputs[f"{route}_bin_u"]))
    np.testing.assert_array_equal(drawn, inputs[f"{route}_binned"])


def test_edges_are_the_quantiles_of_a_cell(arrays, meta):
    """Which bins a value suits says between which edges it lies, and how many it equals."""
    inputs = arrays["inputs"]
    values, edges = inputs["normalized"], inputs["ft_bin_edges"]
    low, high = (binned(values, meta["n_bins_finetune"], ties) for ties in ("low", "high"))
    assert edges.shape[1] == meta["n_bins_finetune"]
    for cell in range(len(values)):
        own = edges[cell][1:]  # the first one is that of zeros
        for gene in np.flatnonzero(values[cell]):
            n_below, n_up_to = np.sum(own < values[cell, gene]), np.sum(own <= values[cell, gene])
            assert (low[cell, gene], high[cell, gene]) == (min(n_below + 1, n_up_to), n_up_to)


def test_normalised_counts_are_those_of_the_kept_genes(arrays):
    inputs = arrays["inputs"]
    counts = inputs["counts"][:, inputs["kept_gene_mask"]]
    expected = counts / np.maximum(counts.sum(1, keepdims=True), 1) * 1e4
    np.testing.assert_allclose(inputs["normalized"], expected, rtol=1e-5)
    for ties in ("low", "high", "mid", "random"):
        np.testing.assert_array_equal(binned(counts, 51, ties), binned(inputs["normalized"], 51, ties))


# ---- genes and sequences -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(folder, arrays):
    """Names of the columns that are spelled as in the vocabulary."""
    names = np.array(json.loads((folder / "gene_names.json").read_text()), dtype=object)
    return names[arrays["inputs"]["kept_gene_mask"]]


def test_genes_that_are_spelled_as_in_the_vocabulary(folder, models, arrays, tokens_of):
    inputs, genes = arrays["inputs"], models["pretrained"].genes
    names = json.loads((folder / "gene_names.json").read_text())
    alignment = genes.align(names)
    np.testing.assert_array_equal(alignment.target[inputs["kept_gene_mask"]], tokens_of(inputs["kept_gene_ids"]))
    # What differs in case alone is found, too; what nobody knows stays out, and nothing ever is padding.
    others = np.flatnonzero(~inputs["kept_gene_mask"])
    upper = {name.upper(): position for position, name in enumerate(genes.ids)}
    for column in others:
        assert alignment.target[column] in (-1, upper.get(names[column].upper(), -1))
    assert alignment.target.max() < len(genes)
    assert len(models["pretrained"].module.genes.weight) == len(genes) + N_SPECIAL


def cells_of(arrays, route, tokens_of, n_genes, cls_value):
    """The expressed genes of the fixture's cells, binned as there."""
    inputs = arrays["inputs"]
    bins = inputs[f"{route}_binned"]
    tokens = tokens_of(inputs["kept_gene_ids"])
    order = np.argsort(tokens)
    matrix = sparse.csr_matrix(bins[:, order])
    binned = BinnedGenes(matrix.indptr.astype(np.int64), tokens[order][matrix.indices].astype(np.int32), matrix.data)
    return TokenisedCells(binned, n_genes, cls_value)


@pytest.mark.parametrize(("name", "route", "cls_value"), [("zeroshot", "zs", -2), ("finetune", "ft", 0)])
def test_sequences_hold_the_same_genes_and_values(arrays, models, tokens_of, batch_of, name, route, cls_value):
    expected = batch_of(arrays[name])
    cells = cells_of(arrays, route, tokens_of, len(models["pretrained"].genes), cls_value)
    fits = cells.genes.lengths <= expected.genes.shape[1]  # longer cells were cut at random
    assert fits.any()
    found = cells.batch(np.arange(len(fits)))
    assert (expected.genes[:, 0] == len(models["pretrained"].genes) + 1).all()
    assert (expected.values[:, 0] == cls_value).all()
    padding = arrays[name]["padding_mask"]
    assert (expected.values.numpy()[padding] == PADDED).all()
    for cell in range(len(fits)):
        pairs = [zip(c.genes[cell].tolist(), c.values[cell].tolist(), strict=True) for c in (found, expected)]
        ours, theirs = map(dict, pairs)
        if fits[cell]:
            ours.setdefault(len(models["pretrained"].genes), PADDED)
            theirs.setdefault(len(models["pretrained"].genes), PADDED)
            assert ours == theirs
        else:
            assert theirs.items() <= ours.items()


# ---- network -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_zero_shot(arrays, models, batch_of):
    expected, module = arrays["zeroshot"], models["pretrained"].module
    cells, padding = batch_of(expected), expected["padding_mask"]
    x = module.embed_inputs(cells)
    close(x, expected["input_emb"], padding)
    close(module.layers[0](x, cells.present), expected["after_layer0"], padding)
    states = module(cells)
    close(states, expected["transformer_output"], padding)
    close(module.cell_states(cells), expected["cls_emb"])
    close(module.embed([cells]), expected["cls_emb_l2"])
    close(module.predict_values(states, cells).values, expected["mlm_pred"], padding)
    close(module.predict_from_cells(states[:, 0], cells).values, expected["mvc_pred"], padding)


@torch.no_grad()
def test_fine_tuned(arrays, models, batch_of):
    expected, module = arrays["finetune"], models["finetuned"].module
    cells, padding = batch_of(expected), expected["padding_mask"]
    states = module(cells)
    close(states, expected["transformer_output"], padding)
    close(states[:, 0], expected["cls_emb"])
    close(module.classifier(module.cell_states(cells)), expected["cls_logits"])
    close(module.predict_values(states, cells).values, expected["mlm_pred"], padding)
    loss = cell_similarity_loss(states[:, 0], float(expected["ecs_threshold"]))
    np.testing.assert_allclose(loss, expected["ecs_loss"], rtol=1e-5)


@torch.no_grad()
def test_hidden_values(arrays, models, batch_of):
    expected, module = arrays["masked"], models["pretrained"].module
    cells, padding = batch_of(expected, "masked_values"), expected["padding_mask"]
    hidden, target = (torch.from_numpy(expected[name]) for name in ("mask", "target_values"))
    assert (cells.values[hidden] == -1).all()
    assert not hidden[:, 0].any()
    states = module(cells)
    guess, from_cells = module.predict_values(states, cells), module.predict_from_cells(states[:, 0], cells)
    close(guess.values, expected["mlm_pred"], padding)
    close(from_cells.values, expected["mvc_pred"], padding)
    gep, gepc = (masked_loss(g.values, target, hidden) for g in (guess, from_cells))
    np.testing.assert_allclose(gep, expected["loss_gep"], rtol=1e-5)
    np.testing.assert_allclose(gepc, expected["loss_gepc"], rtol=1e-5)
    np.testing.assert_allclose(gep + gepc, expected["loss_total"], rtol=1e-5)


@torch.no_grad()
def test_integration(arrays, models, batch_of, meta):
    expected, module = arrays["integration"], models["integration"].module
    for batch in range(meta["num_batch_labels_integration"]):
        cells = batch_of(expected, prefix=f"b{batch}_", batch=batch)
        wanted = {name.removeprefix(f"b{batch}_"): value for name, value in expected.items()}
        close(module.embed_inputs(cells), wanted["input_emb"])
        states = module(cells)
        close(states, wanted["transformer_output"])
        close(module.cell_states(cells), wanted["cls_emb"])
        guess, from_cells = module.predict_values(states, cells), module.predict_from_cells(states[:, 0], cells)
        for found, name in ((guess, "mlm"), (from_cells, "mvc")):
            close(found.values, wanted[f"{name}_pred"])
            close(found.nonzero.sigmoid(), wanted[f"{name}_nonzero_prob"])
        close(module.guess_batches(states[:, 0]), wanted["batch_logits"])
        loss = cell_similarity_loss(states[:, 0], meta["ecs_threshold"])
        np.testing.assert_allclose(loss, wanted["ecs_loss"], rtol=1e-5)


# ---- from counts to results ----------------------------------------------------------------------------------------


def test_from_counts_to_embeddings(arrays, models, kept, tokens_of, monkeypatch):
    """`sf.tl.embed` writes what was released, once ties are drawn by the same numbers, of cells that were not cut."""
    inputs, expected, model = arrays["inputs"], arrays["zeroshot"], models["pretrained"]
    drawn = np.zeros((len(inputs["zs_binned"]), len(model.genes)), dtype=np.uint16)
    drawn[:, tokens_of(inputs["kept_gene_ids"])] = inputs["zs_binned"]

    def as_released(counts, **how):
        lowest, highest = (bin_values(counts, **(how | {"ties": ties})) for ties in ("low", "high"))
        bins = drawn[np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr)), counts.indices]
        assert ((lowest <= bins) & (bins <= highest)).all()
        return bins

    monkeypatch.setattr("scfoundry.model.celler._tokens.bin_values", as_released)
    counts = inputs["counts"][:-1][:, inputs["kept_gene_mask"]]
    adata = AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=kept))
    sf.tl.embed(adata, model=model, adapt=None, device="cpu")
    fits = (counts > 0).sum(1) < expected["gene_ids"].shape[1]
    assert fits.sum() > 2
    np.testing.assert_allclose(adata.obsm["X_celler"][fits], expected["cls_emb_l2"][fits], **CLOSE)
