"""CellNamer, trained by its user on labelled cells."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from cases import disturb, equal, weights
from scipy import sparse

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.labels import Label
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.data.matrix.cells import Cells
from scfoundry.model.cellnamer import _corpus
from scfoundry.model.cellnamer._corpus import labels_in
from scfoundry.model.cellnamer._training import prepare
from scfoundry.stats.adaptation import adapted
from scfoundry.stats.components import principal_components

if TYPE_CHECKING:
    from scfoundry.model._capabilities import TextScores

TYPES = ("B cell", "NK", "CD14+ Monocytes", "mystery cell")
N_GENES, OWN = 80, 12
GENES = [f"ENSG{i:011d}" for i in range(N_GENES)]
TINY = {"n_hidden": 16, "n_latent": 16, "n_buckets": 512, "n_text_hidden": 16}
QUICK = {"accelerator": "cpu", "batch_size": 48}


def corpus(n_obs: int = 160, seed: int = 0, *, missing: slice | None = None) -> ad.AnnData:
    """Cells of four types that show twelve genes each, of two studies; one lacks some genes."""
    rng = np.random.default_rng(seed)
    types, study = np.arange(n_obs) % 4, np.arange(n_obs) // 4 % 2
    rates = np.full((4, N_GENES), 0.4)
    for i in range(4):
        rates[i, i * OWN : (i + 1) * OWN] = 3
    counts = rng.poisson(rates[types] * rng.lognormal(sigma=0.2, size=(n_obs, 1)))
    if missing is not None:
        counts[np.ix_(study == 1, np.arange(N_GENES)[missing])] = 0
    obs = pd.DataFrame(
        {"cell_type": np.array(TYPES)[types], "study": np.array(["one", "two"])[study]},
        index=[f"cell {i}" for i in range(n_obs)],
    )
    return ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=pd.DataFrame(index=GENES))


def built(adata: ad.AnnData, *, batch_key: str | None = "study", **config) -> sf.model.CellNamer:
    sf.model.CellNamer.setup_anndata(adata, labels_key="cell_type", batch_key=batch_key)
    return sf.model.CellNamer(adata, **(TINY | config))


def scores(
    model: sf.model.CellNamer, adata: ad.AnnData, labels: tuple[str, ...] = TYPES, *, adapt: bool = True
) -> TextScores:
    ontology = CellOntology.load()
    terms = {name: ontology.resolve(name) for name in labels}
    offered = [
        Label(name, (f"cell type: {name}.",)) if term is None else Label(name, tuple(ontology.prompts(term)), term.id)
        for name, term in terms.items()
    ]
    cells = Cells.of(adata, model.genes, caller="test")
    alone = model.score_texts(cells, offered, Compute.resolve("cpu"))
    if not adapt:
        return alone
    components = principal_components(cells.reader, moments=alone.moments)
    return replace(alone, probabilities=adapted(alone.probabilities, components, model.adapted_temperature))


def named(model: sf.model.CellNamer, adata: ad.AnnData, labels: tuple[str, ...] = TYPES, **how: bool) -> np.ndarray:
    return np.array(labels)[scores(model, adata, labels, **how).probabilities.argmax(1)]


def accuracy(model: sf.model.CellNamer, adata: ad.AnnData, labels: tuple[str, ...] = TYPES, **how: bool) -> float:
    return float((named(model, adata, labels, **how) == adata.obs["cell_type"].astype(str)).mean())


MARKERS = {"B cells": GENES[:OWN], "NK": GENES[OWN : 2 * OWN], "CL:0000115": GENES[4 * OWN : 5 * OWN]}


@pytest.fixture(scope="module")
def trained() -> sf.model.CellNamer:
    """Without markers, the second study without the last genes."""
    model = built(corpus(800, missing=slice(60, None)))
    model.train(max_epochs=8, **QUICK)
    return model


@pytest.fixture(scope="module")
def with_markers() -> sf.model.CellNamer:
    model = built(corpus(400), markers=MARKERS)
    model.train(max_epochs=5, **QUICK)
    return model


def test_types_are_those_that_the_labels_stand_for(trained, with_markers) -> None:
    ontology = CellOntology.load()
    ids = {ontology.resolve(name).id for name in TYPES[:3]}
    assert set(trained.config.types) == ids | {"mystery cell"}
    assert trained.config.profiles == ()
    assert set(with_markers.config.types) == ids | {"mystery cell", "CL:0000115"}
    assert set(with_markers.config.profiles) == {"CL:0000236", "CL:0000623", "CL:0000115"}
    assert with_markers.config.markers["CL:0000236"] == GENES[:OWN]


def test_of_more_cells_than_are_held_every_type_of_a_study_keeps_as_many_as_others(monkeypatch) -> None:
    adata = corpus(400)
    first = adata.obs["cell_type"] == adata.obs["cell_type"].iloc[0]
    uneven = adata[first | (np.arange(400) % 5 == 0)].copy()
    model = built(uneven)
    everything = model._registered("a test")
    monkeypatch.setattr(_corpus, "MAX_HELD", 90)
    held = built(uneven)._registered("a test")
    sizes, kept = (np.bincount(registered.groups) for registered in (everything, held))
    assert kept.sum() <= 90 < sizes.sum()
    np.testing.assert_array_equal(kept, np.minimum(sizes, kept.max()))
    assert kept.sum() + (sizes > kept.max()).sum() > 90  # one more of each would be too many
    names = uneven.obs_names[held.rows]
    np.testing.assert_array_equal(names, np.sort(names))
    shuffled = uneven[np.random.default_rng(0).permutation(uneven.n_obs)].copy()
    again = built(shuffled)._registered("a test")
    np.testing.assert_array_equal(shuffled.obs_names[again.rows], names)
    np.testing.assert_array_equal(again.counts.toarray(), held.counts.toarray())


def test_terms_joined_by_a_bar_are_a_union_and_no_type_of_their_own() -> None:
    adata = corpus(160)
    unclear = adata.obs["cell_type"].isin(["B cell", "NK"]) & (adata.obs["study"] == "two")
    adata.obs["cell_type"] = adata.obs["cell_type"].mask(unclear, "CL:0000236|CL:0000623")
    model = built(adata)
    assert set(model.config.types) == {"CL:0000236", "CL:0000623", "CL:0001054", "mystery cell"}
    assert ("CL:0000236", "CL:0000623") in labels_in(model._registered("a test").studies(np.arange(160)))
    model.train(max_epochs=6, **QUICK)
    assert dict(zip(model.config.types, model.module.n_studies.tolist(), strict=True))["CL:0000623"] == 2
    assert accuracy(model, corpus(200, seed=1)) > 0.85


def test_a_bar_in_a_name_that_is_no_term_is_part_of_the_name() -> None:
    adata = corpus(80)
    adata.obs["cell_type"] = adata.obs["cell_type"].replace({"mystery cell": "mystery|B cell"})
    assert "mystery|B cell" in built(adata).config.types


def test_held_out_cells_are_named_by_texts_alone(trained) -> None:
    assert trained.is_trained_
    assert accuracy(trained, corpus(200, seed=1)) > 0.9
    assert trained.provenance["weights"] == "own training"
    assert accuracy(trained, corpus(200, seed=2), adapt=False) > 0.85


def kinds(adata: ad.AnnData) -> dict[str, bool]:
    """Whether cells of the broader of two types count as ones of each."""
    model, ontology, cells = built(adata), CellOntology.load(), np.arange(adata.n_obs)
    registered = model._registered("a test")
    objectives, _ = prepare(model.module, registered, (cells, cells[:0]), batch_size=48, stage=2, seed=0)
    ids = {name: ontology.resolve(name).id for name in ("CD14+ Mono", "FCGR3A+ Mono")}
    row = labels_in(registered.studies(cells)).index((ids["CD14+ Mono"],))
    return {name: bool(objectives.kinds[row, model.config.types.index(i)]) for name, i in ids.items()}


def test_cells_of_a_broader_type_are_not_of_a_narrower_one_of_their_own_study() -> None:
    # By the Cell Ontology the one with CD16 is a kind of the one with CD14.
    adata = corpus(80)
    adata.obs["cell_type"] = adata.obs["cell_type"].replace({"CD14+ Monocytes": "CD14+ Mono", "NK": "FCGR3A+ Mono"})
    assert kinds(adata) == {"CD14+ Mono": True, "FCGR3A+ Mono": False}
    in_one = adata.obs["cell_type"].eq("FCGR3A+ Mono") & adata.obs["study"].eq("one")
    in_two = adata.obs["cell_type"].eq("CD14+ Mono") & adata.obs["study"].eq("two")
    assert kinds(adata[~in_one & ~in_two].copy()) == {"CD14+ Mono": True, "FCGR3A+ Mono": True}


def test_embedding_retrieval_and_annotation_work_with_own_weights(trained) -> None:
    adata, reference = corpus(80, seed=1), corpus(80, seed=2)
    sf.tl.embed(adata, model=trained, device="cpu")
    found = sf.tl.retrieve(adata, "cell type: B cell.", 20, model=trained, device="cpu")
    assert found is not None
    sf.tl.annotate(adata, reference, labels_key="cell_type", model=trained, device="cpu")
    assert (adata.obs["annotation"].astype(str) == adata.obs["cell_type"]).mean() > 0.9


def test_losses_fall_and_have_names(trained, with_markers) -> None:
    assert "matching_train" not in trained.history
    for model, names in ((trained, ()), (with_markers, ("matching",))):
        for name in ("loss", "cell_text", "known_types", *names):
            losses = model.history[f"{name}_train"].iloc[:, 0].astype(float)
            assert losses.iloc[-1] < losses.iloc[0], name
            assert f"{name}_validation" in model.history


def test_a_type_without_cells_is_found_by_its_markers(with_markers) -> None:
    adata = corpus(200, seed=3)
    rows = np.arange(0, 200, 8)
    counts = adata.X.toarray()
    counts[rows, :OWN] = 0
    counts[rows, 4 * OWN : 5 * OWN] = 4
    adata.X = sparse.csr_matrix(counts)
    adata.obs.loc[adata.obs_names[rows], "cell_type"] = "endothelial cell"
    assert (named(with_markers, adata, (*TYPES, "endothelial cell"))[rows] == "endothelial cell").mean() > 0.8


def test_threshold_and_temperature_are_fitted_and_stored(trained) -> None:
    threshold = float(trained.module.unknown_threshold)
    assert threshold == trained.unknown_threshold != pytest.approx(0.093)
    assert (scores(trained, corpus(200, seed=1)).fit >= threshold).mean() > 0.85
    assert trained.config.adapted_temperature == trained.module.config.adapted_temperature
    assert trained.module.n_studies.tolist() == [2] * 4


@pytest.mark.parametrize("way", ["save", "save_pretrained"])
def test_saved_weights_say_the_same(trained, with_markers, tmp_path, way: str) -> None:
    for model in (trained, with_markers):
        folder = tmp_path / f"{len(model.config.types)}"
        getattr(model, way)(folder)
        if way == "save":
            loaded = sf.model.CellNamer.load(folder, adata=False, accelerator="cpu")
        else:
            loaded = sf.model.load_pretrained(folder)
        assert loaded.config == model.config
        assert equal(weights(loaded), weights(model))
        first, second = (scores(m, corpus(60, seed=1)).probabilities for m in (model, loaded))
        np.testing.assert_array_equal(first, second)


def test_training_goes_on_with_loaded_weights_and_their_markers(with_markers, tmp_path) -> None:
    with_markers.save_pretrained(tmp_path)
    adata = corpus(80)
    sf.model.CellNamer.setup_anndata(adata, labels_key="cell_type", batch_key="study")
    loaded = sf.model.CellNamer.from_pretrained(tmp_path, adata)
    loaded.train(max_epochs=1, **QUICK)
    assert "matching_train" in loaded.history


def test_the_first_stage_trains_the_networks_alone_and_needs_no_labels() -> None:
    adata = corpus(240)
    adata.obs.loc[adata.obs_names[::3], "cell_type"] = "Unassigned"
    model = built(adata, batch_key=None, markers=MARKERS)
    before = weights(model)
    model.train(stage=1, max_epochs=6, **QUICK)
    learned = {name.split(".")[0] for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])}
    assert learned == {"scale", "cells"}
    for name in ("masked_genes", "cell_cell"):
        losses = model.history[f"{name}_train"].iloc[:, 0].astype(float)
        assert losses.iloc[-1] < losses.iloc[0]
    with pytest.raises(ValueError, match=r"has learned no cell types yet.*model.train\(stage=2\)"):
        accuracy(model, corpus(20))
    model.train(stage=2, max_epochs=1, **QUICK)
    assert len(model.history["masked_genes_train"]) == 6
    assert len(model.history["cell_text_train"]) == 1


def test_the_order_of_cells_plays_no_part() -> None:
    adata = corpus()
    models = [built(cells) for cells in (adata, adata[::-1].copy())]
    for model in models:
        model.train(max_epochs=1, seed=3, **QUICK)
    assert equal(*map(weights, models))


def test_a_seed_gives_the_same_weights_and_another_one_others() -> None:
    models = [built(corpus()) for _ in range(3)]
    for model, seed in zip(models, [0, 0, 1], strict=True):
        model.train(max_epochs=1, seed=seed, **QUICK)
    first, again, other = map(weights, models)
    assert equal(first, again)
    assert not equal(first, other)


def test_interrupted_training_resumes_to_the_same_weights(tmp_path) -> None:
    constant = {"schedule": "constant", "warmup_steps": 0} | QUICK
    through, interrupted, resumed = (built(corpus(), markers=MARKERS) for _ in range(3))
    disturb(resumed)
    through.train(max_epochs=4, **constant)
    interrupted.train(max_epochs=2, checkpoint_dir=tmp_path, **constant)
    resumed.train(max_epochs=4, checkpoint_dir=tmp_path, **constant)
    assert equal(weights(through), weights(resumed))


def test_a_study_measured_the_genes_of_which_it_has_counts() -> None:
    registered = built(corpus(missing=slice(60, None)))._registered("a test")
    assert registered.names.tolist() == ["one", "two"]
    assert registered.measured.sum(1).tolist() == [80, 60]


def test_studies_without_labels_or_with_few_cells_do_no_harm() -> None:
    adata = corpus(400)
    adata.obs.loc[adata.obs_names[:60], "study"] = "also"
    adata.obs.loc[adata.obs_names[:60], "cell_type"] = "unknown"
    adata.obs.loc[adata.obs_names[60:68], "study"] = "small"
    model = built(adata)
    model.train(stage=1, max_epochs=1, **QUICK)
    model.train(stage=2, max_epochs=3, **QUICK)
    assert all(torch.isfinite(tensor).all() for tensor in weights(model).values())
    assert model.module.n_studies.tolist() == [3] * 4
    assert np.isfinite(model.history["loss_validation"].to_numpy(dtype=float)).all()


def test_log_normalised_values_are_learned_from_as_well() -> None:
    adata, other = corpus(800), corpus(100, seed=1)
    for each in (adata, other):
        each.X = (sparse.diags(1e4 / np.asarray(each.X.sum(1)).ravel()) @ each.X).log1p().tocsr().astype(np.float32)
    sf.model.CellNamer.setup_anndata(adata, labels_key="cell_type")
    model = sf.model.CellNamer(adata, genes=sf.pp.gene_medians(corpus()), **TINY)
    model.train(max_epochs=8, **QUICK)
    assert float(model.module.unknown_threshold) != pytest.approx(0.093)
    assert accuracy(model, other) > 0.85


def test_few_held_out_cells_leave_the_threshold_and_say_so(logged) -> None:
    model = built(corpus())
    before = float(model.module.unknown_threshold)
    model.train(max_epochs=1, **QUICK)
    assert float(model.module.unknown_threshold) == before
    assert any("neither the temperature" in message for message in logged)


def test_markers_that_are_no_genes_of_the_model_are_left_out(logged) -> None:
    model = built(corpus(), markers=MARKERS | {"mast cell": ["TPSAB1"]})
    assert len(model.config.profiles) == 3
    assert any("No marker of 'CL:0000097'" in message for message in logged)


def without(column: str, values: object) -> ad.AnnData:
    adata = corpus()
    adata.obs[column] = values
    return adata


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: built(without("cell_type", "B cell")), "at least two must be labelled; .* names only 'CL:0000236'"),
        (lambda: built(without("cell_type", "unknown")), r"obs\['cell_type'\] names none"),
        (lambda: built(without("cell_type", [None] * 3 + ["NK"] * 157)), r"no label for 3 of 160 cells.*fillna"),
        (lambda: built(corpus()).train(stage=3), "stage must be one of 1, 2; got 3"),
        (lambda: built(corpus()).train(loss_weights={"matching": 2}), "no 'matching'; name objectives of stage 2"),
        (lambda: built(corpus()).train(batch_size=0), "batch_size must be at least 1 cell; got 0"),
        (lambda: accuracy(built(corpus()), corpus(20)), r"has learned no cell types yet.*stage=2"),
        (lambda: accuracy(sf.model.CellNamer(genes=GENES), corpus(20)), "no cell types"),
        (lambda: built(corpus(), types=("CL:0000236",)).train(), "3 other types, such as 'CL:0000623'.*sf.tl.annotate"),
        (lambda: built(corpus(), types=[*TYPES]).train(), "know 4 cell types, but the registered data have"),
    ],
)
def test_what_cannot_be_trained_says_why(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_values_that_are_no_counts_are_refused() -> None:
    adata = corpus()
    adata.X = adata.X * -1.5
    with pytest.raises(ValueError, match="negative"):
        built(adata).train()


# ---- divide and conquer --------------------------------------------------------------------------------------------


def losses_of(part_size: int | None, **config) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Losses of a batch of cells alone, and their gradients, all random numbers being the same."""
    model = built(corpus(), **config)
    registered = model._registered("a test")
    split = np.arange(160), np.arange(0)
    sizes = {"batch_size": 50, "part_size": part_size}
    objectives, data = prepare(model.module, registered, split, stage=1, **sizes, seed=0)
    batch, rng = data.draw([0])
    objectives.double().train()
    torch.manual_seed(0)
    losses = objectives.losses(replace(batch, z=batch.z.double()), rng)
    sum(losses.values()).backward()
    found = {name: p.grad for name, p in objectives.named_parameters() if p.grad is not None}
    return {name: loss.item() for name, loss in losses.items()}, found


@pytest.mark.parametrize("part_size", [1, 7, 50])
def test_parts_change_neither_losses_nor_gradients(part_size: int) -> None:
    """Genes are dropped of the batch, whatever its parts; states are not, here."""
    expected_losses, expected = losses_of(None, dropout=0.0)
    losses, gradients = losses_of(part_size, dropout=0.0)
    assert losses == pytest.approx(expected_losses, rel=1e-9)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-6, atol=1e-9, msg=name)


def test_with_dropout_gradients_are_those_of_all_parts_in_memory(monkeypatch) -> None:
    losses, gradients = losses_of(7)

    def end_to_end(encode, parts, parameters):
        return tuple(torch.cat(output) for output in zip(*map(encode, parts), strict=True))

    monkeypatch.setattr("scfoundry.model.cellnamer._cell_objectives.encode_in_parts", end_to_end)
    expected_losses, expected = losses_of(7)
    assert losses == expected_losses
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-6, atol=1e-12, msg=name)


def test_divided_training_resumes_to_the_same_weights(tmp_path) -> None:
    how = {"stage": 1, "contrast": "divide_and_conquer", "part_size": 20, "schedule": "constant"} | QUICK
    how |= {"warmup_steps": 0}
    through, interrupted, resumed = (built(corpus()) for _ in range(3))
    disturb(resumed)
    through.train(max_epochs=4, **how)
    interrupted.train(max_epochs=2, checkpoint_dir=tmp_path, **how)
    resumed.train(max_epochs=4, checkpoint_dir=tmp_path, **how)
    assert equal(weights(through), weights(resumed))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"contrast": "momentum"}, "contrast must be one of 'batch', 'divide_and_conquer'; got 'momentum'"),
        ({"part_size": 9}, r"contrast='batch' holds in memory at once: train\(contrast=\"divide_and_conquer\""),
        ({"contrast": "divide_and_conquer"}, r"exact in a batch of any size.*train\(accumulate_grad_batches=4\)"),
        ({"contrast": "divide_and_conquer", "stage": 1, "part_size": 0}, "at least 1 cell; got 0"),
        ({"contrast": "divide_and_conquer", "stage": 1, "batch_size": 1}, "a batch of 1 has none"),
    ],
)
def test_what_cannot_be_divided_says_why(how: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(corpus()).train(max_epochs=1, **QUICK | how)
