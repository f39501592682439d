"""Cell types learned by CellPLM: both opinions, fine-tuning, contexts, and a fitted model that is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

import scfoundry as sf
from scfoundry.data.labels import Label
from scfoundry.data.matrix.contexts import contexts
from scfoundry.data.matrix.joint_reader import JointReader
from scfoundry.data.matrix.reader import CountsReader
from scfoundry.model._contracts import Query
from scfoundry.nn.counts import SparseCounts
from scfoundry.stats.softmax_regression import fit_softmax
from scfoundry.tasks.annotation import annotator as _annotation
from scfoundry.tasks.annotation import fine_tune as _training
from scfoundry.tasks.annotation.annotator import joined
from scfoundry.tasks.annotation.head import AnnotationHead

LABELS = [Label("B cell", ()), Label("monocyte", ())]


def codes_of(adata):
    return adata.obs["cell_type"].cat.codes.to_numpy().astype(np.int64)


@pytest.fixture
def sides(make_adata):
    """Cells to annotate, and a reference of the same two types."""
    both = make_adata(160)
    return both[:60].copy(), both[60:].copy()


@pytest.fixture
def fit(tiny_model):
    def run(reference, codes=None, labels=LABELS, query=None, model=None, **how):
        model = tiny_model() if model is None else model
        if query is not None:
            how["query"] = Query(query, CountsReader(query, model.genes, caller="test"), None)
        return model.fit_labels(
            reference, labels, codes_of(reference) if codes is None else codes, **{"device": "cpu"} | how
        )

    return run


# ---- parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_features", [np.asarray, sparse.csr_matrix], ids=["dense", "sparse"])
def test_softmax_regression_is_at_its_optimum(as_features):
    rng = np.random.default_rng(0)
    codes = rng.integers(3, size=90)
    features = rng.normal(size=(90, 5)) + np.eye(3, 5)[codes]
    weights, bias = fit_softmax(as_features(features), codes, 3, ridge=2.0)
    p = np.exp(features @ weights + bias)
    excess = p / p.sum(1, keepdims=True) - np.eye(3)[codes]
    np.testing.assert_allclose(features.T @ excess + 2.0 * weights, 0, atol=0.05)
    np.testing.assert_allclose(excess.sum(0), 0, atol=0.05)


def test_cells_of_two_data_sets_are_read_as_one_and_only_the_shared_genes(tiny_model, sides):
    query, reference = sides
    readers = [CountsReader(adata, tiny_model().genes, caller="test") for adata in (reference, query)]
    joint = JointReader(readers, np.arange(5, 40))
    rows = np.random.default_rng(0).permutation(joint.n_obs)
    expected = np.concatenate([reference.X.toarray(), query.X.toarray()])[rows]
    expected[:, :5] = 0
    np.testing.assert_array_equal(joint.read(rows).toarray(), expected)
    np.testing.assert_array_equal(np.concatenate([b.toarray() for b in joint.blocks(rows, 33)]), expected)


def test_contexts_of_one_name_are_one(sides):
    query, reference = sides
    (alone,) = joined(contexts(reference), contexts(query), 100)
    assert alone.rows.tolist() == list(range(160))
    query.obs["batch"] = query.obs["batch"].cat.rename_categories({"batch 1": "batch 9"})
    both = {c.name: c.rows for c in joined(contexts(reference, "batch"), contexts(query, "batch"), 100)}
    assert set(both) == {"batch 0", "batch 1", "batch 9"}
    assert both["batch 0"].max() >= 100 > both["batch 1"].max()
    assert sorted(np.concatenate(list(both.values()))) == list(range(160))


def test_a_gene_that_was_not_measured_says_as_much_as_one_at_its_mean():
    torch.manual_seed(0)
    head = AnnotationHead(4, 6, 3, reads_genes=True).eval()
    with torch.no_grad():
        head.gene_weights.normal_()
        head.gene_mean.uniform_(0, 2)
        x = torch.rand(5, 6)
        x[:, 2] = head.gene_mean[2]
        expected = head.by_genes(SparseCounts.from_csr(sparse.csr_matrix(x.numpy())))
        x[:, 2] = 0
        absent = torch.arange(6) == 2
        told = head.by_genes(SparseCounts.from_csr(sparse.csr_matrix(x.numpy())), absent)
    torch.testing.assert_close(told, expected)


# ---- learning ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"train": "all", "max_epochs": 3}], ids=["head", "all"])
def test_it_learns_to_tell_types_apart_and_leaves_the_model_as_it_was(tiny_model, sides, fit, how, latent):
    query, reference = sides
    model = tiny_model(latent=latent)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    fitted = fit(reference, model=model, **how)
    told = fitted.predict_labels(query, device="cpu")
    assert told.dtype == np.float32
    np.testing.assert_allclose(told.sum(1), 1, rtol=1e-5)
    assert np.mean(told.argmax(1) == codes_of(query)) > 0.9
    assert not model.config.classes
    assert all((tensor == before[name]).all() for name, tensor in model.module.state_dict().items())
    after = fitted.module.state_dict()["layers.0.expand.bias"]
    learned = bool((after != before["layers.0.expand.bias"]).any())
    assert learned == ("train" in how)


def test_the_embedding_alone_is_an_opinion_too(tiny_model, sides, fit):
    query, reference = sides
    model = tiny_model(classifier_reads_genes=False)
    fitted = fit(reference, model=model)
    assert not hasattr(fitted.module.classifier, "gene_weights")
    assert np.mean(fitted.predict_labels(query).argmax(1) == codes_of(query)) > 0.6


def test_query_cells_stand_in_the_context_or_not(sides, fit):
    query, reference = sides
    alone, among = fit(reference), fit(reference, query=query)
    assert not np.allclose(alone.predict_labels(query), among.predict_labels(query), atol=1e-6)
    # In contexts of their own they have no say.
    apart = fit(reference, query=query, batch_key="batch")
    np.testing.assert_allclose(
        apart.predict_labels(query), fit(reference, batch_key="batch").predict_labels(query), atol=1e-6
    )


@pytest.mark.parametrize("how", [{}, {"train": "all", "max_epochs": 2}], ids=["head", "all"])
def test_the_order_of_cells_does_not_matter_and_the_seed_does_if_something_is_drawn(sides, fit, how):
    query, reference = sides
    expected = fit(reference, query=query, **how).predict_labels(query)
    turned = fit(reference[::-1].copy(), query=query[::-1].copy(), **how)
    np.testing.assert_allclose(turned.predict_labels(query), expected, atol=1e-4)
    other = fit(reference, query=query, seed=1, **how).predict_labels(query)
    assert np.allclose(other, expected, atol=1e-6) == (not how)


def test_genes_that_are_hidden_have_no_say(sides, fit):
    query, reference = sides
    fitted = fit(reference, genes=np.arange(20))
    told = fitted.predict_labels(query)
    counts = query.X.toarray()
    counts[:, 20:] = 7
    query.X = counts
    np.testing.assert_allclose(fitted.predict_labels(query), told, atol=1e-5)


def test_chunks_do_not_matter(sides, fit):
    query, reference = sides
    fitted = fit(reference)
    np.testing.assert_allclose(fitted.predict_labels(query, batch_size=7), fitted.predict_labels(query), atol=1e-5)


def test_frequent_labels_are_not_favoured_as_much_as_they_were_seen(sides, fit, monkeypatch):
    query, reference = sides
    codes = codes_of(reference)
    few = reference[np.r_[np.flatnonzero(codes == 0), np.flatnonzero(codes == 1)[:5]]].copy()
    told = fit(few).predict_labels(query)[:, 1].mean()
    monkeypatch.setattr(_annotation, "PRIOR_TAKEN_BACK", 0.0)
    assert told > fit(few).predict_labels(query)[:, 1].mean()


def test_the_best_weights_by_held_out_cells_return(sides, fit, monkeypatch):
    _, reference = sides
    # So fast that it soon goes wrong.
    monkeypatch.setattr(_training, "LR", 0.3)
    monkeypatch.setattr(_training, "PART_LRS", {"embedder": 0.03, "layers": 0.03, "latent": 0.03})
    fitted = fit(reference, train="all", max_epochs=12)
    held_out = fitted.history["loss_validation"].to_numpy(dtype=float).ravel()
    best = int(held_out.argmin())
    assert held_out[-1] > held_out[best]
    until_then = fit(reference, train="all", max_epochs=best + 1).module.state_dict()
    for name, tensor in fitted.module.state_dict().items():
        torch.testing.assert_close(tensor, until_then[name], rtol=0, atol=0)


def test_masking_is_input_dropout_and_may_be_left_out(tiny_model, sides, fit, monkeypatch):
    _, reference = sides
    drawn = []
    rates = _training.mask_rates
    monkeypatch.setattr(_training, "mask_rates", lambda *args: (drawn.append(args), rates(*args))[1])
    fit(reference, train="all", max_epochs=1, model=tiny_model(mask_cells=0.0))
    assert not drawn
    fit(reference, train="all", max_epochs=1)
    assert drawn


def test_contexts_of_any_size_are_validated_in_chunks(sides, fit, monkeypatch):
    _, reference = sides
    at_once = fit(reference, train="all", max_epochs=2).history["loss_validation"].astype(float)
    sizes = []
    monkeypatch.setattr(_training, "chunk_size", lambda *_: 7)
    embed = _training.stream_embeddings

    def noted(*args, **how):
        for chunk in embed(*args, **how):
            sizes.append(len(chunk))
            yield chunk

    monkeypatch.setattr(_training, "stream_embeddings", noted)
    chunk_by_chunk = fit(reference, train="all", max_epochs=2).history["loss_validation"].astype(float)
    assert max(sizes) == 7
    np.testing.assert_allclose(chunk_by_chunk, at_once, rtol=1e-4)


def test_every_label_with_two_cells_is_judged_by(logged):
    codes = np.repeat([0, 1, 2, 3], [40, 5, 2, 1])
    held_out = _training.hold_out(codes, np.arange(48), np.random.default_rng(0))
    assert np.bincount(codes[held_out], minlength=4).tolist() == [4, 1, 1, 0]
    assert not logged


def test_with_one_cell_per_label_it_says_that_nothing_is_held_out(sides, fit, logged):
    _, reference = sides
    codes = codes_of(reference)
    pair = reference[[np.argmin(codes), np.argmax(codes)]].copy()
    fit(pair, train="all", max_epochs=1)
    assert any("no label has two cells, so nothing is held out" in message for message in logged)


def test_of_many_cells_rare_labels_keep_all_of_theirs_and_stay_as_rare(sides, fit, monkeypatch):
    query, reference = sides
    codes = codes_of(reference)
    few = reference[np.r_[np.flatnonzero(codes == 0), np.flatnonzero(codes == 1)[:8]]].copy()
    from_all = fit(few).predict_labels(query)[:, 1].mean()
    seen = []
    monkeypatch.setattr(_annotation, "MAX_CELLS", 24)
    monkeypatch.setattr(
        _annotation,
        "fit_softmax",
        lambda x, codes, *args, **how: (seen.append(codes), fit_softmax(x, codes, *args, **how))[1],
    )
    from_some = fit(few).predict_labels(query)[:, 1].mean()
    assert [np.bincount(codes).tolist() for codes in seen] == [[16, 8]] * 2
    monkeypatch.setattr(_annotation, "_frequency_lost", lambda *_: 0)
    assert abs(from_some - from_all) < abs(fit(few).predict_labels(query)[:, 1].mean() - from_all)


def test_a_label_is_drawn_even_if_there_are_more_labels_than_cells_to_draw(monkeypatch):
    monkeypatch.setattr(_annotation, "MAX_CELLS", 3)
    codes = np.repeat(np.arange(5), 4)
    drawn = _annotation._drawn(codes, np.arange(20), np.random.default_rng(0))
    assert set(codes[drawn]) == set(range(5))


def test_contexts_without_a_common_name_are_warned_of(sides, fit, logged):
    query, reference = sides
    fit(reference, query=query)
    assert not any("no context holds cells of both" in message for message in logged)
    fit(reference, query=query, batch_key="batch")
    assert any(
        "no context holds cells of both data sets (reference: 'batch 0', 'batch 1'; query: 'all')" in message
        for message in logged
    )


# ---- keeping, refitting, refusing ----------------------------------------------------------------------------------


def test_a_fitted_annotator_is_kept_with_its_labels(sides, fit, tmp_path):
    query, reference = sides
    fitted = fit(reference, query=query, genes=np.arange(30))
    fitted.save_pretrained(tmp_path)
    again = sf.model.load_pretrained(tmp_path)
    assert again.config.classes == ("B cell", "monocyte")
    np.testing.assert_array_equal(again.predict_labels(query), fitted.predict_labels(query))


def test_a_fitted_annotator_learns_other_labels(sides, fit):
    query, reference = sides
    fitted = fit(reference)
    three = [*LABELS, Label("T cell", ())]
    again = fit(reference, model=fitted, labels=three, codes=np.arange(reference.n_obs) % 3)
    assert again.predict_labels(query).shape == (60, 3)
    assert fitted.predict_labels(query).shape == (60, 2)


def test_what_cannot_be_done_is_refused(tiny_model, sides, fit):
    query, reference = sides
    with pytest.raises(ValueError, match=r"without epochs; got max_epochs=3. Leave it out, or .* train=\"all\""):
        fit(reference, max_epochs=3)
    with pytest.raises(ValueError, match=r"codes must number the 3 labels.*got the numbers \[0, 1\]"):
        fit(reference, labels=[*LABELS, Label("T cell", ())])
    with pytest.raises(ValueError, match=r"got the numbers \[-1, 0, 1\]. Leave out cells without a label"):
        fit(reference, codes=np.arange(reference.n_obs) % 3 - 1)
    with pytest.raises(ValueError, match=r"has learned no labels yet: fitted = model.fit_labels"):
        tiny_model().predict_labels(query)
