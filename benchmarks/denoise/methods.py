"""Methods that denoise: all see the same counts, and all give expected counts at a cell's visible depth."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import numpy as np
import scanpy as sc
import torch
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["METHODS", "SCVI_SETTINGS", "Expected", "given_detection"]

Expected = tuple["NDArray[np.float32]", "NDArray[np.float32]"]
"""Plain expectation, and the one given detection, both (n_cells, n_genes)."""

N_NEIGHBORS = 50
N_COMPONENTS = 50
TARGET_SUM = 1e4
# Early stopping may act once the KL term has its full weight. scvi-tools takes 400 epochs to get there, by which time
# the validation loss of sets as small as these has long been rising.
SCVI_SETTINGS = {
    "max_epochs": 200,
    "early_stopping": True,
    "early_stopping_patience": 20,
    "early_stopping_warmup_epochs": 50,
    "plan_kwargs": {"n_epochs_kl_warmup": 50},
    "batch_size": 256,
}
SCVI_SAMPLES = 25


def given_detection(expected: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of a zero-truncated Poisson variable."""
    rates = np.maximum(expected, 1e-6)
    return rates / -np.expm1(-rates)


def raw(cells: AnnData, seed: int, weights: str) -> Expected:
    """The visible counts as they are."""
    counts = cells.X.toarray()
    return counts, given_detection(counts)


def neighbors(cells: AnnData, seed: int, weights: str, *, of_logs: bool = False) -> Expected:
    """Mean of the 50 nearest other cells by 50 principal components of log expression."""
    profiles = cells.copy()
    sc.pp.normalize_total(profiles, target_sum=TARGET_SUM)
    logged = sc.pp.log1p(profiles, copy=True)
    components = sc.pp.pca(logged, n_comps=N_COMPONENTS, random_state=0, copy=True).obsm["X_pca"]
    nearest = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(components).kneighbors(return_distance=False)
    mean = sparse.csr_matrix(
        (
            np.full(nearest.size, 1 / N_NEIGHBORS, dtype=np.float32),
            nearest.ravel(),
            np.arange(0, nearest.size + 1, N_NEIGHBORS),
        ),
        shape=(cells.n_obs, cells.n_obs),
    )
    smooth = np.expm1((mean @ logged.X).toarray()) if of_logs else (mean @ profiles.X).toarray()
    return _at_depth(cells, smooth)


def neighbors_of_logs(cells: AnnData, seed: int, weights: str) -> Expected:
    """The same, the mean taken of log expression."""
    return neighbors(cells, seed, weights, of_logs=True)


def scvi(cells: AnnData, seed: int, weights: str) -> Expected:
    """Posterior mean of scVI, trained until its validation loss no longer improves."""
    import scvi as scvi_tools

    scvi_tools.settings.seed = seed
    # Its gradients become denormal numbers, which a CPU computes with several times more slowly.
    torch.set_flush_denormal(True)
    cells = cells.copy()
    scvi_tools.model.SCVI.setup_anndata(cells)
    model = scvi_tools.model.SCVI(cells)
    with tempfile.TemporaryDirectory() as folder:
        model.train(**SCVI_SETTINGS, enable_progress_bar=False, accelerator="cpu", default_root_dir=folder)
    shares = model.get_normalized_expression(n_samples=SCVI_SAMPLES, return_numpy=True)
    return _at_depth(cells, shares)


def zero_shot(cells: AnnData, seed: int, weights: str) -> Expected:
    """CellPLM as pretrained."""
    return _ours(cells, weights, fine_tune=False)


def fine_tuned(cells: AnnData, seed: int, weights: str) -> Expected:
    """CellPLM fine-tuned on the visible counts."""
    return _ours(cells, _fitted(cells, seed, sf.model.CellPLM.from_pretrained(weights)))


def from_scratch(cells: AnnData, seed: int, weights: str) -> Expected:
    """The same structure and genes, with random weights before."""
    pretrained = sf.model.CellPLM.from_pretrained(weights)
    values = {name: getattr(pretrained.config, name) for name in pretrained.config.__dataclass_fields__}
    fresh = sf.model.CellPLM(genes=pretrained.genes, seed=seed, **values)
    return _ours(cells, _fitted(cells, seed, fresh))


METHODS: dict[str, Callable[[AnnData, int, str], Expected]] = {
    "raw": raw,
    "kNN, k = 50": neighbors,
    "kNN of logs, k = 50": neighbors_of_logs,
    "CellPLM, zero-shot": zero_shot,
    "CellPLM, fine-tuned": fine_tuned,
    "scVI": scvi,
    "CellPLM, from scratch": from_scratch,
}


def _fitted(cells: AnnData, seed: int, model: sf.model.CellPLM) -> sf.tasks.Denoiser:
    opened = Cells.of(cells, model.genes, caller="benchmark", allow_log1p=False)
    return sf.tasks.Denoiser.fit(model, opened, seed=seed, compute=Compute.resolve("cpu"))


def _ours(cells: AnnData, model: str | sf.tasks.Denoiser, **arguments: bool) -> Expected:
    plain, given = (
        sf.tl.denoise(cells, model, given_detected=given_detected, device="cpu", copy=True, **arguments)
        for given_detected in (False, True)
    )
    return plain.layers["denoised"], given.layers["denoised"]


def _at_depth(cells: AnnData, profiles: NDArray[np.float32]) -> Expected:
    """Profiles on any scale, brought to the cells' visible totals."""
    depth = np.asarray(cells.X.sum(1))
    expected = (profiles * (depth / profiles.sum(1, keepdims=True))).astype(np.float32)
    return expected, given_detection(expected)
