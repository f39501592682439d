"""Labels of a reference, learned with any model: heads, fine-tuning, contexts, and fitted objects that are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy import sparse

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.labels import Label
from scfoundry.data.matrix.cells import Cells
from scfoundry.nn.checkpoint import CheckpointError
from scfoundry.nn.label_loss import PLAIN
from scfoundry.stats.softmax_regression import softmax_regression
from scfoundry.tasks import Annotator
from scfoundry.tasks.annotation import cell_heads, fine_tune, head_fit, linear_heads
from scfoundry.tasks.annotation.linear_heads import GeneHead
from scfoundry.tasks.annotation.text_head import LEAST_PROBABILITY, RIDGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from numpy.typing import NDArray

LABELS = [Label("B cell", ("cell type: B cell.",)), Label("monocyte", ("cell type: monocyte.",))]
CPU = Compute(torch.device("cpu"))
ALL = {"train": "all", "max_epochs": 3}


def codes_of(adata: AnnData) -> NDArray[np.int64]:
    return adata.obs["cell_type"].cat.codes.to_numpy().astype(np.int64)


def cells_of(adata: AnnData, model: Any, batch_key: str | None = None) -> Cells:
    return Cells.of(adata, model.genes, batch_key=batch_key, caller="test")


def named(annotator: Annotator, adata: AnnData, compute: Compute = CPU) -> NDArray[np.float32]:
    return annotator.predict(cells_of(adata, annotator.model), compute)


@pytest.fixture
def datasets(make_adata: Callable[..., AnnData]) -> tuple[AnnData, AnnData]:
    """Cells to annotate, and a reference of the same two types."""
    both = make_adata(160)
    return both[:60].copy(), both[60:].copy()


@pytest.fixture
def encoder(make_adata: Callable[..., AnnData]) -> Callable[..., Any]:
    """An untrained model whose cells attend to each other and that can be tuned."""

    def build(**config: Any) -> Any:
        small = {"n_hidden": 32, "n_layers": 2, "n_latent": 6, "n_decoder_hidden": 16, "n_bottleneck": 8}
        return sf.model.CellPLM(genes=make_adata().var_names, **(small | config))

    return build


@pytest.fixture
def fit(encoder: Callable[..., Any]) -> Callable[..., Annotator]:
    def run(
        reference: AnnData,
        codes: Any = None,
        labels: Any = LABELS,
        query: AnnData | None = None,
        model: Any = None,
        batch_key: str | None = None,
        **how: Any,
    ) -> Annotator:
        model = encoder() if model is None else model
        if query is not None:
            how["query"] = cells_of(query, model)
        learned_from = cells_of(reference, model, batch_key)
        codes = codes_of(reference) if codes is None else codes
        return Annotator.fit(model, learned_from, labels, codes, **{"compute": CPU} | how)

    return run


# ---- parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_features", [np.asarray, sparse.csr_matrix], ids=["dense", "sparse"])
@pytest.mark.parametrize("bias_ridge", [0.0, 2.0])
def test_softmax_regression_is_at_its_optimum(as_features, bias_ridge):
    rng = np.random.default_rng(0)
    codes = rng.integers(3, size=90)
    # Far from the origin, where a fit by steps takes many of them.
    features = rng.normal(size=(90, 5)) + np.eye(3, 5)[codes] + 20
    offset = rng.normal(size=(90, 3))
    weights, bias = softmax_regression(as_features(features), codes, 3, ridge=2.0, bias_ridge=bias_ridge, offset=offset)
    p = np.exp(offset + features @ weights + bias)
    excess = p / p.sum(1, keepdims=True) - np.eye(3)[codes]
    np.testing.assert_allclose(features.T @ excess + 2.0 * weights, 0, atol=1e-4)
    np.testing.assert_allclose(excess.sum(0) + bias_ridge * bias, 0, atol=1e-5)


def test_a_fit_that_has_not_converged_is_warned_of(monkeypatch, logged):
    monkeypatch.setattr("scfoundry.stats.softmax_regression.MAX_STEPS", 2)
    softmax_regression(np.random.default_rng(0).normal(size=(50, 4)), np.arange(50) % 3, 3, ridge=0.01)
    assert any("stopped after 2 steps, before it had converged" in message for message in logged)


def test_a_regression_learns_cells_and_begins_with_what_the_texts_say():
    rng = np.random.default_rng(0)
    codes = rng.integers(3, size=90)
    latent = np.eye(3, 8)[codes] + rng.normal(scale=0.2, size=(90, 8))
    features = 10 * latent / np.linalg.norm(latent, axis=1, keepdims=True)
    # The texts take the second class for the third.
    prior = np.log(np.array([[0.8, 0.1, 0.1], [0.1, 0.2, 0.7], [0.1, 0.1, 0.8]])[codes])

    def learned(rows):
        how = {"ridge": RIDGE, "bias_ridge": RIDGE, "offset": prior[rows]}
        weights, bias = softmax_regression(features[rows], codes[rows], 3, **how)
        return prior + features @ weights + bias

    np.testing.assert_array_equal(learned(np.arange(0)), prior)
    shots = np.concatenate([np.flatnonzero(codes == code)[:3] for code in range(3)])
    assert (prior.argmax(1) == codes).mean() < 0.75
    assert (learned(shots).argmax(1) == codes).mean() > 0.95
    assert LEAST_PROBABILITY < 0.1


def test_a_gene_that_was_not_measured_counts_as_one_at_its_mean(datasets, small_model):
    query, reference = datasets
    cells = cells_of(reference, small_model)
    head = GeneHead.fit(cells, np.arange(40), codes_of(reference), cells.by_name, PLAIN, np.random.default_rng(0))
    without = cells_of(query[:, np.arange(40) != 2].copy(), small_model)
    expected = head._replace(weights=np.where(np.arange(40)[:, None] == 2, 0, head.weights)).logits(without)
    np.testing.assert_allclose(head.logits(without), expected + head.mean[2] * head.weights[2], rtol=1e-12)


# ---- what is kept --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, ALL], ids=["head", "all"])
def test_a_fitted_annotator_is_kept_bit_for_bit(datasets, fit, tmp_path, how):
    query, reference = datasets
    annotator = fit(reference, query=query, genes=np.arange(30), **how)
    annotator.save(tmp_path)
    again = Annotator.load(tmp_path)
    assert again.labels == tuple(LABELS)
    np.testing.assert_array_equal(again.genes, np.arange(30))
    assert again.n_cells.tolist() == np.bincount(codes_of(reference)).tolist()
    np.testing.assert_array_equal(named(again, query), named(annotator, query))


def test_a_folder_of_something_else_is_refused(datasets, fit, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"was not written by Annotator.save"):
        Annotator.load(tmp_path)
    fit(datasets[1]).save(tmp_path)
    path = tmp_path / "fitted.json"
    path.write_text(path.read_text().replace("Annotator", "Pathways"))
    with pytest.raises(CheckpointError, match=r"another kind than Annotator"):
        Annotator.load(tmp_path)


def test_cells_without_a_gene_that_is_read_have_no_label(datasets, fit):
    query, reference = datasets
    query.X = query.X.multiply((np.arange(60) != 3)[:, None] | (np.arange(40) >= 20)).tocsr()
    found = named(fit(reference, genes=np.arange(20)), query)
    assert np.flatnonzero(~found.any(1)).tolist() == [3]


# ---- heads on embedding and genes, fine-tuning ---------------------------------------------------------------------


@pytest.mark.parametrize("latent", ["vae", "gmvae"])
def test_the_encoder_learns_in_a_copy(datasets, fit, encoder, latent):
    query, reference = datasets
    model = encoder(latent=latent)
    before = model.module.state_dict()["layers.0.expand.bias"].clone()
    annotator = fit(reference, model=model, **ALL)
    assert np.mean(named(annotator, query).argmax(1) == codes_of(query)) > 0.9
    assert (model.module.state_dict()["layers.0.expand.bias"] == before).all()
    assert (annotator.model.module.state_dict()["layers.0.expand.bias"] != before).any()


def test_the_embedding_alone_tells_types_apart_too(datasets, fit):
    query, reference = datasets
    annotator = fit(reference)
    logits = annotator.recipe.by_embedding.logits(annotator.model.embed(cells_of(query, annotator.model), CPU))
    assert np.mean(logits.argmax(1) == codes_of(query)) > 0.6


def test_query_cells_stand_in_the_context_or_not(datasets, fit):
    query, reference = datasets
    alone, among = fit(reference), fit(reference, query=query)
    assert not np.allclose(named(alone, query), named(among, query), atol=1e-6)
    # In contexts of their own they play no part.
    apart = fit(reference, query=query, batch_key="batch")
    np.testing.assert_allclose(named(apart, query), named(fit(reference, batch_key="batch"), query), atol=1e-6)


@pytest.mark.parametrize("how", [{}, {"train": "all", "max_epochs": 2}], ids=["head", "all"])
@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_the_order_of_cells_does_not_matter_and_the_seed_does_if_something_is_drawn(datasets, fit, how, batch_key):
    query, reference = datasets
    how = how | {"batch_key": batch_key}
    expected = named(fit(reference, query=query, **how), query)
    turned = fit(reference[::-1].copy(), query=query[::-1].copy(), **how)
    np.testing.assert_allclose(named(turned, query), expected, atol=1e-4)
    other = named(fit(reference, query=query, seed=1, **how), query)
    assert np.allclose(other, expected, atol=1e-6) == ("train" not in how)


def test_genes_that_are_hidden_play_no_part(datasets, fit):
    query, reference = datasets
    annotator = fit(reference, genes=np.arange(20))
    found = named(annotator, query)
    counts = query.X.toarray()
    counts[:, 20:] = 7
    query.X = counts
    np.testing.assert_allclose(named(annotator, query), found, atol=1e-5)


def test_chunks_do_not_matter(datasets, fit):
    query, reference = datasets
    annotator = fit(reference)
    by_sevens = named(annotator, query, Compute(torch.device("cpu"), batch_size=7))
    np.testing.assert_allclose(by_sevens, named(annotator, query), atol=1e-5)


def test_frequent_labels_are_not_favoured_as_much_as_they_were_seen(datasets, fit, monkeypatch):
    query, reference = datasets
    codes = codes_of(reference)
    few = reference[np.r_[np.flatnonzero(codes == 0), np.flatnonzero(codes == 1)[:5]]].copy()
    share = named(fit(few), query)[:, 1].mean()
    monkeypatch.setattr(cell_heads, "PRIOR_TAKEN_BACK", 0.0)
    assert share > named(fit(few), query)[:, 1].mean()


def test_the_best_weights_by_held_out_cells_return(datasets, fit, monkeypatch):
    _, reference = datasets
    # So fast that it soon goes wrong.
    monkeypatch.setattr(fine_tune, "HEAD_LR", 3.0)
    monkeypatch.setattr(fine_tune, "LR", 0.3)
    annotator = fit(reference, train="all", max_epochs=12)
    held_out = annotator.model.history["loss_validation"].to_numpy(dtype=float).ravel()
    best = int(held_out.argmin())
    assert held_out[-1] > held_out[best]
    until_then = fit(reference, train="all", max_epochs=best + 1)
    weights = until_then.model.module.state_dict()
    for name, tensor in annotator.model.module.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=0)
    np.testing.assert_array_equal(annotator.recipe.by_embedding.weights, until_then.recipe.by_embedding.weights)


def test_parts_of_the_encoder_keep_what_they_know(datasets, fit, encoder):
    _, reference = datasets
    model = encoder()
    tuned = fit(reference, model=model, train="all", max_epochs=3).model.module.state_dict()
    moved = {name: float((tensor - tuned[name]).abs().max()) for name, tensor in model.module.state_dict().items()}
    # AdamW moves every weight by about its rate at a step: those of the gene vectors by a tenth.
    assert 0 < moved["embedder.genes"] < 0.2 * moved["layers.0.expand.weight"]
    assert not any(change for name, change in moved.items() if name.startswith("decoder"))


def test_genes_are_hidden_while_the_encoder_learns():
    counts = sparse.csr_matrix(np.ones((400, 50), dtype=np.float32))
    torch.manual_seed(0)
    hidden = 1 - fine_tune._input_dropout(counts).toarray().mean(1)
    assert 0.65 < (hidden > 0).mean() < 0.85
    assert 0.2 < hidden[hidden > 0].mean() < 0.35
    assert counts.sum() == counts.nnz


def test_held_out_cells_are_embedded_among_their_context_and_of_any_size(datasets, fit, encoder):
    _, reference = datasets
    losses = [
        fit(reference, model=encoder(), train="all", max_epochs=2, compute=Compute(torch.device("cpu"), batch_size=n))
        .model.history["loss_validation"]
        .astype(float)
        for n in (None, 7)
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_with_one_cell_per_label_it_says_that_nothing_is_held_out(datasets, fit, logged):
    _, reference = datasets
    codes = codes_of(reference)
    pair = reference[[np.argmin(codes), np.argmax(codes)]].copy()
    fit(pair, train="all", max_epochs=1)
    assert any("no label has two cells, so nothing is held out" in message for message in logged)


def test_of_many_cells_rare_labels_keep_all_of_theirs_and_stay_as_rare(datasets, fit, monkeypatch):
    query, reference = datasets
    codes = codes_of(reference)
    few = reference[np.r_[np.flatnonzero(codes == 0), np.flatnonzero(codes == 1)[:8]]].copy()
    from_all = named(fit(few), query)[:, 1].mean()
    seen = []
    monkeypatch.setattr(linear_heads, "MAX_CELLS", 24)
    monkeypatch.setattr(
        head_fit,
        "softmax_regression",
        lambda x, codes, *args, **how: (seen.append(codes), softmax_regression(x, codes, *args, **how))[1],
    )
    from_some = named(fit(few), query)[:, 1].mean()
    assert [np.bincount(codes).tolist() for codes in seen] == [[16, 8]] * 2
    monkeypatch.setattr(linear_heads, "frequency_lost", lambda *_: 0)
    assert abs(from_some - from_all) < abs(named(fit(few), query)[:, 1].mean() - from_all)


def test_contexts_without_a_common_name_are_warned_of(datasets, fit, logged):
    query, reference = datasets
    fit(reference, query=query)
    assert not any("o context holds cells of both" in message for message in logged)
    fit(reference, query=query, batch_key="batch")
    assert any(
        "o context holds cells of both data sets (reference: 'batch 0', 'batch 1'; query: 'all')" in message
        for message in logged
    )


def test_a_tuned_model_learns_other_labels(datasets, fit):
    query, reference = datasets
    annotator = fit(reference, **ALL)
    three = [*LABELS, Label("T cell", ())]
    again = fit(reference, model=annotator.model, labels=three, codes=np.arange(reference.n_obs) % 3)
    assert named(again, query).shape == (60, 3)
    assert named(annotator, query).shape == (60, 2)


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_what_cannot_be_done_is_refused(datasets, fit, small_model):
    _, reference = datasets
    with pytest.raises(ValueError, match=r"without epochs; got max_epochs=3. Leave it out: .*, or .* train=\"all\""):
        fit(reference, max_epochs=3)
    with pytest.raises(ValueError, match=r"without epochs; got max_epochs=3. Leave it out: max_epochs=None\.$"):
        fit(reference, model=small_model, max_epochs=3)
    with pytest.raises(ValueError, match=r"'small' cannot be fine-tuned. A reference trains a head.*train=\"head\""):
        fit(reference, model=small_model, train="all")
    with pytest.raises(ValueError, match=r"codes must number the 3 labels.*got the numbers \[0, 1\]"):
        fit(reference, labels=[*LABELS, Label("T cell", ())])
    with pytest.raises(ValueError, match=r"got the numbers \[-1, 0, 1\]. Leave out cells without a label"):
        fit(reference, codes=np.arange(reference.n_obs) % 3 - 1)
