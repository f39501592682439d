from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scanpy as sc
from mudata import MuData
from scipy import sparse

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

TINY = {"n_hidden": 32, "n_layers": 1, "n_latent": 6, "n_decoder_hidden": 16, "n_bottleneck": 8}
N_PANEL, N_REFERENCE = 100, 130
CORRELATIONS = ["pearson", "partial_pearson"]


@pytest.fixture(scope="module")
def model(make_adata: Callable[..., AnnData]) -> sf.model.CellPLM:
    """An untrained model, which is never changed."""
    return sf.model.CellPLM(genes=make_adata(n_vars=N_REFERENCE + 10).var_names, **TINY)


@pytest.fixture(scope="module")
def tissue(make_adata: Callable[..., AnnData]) -> tuple[AnnData, AnnData]:
    """Spots in two sections, and a reference with 30 genes that they lack."""
    counts = make_adata(120, N_REFERENCE)
    return counts[:60, :N_PANEL].copy(), counts[60:].copy()


@pytest.fixture
def spots(tissue: tuple[AnnData, AnnData]) -> AnnData:
    return tissue[0].copy()


@pytest.fixture
def cells(tissue: tuple[AnnData, AnnData]) -> AnnData:
    return tissue[1].copy()


def impute(spots: Any, cells: Any, model: Any, **arguments: Any) -> Any:
    return sf.tl.impute_spatial(spots, cells, model=model, device="cpu", **arguments)


def imputed(spots: AnnData, cells: AnnData, model: sf.model.CellPLM, **arguments: Any) -> Any:
    return impute(spots, cells, model, copy=True, **arguments).obsm["imputed"]


def slots(adata: AnnData) -> tuple[set[str], ...]:
    return set(adata.layers), set(adata.obsm), set(adata.uns), set(adata.obs)


def test_the_record_says_how_far_to_trust_every_gene(model: sf.model.CellPLM, spots: AnnData, cells: AnnData) -> None:
    impute(spots, cells, model, context_key="batch")
    table, uns = spots.obsm["imputed"], spots.uns["imputed"]
    assert list(table.columns) == cells.var_names[N_PANEL:].tolist()
    assert (table.to_numpy() > 0).all()
    assert list(uns["confidence"].index) == list(table.columns)
    assert list(uns["confidence"].columns) == [*CORRELATIONS, "evidence"]
    assert uns["confidence"][CORRELATIONS].abs().to_numpy().max() <= 1
    kinds = ", ".join(kind for kind, weight in uns["weights"].items() if weight)
    assert set(uns["confidence"]["evidence"]) == {kinds}
    assert "weights_of_unknown_genes" not in uns
    assert set(uns["hidden_genes"].index) <= set(spots.var_names)
    assert set(uns["weights"]) == {"library", "composition", "gene_vectors", "decoder"}
    assert uns["params"]["scale"].startswith("expected counts")
    assert "reference_genes" in uns["provenance"]


def test_genes_come_in_the_order_asked_for(model: sf.model.CellPLM, spots: AnnData, cells: AnnData) -> None:
    everything = imputed(spots, cells, model)
    genes = cells.var_names[[120, 105, 129]].tolist()
    some = imputed(spots, cells, model, genes=genes)
    assert list(some.columns) == genes
    np.testing.assert_allclose(some, everything[genes], rtol=1e-5)
    one = imputed(spots, cells, model, genes=genes[0])
    np.testing.assert_allclose(one, everything[genes[:1]], rtol=1e-5)


def test_names_are_those_of_the_reference(model: sf.model.CellPLM, spots: AnnData, cells: AnnData) -> None:
    expected = imputed(spots, cells, model)
    cells.var_names = [f"{name}.7" for name in cells.var_names]
    versioned = imputed(spots, cells, model)
    assert list(versioned.columns) == [f"{name}.7" for name in expected.columns]
    np.testing.assert_array_equal(versioned, expected)


def test_the_order_of_cells_and_genes_plays_no_part_in_training(
    model: sf.model.CellPLM, spots: AnnData, cells: AnnData
) -> None:
    how = {"context_key": "batch", "reference_context_key": "batch", "fine_tune": True, "max_epochs": 2}
    expected = imputed(spots, cells, model, **how)
    rng = np.random.default_rng(0)
    shuffled = [side[rng.permutation(side.n_obs), rng.permutation(side.n_vars)].copy() for side in (spots, cells)]
    moved = imputed(*shuffled, model, **how)
    np.testing.assert_allclose(moved.loc[expected.index, expected.columns], expected, rtol=2e-3)


def test_blocks_do_not_matter(model: sf.model.CellPLM, spots: AnnData, cells: AnnData) -> None:
    expected = imputed(spots, cells, model)
    for arguments in ({"genes_per_block": 7}, {"genes_per_block": 1}):
        np.testing.assert_allclose(imputed(spots, cells, model, **arguments), expected, rtol=1e-3)


def test_log_normalised_values_are_inverted(model: sf.model.CellPLM, spots: AnnData, cells: AnnData) -> None:
    expected = imputed(spots, cells, model)
    sc.pp.log1p(spots)
    sc.pp.log1p(cells)
    np.testing.assert_allclose(imputed(spots, cells, model), expected, rtol=1e-3)


def test_empty_spots_stay_empty(model: sf.model.CellPLM, spots: AnnData, cells: AnnData) -> None:
    spots.X = sparse.csr_matrix(spots.X.toarray() * (np.arange(60) != 3)[:, None])
    impute(spots, cells, model)
    table = spots.obsm["imputed"].to_numpy()
    assert not table[3].any()
    assert (np.delete(table, 3, axis=0) > 0).all()
    assert np.isfinite(table).all()


def test_the_seed_decides(model: sf.model.CellPLM, spots: AnnData, cells: AnnData) -> None:
    first, other = (imputed(spots, cells, model, rng=rng) for rng in (3, 4))
    assert np.abs(first - other).to_numpy().max() > 0


def test_spots_may_have_no_positions(model: sf.model.CellPLM, spots: AnnData, cells: AnnData) -> None:
    placed = imputed(spots, cells, model)
    alone = imputed(spots, cells, model, spatial_key=None)
    assert np.abs(placed - alone).to_numpy().max() > 0
    del spots.obsm["spatial"]
    np.testing.assert_array_equal(imputed(spots, cells, model, spatial_key=None), alone)


def test_sections_may_overlap_in_the_plane(model: sf.model.CellPLM, spots: AnnData, cells: AnnData) -> None:
    """Neighbours are spots of the same section, wherever the others lie."""
    kinds = {"evidence": ("library", "composition", "gene_vectors")}
    expected = imputed(spots, cells, model, context_key="batch", **kinds)
    as_one = imputed(spots, cells, model, **kinds)
    spots.obsm["spatial"][(spots.obs["batch"] == "batch 1").to_numpy()] += 1e5
    np.testing.assert_allclose(imputed(spots, cells, model, context_key="batch", **kinds), expected, rtol=1e-3)
    assert np.abs(as_one - expected).to_numpy().max() > 1e-3


def test_only_the_evidence_asked_for_counts(model: sf.model.CellPLM, spots: AnnData, cells: AnnData) -> None:
    impute(spots, cells, model, evidence=("library",))
    weights = spots.uns["imputed"]["weights"]
    assert weights.pop("library") > 0
    assert not any(weights.values())
    library = np.log(np.asarray(spots.X.sum(1)).ravel())
    logged = np.log(spots.obsm["imputed"].to_numpy())
    for column in logged.T:
        assert np.corrcoef(column, library)[0, 1] == pytest.approx(1, abs=1e-5)
    assert spots.uns["imputed"]["hidden_genes"]["partial_pearson"].abs().max() == 0


def test_small_panels_hide_nothing(model: sf.model.CellPLM, spots: AnnData, cells: AnnData) -> None:
    small = spots[:, :15].copy()
    impute(small, cells, model)
    assert small.obsm["imputed"].shape == (60, N_REFERENCE - 15)
    assert small.uns["imputed"]["confidence"][CORRELATIONS].isna().all(axis=None)
    assert len(small.uns["imputed"]["hidden_genes"]) == 0


def test_fine_tuning_trains_a_copy(model: sf.model.CellPLM, spots: AnnData, cells: AnnData) -> None:
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    arguments: dict[str, Any] = {"context_key": "batch", "reference_context_key": "batch"}
    plain = imputed(spots, cells, model, **arguments)
    tuned, same = (imputed(spots, cells, model, fine_tune=True, max_epochs=2, **arguments) for _ in range(2))
    assert np.abs(plain - tuned).to_numpy().max() > 0
    assert np.isfinite(tuned).all(axis=None)
    np.testing.assert_array_equal(tuned, same)
    for name, tensor in model.module.state_dict().items():
        assert (tensor == before[name]).all()


def test_an_interruption_reaches_the_caller_and_leaves_the_data_as_they_were(
    model: sf.model.CellPLM, spots: AnnData, cells: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scfoundry.model.cellplm._fine_tune_imputation.imputation_loss", interrupt)
    before, handler = slots(spots), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        impute(spots, cells, model, fine_tune=True, max_epochs=1)
    assert slots(spots) == before
    assert signal.getsignal(signal.SIGINT) is handler


def test_one_line_tells_what_was_imputed(
    model: sf.model.CellPLM, spots: AnnData, cells: AnnData, logged: list[str]
) -> None:
    impute(spots, cells, model)
    [line] = [message for message in logged if "imputed 30" in message]
    assert "imputed 30 genes of 60 spots; expected correlation" in line


def test_the_scale_is_that_of_the_spots(model: sf.model.CellPLM, spots: AnnData, cells: AnnData) -> None:
    sc.pp.normalize_total(spots)
    sc.pp.log1p(spots)
    impute(spots, cells, model)
    assert spots.uns["imputed"]["params"]["scale"].startswith("expected values before the log1p")


def test_columns_of_one_gene_are_warned_of_once_for_each_data_set(
    model: sf.model.CellPLM, spots: AnnData, cells: AnnData, logged: list[str]
) -> None:
    for side in (spots, cells):
        side.var_names = [side.var_names[0], f"{side.var_names[0]}.2", *side.var_names[2:]]
    impute(spots, cells, model)
    assert sum("repeat the gene of another column" in message for message in logged) == 2


def test_few_shared_genes_and_unknown_confidence_are_said(
    model: sf.model.CellPLM, spots: AnnData, cells: AnnData, logged: list[str]
) -> None:
    impute(spots, cells[:, N_PANEL - 8 :].copy(), model)
    warning = "adata_sp and adata_sc share only 8 genes of the model, of the 38 on the smaller side"
    assert any(warning in message and "Compare adata_sp.var_names" in message for message in logged)
    [line] = [message for message in logged if "how far to trust" in message]
    assert line.endswith("how far to trust them is unknown: the panel has too few well-detected genes to hide some.")


def no_shared_genes(spots: AnnData, cells: AnnData) -> None:
    cells._inplace_subset_var(np.arange(N_PANEL, N_REFERENCE))


def no_counts(spots: AnnData, cells: AnnData) -> None:
    spots.X = sparse.csr_matrix(spots.shape, dtype=np.float32)


def no_shared_counts(spots: AnnData, cells: AnnData) -> None:
    cells.X = sparse.csr_matrix(cells.X.toarray() * (np.arange(N_REFERENCE) >= N_PANEL))


def nothing_lacks(spots: AnnData, cells: AnnData) -> None:
    cells._inplace_subset_var(np.arange(50))


def mouse(spots: AnnData, cells: AnnData) -> None:
    names = sf.datasets.human_genes().loc[cells.var_names, "mouse_symbol"].str.split(",").str[-1]
    cells.var_names = names.where(names != "", cells.var_names)


def one_column(spots: AnnData, cells: AnnData) -> None:
    spots.obsm["spatial"] = spots.obsm["spatial"][:, :1]


def no_coordinates(spots: AnnData, cells: AnnData) -> None:
    spots.obsm["spatial"] = np.full((60, 2), np.nan)


def missing_coordinates(spots: AnnData, cells: AnnData) -> None:
    spots.obsm["spatial"][4] = np.nan


@pytest.mark.parametrize(
    ("damage", "arguments", "message"),
    [
        (no_shared_genes, {}, r"spots and reference have no gene of the model in common.*Compare adata_sp.var_names"),
        (mouse, {}, r"the spots are human \(ensembl\) and the reference is mouse \(mouse_symbol\)"),
        (no_counts, {}, r"the spots have no count of the 100 genes that both measured"),
        (no_shared_counts, {}, r"the reference has no count of the 100 genes that both measured.*reference_layer="),
        (nothing_lacks, {}, r"there is nothing to impute"),
        (one_column, {}, r"has shape \(60, 1\), but positions need two columns"),
        (missing_coordinates, {}, r"1 of 60 cells of context 'all' have missing or infinite coordinates"),
        (no_coordinates, {}, r"No cell has finite coordinates in adata_sp.obsm\['spatial'\]"),
        (None, {"spatial_key": "xy"}, r"adata_sp.obsm has no 'xy'; its keys: 'spatial'"),
        (None, {"context_key": "fov"}, r"no column 'fov'; its columns: 'batch', 'cell_type'"),
        (None, {"reference_context_key": "donor"}, r"no column 'donor'; its columns: 'batch', 'cell_type'"),
        (None, {"genes": []}, r"genes is empty.*genes=None"),
        (None, {"genes": ["spike-in"]}, r"1 of the 1 genes .* is neither in the reference nor known .*: 'spike-in'"),
        (None, {"genes": "measured"}, r"1 of the 1 genes to impute is measured in the spots already"),
        (None, {"genes": "elsewhere"}, r"1 of the 1 genes to impute is not in the reference"),
        (None, {"genes": "twice"}, r"2 of the 2 genes to impute are named more than once"),
        (None, {"evidence": ("hearsay",)}, r"evidence must be some of 'library', .*; got \('hearsay',\)"),
        (
            None,
            {"evidence": "decoder"},
            r"evidence must be a list .*; got 'decoder'. Pass .*: evidence=\['decoder'\]",
        ),
        (None, {"max_epochs": 5, "fine_tune": False}, r"max_epochs=5 is of fine-tuning: fine_tune=True"),
        (None, {"max_epochs": 0}, r"max_epochs must be at least 1; got 0"),
        (None, {"genes_per_block": 0}, r"genes_per_block must be at least 1; got 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(
    model: sf.model.CellPLM,
    spots: AnnData,
    cells: AnnData,
    damage: Callable[[AnnData, AnnData], None] | None,
    arguments: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compute(*args: Any, **kwargs: Any) -> None:
        pytest.fail("computing began")

    monkeypatch.setattr(model, "fine_tune_imputation", compute)
    monkeypatch.setattr("scfoundry.tasks.imputation.impute.find_states", compute)
    named = {
        "measured": [spots.var_names[3]],
        "elsewhere": [model.genes.ids[-1]],
        "twice": [cells.var_names[-1]] * 2,
    }
    if damage:
        damage(spots, cells)
    if isinstance(arguments.get("genes"), str):
        arguments = {"genes": named[arguments["genes"]]}
    before = slots(spots)
    with pytest.raises(ValueError, match=message):
        sf.tl.impute_spatial(spots, cells, model=model, **({"fine_tune": True} | arguments))
    assert slots(spots) == before


def test_a_mudata_needs_the_modality(model: sf.model.CellPLM, spots: AnnData, cells: AnnData) -> None:
    with pytest.raises(ValueError, match="no modality 'rna'; it has 'cells'"):
        impute(MuData({"cells": spots}), cells, model)
    with pytest.raises(ValueError, match="no modality 'rna'; it has 'cells'"):
        impute(spots, MuData({"cells": cells}), model)
    assert "imputed" not in spots.obsm


@pytest.mark.parametrize("which", ["reads_texts", "small_model"])
def test_a_model_that_can_only_embed_imputes_by_library_and_composition(
    which: str, make_adata: Callable[..., AnnData], request: pytest.FixtureRequest
) -> None:
    counts = make_adata(120, 40)
    spots, cells = counts[:60, :30].copy(), counts[60:].copy()
    model = request.getfixturevalue(which)
    impute(spots, cells, model)
    assert spots.obsm["imputed"].shape == (60, 10)
    assert (spots.obsm["imputed"].to_numpy() > 0).all()
    uns = spots.uns["imputed"]
    assert uns["params"]["evidence"] == ["library", "composition"]
    assert uns["params"]["evidence_unavailable"] == ["gene_vectors", "decoder"]
    assert uns["weights"]["gene_vectors"] == uns["weights"]["decoder"] == 0
    assert uns["provenance"]["model"] == model.provenance["model"]


def test_the_record_names_what_was_used(model: sf.model.CellPLM, spots: AnnData, cells: AnnData) -> None:
    impute(spots, cells, model)
    params = spots.uns["imputed"]["params"]
    assert params["evidence"] == ["library", "composition", "gene_vectors", "decoder"]
    assert "evidence_unavailable" not in params
    impute(spots, cells, model, evidence=["decoder", "library"])
    assert spots.uns["imputed"]["params"]["evidence"] == ["library", "decoder"]


def test_a_decoder_of_log_expression_is_left_out(spots: AnnData, cells: AnnData) -> None:
    model = sf.model.CellPLM(genes=cells.var_names, likelihood="mse", **TINY)
    impute(spots, cells, model)
    assert spots.uns["imputed"]["params"]["evidence_unavailable"] == ["decoder"]
    with pytest.raises(ValueError, match=r"evidence 'decoder' was asked for, but the weights 'untrained' of CellPLM"):
        impute(spots, cells, model, evidence=["decoder"])
    with pytest.raises(ValueError, match=r'trained on log expression.*model="cellplm"'):
        impute(spots, cells, model, fine_tune=True)


def test_what_a_model_cannot_do_is_refused(small_model: Any, spots: AnnData, cells: AnnData) -> None:
    with pytest.raises(ValueError, match=r"cannot use SmallModel, which has no published fine-tuning for imputation"):
        impute(spots, cells, small_model, fine_tune=True)
    with pytest.raises(ValueError, match=r"evidence 'gene_vectors', 'decoder' was asked for"):
        impute(spots, cells, small_model, evidence=["library", "gene_vectors", "decoder"])
    with pytest.raises(ValueError, match="cannot use AnnData, which does not embed cells"):
        impute(spots, cells, cells)
    assert "imputed" not in spots.obsm


@pytest.mark.parametrize("why", ["unknown", "elsewhere", "measured", "twice"])
def test_the_line_that_leaves_out_wrong_genes_works(
    model: sf.model.CellPLM, spots: AnnData, cells: AnnData, why: str
) -> None:
    good = cells.var_names[-4:-1].tolist()
    wrong = {"unknown": "spike-in", "elsewhere": model.genes.ids[-1], "measured": spots.var_names[0], "twice": good[0]}
    genes = [*good, wrong[why]]
    with pytest.raises(ValueError, match="To leave them out: ") as error:
        impute(spots, cells, model, genes=genes)
    fix = str(error.value).split("To leave them out: ")[1].removesuffix("; genes=None takes all that can be imputed.")
    scope = {"adata_sp": spots, "adata_sc": cells, "genes": genes}
    exec(fix, scope)  # noqa: S102
    assert scope["genes"] == good
