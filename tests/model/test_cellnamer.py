"""CellNamer, from AnnData to probabilities."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import torch
from scipy import sparse

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.labels import Label
from scfoundry.data.matrix.cells import Cells

if TYPE_CHECKING:
    from scfoundry.model._capabilities import TextScores

CPU = Compute.resolve("cpu")
GENES = [f"ENSG{i:011d}" for i in range(40)]
TYPES = ("CL:0000084", "CL:0000236", "CL:0000576", "CL:0000623")
LABELS = [Label("B cell", ("B cell",), "CL:0000236"), Label("T cell", ("T cell",), "CL:0000084")]


@pytest.fixture
def model() -> sf.model.CellNamer:
    width = {"n_hidden": 8, "n_latent": 8, "n_buckets": 64, "n_text_hidden": 8}
    markers = {t: GENES[10 * i : 10 * i + 10] for i, t in enumerate(TYPES)}
    model = sf.model.CellNamer(genes=GENES, types=TYPES, markers=markers, **width)
    model.module.profiles.learn(torch.eye(4).repeat_interleave(10, 1) / 10)
    model.module.heads.profile_of_type.copy_(torch.eye(4))
    return model


def of(counts: np.ndarray) -> ad.AnnData:
    adata = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    adata.var_names = GENES
    return adata


@pytest.fixture
def counts() -> np.ndarray:
    """T and B cells."""
    rates = 0.3 + 3 * np.eye(4).repeat(10, 1)[np.arange(60) % 2]
    return np.random.default_rng(0).poisson(rates)


def scores(model: sf.model.CellNamer, cells: Cells | ad.AnnData, compute: Compute = CPU) -> TextScores:
    cells = cells if isinstance(cells, Cells) else Cells.of(cells, model.genes, caller="test")
    return model.score_texts(cells, LABELS, compute)


@pytest.mark.parametrize("n_cells", [1, 5])
@pytest.mark.parametrize("rate", [0, 1], ids=["empty", "alike"])
def test_cells_that_do_not_differ_are_judged_all_the_same(model, n_cells: int, rate: int) -> None:
    result = scores(model, of(np.full((n_cells, 40), rate)))
    assert result.probabilities.shape == (n_cells, 2)
    np.testing.assert_allclose(result.probabilities.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(result.probabilities, result.probabilities[:1].repeat(n_cells, 0), rtol=1e-5)


def test_empty_cells_change_nothing_for_the_others(model, counts: np.ndarray) -> None:
    alone = scores(model, of(counts))
    among = scores(model, of(np.vstack([counts, np.zeros((90, 40))])))
    np.testing.assert_allclose(among.probabilities[:60], alone.probabilities, atol=1e-5)
    np.testing.assert_allclose(among.fit[:60], alone.fit, atol=1e-5)
    assert np.isfinite(among.probabilities).all()


def test_out_of_core_data_are_read_twice_and_not_again_for_their_moments(
    model, counts: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scfoundry.data.matrix.reader.HELD_VALUES", 0)
    read: list[int] = []

    def counted(block: np.ndarray) -> np.ndarray:
        read.append(len(block))
        return block

    adata = of(counts)
    adata.X = da.from_array(counts.astype(np.float32), chunks=(20, 40)).map_blocks(counted, dtype=np.float32)
    cells = Cells.of(adata, model.genes, caller="test")
    read.clear()
    by_block = replace(CPU, batch_size=20)
    result = scores(model, cells, by_block)
    assert sum(read) == 2 * len(counts)
    np.testing.assert_allclose(result.probabilities, scores(model, of(counts)).probabilities, atol=1e-5)
    read.clear()
    model.embed(cells, by_block)
    assert sum(read) == len(counts)


def test_a_smaller_panel_is_one_that_measures_less(model, counts: np.ndarray) -> None:
    shown = np.arange(0, 40, 2)
    whole = Cells.of(of(counts), model.genes, caller="test").only(shown)
    panel = of(counts)[:, shown].copy()
    np.testing.assert_allclose(scores(model, whole).probabilities, scores(model, panel).probabilities, atol=1e-6)


def test_a_label_may_stand_for_several_terms(model) -> None:
    b_cell, t_cell = LABELS
    both = Label("lymphocytes", (*b_cell.texts, *t_cell.texts), f"{b_cell.term}|{t_cell.term}")
    plan = model._plan([both, Label("monocyte", ("monocyte",), TYPES[3]), Label("NK", ("NK",), TYPES[2])])
    assert plan.shares.tolist() == [[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]


def test_it_says_that_it_is_not_langcell(model) -> None:
    assert (type(model).__doc__ or "").startswith("A model of our own, inspired by LangCell")
    provenance = sf.model.CellNamer.from_pretrained("cellnamer-mini").provenance
    assert (provenance["model"], provenance["weights"]) == ("cellnamer", "cellnamer-mini")
    assert provenance["citation"].startswith("scfoundry developers 2026, CellNamer")


def test_texts_are_embedded_on_their_own(model) -> None:
    embedded = model.embed_texts(["B cell", "T cell"])
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(model.embed_texts(["B cell"], CPU)[0], embedded[0], atol=1e-6)
