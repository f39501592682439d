"""Methods that denoise: all see the same counts, and all give expected counts at a cell's visible depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scanpy as sc
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

import scfoundry as sf
from benchmarks import peers
from benchmarks.command import untrained
from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["PEERS", "Expected", "given_detection", "ours"]

Expected = tuple["NDArray[np.float32]", "NDArray[np.float32]"]
"""Plain expectation, and the one given detection, both (n_cells, n_genes)."""

N_NEIGHBORS = 50
N_COMPONENTS = 50
SCVI_SAMPLES = 25


def given_detection(expected: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of a zero-truncated Poisson variable."""
    rates = np.maximum(expected, 1e-6)
    return rates / -np.expm1(-rates)


def raw(cells: AnnData, seed: int) -> Expected:
    """The visible counts as they are."""
    counts = cells.X.toarray()
    return counts, given_detection(counts)


def neighbors(cells: AnnData, seed: int, *, of_logs: bool = False) -> Expected:
    """Mean of the 50 nearest other cells by 50 principal components of log expression."""
    logged = peers.log_normalised(cells)
    components = peers.principal_components(logged, N_COMPONENTS)
    nearest = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(components).kneighbors(return_distance=False)
    starts = np.arange(0, nearest.size + 1, N_NEIGHBORS)
    shares = np.full(nearest.size, 1 / N_NEIGHBORS, dtype=np.float32)
    mean = sparse.csr_matrix((shares, nearest.ravel(), starts), shape=(cells.n_obs, cells.n_obs))
    if of_logs:
        return _at_depth(cells, np.expm1((mean @ logged.X).toarray()))
    profiles = sc.pp.normalize_total(cells, target_sum=peers.TARGET_SUM, inplace=False)["X"]
    return _at_depth(cells, (mean @ profiles).toarray())


def neighbors_of_logs(cells: AnnData, seed: int) -> Expected:
    """The same, the mean taken of log expression."""
    return neighbors(cells, seed, of_logs=True)


def scvi(cells: AnnData, seed: int) -> Expected:
    """Posterior mean of scVI, trained until its validation loss no longer improves."""
    model = peers.scvi(cells, seed)
    return _at_depth(cells, model.get_normalized_expression(n_samples=SCVI_SAMPLES, return_numpy=True))


PEERS: dict[str, Callable[[AnnData, int], Expected]] = {
    "raw": raw,
    "kNN, k = 50": neighbors,
    "kNN of logs, k = 50": neighbors_of_logs,
    "scVI": scvi,
}


def ours(model: Any) -> dict[str, Callable[[AnnData, int], Expected]]:
    """The verb as pretrained and fitted to the visible counts; and fitted with random weights before."""
    name = type(model).__name__
    return {
        f"{name}, zero-shot": lambda cells, seed: denoised(cells, model, fine_tune=False),
        f"{name}, fine-tuned": lambda cells, seed: denoised(cells, fitted(cells, seed, model)),
        f"{name}, from scratch": lambda cells, seed: denoised(cells, fitted(cells, seed, untrained(model, seed=seed))),
    }


def fitted(cells: AnnData, seed: int, model: Any) -> sf.tasks.Denoiser:
    """What is learned of the visible counts."""
    opened = Cells.of(cells, model.genes, caller="benchmark", allow_log1p=False)
    return sf.tasks.Denoiser.fit(model, opened, seed=seed, compute=Compute.resolve("cpu"))


def denoised(cells: AnnData, model: Any, **how: bool) -> Expected:
    """Both expectations of a model or of what was fitted."""
    plain, given = (
        sf.tl.denoise(cells, model, given_detected=given, device="cpu", copy=True, **how) for given in (False, True)
    )
    return plain.layers["denoised"], given.layers["denoised"]


def _at_depth(cells: AnnData, profiles: NDArray[np.float32]) -> Expected:
    """Profiles on any scale, brought to the cells' visible totals."""
    depth = np.asarray(cells.X.sum(1))
    expected = (profiles * (depth / profiles.sum(1, keepdims=True))).astype(np.float32)
    return expected, given_detection(expected)
