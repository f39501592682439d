"""The report on a data set before anything is computed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pytest
from anndata import AnnData
from mudata import MuData

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Callable

GENES = ["CD3E", "GAPDH", "MARCH1", "no gene", "MT-ND1"]


@pytest.fixture
def adata() -> AnnData:
    counts = np.array([[3, 0, 1, 16, 0], [0, 0, 0, 0, 0], [0, 20, 0, 0, 40]], dtype=np.float32)
    found = AnnData(counts)
    found.var_names = GENES
    return found


def test_what_is_known_is_counted(adata: AnnData) -> None:
    found = sf.pp.check(adata, "cellplm")
    assert found.ok
    assert (found.values, found.scheme, found.weights) == ("raw counts", "gene symbols", "cellplm-mini")
    assert (found.n_cells, found.n_genes, found.n_matched, found.n_empty) == (3, 5, 4, 1)
    assert found.share_of_counts == pytest.approx(64 / 80)
    assert found.genes["route"].to_dict() == dict(
        zip(GENES, ["symbol", "symbol", "previous", "", "symbol"], strict=True)
    )
    assert found.genes.loc["CD3E", "gene"] == "ENSG00000198851"
    assert found.genes.loc["no gene", "gene"] == ""
    assert "sc.pp.filter_cells(adata, min_counts=1)" in found.notes[0]


def test_it_reads_like_a_report(adata: AnnData) -> None:
    lines = str(sf.pp.check(adata, "cellplm")).splitlines()
    assert lines[0] == "data    3 cells, 1 of them without counts, 5 genes"
    assert lines[1] == "values  raw counts"
    assert lines[2] == "genes   gene symbols; 4 of 5 known (symbol 3, previous 1), with 80.0% of all counts"
    assert lines[-1] == "ready"


def test_what_verbs_refuse_is_reported_in_their_words(adata: AnnData) -> None:
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X - 1
    found = sf.pp.check(adata, "cellplm")
    assert (found.ok, found.values) == (False, "scaled values")
    with pytest.raises(ValueError, match="looks scaled") as refused:
        sf.tl.embed(adata, "cellplm")
    assert found.problems == (str(refused.value).replace("sf.tl.embed", "sf.pp.check"),)
    assert 'pass layer="counts"' in str(found)
    assert sf.pp.check(adata, "cellplm", layer="counts").ok


def test_logarithms_are_accepted_with_a_word_on_verbs_that_need_counts(adata: AnnData) -> None:
    adata.X = np.log1p(adata.X / 7)
    found = sf.pp.check(adata, "cellplm")
    assert found.ok
    assert any("such as sf.tl.denoise, needs raw counts" in note for note in found.notes)


def test_genes_that_nobody_knows(adata: AnnData) -> None:
    adata.var["symbol"] = adata.var_names
    adata.var_names = [f"{i}" for i in range(5)]
    found = sf.pp.check(adata, "cellplm")
    assert (found.ok, found.n_matched, found.share_of_counts) == (False, 0, None)
    assert "adata.var_names = adata.var['symbol']" in found.problems[0]


def test_nothing_is_changed_or_logged(
    adata: AnnData, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    before, handlers = adata.copy(), list(logging.getLogger("scfoundry").handlers)
    sf.pp.check(adata, "cellplm")
    np.testing.assert_array_equal(adata.X, before.X)
    assert not adata.uns
    assert not caplog.records
    assert capsys.readouterr().err == ""
    assert logging.getLogger("scfoundry").handlers == handlers


def test_the_array_type_does_not_matter(adata: AnnData, as_array: Callable) -> None:
    expected = str(sf.pp.check(adata, "cellplm"))
    adata.X = as_array(adata.X)
    assert str(sf.pp.check(adata, "cellplm")) == expected


def test_modalities_and_models_in_memory(adata: AnnData) -> None:
    model = sf.model.load_pretrained("cellplm")
    assert str(sf.pp.check(MuData({"rna": adata}), model)) == str(sf.pp.check(adata, "cellplm"))
    with pytest.raises(ValueError, match="no modality 'atac'"):
        sf.pp.check(MuData({"rna": adata}), model, modality="atac")
