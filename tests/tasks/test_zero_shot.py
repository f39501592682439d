"""Cells named from texts by any model of both: each by itself, or brought to agree."""

from __future__ import annotations

import numpy as np
import pytest

from scfoundry._device import Compute
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.labels import Label
from scfoundry.data.matrix.cells import Cells
from scfoundry.model._capabilities import ReadsTexts, TextScores, can
from scfoundry.stats.adaptation import adapted, adapted_fit
from scfoundry.stats.components import principal_components
from scfoundry.tasks.annotation.votes import ALONE
from scfoundry.tasks.annotation.zero_shot import clusters, name_cells

LABELS = (Label("B cell", ("a text",)), Label("NK", ("another text",)))
CPU = Compute.resolve("cpu")


class Names:
    """A model that tells two labels apart by the first gene."""

    unknown_threshold = None
    averages_prompts = False
    adapted_temperature = 1.5

    def __init__(self, genes, *, adapts):
        self.genes, self.adapts, self.provenance = GeneVocabulary(genes), adapts, {"weights": "names"}

    def check_labels(self, labels):
        return []

    def embed(self, cells, compute):
        return cells.read().toarray()

    def embed_texts(self, texts, compute):
        return np.eye(len(texts), len(self.genes), dtype=np.float32)

    def score_texts(self, cells, labels, compute):
        first = cells.read().toarray()[:, 0]
        p = 1 / (1 + np.exp(first.mean() - first))
        both = np.stack([p, 1 - p], 1).astype(np.float32)
        return TextScores(both, np.empty(0), None, fit=both[:, 0], params={"mixture": "own"})


@pytest.fixture
def adata(make_adata):
    return make_adata(50)


def opened(adata, model):
    return Cells.of(adata, model.genes, caller="test")


def test_cells_are_brought_to_agree_as_the_weights_were_calibrated_or_as_asked(adata):
    for adapts in (False, True):
        model = Names(adata.var_names, adapts=adapts)
        assert can(model, ReadsTexts)
        cells = opened(adata, model)
        alone, components = model.score_texts(cells, LABELS, CPU).probabilities, principal_components(cells.reader)
        together, fit = adapted(alone, components, 1.5), adapted_fit(alone[:, 0], components, cells.by_name)
        assert not np.allclose(fit, alone[:, 0], atol=0.01)
        for adapt, expected in ((None, together if adapts else alone), (True, together), (False, alone)):
            scores = name_cells(model, cells, LABELS, adapt=adapt, compute=CPU)
            np.testing.assert_array_equal(scores.probabilities, expected)
            np.testing.assert_array_equal(scores.fit, fit if expected is together else alone[:, 0])
            assert scores.params == {"mixture": "own", "adapt": expected is together}


def test_a_cell_alone_agrees_with_none_and_the_record_says_so(adata):
    model = Names(adata.var_names, adapts=True)
    cells = opened(adata[:1].copy(), model)
    scores = name_cells(model, cells, LABELS, compute=CPU)
    assert not scores.params["adapt"]
    np.testing.assert_array_equal(scores.probabilities, model.score_texts(cells, LABELS, CPU).probabilities)


def test_clusters_leave_out_empty_cells_and_do_not_depend_on_the_order_of_cells(adata):
    adata.X[7] = 0
    adata.X.eliminate_zeros()
    model = Names(adata.var_names, adapts=False)
    groups = clusters(model, opened(adata, model), CPU)
    assert np.flatnonzero(groups == ALONE).tolist() == [7]
    order = np.random.default_rng(0).permutation(50)
    turned = clusters(model, opened(adata[order].copy(), model), CPU)
    np.testing.assert_array_equal(turned, groups[order])
