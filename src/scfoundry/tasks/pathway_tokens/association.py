r"""How often cells use every code, and which genes go with it.

A cell is written as N tokens, each of them one of the C codes of a codebook. With :math:`f_{ck}` the share of the
tokens of cell c that are code k, and :math:`x_{cg}` its log expression, the association is (Pre-training of Single-cell
Language Models through Genetic Pathway Learning, 2024, A.4)

.. math::

    R_{kg} = \sum_c f_{ck}\, x_{cg}, \qquad S_{kg} = R_{kg} / \sum_{k'} R_{k'g}.

The frequencies of a cell sum to 1, so that the divisor is the sum of x: the share S is the mean frequency of the code
over cells, weighted by their expression of the gene, and is compared with the mean over all cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import pearson3
from tqdm.auto import tqdm

from scfoundry._settings import settings
from scfoundry.data.matrix.log_normalisation import log_cp10k

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import TokenisesPathways

__all__ = ["Association", "associate"]

# Correlations below are rounding.
LEAST = 1e-9


@dataclass(frozen=True, eq=False)
class Association:
    """Sums over the n cells that express a gene: their frequencies f of C codes and log expression x of G genes."""

    n_cells: int
    n_expressed: NDArray[np.int64]  # cells that express a gene, (G,)
    n_using: NDArray[np.int64]  # cells with a token of a code, (C,)
    f: NDArray[np.float64]  # of the frequencies, their squares and cubes, (3, C)
    x: NDArray[np.float64]  # of the log expression, its squares and cubes, (3, G)
    fx: NDArray[np.float64]  # of the products, R, (C, G)

    @property
    def usage(self) -> NDArray[np.float64]:
        """Mean frequency of every code, (C,)."""
        return self.f[0] / max(self.n_cells, 1)

    @property
    def perplexity(self) -> float:
        """How many codes would be as diverse, used alike: the exponential of the entropy of the usage; 0 of no cell."""
        used = self.usage[self.usage > 0]
        return float(np.exp(-(used * np.log(used)).sum())) if len(used) else 0.0

    @property
    def shares(self) -> NDArray[np.float64]:
        """Shares S, (C, G): a gene's sum to 1 over codes; 0 for a gene that no cell expresses."""
        return np.divide(self.fx, self.x[0], out=np.zeros_like(self.fx), where=self.x[0] > 0)

    @cached_property
    def correlation(self) -> NDArray[np.float64]:
        """Pearson correlation of frequency and log expression over cells, (C, G); 0 where one of the two is constant.

        It has the sign of the share less the usage.
        """
        n = max(self.n_cells, 1)
        scale = np.sqrt(_centred(self.f, n)[0])[:, None] * np.sqrt(_centred(self.x, n)[0])
        above = self.fx - self.f[0][:, None] * (self.x[0] / n)
        found = np.divide(above, scale, out=np.zeros_like(above), where=scale > 0)
        return np.where(np.abs(found) < LEAST, 0, found)

    @property
    def p_values(self) -> NDArray[np.float64]:
        r"""How likely a correlation r as high is if tokens are dealt to cells at random, (C, G).

        Over all permutations of n cells :math:`z = r \sqrt{n - 1}` has the mean 0, the variance 1 and the skewness
        :math:`n \sqrt{n - 1} / (n - 2)` times :math:`\sum a^3 / (\sum a^2)^{3/2}` of both, with a the deviations from
        the mean. Pearson's distribution of type III has the same three moments (Mielke and Berry 2007). A normal
        distribution would make much of a rare code and a rare gene that meet in a single cell.
        """
        n = max(self.n_cells, 3)
        skewness = [
            np.divide(cubes, squares**1.5, out=np.zeros_like(cubes), where=squares > 0)
            for squares, cubes in (_centred(sums, n) for sums in (self.f, self.x))
        ]
        skew = n * np.sqrt(n - 1) / (n - 2) * np.outer(*skewness)
        return pearson3.sf(self.correlation * np.sqrt(n - 1), skew)


def associate(model: TokenisesPathways, cells: Cells, *, compute: Compute) -> tuple[NDArray[np.float32], Association]:
    """Frequencies of codes in every cell, (n_obs, C), and how they go with the expression of genes.

    Rows of frequencies sum to 1; those of cells without any gene of the model are NaN, and such cells are left out of
    the association. Cells follow each other by name, block by block: neither their order nor the size of blocks plays
    a part, and beyond the frequencies memory does not grow with their number.
    """
    n_codes, n_genes = model.n_codes, len(model.genes)
    frequencies = np.full((cells.n_obs, n_codes), np.nan, dtype=np.float32)
    n_expressed, n_using = np.zeros(n_genes, dtype=np.int64), np.zeros(n_codes, dtype=np.int64)
    f, x, fx, start = np.zeros((3, n_codes)), np.zeros((3, n_genes)), np.zeros((n_codes, n_genes)), 0
    with tqdm(desc="pathway tokens", total=cells.n_obs, unit="cell", disable=not settings.show_progress) as bar:
        for block in cells.blocks(rows=cells.by_name):
            rows = cells.by_name[start : start + block.shape[0]]
            start += len(rows)
            filled = np.diff(block.indptr) > 0
            if filled.any():
                counts = block[filled]
                found = _frequencies(model.pathway_codes(counts, compute), n_codes)
                frequencies[rows[filled]] = found
                log = log_cp10k(counts)
                n_using += np.count_nonzero(found, axis=0)
                n_expressed += np.bincount(log.indices, minlength=n_genes)
                for power in range(3):
                    f[power] += (found ** (power + 1)).sum(0)
                    x[power] += np.bincount(log.indices, log.data ** (power + 1), minlength=n_genes)
                fx += (log.T @ found).T
            bar.update(len(rows))
    n_cells = int(np.isfinite(frequencies[:, 0]).sum())
    return frequencies, Association(n_cells, n_expressed, n_using, f, x, fx)


def _frequencies(codes: NDArray[np.int64], n_codes: int) -> NDArray[np.float64]:
    """Share of the tokens of a cell that are each code, (n, N) to (n, C)."""
    n_cells, n_tokens = codes.shape
    of_cell = np.arange(n_cells)[:, None] * n_codes + codes
    return np.bincount(of_cell.ravel(), minlength=n_cells * n_codes).reshape(n_cells, n_codes) / n_tokens


def _centred(sums: NDArray[np.float64], n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of the squares and cubes of deviations from the mean, 0 where they are rounding."""
    total, squares, cubes = sums
    mean = total / n
    around = squares - mean * total
    varying = around > 1e-12 * squares
    return np.where(varying, around, 0), np.where(varying, cubes - 3 * mean * squares + 2 * mean**2 * total, 0)
