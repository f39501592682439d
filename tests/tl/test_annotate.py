"""Cell types learned from a reference: what is written, what stays as it is, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scfoundry as sf
from scfoundry.data.genes.overlap import warn_of_few_shared
from scfoundry.data.matrix.reader import CountsInMemory
from scfoundry.tasks import Annotator

if TYPE_CHECKING:
    from anndata import AnnData


@pytest.fixture
def learner(small_model: Any) -> Any:
    """A model that embeds, and no more."""
    return small_model


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What annotators are fitted to: cells, labels, codes and how."""
    calls: list[tuple[Any, ...]] = []
    fit = Annotator.fit

    def noted(model: Any, reference: Any, labels: Any, codes: Any, **how: Any) -> Annotator:
        calls.append((reference, labels, codes, how))
        return fit(model, reference, labels, codes, **how)

    monkeypatch.setattr(Annotator, "fit", noted)
    return calls


def annotated(cells: tuple[AnnData, AnnData], model: Any, **arguments: Any) -> AnnData:
    how = {"labels_key": "cell_type", "device": "cpu", "copy": True} | arguments
    return sf.tl.annotate(*cells, model=model, **how)


def test_cells_get_the_label_of_the_reference_cells_they_are_like(learner, cells):
    result = annotated(cells, learner)
    assert result.obs["annotation"].cat.categories.tolist() == ["B cell", "monocyte"]
    assert sf.metrics.annotation(result.obs["cell_type"], result.obs["annotation"])["accuracy"] > 0.8


def test_it_says_what_was_learned_from_how_many_cells(learner, cells, tmp_path):
    result = annotated(cells, learner, n_shots=3, train="head", rng=7)
    result.write_h5ad(tmp_path / "cells.h5ad")
    uns = ad.read_h5ad(tmp_path / "cells.h5ad").uns["annotation"]
    assert uns["reference"]["n_cells"].to_dict() == {"B cell": 3, "monocyte": 3}
    assert {name: uns["params"][name] for name in ("labels_key", "n_shots", "train", "rng")} == {
        "labels_key": "cell_type",
        "n_shots": 3,
        "train": "head",
        "rng": 7,
    }
    assert uns["provenance"]["model"] == "small"


def test_the_model_learns_from_shots_of_every_label_with_its_text(reads_texts, cells, fitted):
    annotated(cells, reads_texts, n_shots=4, train="all", max_epochs=2)
    shots, labels, codes, how = fitted[-1]
    assert [label.name for label in labels] == ["B cell", "monocyte"]
    assert labels[0].texts[0].startswith("cell type: B cell. A lymphocyte")
    assert np.bincount(codes).tolist() == [4, 4]
    types = cells[1].obs["cell_type"][shots.names]
    assert types.tolist() == [labels[code].name for code in codes]
    assert how["max_epochs"] == 2


def test_the_seed_decides_which_cells_and_their_order_does_not(learner, cells, fitted):
    adata, reference = cells
    drawn = {}
    for name, arguments in {"0": {}, "again": {}, "1": {"rng": 1}, "turned": {}}.items():
        turned = reference[::-1].copy() if name == "turned" else reference
        annotated((adata, turned), learner, n_shots=4, **arguments)
        drawn[name] = set(fitted[-1][0].names)
    assert drawn["0"] == drawn["again"] == drawn["turned"]
    assert drawn["0"] != drawn["1"]


def test_a_label_with_fewer_cells_gives_all_it_has(learner, cells, logged):
    adata, reference = cells
    of_b, others = (np.flatnonzero((reference.obs["cell_type"] == "B cell") == is_b) for is_b in (True, False))
    result = annotated((adata, reference[[*of_b[:2], *others]].copy()), learner, n_shots=5)
    assert result.uns["annotation"]["reference"]["n_cells"].tolist() == [2, 5]
    assert any("fewer than 5 cells to learn from: 'B cell' (2)" in message for message in logged)


def test_genes_are_found_by_name_in_both_data_sets(learner, cells):
    adata, reference = cells
    expected = annotated(cells, learner).obsm["annotation_scores"]
    symbols = reference[:, ::-1].copy()
    symbols.var_names = sf.datasets.human_genes().loc[symbols.var_names, "symbol"]
    scores = annotated((adata[:, ::-1].copy(), symbols), learner).obsm["annotation_scores"]
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_cells_without_label_are_left_out_and_empty_ones_are_unknown(learner, cells, logged):
    adata, reference = cells
    adata.X[3] = 0
    adata.X.eliminate_zeros()
    reference.obs.loc[reference.obs_names[:5], "cell_type"] = None
    result = annotated((adata, reference), learner)
    assert result.uns["annotation"]["reference"]["n_cells"].sum() == 55
    assert any("5 cells of the reference have no label" in message for message in logged)
    assert result.obs["annotation"].iloc[3] == "unknown"
    assert result.obs["annotation_score"].iloc[3] == 0
    assert (result.obs["annotation"] == "unknown").sum() == 1


def test_cells_without_a_gene_of_the_other_side_are_neither_named_nor_learned_from(learner, cells, fitted):
    adata, reference = (side.copy() for side in cells)
    # The other side measured only some of the genes that these cells express.
    adata.X = adata.X.multiply((np.arange(60) != 3)[:, None] | (np.arange(40) >= 30)).tocsr()
    reference.X = reference.X.multiply((np.arange(60) != 5)[:, None] | (np.arange(40) < 10)).tocsr()
    assert adata.X[3].nnz
    assert reference.X[5].nnz
    result = annotated((adata[:, 10:].copy(), reference[:, :30].copy()), learner)
    assert np.flatnonzero(result.obs["annotation"] == "unknown").tolist() == [3]
    assert result.obs["annotation_score"].iloc[3] == 0
    assert fitted[-1][0].names.tolist() == np.delete(reference.obs_names, 5).tolist()


def test_a_model_that_reads_more_than_the_shared_genes_names_all_cells(by_expression, cells):
    adata, reference = (side.copy() for side in cells)
    adata.X = adata.X.multiply((np.arange(60) != 3)[:, None] | (np.arange(40) >= 30)).tocsr()
    result = annotated((adata[:, 10:].copy(), reference[:, :30].copy()), by_expression)
    assert (result.obs["annotation"] != "unknown").all()


@pytest.mark.parametrize(("n_shared", "warns"), [(49, True), (60, False)])
def test_few_shared_genes_are_warned_of_and_their_number_is_kept(make_adata, learner, logged, n_shared, warns):
    both = make_adata(120, 150)
    adata, reference = both[:60, : 80 + n_shared // 2].copy(), both[60:, 80 - (n_shared + 1) // 2 :].copy()
    result = annotated((adata, reference), learner)
    assert result.uns["annotation"]["provenance"]["shared_genes"] == n_shared
    assert any(f"share only {n_shared} genes of the model" in message for message in logged) == warns
    assert any(f"{n_shared} of them in the reference, too" in message for message in logged)


def test_a_tenth_of_the_smaller_side_is_the_least_that_goes_without_a_warning(logged):
    for n_shared, warns in ((90, True), (110, False)):
        logged.clear()
        warn_of_few_shared(n_shared, 1000, names=("adata", "reference"), caller="sf.tl.annotate")
        assert bool(logged) == warns


def test_any_column_may_hold_the_labels(learner, cells, tmp_path):
    _, reference = cells
    reference.obs["n_cells"] = reference.obs["cell_type"]
    annotated(cells, learner, labels_key="n_cells").write_h5ad(tmp_path / "cells.h5ad")
    uns = ad.read_h5ad(tmp_path / "cells.h5ad").uns["annotation"]
    assert list(uns["reference"].index) == ["B cell", "monocyte"]


def test_a_reference_may_have_numbers_as_labels(learner, cells):
    _, reference = cells
    reference.obs["cluster"] = np.where(reference.obs["cell_type"] == "B cell", 0, 1)
    assert annotated(cells, learner, labels_key="cluster").obs["annotation"].cat.categories.tolist() == ["0", "1"]


@pytest.mark.parametrize("nothing", ["", " ", "Unknown", "unassigned", "nan", "None", "NA", "n/a", "<NA>"])
def test_a_label_that_says_nothing_is_none(learner, cells, logged, nothing):
    _, reference = cells
    reference.obs["cell_type"] = reference.obs["cell_type"].astype(object)
    reference.obs.iloc[:4, reference.obs.columns.get_loc("cell_type")] = nothing
    result = annotated(cells, learner)
    assert result.obs["annotation"].cat.categories.tolist() == ["B cell", "monocyte"]
    assert result.uns["annotation"]["reference"]["n_cells"].sum() == 56
    assert any("4 cells of the reference have no label" in message for message in logged)


@pytest.mark.parametrize("n_shots", [None, 5])
def test_a_reference_on_disk_is_read_from_front_to_back(learner, cells, tmp_path, n_shots, fitted):
    adata, reference = cells
    reference.obs_names = np.random.default_rng(0).permutation(reference.obs_names)
    reference.write_h5ad(tmp_path / "reference.h5ad")
    backed = ad.read_h5ad(tmp_path / "reference.h5ad", backed="r")
    annotated((adata, backed), learner, n_shots=n_shots)
    shots = fitted[-1][0]
    assert (np.diff(reference.obs_names.get_indexer(shots.names)) > 0).all()
    # A few shots are read once.
    assert isinstance(shots.reader, CountsInMemory) == (n_shots is not None)
    assert shots.n_obs == (60 if n_shots is None else 10)


def test_labels_of_one_meaning_are_read_by_their_names(learner, cells, fitted):
    _, reference = cells
    reference.obs["type"] = np.where(reference.obs["cell_type"] == "B cell", "NK", "natural killer cell")
    annotated(cells, learner, labels_key="type")
    assert [label.texts for label in fitted[-1][1]] == [("cell type: NK.",), ("cell type: natural killer cell.",)]


def test_a_view_of_a_file_can_be_copied(learner, cells, tmp_path):
    adata, reference = cells
    adata.write_h5ad(tmp_path / "cells.h5ad")
    part = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")[:20]
    result = annotated((part, reference), learner)
    assert not result.isbacked
    assert (
        result.obs["annotation"].tolist()
        == annotated((adata[:20].copy(), reference), learner).obs["annotation"].tolist()
    )


def test_the_cells_to_annotate_are_handed_on_or_not(learner, cells, fitted):
    for transductive in (True, False):
        annotated(cells, learner, transductive=transductive, reference_batch_key="batch")
        reference, _, _, how = fitted[-1]
        assert {context.name for context in reference.contexts} == {"batch 0", "batch 1"}
        assert (how["query"] is not None) == transductive
        assert how["genes"].tolist() == list(range(40))


def test_one_name_for_all_cells_is_warned_of(learner, cells, logged):
    adata, reference = cells
    annotated((adata[adata.obs["cell_type"] == "B cell"][:3].copy(), reference), learner)
    assert any("all 3 cells are called 'B cell'" in message for message in logged)


# ---- bad input -----------------------------------------------------------------------------------------------------


def one_label(adata, reference):
    reference.obs["cell_type"] = "B cell"


def no_label(adata, reference):
    reference.obs["cell_type"] = np.nan


def apart(adata, reference):
    adata._inplace_subset_var(slice(0, 20))
    reference._inplace_subset_var(slice(20, 40))


def probe_names(adata, reference):
    reference.var_names = [f"probe_{i}_at" for i in range(reference.n_vars)]


def mouse(adata, reference):
    adata.var_names = sf.datasets.human_genes().loc[adata.var_names, "mouse_symbol"].str.split(",").str[-1]


def no_sample(adata, reference):
    reference.obs.loc[reference.obs_names[:3], "batch"] = None


def one_column_for_two(adata, reference):
    reference.obs["cell_type"] = np.where(reference.obs["cell_type"] == "B cell", "T/NK", "T|NK")


def one_label_with_counts(adata, reference):
    reference.X = reference.X.multiply((reference.obs["cell_type"] == "B cell").to_numpy()[:, None]).tocsr()


@pytest.mark.parametrize(
    ("damage", "arguments", "message"),
    [
        (None, {"labels_key": "type"}, r"reference.obs has no column 'type'; its columns: 'batch', 'cell_type'"),
        (one_label, {}, r"All labelled cells of the reference are 'B cell'.*sf.tl.zero_shot_annotate"),
        (no_label, {}, r"None of the 60 cells of the reference has a label in obs\['cell_type'\]"),
        (apart, {}, r"adata and reference have no gene of small in common"),
        (probe_names, {}, r"probe_0_at.*ENSG"),
        (
            one_label_with_counts,
            {},
            r"only 'B cell' has cells that express a gene of the model that adata .*; two are needed",
        ),
        (one_column_for_two, {}, r"scores of 'T/NK' and 'T\|NK' would share the column 'T\|NK'"),
        (None, {"n_shots": 0}, r"n_shots must be above 0; got 0"),
        (None, {"train": "encoder"}, r"train must be one of 'all', 'lora', 'head'; got 'encoder'"),
        (None, {"max_epochs": 0}, r"max_epochs must be at least 1; got 0"),
        (mouse, {}, r"adata has mouse genes and the reference human ones: labels are learned within a species"),
        (None, {"batch_key": "sample"}, r"adata.obs has no column 'sample'"),
        (
            None,
            {"reference_batch_key": "sample"},
            r"reference.obs has no column 'sample'; its columns: 'batch', .* Pass one of them as reference_batch_key",
        ),
        (no_sample, {"reference_batch_key": "batch"}, r"3 of 60 cells have no value in reference.obs\['batch'\]"),
    ],
)
def test_bad_input_is_refused_before_anything_is_learned_or_written(learner, cells, fitted, damage, arguments, message):
    adata, reference = cells
    if damage:
        damage(adata, reference)
    before = list(adata.obs), set(adata.obsm), set(adata.uns)
    with pytest.raises(ValueError, match=message):
        sf.tl.annotate(adata, reference, **({"labels_key": "cell_type", "model": learner} | arguments))
    assert not fitted
    assert (list(adata.obs), set(adata.obsm), set(adata.uns)) == before


def test_what_does_not_embed_is_refused(cells):
    with pytest.raises(ValueError, match=r"sf.tl.annotate cannot use dict, which does not embed cells"):
        annotated(cells, {})


# ---- what was fitted -----------------------------------------------------------------------------------------------


def test_what_was_fitted_names_other_cells_without_the_reference(cells, make_adata, tmp_path):
    adata, reference = cells
    cellplm = sf.model.CellPLM(genes=make_adata().var_names, n_hidden=32, n_layers=1, n_latent=8)
    expected = annotated(cells, cellplm)
    annotator = sf.tl.annotate(
        adata, reference, labels_key="cell_type", model=cellplm, device="cpu", return_fitted=True
    )
    pd.testing.assert_frame_equal(adata.obsm["annotation_scores"], expected.obsm["annotation_scores"])
    annotator.save(tmp_path / "annotator")
    for model in (
        annotator,
        Annotator.load(tmp_path / "annotator"),
        tmp_path / "annotator",
        str(tmp_path / "annotator"),
    ):
        again = sf.tl.annotate(adata, model=model, device="cpu", copy=True)
        pd.testing.assert_frame_equal(again.obsm["annotation_scores"], expected.obsm["annotation_scores"])
        pd.testing.assert_frame_equal(again.uns["annotation"]["reference"], expected.uns["annotation"]["reference"])
        assert again.uns["annotation"]["provenance"]["shared_genes"] == 40


def test_arguments_of_no_effect_and_missing_ones_are_refused(learner, cells, tmp_path):
    adata, reference = cells
    how = {"labels_key": "cell_type", "model": learner, "device": "cpu"}
    with pytest.raises(ValueError, match=r"a copy of adata or the fitted object, not both. For both: copied = "):
        sf.tl.annotate(adata, reference, copy=True, return_fitted=True, **how)
    with pytest.raises(
        ValueError, match=r"reference and labels_key is missing: sf.tl.annotate learns from a reference"
    ):
        sf.tl.annotate(adata, model=learner)
    with pytest.raises(ValueError, match=r"labels_key is missing"):
        sf.tl.annotate(adata, reference, model=learner)
    annotator = sf.tl.annotate(adata, reference, return_fitted=True, **how)
    with pytest.raises(
        ValueError, match=r"so that reference, labels_key, n_shots would have no effect. Leave them out"
    ):
        sf.tl.annotate(adata, reference, labels_key="cell_type", n_shots=3, model=annotator)


def test_the_line_that_translates_mouse_genes_does(learner, cells, run_fix):
    adata, reference = cells
    mouse(adata, reference)
    with pytest.raises(ValueError, match="labels are learned within a species") as refused:
        annotated((adata, reference), learner)
    line = "import scfoundry as sf; " + str(refused.value).split("orthologs: ")[1]
    result = annotated((run_fix(line, line, adata), reference), learner)
    assert result.uns["annotation"]["provenance"]["genes"]["routes"]["symbol"] > 30
    assert sf.metrics.annotation(result.obs["cell_type"], result.obs["annotation"])["accuracy"] > 0.75
