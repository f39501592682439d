"""Labels on two levels: which parents are taken, what is written of them, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scfoundry as sf
from scfoundry.data.labels import Label
from scfoundry.data.labels.hierarchy import common_parents
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.tasks import Annotator

if TYPE_CHECKING:
    from anndata import AnnData

KINDS = ("CD4 T cell", "CD8 T cell", "B cell", "T/NK")
PARENTS = {"CD4 T cell": "T cell", "CD8 T cell": "T cell", "B cell": "B cell", "T/NK": "T cell"}
SLOTS = ("annotation_parent", "annotation_parent_score")


@pytest.fixture
def kinds(cells: tuple[AnnData, AnnData]) -> tuple[AnnData, AnnData]:
    """Cells to annotate, and a reference whose labels say little of the cells, so that no label is sure."""
    query, reference = cells
    reference.obs["kind"] = np.resize(KINDS, reference.n_obs)
    return query, reference


def annotated(kinds: tuple[AnnData, AnnData], model: Any, parents: Any = PARENTS, **how: Any) -> AnnData:
    how = {"labels_key": "kind", "device": "cpu", "copy": True} | how
    return sf.tl.annotate(*kinds, model=model, parents=parents, **how)


def test_both_levels_are_written_and_agree(kinds, small_model):
    done = annotated(kinds, small_model)
    scores, above = done.obsm["annotation_scores"], done.obsm["annotation_parent_scores"]
    assert above.columns.tolist() == ["B cell", "T cell"]
    np.testing.assert_allclose(above["T cell"], scores[["CD4 T cell", "CD8 T cell", "T|NK"]].sum(axis=1), atol=1e-6)
    parent = done.obs["annotation_parent"].astype(str)
    assert parent.tolist() == [above.columns[i] for i in above.to_numpy().argmax(1)]
    np.testing.assert_allclose(done.obs["annotation_parent_score"], above.max(axis=1))
    label = done.obs["annotation"].astype(str)
    assert label.map(PARENTS).tolist() == parent.tolist()
    shown = scores.rename(columns={"T|NK": "T/NK"})
    for name, kind in label.items():
        under = [child for child, of in PARENTS.items() if of == parent[name]]
        assert shown.loc[name, kind] == shown.loc[name, under].max() == done.obs.loc[name, "annotation_score"]
    assert done.uns["annotation"]["reference"]["parent"].to_dict() == PARENTS
    assert done.uns["annotation"]["params"]["parents"] == "given"


def test_the_parent_is_decided_first(small_model):
    labels = tuple(Label(name, ()) for name in ("B", "CD4", "CD8", "gdT"))
    how = {"genes": np.arange(3), "n_cells": np.ones(4), "recipe": None}
    two_levels = Annotator(small_model, labels, **how, parents=("B", "T", "T", "T"))
    scores = np.array([[0.4, 0.3, 0.2, 0.1], [0.6, 0.4, 0, 0], [0, 0, 0, 0]], dtype=np.float32)
    names, sums = two_levels.parent_scores(scores)
    assert names == ["B", "T"]
    np.testing.assert_allclose(sums, [[0.4, 0.6], [0.6, 0.4], [0, 0]], rtol=1e-6)
    # The likeliest label of the first cell would contradict its parent.
    np.testing.assert_allclose(two_levels.decided(scores)[:2], [[0, 0.3, 0.2, 0.1], [0.6, 0, 0, 0]])
    np.testing.assert_array_equal(Annotator(small_model, labels, **how).decided(scores), scores)


def test_it_rests_in_a_file(kinds, small_model, tmp_path):
    done = annotated(kinds, small_model)
    done.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    pd.testing.assert_frame_equal(again.obsm["annotation_parent_scores"], done.obsm["annotation_parent_scores"])
    assert again.uns["annotation"]["reference"]["parent"].to_dict() == PARENTS


def test_what_was_fitted_names_both_levels(kinds, tmp_path):
    query, reference = kinds
    done, model = query.copy(), sf.model.CellPLM(genes=query.var_names, n_hidden=16, n_latent=4)
    annotator = sf.tl.annotate(
        done, reference, labels_key="kind", model=model, parents=PARENTS, device="cpu", return_fitted=True
    )
    annotator.save(tmp_path)
    assert Annotator.load(tmp_path).parents == annotator.parents
    again = sf.tl.annotate(query, model=tmp_path, device="cpu", copy=True)
    pd.testing.assert_frame_equal(again.obs, done.obs)
    pd.testing.assert_frame_equal(again.obsm["annotation_parent_scores"], done.obsm["annotation_parent_scores"])
    with pytest.raises(ValueError, match="parents"):
        sf.tl.annotate(query, model=tmp_path, parents=PARENTS, device="cpu")


def test_parents_of_an_earlier_call_do_not_stay(kinds, small_model):
    done = annotated(kinds, small_model)
    sf.tl.annotate(done, kinds[1], labels_key="kind", model=small_model, device="cpu")
    assert not set(SLOTS) & set(done.obs)
    assert "annotation_parent_scores" not in done.obsm
    assert "parent" not in done.uns["annotation"]["reference"]


def test_unknown_cells_are_so_on_both_levels(kinds, small_model):
    query, reference = kinds
    query.X[0] = 0
    done = annotated((query, reference), small_model)
    assert done.obs.iloc[0][["annotation", "annotation_parent"]].tolist() == ["unknown", "unknown"]
    assert done.obs.iloc[0][["annotation_score", "annotation_parent_score"]].tolist() == [0, 0]


def test_the_ontology_knows_parents(kinds, small_model):
    reference = kinds[1]
    reference.obs["kind"] = reference.obs["kind"].replace({"T/NK": "plasma cell"})
    done = annotated(kinds, small_model, parents="cell_ontology")
    found = done.uns["annotation"]["reference"]["parent"].to_dict()
    assert found["CD4 T cell"] == found["CD8 T cell"] != found["B cell"] == found["plasma cell"]
    assert done.uns["annotation"]["params"]["parents"] == "cell_ontology"


def test_common_parents_cover_each_label_once_and_none_lies_under_another():
    ontology = CellOntology.load()
    names = ["naive B cell", "memory B cell", "plasma cell", "CD4 T", "CD8 T", "Treg", "gdT", "NK", "pDC", "mast cell"]
    ids = [ontology.resolve(name).id for name in names]
    parents = common_parents(ids, ontology)
    for child, parent in zip(ids, parents, strict=True):
        assert parent == child or parent in ontology.ancestors(child)
    assert not any(parent in ontology.ancestors(other) for parent in parents for other in parents)
    assert len(set(parents[:3])) == len(set(parents[3:7])) == 1
    assert parents[-1] == ids[-1]


@pytest.mark.parametrize(
    ("parents", "said"),
    [
        ({"CD4 T cell": "T cell", "CD8 T cell": "T cell", "B cell": "B cell"}, 'no parent for .*"T/NK": "T/NK"'),
        (PARENTS | {"Treg": "T cell"}, "no such label"),
        (PARENTS | {"B cell": "T/NK", "T/NK": "B cell"}, "in a circle: 'B cell' -> 'T/NK' -> 'B cell'"),
        (PARENTS | {"T cell": "lymphocyte"}, "'T cell', the parent of 'CD4 T cell', has the parent 'lymphocyte'"),
        (PARENTS | {"B cell": None}, r"parents must be a dictionary \(of each: text\)"),
        (dict.fromkeys(KINDS, "lymphocyte"), "all labels lie under 'lymphocyte'"),
        ("cell ontology", "got 'cell ontology'"),
        ("cell_ontology", "no term for 'T/NK'"),
    ],
)
def test_parents_that_cannot_be_are_refused(kinds, small_model, parents, said):
    query = kinds[0]
    before = query.copy()
    with pytest.raises(ValueError, match=said):
        annotated(kinds, small_model, parents=parents, copy=False)
    assert query.obs.columns.tolist() == before.obs.columns.tolist()
    assert not query.uns
