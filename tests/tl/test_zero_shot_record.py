"""What annotation records of itself, and that the record can be used again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from mudata import MuData

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData

LABELS = ["monocyte", "B cells", "SPP1+ macrophages", "mixture of my own"]


@pytest.fixture
def adata(make_adata: Callable[..., AnnData]) -> AnnData:
    return make_adata(12)


def annotated(adata: AnnData, texts: Any = LABELS, **arguments: Any) -> AnnData:
    return sf.tl.zero_shot_annotate(adata, texts, copy=True, device="cpu", **arguments)


def params(adata: AnnData, texts: Any = LABELS, **arguments: Any) -> dict[str, Any]:
    return annotated(adata, texts, **arguments).uns["zero_shot"]["params"]


def from_file(adata: AnnData, tmp_path: Path) -> AnnData:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return ad.read_h5ad(tmp_path / "cells.h5ad")


@pytest.mark.parametrize("weights", ["reads_texts", "by_expression"])
@pytest.mark.parametrize("texts", [LABELS, {"a": ["a b cell", "a\nlymphocyte"], "b": "cell type: monocyte."}])
def test_the_table_of_texts_gives_the_same_probabilities_again(request, adata, tmp_path, weights, texts):
    model = request.getfixturevalue(weights)
    first = annotated(adata, texts, model=model)
    for table in (first.uns["zero_shot"]["texts"], from_file(first, tmp_path).uns["zero_shot"]["texts"]):
        again = annotated(adata, table, model=model)
        pd.testing.assert_frame_equal(again.obsm["zero_shot_scores"], first.obsm["zero_shot_scores"])
        pd.testing.assert_frame_equal(again.uns["zero_shot"]["texts"], first.uns["zero_shot"]["texts"])


def test_markers_in_the_table_count_again_and_those_given_with_it_replace_them(by_expression, adata):
    genes = by_expression.genes.ids.tolist()
    first = annotated(adata, model=by_expression, markers={"monocyte": genes[:3]})
    table = first.uns["zero_shot"]["texts"]
    again = annotated(adata, table, model=by_expression)
    pd.testing.assert_frame_equal(again.obsm["zero_shot_scores"], first.obsm["zero_shot_scores"])
    other = params(adata, table, model=by_expression, markers={"monocyte": genes[5:7]})
    assert other["markers"] == {"monocyte": genes[5:7]}


def test_markers_are_recorded_in_a_form_that_files_take(by_expression, adata, tmp_path):
    genes = by_expression.genes.ids.tolist()
    result = annotated(adata, ["T/NK", "B cell"], model=by_expression, markers={"T/NK": genes[:2]}, batch_size=5)
    read = from_file(result, tmp_path).uns["zero_shot"]["params"]
    assert list(read["markers"]["T|NK"]) == genes[:2]
    assert read["batch_size"] == 5
    assert "modality" not in read


def test_what_the_weights_decide_is_recorded(reads_texts, make_reader_of_texts, by_expression, adata):
    config = reads_texts.config
    used = params(adata, model=reads_texts)
    assert (used["alpha"], used["mixture"], used["top_k"]) == (config.alpha, config.mixture, 4)
    assert not used["adapt"]
    assert params(adata, model=reads_texts, adapt=True)["adapt"]
    of_its_own = params(adata, model=make_reader_of_texts(alpha=0.7, mixture="released"))
    assert (of_its_own["alpha"], of_its_own["mixture"]) == (0.7, "released")
    used = params(adata, model=by_expression)
    assert used["adapt"]
    assert used["threshold"] == pytest.approx(by_expression.unknown_threshold)
    assert not {"alpha", "mixture", "top_k"} & used.keys()
    assert not params(adata, model=by_expression, adapt=False)["adapt"]


def test_the_modality_is_recorded(reads_texts, adata):
    mdata = MuData({"gex": adata, "protein": ad.AnnData(np.ones((12, 3)), obs=adata.obs[[]])})
    sf.tl.zero_shot_annotate(mdata, LABELS, model=reads_texts, modality="gex", device="cpu")
    assert mdata.mod["gex"].uns["zero_shot"]["params"]["modality"] == "gex"
