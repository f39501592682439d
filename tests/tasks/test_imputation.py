from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.matrix.cells import Cells
from scfoundry.tasks.imputation.calibration import Confidence, RisingLine, fit_weights, ideal_correlation, rates
from scfoundry.tasks.imputation.composition import States, compositions, find_states
from scfoundry.tasks.imputation.evidence import EVIDENCE, choose_evidence
from scfoundry.tasks.imputation.gene_kriging import gene_directions, unit_vectors
from scfoundry.tasks.imputation.genes import FurtherGenes, genes_to_hide, genes_to_impute
from scfoundry.tasks.imputation.impute import Imputation, ImputationOptions, impute

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

N_SPOTS, N_TYPES, N_PANEL, N_ALL = 144, 3, 120, 160
CPU = Compute(torch.device("cpu"))


class Tissue(NamedTuple):
    """Spots that are known mixtures of known types, and single cells of these types."""

    spots: AnnData
    cells: AnnData
    mixtures: np.ndarray
    profiles: np.ndarray
    truth: np.ndarray


@pytest.fixture(scope="module")
def tissue(make_adata: Callable[..., AnnData]) -> Tissue:
    """Three types in gradients over a square; every gene has its own level in each type."""
    rng = np.random.default_rng(0)
    genes = make_adata(n_vars=N_ALL).var_names
    profiles = rng.lognormal(sigma=1.2, size=(N_TYPES, N_ALL))
    profiles /= profiles.sum(1, keepdims=True)
    xy = np.stack(np.meshgrid(np.arange(12.0), np.arange(12.0)), axis=-1).reshape(-1, 2)
    corners = np.array([[0, 0], [11, 0], [5, 11]])
    mixtures = np.exp(-((xy[:, None] - corners) ** 2).sum(-1) / 30)
    mixtures /= mixtures.sum(1, keepdims=True)
    depth = rng.lognormal(np.log(1500), 0.4, size=(N_SPOTS, 1))
    truth = depth * (mixtures @ profiles)
    spots = AnnData(sparse.csr_matrix(rng.poisson(truth).astype(np.float32)))
    spots.var_names, spots.obsm["spatial"] = genes, xy
    of_type = np.repeat(np.arange(N_TYPES), 50)
    cells = AnnData(sparse.csr_matrix(rng.poisson(2000 * profiles[of_type]).astype(np.float32)))
    cells.var_names = genes
    return Tissue(spots, cells, mixtures, profiles, truth)


def opened(adata: AnnData, genes: Any = None, **how: Any) -> Cells:
    return Cells.of(adata, GeneVocabulary(adata.var_names if genes is None else genes), caller="test", **how)


def run(model: Any, spots: AnnData, cells: AnnData) -> Imputation:
    """Impute all that the spots lack by all that the model has."""
    data = opened(spots, model.genes.ids, spatial_key="spatial"), opened(cells, model.genes.ids)
    options = ImputationOptions(choose_evidence(model, None, caller="test")[0])
    further = FurtherGenes.of(data[1], model.genes)
    known = {"vocabulary": model.genes, "further": further, "evidence": options.evidence}
    wanted = genes_to_impute(*data, None, **known, caller="test")
    return impute(model, *data, wanted, further, options=options, compute=CPU)


@pytest.mark.parametrize("neighbors", [False, True])
def test_the_mixture_of_a_spot_is_recovered(tissue: Tissue, *, neighbors: bool) -> None:
    panel = np.arange(N_PANEL)
    states = States(tissue.profiles.astype(np.float32), np.arange(N_ALL))
    alone = sparse.eye(N_SPOTS, format="csr", dtype=np.float32)
    shares = compositions(opened(tissue.spots), states, panel, alone if neighbors else None)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    assert np.abs(shares - tissue.mixtures).mean() < 0.05


def test_a_spot_without_counts_has_equal_shares() -> None:
    adata = AnnData(sparse.csr_matrix(np.array([[0, 0], [9, 1]], dtype=np.float32)))
    adata.var_names = ["CD3E", "CD4"]
    states = States(np.array([[0.9, 0.1], [0.1, 0.9]], dtype=np.float32), np.arange(2))
    shares = compositions(opened(adata), states, np.arange(2), None)
    np.testing.assert_allclose(shares[0], 0.5)
    assert shares[1, 0] > 0.95


def test_neighbours_pull_on_poor_spots_more(tissue: Tissue) -> None:
    poor = tissue.spots[:2].copy()
    poor.X = sparse.csr_matrix(np.array([[1], [1000]]) * tissue.profiles[[0, 0]].round(3).astype(np.float32))
    poor.X.data = np.rint(poor.X.data)
    states = States(tissue.profiles.astype(np.float32), np.arange(N_ALL))
    beside = sparse.csr_matrix(np.array([[0.5, 0.5], [0.5, 0.5]], dtype=np.float32))
    shares = compositions(opened(poor), states, np.arange(N_ALL), beside)
    assert shares[1, 0] > shares[0, 0] > 1 / N_TYPES


@pytest.mark.parametrize("weights", [(1.0, 1.0, 0.0, 0.0), (0.8, 0.3, 1.2, 0.0), (0.0, 0.0, 0.0, 0.7)])
def test_the_weights_behind_simulated_counts_are_recovered(weights: tuple[float, ...]) -> None:
    rng = np.random.default_rng(1)
    evidence = rng.normal(scale=0.6, size=(len(EVIDENCE), 300, 60)).astype(np.float32)
    used = np.full(4, fill_value=True)
    expected = rates(evidence, np.array(weights), rng.uniform(0.3, 3, 60), empty=np.zeros(300, dtype=bool))
    fitted = fit_weights(rng.poisson(expected).astype(np.float32), evidence, np.ones(4), used)
    np.testing.assert_allclose(fitted, weights, atol=0.08)
    assert fitted.min() >= 0


def test_misleading_evidence_is_left_out() -> None:
    rng = np.random.default_rng(1)
    evidence = rng.normal(size=(2, 300, 60)).astype(np.float32)
    counts = rng.poisson(np.exp(0.5 * evidence[0] - 0.5 * evidence[1])).astype(np.float32)
    helps, misleads = fit_weights(counts, evidence, np.ones(2), np.array([True, True]))
    assert helps == pytest.approx(0.5, abs=0.05)
    assert misleads == 0
    without = fit_weights(counts, evidence, np.ones(2), np.array([False, True]))
    np.testing.assert_array_equal(without, 0)


def test_too_few_counts_leave_the_default_weights() -> None:
    rng = np.random.default_rng(1)
    counts = np.zeros((50, 20), dtype=np.float32)
    counts[:, :4] = rng.poisson(3, (50, 4))
    default, used = np.array([1.0, 2.0]), np.array([True, False])
    fitted = fit_weights(counts, rng.normal(size=(2, 50, 20)).astype(np.float32), default, used)
    np.testing.assert_array_equal(fitted, [1, 0])


def test_rates_have_the_level_asked_for_and_none_where_nothing_was_counted() -> None:
    rng = np.random.default_rng(2)
    evidence = rng.normal(size=(2, 30, 5)).astype(np.float32) * 20
    levels, empty = np.array([0.0, 0.1, 1, 10, 100]), np.arange(30) == 4
    imputed = rates(evidence, np.array([1.0, 1.0]), levels, empty=empty)
    np.testing.assert_allclose(imputed.mean(0), levels, rtol=1e-4)
    assert imputed.dtype == np.float32
    assert not imputed[4].any()
    assert np.isfinite(imputed).all()


def test_an_unmeasured_gene_follows_the_genes_whose_vectors_are_like_its_own() -> None:
    """Genes of two programmes, one high on the left, one on the right; the last gene of each is not measured."""
    rng = np.random.default_rng(3)
    programme = np.repeat([0, 1], 20)
    vectors = unit_vectors(np.eye(2)[programme] + 0.05 * rng.normal(size=(40, 2))).astype(np.float32)
    left = np.linspace(1, 0, 100)[:, None]
    rate = np.where(programme == 0, 0.2 + left, 1.2 - left) * rng.lognormal(sigma=0.5, size=(100, 1))
    adata = AnnData(sparse.csr_matrix(rng.poisson(3 * rate).astype(np.float32)))
    adata.var_names = [f"gene {i}" for i in range(40)]
    panel = np.setdiff1d(np.arange(40), [19, 39])
    directions = gene_directions(opened(adata), vectors, panel, None)
    assert np.mean((directions**2).sum(1)) == pytest.approx(1, rel=1e-4)
    deviation = directions @ vectors[[19, 39]].T
    assert np.corrcoef(deviation[:, 0], left[:, 0])[0, 1] > 0.8
    assert np.corrcoef(deviation[:, 1], left[:, 0])[0, 1] < -0.8
    calm = gene_directions(opened(adata), vectors, panel, sparse.diags([1, 1, 1], [-1, 0, 1], (100, 100)).tocsr() / 3)
    assert np.corrcoef(calm @ vectors[19], left[:, 0])[0, 1] > np.corrcoef(deviation[:, 0], left[:, 0])[0, 1]


def test_ideal_correlation_is_that_of_poisson_counts_with_their_rates() -> None:
    rng = np.random.default_rng(4)
    rate = rng.gamma(1.0, [0.2, 1, 5], size=(20000, 3)).astype(np.float32)
    counts = rng.poisson(rate)
    found = [np.corrcoef(counts[:, j], rate[:, j])[0, 1] for j in range(3)]
    np.testing.assert_allclose(ideal_correlation(rate), found, atol=0.02)
    assert ideal_correlation(np.ones((5, 1), dtype=np.float32)) == 0


def test_confidence_tells_good_genes_from_bad_ones() -> None:
    rng = np.random.default_rng(5)
    library = rng.lognormal(7, 0.3, 300)
    rate = rng.gamma(2.0, np.geomspace(0.05, 20, 60), size=(300, 60)).astype(np.float32)
    counts = rng.poisson(rate).astype(np.float32)
    confidence = Confidence.fit(counts, rate, library)
    expected, beyond = confidence(rate)
    reached = [np.corrcoef(np.log1p(counts[:, j]), np.log1p(rate[:, j]))[0, 1] for j in range(60)]
    assert np.corrcoef(expected, reached)[0, 1] > 0.9
    assert np.abs(np.r_[expected, beyond]).max() <= 1
    # A step would give many genes one value.
    assert len(np.unique(expected)) > 40
    assert (np.diff(expected[np.argsort(ideal_correlation(rate))]) >= 0).all()


def test_a_rising_line_leads_through_the_middles_of_the_steps() -> None:
    x = np.array([0.0, 3, 1, 2, 4, 5])
    line = RisingLine.fit(x, np.array([-0.5, 0.3, 0.2, 0.4, 0.9, 1.5]))
    np.testing.assert_allclose(line.middles, [0, 1, 2.5, 4, 5])
    np.testing.assert_allclose(line.levels, [0, 0.2, 0.35, 0.9, 1])
    np.testing.assert_allclose(line(np.array([-1, 0.5, 2.5, 4.5, 9])), [0, 0.1, 0.35, 0.95, 1])
    # Of equal predictors only the mean is known; none rises.
    np.testing.assert_allclose(RisingLine.fit(np.ones(3), np.array([0.1, 0.2, 0.6]))(x), 0.3)


def test_without_hidden_genes_confidence_is_unknown() -> None:
    few = Confidence.fit(np.ones((20, 3), dtype=np.float32), np.ones((20, 3), dtype=np.float32), np.ones(20))
    for expected in few(np.ones((20, 7), dtype=np.float32)):
        assert expected.shape == (7,)
        assert np.isnan(expected).all()


def test_hidden_genes_come_from_all_strata_and_have_counts(tissue: Tissue) -> None:
    rng = np.random.default_rng(6)
    counts = rng.poisson(np.geomspace(0.001, 4, N_ALL), size=(400, N_ALL)).astype(np.float32)
    spots = opened(AnnData(sparse.csr_matrix(counts), var=tissue.spots.var))
    hidden = genes_to_hide(spots, np.arange(N_ALL), 0)
    assert (counts[:, hidden].sum(0) >= 10).all()
    assert len(hidden) <= 0.2 * N_ALL
    zero_rate = (counts[:, hidden] == 0).mean(0)
    assert np.histogram(zero_rate, [0, 0.75, 0.9, 0.95, 1])[0].all()
    np.testing.assert_array_equal(hidden, genes_to_hide(spots, np.arange(N_ALL), 0))
    assert not np.array_equal(hidden, genes_to_hide(spots, np.arange(N_ALL), 1))
    assert len(genes_to_hide(spots, np.arange(20), 0)) == 0


@pytest.mark.parametrize("which", ["cellplm", "small"])
def test_simulated_tissue_is_imputed(tissue: Tissue, which: str, small_model: Any) -> None:
    """Only library and composition made these counts, and an untrained model knows nothing else."""
    spots = tissue.spots[:, :N_PANEL].copy()
    tiny = {"n_hidden": 32, "n_layers": 1, "n_latent": 6, "n_decoder_hidden": 16}
    model = sf.model.CellPLM(genes=tissue.spots.var_names, **tiny) if which == "cellplm" else small_model
    result = run(model, spots, tissue.cells)
    truth = tissue.truth[:, N_PANEL:]
    counts = tissue.spots.X[:, N_PANEL:].toarray()
    library = np.asarray(spots.X.sum(1)).ravel()
    scores = sf.metrics.imputation(truth, result.counts.to_numpy(), log1p=True, library=library)
    assert scores["pearson"].median() > 0.9
    assert scores["partial_pearson"].median() > 0.8
    np.testing.assert_allclose(result.counts.mean(0), counts.mean(0), rtol=0.5)
    assert np.median(np.abs(np.log(result.counts.mean(0) / counts.mean(0)))) < 0.1
    assert result.weights["library"] == pytest.approx(1, abs=0.1)
    assert result.weights["composition"] == pytest.approx(1, abs=0.25)
    # What was expected of genes that nobody had seen is what their counts confirm.
    reached = sf.metrics.imputation(counts, result.counts.to_numpy(), log1p=True, library=library)
    assert result.confidence["pearson"].mean() == pytest.approx(reached["pearson"].mean(), abs=0.1)
    assert result.confidence["partial_pearson"].mean() == pytest.approx(reached["partial_pearson"].mean(), abs=0.15)


def test_genes_unknown_to_the_model_are_recovered_as_well_as_confidence_says(tissue: Tissue) -> None:
    spots = tissue.spots[:, :N_PANEL].copy()
    structure = {"n_hidden": 16, "n_layers": 1, "n_latent": 4}
    known, few = (sf.model.CellPLM(genes=tissue.spots.var_names[:n], **structure) for n in (N_ALL, N_PANEL))
    expected, result = (run(model, spots, tissue.cells) for model in (known, few))
    assert sorted(result.counts) == sorted(expected.counts)
    assert set(result.confidence["evidence"]) == {"library, composition"}
    library = np.asarray(spots.X.sum(1)).ravel()
    genes = tissue.spots.var_names[N_PANEL:]
    counts, found = tissue.spots[:, genes].X.toarray(), result.counts[genes].to_numpy()
    scores = sf.metrics.imputation(tissue.truth[:, N_PANEL:], found, log1p=True, library=library)
    assert scores["pearson"].median() > 0.9
    assert scores["partial_pearson"].median() > 0.8
    assert np.median(np.abs(np.log(found.mean(0) / counts.mean(0)))) < 0.1
    reached = sf.metrics.imputation(counts, found, log1p=True, library=library)
    assert result.confidence["pearson"].mean() == pytest.approx(reached["pearson"].mean(), abs=0.1)
    assert result.confidence["partial_pearson"].mean() == pytest.approx(reached["partial_pearson"].mean(), abs=0.15)


def test_hidden_genes_are_named_as_in_the_spots(tissue: Tissue) -> None:
    spots = tissue.spots[:, :N_PANEL].copy()
    model = sf.model.CellPLM(genes=tissue.spots.var_names, n_hidden=16, n_layers=1, n_latent=4)
    by_id = run(model, spots, tissue.cells).hidden.index
    symbols = sf.datasets.human_genes()["symbol"]
    spots.var_names = symbols[spots.var_names]
    assert run(model, spots, tissue.cells).hidden.index.tolist() == symbols[by_id].tolist()


def test_without_a_decoder_states_lean_on_the_mean_profile_of_the_reference(tissue: Tissue, small_model: Any) -> None:
    """With few counts the profile of every state is near it; with many, near that of a cell type."""
    cells = tissue.cells[49:].copy()
    cells.X = sparse.csr_matrix(np.random.default_rng(0).binomial(cells.X.toarray().astype(int), 0.01), dtype="float32")
    states = find_states(small_model, opened(cells, small_model.genes.ids), seed=0, compute=CPU)
    np.testing.assert_allclose(states.profiles.sum(1), 1, rtol=1e-5)
    mean = np.ravel(cells.X.sum(0)) / cells.X.sum()
    assert (np.abs(states.profiles - mean).sum(1) < 0.4).all()
    full = find_states(small_model, opened(tissue.cells, small_model.genes.ids), seed=0, compute=CPU)
    nearest = np.abs(full.profiles[:, None] - tissue.profiles).sum(-1).min(1)
    assert nearest.mean() < 0.3
    far = np.abs(tissue.profiles - np.ravel(tissue.cells.X.sum(0)) / tissue.cells.X.sum()).sum(1)
    assert nearest.mean() < 0.5 * far.min()


def test_evidence_is_what_the_model_has(tissue: Tissue, small_model: Any) -> None:
    full = sf.model.CellPLM(genes=tissue.spots.var_names, n_hidden=16, n_layers=1, n_latent=4)
    assert choose_evidence(full, None, caller="test") == (EVIDENCE, ())
    assert choose_evidence(full, ["decoder", "library"], caller="test") == (("library", "decoder"), ())
    assert choose_evidence(small_model, None, caller="test") == (EVIDENCE[:2], EVIDENCE[2:])
    with pytest.raises(ValueError, match=r"evidence 'decoder' was asked for.*evidence=\['library', 'composition'\]"):
        choose_evidence(small_model, ["library", "decoder"], caller="test")


def test_real_tissue_gains_beyond_library_size(shared_data: Path) -> None:
    """Pancreatic tumour of patient A, and single cells of the same tumour."""
    import anndata as ad

    full, reference = (ad.read_h5ad(shared_data / f"{name}.h5ad") for name in ("pdac_a_st", "pdac_a_indrop"))
    model = sf.model.CellPLM.from_pretrained("cellplm")
    common = full.var_names.intersection(reference.var_names)
    common = common[model.genes.align(common).target >= 0]
    full = full[:, common].copy()
    held_out = sf.pp.holdout_genes(full).index
    spots = full[:, ~full.var_names.isin(held_out)].copy()
    library = np.asarray(spots.X.sum(1)).ravel()
    sf.tl.impute_spatial(spots, reference, genes=held_out, model=model, device="cpu")
    truth = full[:, held_out].to_df()
    scores = sf.metrics.imputation(truth, spots.obsm["imputed"], log1p=True, library=library)
    alone = np.repeat(library[:, None], len(held_out), axis=1)
    by_library = sf.metrics.imputation(truth.to_numpy(), alone, log1p=True, library=library)
    assert sf.metrics.summarise(by_library)["partial_pearson"] == 0
    assert sf.metrics.summarise(scores)["partial_pearson"] > 0.08
    assert sf.metrics.summarise(scores)["pearson"] > sf.metrics.summarise(by_library)["pearson"]
