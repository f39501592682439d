"""Hide known counts from a denoising method (Wen et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from scipy import sparse

from scfoundry._arguments import checks_arguments
from scfoundry._keys import Keys
from scfoundry._settings import logger
from scfoundry.data.matrix.checks import require_counts
from scfoundry.data.matrix.loaders import row_blocks
from scfoundry.data.modality import to_write
from scfoundry.data.slots import write
from scfoundry.stats.dropout import MIN_GENES, SCALE, log_dropout_weights

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["simulate_dropout"]

CALLER = "sf.pp.simulate_dropout"
Kernel = Literal["exponential", "uniform"]

# Keeps counts in the thousands drawable, where the exponential underflows; no published draw is affected.
_LEAST_WEIGHT: Final = 1e-300


@checks_arguments
def simulate_dropout(
    adata: AnnData,
    *,
    layer: str | None = None,
    test: float = 0.1,
    valid: float = 0.1,
    kernel: Kernel = "exponential",
    scale: float = SCALE,
    min_genes: int = MIN_GENES,
    rng: int | np.random.Generator | None = 10,
    copy: bool = False,
) -> AnnData | None:
    r"""Set a share of every cell's counts to zero, and remember which.

    Of the :math:`m_i` genes that cell :math:`i` expresses, :math:`\lfloor \text{test} \cdot m_i \rfloor` are drawn
    without replacement with probability

    .. math:: p_{ij} \propto \exp(-x_{ij} / \text{scale})

    (equal for all with the uniform kernel), then :math:`\lfloor \text{valid} \cdot m_i \rfloor` from the rest by the
    same rule. Low counts are lost more often, as in sequencing. Cells are visited in obs order, so that a seed gives
    the hold-out of CellPLM :cite:p:`wen2024cellplm`: 10 % for test, 10 % for validation, only in cells with more than 5
    expressed genes, seed 10.

    Parameters
    ----------
    adata
        Cells x genes with raw counts; in memory, backed or dask.
    layer
        Layer with the counts, ``X`` if `None`.
    test, valid
        Shares of a cell's expressed genes to hide for testing, and for validation besides.
    kernel
        How the chance to be hidden depends on the count.
    scale
        Count at which the exponential kernel has fallen to 1/e.
    min_genes
        Cells that express fewer genes are left complete.
    rng
        Seed or generator.
    copy
        Return a changed copy instead of changing ``adata``.

    Returns
    -------
    `None`, or the copy if ``copy=True``. Sets:

    ``adata.layers["train"]``
        CSR counts with the hidden ones set to 0, (n_obs, n_vars): what the method may see.
    ``adata.layers["test_mask"]``, ``adata.layers["valid_mask"]``
        CSR, bool, True where a count was hidden; (n_obs, n_vars).
    ``adata.uns["simulate_dropout"]["params"]``
        The arguments of the call.

    Raises
    ------
    ValueError
        If the values are not raw counts, or an argument is out of range.

    Examples
    --------
    >>> import anndata as ad, numpy as np, scfoundry as sf
    >>> adata = ad.AnnData(np.arange(40.0).reshape(2, 20))
    >>> sf.pp.simulate_dropout(adata)
    >>> adata.layers["test_mask"].sum(axis=1).ravel().tolist()
    [[1, 2]]
    """
    _check_arguments(test, valid, scale)
    require_counts(adata, layer=layer, caller=CALLER)
    adata, _ = to_write(adata, Keys.RNA, copy=copy, caller=CALLER)
    generator = np.random.default_rng(rng)
    parts = [
        _hide(block, (test, valid), kernel, scale, min_genes, generator) for _, block in row_blocks(adata, layer=layer)
    ]
    layers = [sparse.vstack(part, format="csr") for part in zip(*parts, strict=True)]
    results: dict[str, Any] = dict(zip(("layers/train", "layers/test_mask", "layers/valid_mask"), layers, strict=True))
    results["uns/simulate_dropout"] = {
        Keys.PARAMS: {
            "layer": "X" if layer is None else layer,
            "test": test,
            "valid": valid,
            "kernel": kernel,
            "scale": scale,
            "min_genes": min_genes,
            # A generator's state has no place in a file; a seed has.
            **({"rng": int(rng)} if isinstance(rng, int | np.integer) else {}),
        }
    }
    write(adata, results, caller=CALLER)
    n_test, n_valid = (f"{mask.nnz:,}" for mask in layers[1:])
    logger.info("%s: hid %s counts for test and %s for validation.", CALLER, n_test, n_valid)
    return adata if copy else None


def _check_arguments(test: float, valid: float, scale: float) -> None:
    if not (0 < test < 1 and 0 <= valid < 1 and test + valid < 1):
        msg = (
            f"test={test} and valid={valid} must be shares of a cell's expressed genes that leave some to learn from: "
            "test above 0, valid at least 0, less than 1 together. The published ones: test=0.1, valid=0.1."
        )
        raise ValueError(msg)
    if not scale > 0:
        msg = f"scale must be a count above 0; got {scale}. The published one: scale=20."
        raise ValueError(msg)


def _hide(
    counts: sparse.csr_matrix,
    shares: tuple[float, float],
    kernel: Kernel,
    scale: float,
    min_genes: int,
    generator: np.random.Generator,
) -> tuple[sparse.csr_matrix, sparse.csr_matrix, sparse.csr_matrix]:
    """Training counts, test mask and validation mask of a block of cells."""
    counts = counts.copy()
    counts.eliminate_zeros()
    split = np.zeros(counts.nnz, dtype=np.int8)
    for start, stop in zip(counts.indptr[:-1], counts.indptr[1:], strict=True):
        if stop - start >= min_genes:
            weights = np.ones(stop - start)
            if kernel == "exponential":
                log_weights = log_dropout_weights(counts.data[start:stop].astype(np.float64), scale)
                weights = np.maximum(np.exp(log_weights), _LEAST_WEIGHT)
            split[start:stop] = _draw_splits(weights, shares, generator)
    return tuple(_entries(counts, split == part, mask=part > 0) for part in range(3))


def _draw_splits(
    weights: NDArray[np.float64], shares: tuple[float, float], generator: np.random.Generator
) -> NDArray[np.int8]:
    """0 for entries that stay, 1 and 2 for the first and second share, drawn one after the other."""
    split = np.zeros(len(weights), dtype=np.int8)
    for part, share in enumerate(shares, start=1):
        rest = np.flatnonzero(split == 0)
        size = int(share * len(weights))
        if size:
            chance = weights[rest] / weights[rest].sum()
            split[generator.choice(rest, size, replace=False, p=chance)] = part
    return split


def _entries(counts: sparse.csr_matrix, chosen: NDArray[np.bool_], *, mask: bool) -> sparse.csr_matrix:
    """Keep the chosen entries, as counts or as True."""
    indptr = np.concatenate([[0], np.cumsum(chosen)])[counts.indptr]
    values = np.ones(chosen.sum(), dtype=bool) if mask else counts.data[chosen]
    return sparse.csr_matrix((values, counts.indices[chosen], indptr), shape=counts.shape)
