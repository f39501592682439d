"""Scores, hold-out masks and gene strata of the released CellPLM code, from its recorded numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scfoundry as sf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Released name -> what it is here. The released accuracy is macro recall.
ANNOTATION = {
    "acc": "macro_recall",
    "f1_score": "macro_f1",
    "precision": "macro_precision",
    "recall": "macro_recall",
}
IMPUTATION = {"mse": "mse", "mae": "mae", "corr": "pearson", "cos": "cosine"}
DENOISING = {"rmse": "rmse", "mae": "mae", "corr": "pearson", "cos": "cosine"}
STRATA = (0, 0.75, 0.9, 0.95, 1)

TESTED = {
    *("annotation/true", "annotation/pred", "annotation/num_classes"),
    *(f"annotation/expected/{name}" for name in ANNOTATION),
    *("imputation/true", "imputation/pred", "imputation/expected/rmse"),
    *(f"imputation/expected/{name}" for name in IMPUTATION),
    *("denoise/counts", "denoise/pred", "denoise/expected_masked/mse", "denoise/expected_all/mse"),
    *("denoise/mar_train_mask", "denoise/mar_valid_mask", "denoise/mar_test_mask", "denoise/mcar_novalid_test_mask"),
    *(f"denoise/expected_{which}/{name}" for which in ("masked", "all") for name in DENOISING),
    *("strata/nonzero_packed", "strata/shape", "strata/seed", "strata/expected_gene_idx"),
}


@pytest.fixture(scope="module")
def published(parity_folder: Callable[[str], Path]) -> dict[str, np.ndarray]:
    with np.load(parity_folder("cellplm") / "metrics.npz") as file:
        return dict(file)


def assert_close(got: float, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_every_array_is_tested(published: dict[str, np.ndarray]) -> None:
    assert set(published) == TESTED


@pytest.mark.parametrize("released", ANNOTATION)
def test_annotation(published: dict[str, np.ndarray], released: str) -> None:
    declared = range(int(published["annotation/num_classes"]))
    truth, predicted = (pd.Categorical(published[f"annotation/{side}"], declared) for side in ("true", "pred"))
    assert_close(
        sf.metrics.annotation(truth, predicted)[ANNOTATION[released]], published[f"annotation/expected/{released}"]
    )


@pytest.mark.parametrize("released", IMPUTATION)
def test_imputation(published: dict[str, np.ndarray], released: str) -> None:
    scores = sf.metrics.imputation(published["imputation/true"], published["imputation/pred"])
    assert_close(sf.metrics.summarise(scores)[IMPUTATION[released]], published[f"imputation/expected/{released}"])


def test_imputation_rmse_is_the_plain_one_and_the_released_one_averages_prefixes(
    published: dict[str, np.ndarray],
) -> None:
    truth, predicted = published["imputation/true"], published["imputation/pred"].clip(min=0)
    scores = sf.metrics.imputation(truth, predicted)
    plain = [np.sqrt(np.mean((a.astype(float) - b) ** 2)) for a, b in zip(truth.T, predicted.T, strict=True)]
    np.testing.assert_allclose(scores["rmse"], plain)
    prefixes = np.concatenate([np.sqrt(scores["mse"])[:stop] for stop in range(1, len(scores) + 1)])
    assert_close(prefixes.mean(), published["imputation/expected/rmse"])


@pytest.mark.parametrize("as_matrix", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize(("which", "suffix"), [("masked", ""), ("all", "_all")])
def test_denoising(published: dict[str, np.ndarray], which: str, suffix: str, as_matrix: Callable) -> None:
    scores = sf.metrics.denoising(
        as_matrix(published["denoise/counts"]), published["denoise/pred"], as_matrix(published["denoise/mar_test_mask"])
    ).loc["predicted"]
    for released, name in DENOISING.items():
        assert_close(scores[name + suffix], published[f"denoise/expected_{which}/{released}"])
    assert_close(scores["rmse" + suffix] ** 2, published[f"denoise/expected_{which}/mse"])


def test_hold_out_with_exponential_kernel(published: dict[str, np.ndarray]) -> None:
    counts = published["denoise/counts"]
    adata = sf.pp.simulate_dropout(AnnData(counts), rng=10, copy=True)
    np.testing.assert_array_equal(adata.layers["test_mask"].toarray(), published["denoise/mar_test_mask"])
    np.testing.assert_array_equal(adata.layers["valid_mask"].toarray(), published["denoise/mar_valid_mask"])
    shown = published["denoise/mar_train_mask"]
    np.testing.assert_array_equal(adata.layers["train"].toarray(), np.where(shown, counts, 0))


def test_hold_out_with_uniform_kernel_and_no_validation(published: dict[str, np.ndarray]) -> None:
    adata = AnnData(published["denoise/counts"])
    sf.pp.simulate_dropout(adata, valid=0, kernel="uniform", rng=11)
    np.testing.assert_array_equal(adata.layers["test_mask"].toarray(), published["denoise/mcar_novalid_test_mask"])
    assert adata.layers["valid_mask"].nnz == 0


def test_genes_by_sparsity_in_order(published: dict[str, np.ndarray]) -> None:
    n_cells, n_genes = published["strata/shape"]
    expressed = np.unpackbits(published["strata/nonzero_packed"])[: n_cells * n_genes].reshape(n_cells, n_genes)
    expected = published["strata/expected_gene_idx"]
    zero_rate = 1 - expressed[:, expected].mean(axis=0)
    adata = AnnData(expressed.astype(np.float32))
    genes = sf.pp.holdout_genes(
        adata,
        n_per_stratum=int(pd.cut(zero_rate, STRATA).value_counts().max()),
        strata=STRATA,
        rng=int(published["strata/seed"]),
    )
    np.testing.assert_array_equal(adata.var_names.get_indexer(genes.index), expected)
    np.testing.assert_allclose(genes["zero_rate"], zero_rate)
