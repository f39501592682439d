"""What every model can do: it says so, does it, and is refused by name where it cannot."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from cases import MODELS, same, state_of

from scfoundry._device import Compute
from scfoundry.data.labels import Label
from scfoundry.data.matrix.cells import Cells
from scfoundry.data.matrix.contexts import Context
from scfoundry.data.matrix.log_normalisation import log_cp10k
from scfoundry.model._capabilities import ABILITIES, can, require
from scfoundry.nn.label_loss import PLAIN

# Model -> what it can do, see `scfoundry.model._capabilities`.
CELLPLM = (
    "HasGeneVectors PredictsRates Tunable AttendsToCells ReplacesGenes FineTunesExpression FineTunesImputation "
    "FineTunesIntegration FineTunesPerturbations"
)
CLAIMS = {
    "cellplm": f"Embeds {CELLPLM}",
    "cellplm_gmvae": f"Embeds {CELLPLM}",
    "langcell": "Embeds AttendsToGenes AttendsFromCls ReadsTexts FineTunesLabels FineTunesPathways",
    "cellnamer": "Embeds ReadsTexts",
    "celler": "Embeds AttendsToGenes AttendsFromCls HasGeneVectors Tunable FineTunesIntegration FineTunesLabels",
    "celllm": "Embeds AttendsFromCls HasGeneVectors Tunable DiscriminatesTumour",
    "scpalm": "Embeds HasGeneVectors Tunable ReconstructsExpression TokenisesPathways FineTunesExpression",
    "small": "Embeds",
}
CPU = Compute.resolve("cpu", "float32")


@pytest.fixture(scope="session")
def models(make_adata):
    return {name: MODELS[name](make_adata(n_vars=60).var_names) for name in CLAIMS}


@pytest.fixture(scope="session")
def adata(make_adata):
    return make_adata(30, 50)


def embeds(model, cells):
    embedded = model.embed(cells, CPU)
    assert embedded.dtype == np.float32
    assert embedded.ndim == 2
    assert len(embedded) == cells.n_obs
    assert np.isfinite(embedded).all()
    assert {"model", "weights", "citation", "versions"} <= set(model.provenance)


def has_gene_vectors(model, cells):
    vectors = model.gene_vectors()
    assert vectors.dtype == np.float32
    assert vectors.ndim == 2
    assert len(vectors) == len(model.genes)
    assert np.isfinite(vectors).all()


def predicts_rates(model, cells):
    latent = torch.tensor(model.embed(cells, CPU), requires_grad=True)
    rates = model.expected_rates(latent)
    assert rates.shape == (cells.n_obs, len(model.genes))
    assert (rates >= 0).all()
    assert (rates.sum(1) > 0).all()
    some = model.expected_rates(latent, torch.tensor([5, 2]))
    shares, expected = some / some.sum(1, keepdim=True), rates[:, [5, 2]] / rates[:, [5, 2]].sum(1, keepdim=True)
    torch.testing.assert_close(shares, expected)
    rates[:, 0].sum().backward()
    assert latent.grad.abs().sum() > 0
    assert isinstance(model.decoder, torch.nn.Module)


def reconstructs_expression(model, cells):
    log = log_cp10k(cells.read())
    found = model.reconstruct(log, CPU)
    assert found.dtype == np.float32
    assert found.shape == (cells.n_obs, len(model.genes))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(model.reconstruct(log[5:9], Compute.resolve("cpu", batch_size=3)), found[5:9], atol=1e-5)


def tokenises_pathways(model, cells):
    codes = model.pathway_codes(cells.read(), CPU)
    assert codes.shape[0] == cells.n_obs
    assert ((codes >= 0) & (codes < model.n_codes)).all()
    np.testing.assert_array_equal(
        model.pathway_codes(cells.read()[7:], Compute.resolve("cpu", batch_size=5)), codes[7:]
    )


def is_tunable(model, cells):
    tuned = model.copy()
    one = cells.as_one_context()
    embedded = tuned.module.embed(tuned.batch(one.read()))
    np.testing.assert_allclose(embedded.detach().numpy(), model.embed(one, CPU), atol=1e-5)
    embedded.square().sum().backward()
    assert sum(p.grad.abs().sum() for p in tuned.module.parameters() if p.grad is not None) > 0
    assert set(model.part_rates) <= {name for name, _ in tuned.module.named_children()}


LABELS = [Label(name, (f"cell type: {name}.",)) for name in ("B cell", "monocyte", "NK")]


def reads_texts(model, cells):
    embedded = model.embed_texts([label.texts[0] for label in LABELS], CPU)
    assert embedded.shape == (3, model.embed(cells, CPU).shape[1])
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-5)
    scores = model.score_texts(cells, LABELS, CPU)
    assert scores.probabilities.shape == scores.similarity.shape == (cells.n_obs, 3)
    np.testing.assert_allclose(scores.probabilities.sum(1), 1, atol=1e-5)
    assert scores.fit is None or scores.fit.shape == (cells.n_obs,)
    assert set(model.check_labels(LABELS)) <= {label.name for label in LABELS}
    assert model.adapted_temperature > 0


def attends_to_cells(model, cells):
    seen = []
    for layer in range(model.n_layers):
        for rows, chunks in model.attention_factors(cells, layer, CPU):
            factors = list(chunks)
            assert sum(len(chunk.receiving) for chunk in factors) == len(rows)
            assert all(chunk.receiving.shape == chunk.sending.shape for chunk in factors)
            seen.append(rows)
    assert sorted(np.concatenate(seen)) == sorted(np.tile(np.arange(cells.n_obs), model.n_layers))


def attends_to_genes(model, cells):
    layers, of_cell = range(model.n_layers), {}
    for batch_size in (1, 7):
        compute = Compute.resolve("cpu", batch_size=batch_size)
        for found in model.gene_attention(cells, layers, compute):
            n_cells, _, n_positions, _ = found.queries.shape
            assert found.keys.shape == found.queries.shape
            assert found.genes.shape == (n_cells, n_positions) == (len(found.rows), n_positions)
            assert (found.genes[:, 0] == -1).all()
            present = torch.ones_like(found.genes, dtype=bool) if found.present is None else found.present
            for i, row in enumerate(found.rows):
                here = present[i]
                logits = (found.queries[i][:, here] @ found.keys[i][:, here].transpose(1, 2)).numpy()
                of_cell.setdefault((row, found.layer), []).append((found.genes[i][here].numpy(), logits))
    assert set(of_cell) == {(row, layer) for row in range(cells.n_obs) for layer in layers}
    counts = cells.read()
    for (row, _), ((genes, logits), (again, of_batch)) in of_cell.items():
        # Here no cell has more genes than are read.
        assert sorted(genes[1:]) == counts[row].indices.tolist()
        np.testing.assert_array_equal(again, genes)
        np.testing.assert_allclose(of_batch, logits, atol=1e-5)


def attends_from_cls(model, cells):
    shares = [np.full((cells.n_obs, len(model.genes)), np.nan) for _ in range(2)]
    for of_size, batch_size in zip(shares, (1, 7), strict=True):
        for found in model.cls_attention(cells, Compute.resolve("cpu", batch_size=batch_size)):
            assert found.genes.shape == found.shares.shape
            assert (found.shares >= 0).all()
            assert (found.shares[found.genes < 0] == 0).all()
            for row, genes, of_genes in zip(found.rows, found.genes.numpy(), found.shares.numpy(), strict=True):
                of_size[row, genes[genes >= 0]] = of_genes[genes >= 0]
    np.testing.assert_allclose(shares[1], shares[0], atol=1e-6)
    np.testing.assert_allclose(np.nansum(shares[0], 1), 1, atol=1e-5)
    # Here no cell has more genes than are read.
    np.testing.assert_array_equal(~np.isnan(shares[0]), cells.read().toarray() > 0)


def discriminates_tumour(model, cells):
    probabilities = model.tumour_probabilities(cells, CPU)
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (cells.n_obs,)
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert len(np.unique(probabilities)) > 1


def replaces_genes(model, cells):
    shifts = model.replaced_gene_shifts(cells.as_one_context(), {"a": 3, "b": 11}, -100.0, CPU)
    assert {name: shift.shape for name, shift in shifts.items()} == dict.fromkeys(
        "ab", model.embed(cells, CPU).shape[1:]
    )
    assert all(np.isfinite(shift).all() for shift in shifts.values())


def fine_tunes_labels(model, cells):
    codes = np.arange(cells.n_obs) % 3
    tuned = model.fine_tune_labels(cells, LABELS, codes, max_epochs=1, loss=PLAIN, seed=0, compute=CPU)
    probabilities = tuned.label_probabilities(cells, LABELS, CPU)
    assert probabilities.shape == (cells.n_obs, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


def fine_tunes_pathways(model, cells):
    active = {"a": np.arange(cells.n_obs) % 2, "b": np.arange(cells.n_obs) % 3 == 0}
    targets = pd.DataFrame(active, index=cells.names).astype(np.int8)
    tuned = model.fine_tune_pathways(cells, targets, max_epochs=1, seed=0, compute=CPU)
    probabilities = tuned.pathway_probabilities(cells, CPU)
    assert probabilities.shape == (cells.n_obs, 2)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


def fine_tunes_expression(model, cells):
    tuned = model.fine_tune_expression(cells, max_epochs=1, seed=0, compute=CPU)
    embeds(tuned, cells)
    assert np.abs(tuned.embed(cells, CPU) - model.embed(cells, CPU)).max() > 0


def fine_tunes_imputation(model, cells):
    panel, hidden = cells.measured[:30], cells.measured[30:35]
    spots = cells.only(panel)
    how = {"panel": panel, "hidden": hidden, "max_epochs": 1, "seed": 0, "compute": CPU}
    embeds(model.fine_tune_imputation(spots, cells, **how), cells)


def fine_tunes_integration(model, cells):
    tuned = model.fine_tune_integration(cells.take(cells.by_name), max_epochs=1, seed=0, compute=CPU)
    assert tuned.config.n_batches == 2
    others = replace(cells, contexts=[Context(f"new {context.name}", context.rows) for context in cells.contexts])
    for read in (cells, others):
        embedded = tuned.embed_integrated(read, CPU)
        assert embedded.dtype == np.float32
        assert embedded.shape == model.embed(cells, CPU).shape
        assert np.isfinite(embedded).all()


def fine_tunes_perturbations(model, cells):
    genes, whole = cells.measured[:20], cells.as_one_context()
    conditions = [("all", []), ("all", [3]), ("all", [3, 11])]
    profiles = np.log1p(np.random.default_rng(0).poisson(1, (3, len(genes))))
    how = {"value": -100.0, "max_epochs": 1, "seed": 0, "compute": CPU}
    tuned, head = model.fine_tune_perturbations(whole, conditions, profiles, genes, **how)
    changes = tuned.replaced_gene_changes(whole, head, [[3], [11]], -100.0, CPU)
    assert changes.shape == (2, len(model.genes))
    assert np.isfinite(changes).all()


RUNS = {
    "Embeds": embeds,
    "HasGeneVectors": has_gene_vectors,
    "PredictsRates": predicts_rates,
    "ReconstructsExpression": reconstructs_expression,
    "TokenisesPathways": tokenises_pathways,
    "Tunable": is_tunable,
    "ReadsTexts": reads_texts,
    "AttendsToCells": attends_to_cells,
    "AttendsToGenes": attends_to_genes,
    "AttendsFromCls": attends_from_cls,
    "DiscriminatesTumour": discriminates_tumour,
    "ReplacesGenes": replaces_genes,
    "FineTunesLabels": fine_tunes_labels,
    "FineTunesPathways": fine_tunes_pathways,
    "FineTunesExpression": fine_tunes_expression,
    "FineTunesImputation": fine_tunes_imputation,
    "FineTunesIntegration": fine_tunes_integration,
    "FineTunesPerturbations": fine_tunes_perturbations,
}
CAPABILITIES = {capability.__name__: capability for capability in ABILITIES}


def test_some_model_can_do_each_thing():
    assert set(" ".join(CLAIMS.values()).split()) == set(RUNS) == set(CAPABILITIES)


@pytest.mark.parametrize("name", CLAIMS)
def test_a_model_can_do_what_the_table_says_and_nothing_else(models, name):
    model = models[name]
    assert {word for word, capability in CAPABILITIES.items() if can(model, capability)} == set(CLAIMS[name].split())


@pytest.mark.parametrize(("name", "word"), [(name, word) for name, words in CLAIMS.items() for word in words.split()])
def test_what_a_model_can_do_it_does_and_stays_as_it_is(models, adata, name, word):
    model = models[name]
    before = state_of(model)
    assert require(model, CAPABILITIES[word], caller="sf.tl.verb") is model
    RUNS[word](model, Cells.of(adata, model.genes, batch_key="batch", caller="test"))
    same(state_of(model), before)


@pytest.mark.parametrize("name", CLAIMS)
def test_what_a_model_cannot_do_is_refused_by_naming_weights_that_can(models, name):
    model = models[name]
    for word in CAPABILITIES.keys() - set(CLAIMS[name].split()):
        lack, weights = ABILITIES[CAPABILITIES[word]]
        expected = (
            rf'sf.tl.verb cannot use {type(model).__name__}, which {lack}. .*sf.tl.verb\(..., model="{weights}"\)'
        )
        with pytest.raises(ValueError, match=expected):
            require(model, CAPABILITIES[word], caller="sf.tl.verb")
