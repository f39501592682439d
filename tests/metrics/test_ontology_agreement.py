"""Whether related types lie near each other."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scfoundry as sf
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.metrics._ontology_agreement import relatedness

TYPES = ["CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell", "B cell", "monocyte", "neuron"]
KEYS = {"use_rep": "X", "labels_key": "type"}


def cells_at(points: np.ndarray, labels: list[str] = TYPES) -> AnnData:
    """Five cells of every type around its point."""
    noise = np.random.default_rng(0).normal(scale=0.01, size=(5 * len(labels), points.shape[1]))
    obs = pd.DataFrame({"type": np.repeat(labels, 5)}, index=[f"c{i}" for i in range(5 * len(labels))])
    return AnnData(obsm={"X": np.repeat(points, 5, axis=0) + noise}, obs=obs)


@pytest.fixture
def by_ontology() -> np.ndarray:
    """Points whose products are how related the types are."""
    ontology = CellOntology.load()
    akin = relatedness([ontology.resolve(name).id for name in TYPES], ontology)
    values, vectors = np.linalg.eigh(akin)
    return vectors * np.sqrt(values.clip(min=0))


def test_an_embedding_made_of_the_ontology_agrees_and_a_shuffled_one_does_not(by_ontology: np.ndarray) -> None:
    found = sf.metrics.ontology_agreement(cells_at(by_ontology), **KEYS)
    assert found["agreement"] > 0.95
    assert found["nearest_related"] == 1
    shuffled = sf.metrics.ontology_agreement(cells_at(by_ontology[[4, 2, 3, 0, 1]]), **KEYS)
    assert shuffled["agreement"] < 0.3


def test_scale_place_and_rotation_do_not_matter(by_ontology: np.ndarray) -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))
    adata = cells_at(by_ontology)
    moved = adata.copy()
    moved.obsm["X"] = 7 * adata.obsm["X"] @ turn + 3
    expected = sf.metrics.ontology_agreement(adata, **KEYS)
    pd.testing.assert_series_equal(sf.metrics.ontology_agreement(moved, **KEYS), expected)


def test_labels_may_be_ids_short_forms_or_unknown(by_ontology: np.ndarray) -> None:
    named = sf.metrics.ontology_agreement(cells_at(by_ontology), **KEYS)
    other = ["CD4 T cells", "CL:0000625", "B", "Monocytes", "neuron"]
    points = np.vstack([by_ontology, by_ontology[:1] + 99])
    found = sf.metrics.ontology_agreement(cells_at(points, [*other, "cluster 7"]), **KEYS)
    assert found["n_unknown"] == 1
    assert found["agreement"] == pytest.approx(named["agreement"], abs=0.01)


def test_too_few_types_are_refused_by_name(by_ontology: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"1 of 5 labels .* Unknown: 'x', 'y', 'z', 'w'\. Use ids"):
        sf.metrics.ontology_agreement(cells_at(by_ontology, ["B cell", "x", "y", "z", "w"]), **KEYS)
