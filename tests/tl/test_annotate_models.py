"""Cell types learned with models of every kind: what they learn from, and what plays no part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scipy import sparse

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from scfoundry.tasks import Annotator


def annotated(cells: tuple[AnnData, AnnData], model: Any, **arguments: Any) -> AnnData:
    how = {"labels_key": "cell_type", "device": "cpu", "copy": True} | arguments
    return sf.tl.annotate(*cells, model=model, **how)


def fitted(cells: tuple[AnnData, AnnData], model: Any, **arguments: Any) -> Annotator:
    how = {"labels_key": "cell_type", "device": "cpu", "return_fitted": True} | arguments
    return sf.tl.annotate(*cells, model=model, **how)


# ---- any model -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "how"),
    [
        ("small_model", {}),
        ("cellplm", {}),
        ("cellplm", {"train": "all", "max_epochs": 2}),
        ("by_expression", {}),
        ("reads_texts", {}),
    ],
)
def test_any_model_learns_types(cells, who, how, request):
    result = annotated(cells, request.getfixturevalue(who), **how)
    assert sf.metrics.annotation(result.obs["cell_type"], result.obs["annotation"])["accuracy"] > 0.75
    np.testing.assert_allclose(result.obsm["annotation_scores"].sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("who", "how"),
    [
        ("by_expression", {}),
        ("reads_texts", {"n_shots": 3, "train": "all", "max_epochs": 1}),
        ("reads_texts", {"train": "all", "max_epochs": 1}),
        ("reads_texts", {}),
    ],
)
def test_what_was_learned_is_kept_bit_for_bit(cells, who, how, request, tmp_path):
    adata, _ = cells
    annotator = fitted(cells, request.getfixturevalue(who), **how)
    expected = adata.obsm["annotation_scores"].copy()
    annotator.save(tmp_path)
    sf.tl.annotate(adata, model=tmp_path, device="cpu")
    np.testing.assert_array_equal(adata.obsm["annotation_scores"], expected)


@pytest.mark.parametrize(("who", "how"), [("cellplm", {}), ("reads_texts", {"n_shots": 2}), ("reads_texts", {})])
def test_by_low_rank_attention_and_heads_learn_in_the_copy_and_nothing_else(cells, who, how, request):
    model = request.getfixturevalue(who)
    tuned = fitted(cells, model, train="lora", max_epochs=1, **how).model
    before, after = model.module.state_dict(), tuned.module.state_dict()
    changed = {name for name, value in before.items() if name in after and not torch.equal(value, after[name])}
    attention = {name for name in changed if name.endswith(("query.weight", "value.weight"))}
    assert attention
    assert all(name.startswith(model.module.lora_heads) for name in changed - attention)


# ---- LangCell ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "way"),
    [
        ({"n_shots": 2}, "fine_tune_texts"),
        ({}, "train_classifier"),
    ],
)
def test_langcell_learns_few_cells_through_texts_and_many_by_a_head(reads_texts, cells, arguments, way, monkeypatch):
    used = []
    for name in ("fine_tune_texts", "train_classifier"):
        method = getattr(sf.model.LangCell, name)
        monkeypatch.setattr(
            sf.model.LangCell,
            name,
            lambda self, *args, name=name, method=method, **how: (used.append(name), method(self, *args, **how)),
        )
    before = {name: tensor.clone() for name, tensor in reads_texts.module.state_dict().items()}
    result = annotated(cells, reads_texts, train="all", max_epochs=1, **arguments)
    assert used == [way]
    assert np.isfinite(result.obsm["annotation_scores"]).all(axis=None)
    np.testing.assert_allclose(result.obsm["annotation_scores"].sum(axis=1), 1, atol=1e-5)
    assert result.obsm["annotation_scores"].columns.tolist() == ["B cell", "monocyte"]
    after = reads_texts.module.state_dict()
    assert before.keys() == after.keys()
    assert all((tensor == after[name]).all() for name, tensor in before.items())


def test_a_head_leaves_a_transformer_as_it_is(reads_texts, cells):
    annotator = fitted(cells, reads_texts)
    assert annotator.model is reads_texts
    result = annotated(cells, reads_texts)
    assert sf.metrics.annotation(result.obs["cell_type"], result.obs["annotation"])["accuracy"] > 0.75


def test_labels_are_read_by_several_prompts_where_the_weights_like_it(reads_texts, cells, monkeypatch):
    several = fitted(cells, reads_texts, n_shots=2)
    monkeypatch.setattr(sf.model.LangCell, "averages_prompts", False)
    one = fitted(cells, reads_texts, n_shots=2)
    assert min(len(label.texts) for label in several.labels) > 1
    assert [len(label.texts) for label in one.labels] == [1, 1]


def test_weights_that_are_not_fine_tuned_say_so(by_expression, cells):
    with pytest.raises(ValueError, match=r"cannot be fine-tuned. A reference trains a head"):
        annotated(cells, by_expression, train="all")


def test_a_head_on_expression_knows_no_epochs(by_expression, cells):
    with pytest.raises(ValueError, match=r"without epochs; got max_epochs=3. Leave it out: max_epochs=None"):
        annotated(cells, by_expression, max_epochs=3)


@pytest.mark.parametrize(
    ("model", "how"),
    [
        ("reads_texts", {"n_shots": 3, "train": "all", "max_epochs": 1}),
        ("reads_texts", {"n_shots": 3}),
        ("by_expression", {"n_shots": 3}),
    ],
)
def test_the_order_of_the_reference_does_not_matter_to_a_few_shots(cells, model, how, request):
    adata, reference = cells
    learner = request.getfixturevalue(model)
    one, other = (annotated((adata, cells), learner, **how) for cells in (reference, reference[::-1].copy()))
    np.testing.assert_allclose(other.obsm["annotation_scores"], one.obsm["annotation_scores"], atol=1e-5)


def test_a_head_on_expression_sees_a_few_labelled_cells_among_all_the_others(by_expression, make_adata):
    # Types that no text tells apart: what a shot lacks, the cells around it say.
    rng = np.random.default_rng(0)
    adata = make_adata(303)
    kind = rng.integers(3, size=adata.n_obs)
    rates = rng.gamma(0.3, 3, (3, adata.n_vars))[kind]
    adata.X = sparse.csr_matrix(rng.poisson(rates).astype(np.float32))
    adata.obs["cell_type"] = np.array(["kind 1", "kind 2", "kind 3"])[kind]
    shots = np.zeros(adata.n_obs, dtype=bool)
    shots[[np.flatnonzero(kind == i)[0] for i in range(3)]] = True
    result = annotated((adata[~shots].copy(), adata[shots].copy()), by_expression)
    assert (result.obs["annotation"] == result.obs["cell_type"]).mean() > 0.95
    alone = annotated((adata[~shots].copy(), adata[shots].copy()), by_expression, transductive=False)
    np.testing.assert_allclose(alone.obsm["annotation_scores"].sum(axis=1), 1, atol=1e-5)


# ---- CellPLM -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cellplm(make_adata: Callable[..., AnnData]) -> sf.model.CellPLM:
    return sf.model.CellPLM(genes=make_adata().var_names, n_hidden=32, n_layers=1, n_latent=8)


def test_each_side_is_warned_of_once(cellplm, cells, logged):
    for side in cells:
        side.X[3] = 0
        side.X.eliminate_zeros()
    annotated(cells, cellplm)
    said = [message.split(": 1 of 60")[0] for message in logged if "have no counts" in message]
    assert said == ["sf.tl.annotate", "sf.tl.annotate (reference)"]


@pytest.mark.parametrize("arguments", [{}, {"train": "all", "max_epochs": 2}, {"n_shots": 5}, {"batch_key": "batch"}])
def test_cellplm_learns_types(cellplm, cells, arguments):
    result = annotated(cells, cellplm, **arguments)
    assert sf.metrics.annotation(result.obs["cell_type"], result.obs["annotation"])["accuracy"] > 0.75
    np.testing.assert_allclose(result.obsm["annotation_scores"].sum(axis=1), 1, atol=1e-5)


def test_only_genes_that_both_data_sets_measured_tell(cellplm, cells):
    adata, reference = cells
    expected = annotated((adata[:, :30].copy(), reference[:, 10:].copy()), cellplm)
    both = annotated((adata[:, 10:30].copy(), reference[:, 10:30].copy()), cellplm)
    np.testing.assert_allclose(both.obsm["annotation_scores"], expected.obsm["annotation_scores"], atol=1e-4)
