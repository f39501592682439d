"""Expression as bins: where the value of a gene stands among those of its cell (Cui et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from scfoundry._arguments import checks_arguments
from scfoundry._keys import Keys
from scfoundry._settings import logger
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.growing import Growing
from scfoundry.data.matrix.checks import to_linear
from scfoundry.data.modality import to_write
from scfoundry.data.pieces import canonical
from scfoundry.data.slots import write
from scfoundry.data.tokens.bins import FEWEST_BINS, MOST_BINS, Ties, bin_values, gene_keys
from scfoundry.pp._cell_by_cell import encoded

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

    from scfoundry.data.genes import GeneAlignment
    from scfoundry.data.matrix.checks import MatrixState

__all__ = ["bin_expression"]

_CALLER: Final = "sf.pp.bin_expression"


@checks_arguments
def bin_expression(
    adata: AnnData,
    *,
    n_bins: int = 51,
    ties: Ties = "mid",
    genes: GeneVocabulary | str | Path | None = None,
    layer: str | None = None,
    key_added: str = Keys.BINNED,
    distribute: bool = False,
    copy: bool = False,
) -> AnnData | None:
    r"""Turn values into bins: where each stands among those of its cell.

    With n bins, the edges of a cell are the n - 1 quantiles :math:`e_k` of its values above zero at equally spaced
    probabilities from 0 to 1, interpolated linearly :cite:p:`cui2024scgpt`. The bin of a value :math:`x` is

    .. math:: \#\{k : e_k \le x\} \in \{1, \dots, n - 1\}

    and zeros have bin 0. Where :math:`x` equals edges, as tied counts do, all bins from :math:`\#\{k : e_k < x\} + 1`
    on suit it, and ``ties`` says which is taken. Depth and logarithm play no part, for they leave the order as it is;
    which genes there are does, for quantiles are those of all genes that are read.

    The order of genes and cells, the type of array and its chunks do not change the result. A dask array is read when
    the result is: chunk by chunk, in parallel, and checked then; its first chunk with values tells counts from
    log1p-normalised values.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or log1p-normalised values; in memory, backed or dask.
    n_bins
        Bins, that of zeros included.
    ties
        Of the bins that suit a value: the one in the middle (``"mid"``, rounded down), the lowest (``"low"``), the
        highest (``"high"``), or one drawn (``"random"``, as published) by the names of the gene and of all genes that
        the cell expresses: a cell has the same bins wherever it stands.
    genes
        Genes to read: a vocabulary, or weights whose vocabulary to take, a name of `sf.model.list_pretrained` or a
        folder, official ones of Celler and scGPT included. All genes of ``adata`` if `None`.
    layer
        Layer with the values, ``X`` if `None`.
    key_added
        Where to write.
    distribute
        Let the workers of the active `dask.distributed` client do it, each with one core. The result is the same, and
        in memory.
    copy
        Return a changed copy instead of changing ``adata``.

    Returns
    -------
    `None`, or the copy if ``copy=True``. Sets:

    ``adata.layers["X_binned"]`` (``key_added``)
        Bins, uint16 CSR, (n_obs, n_vars). With ``genes`` ``adata.obsm["X_binned"]`` instead, (n_obs, number of genes)
        in the order of the vocabulary. For a dask array, a dask array of such matrices.
    ``adata.uns["X_binned"]`` (``key_added``)
        ``"params"``: the arguments; ``"provenance"``: what the values were and, with ``genes``, how each was matched.

    Raises
    ------
    ValueError
        If the values are neither counts nor log1p-normalised, too few genes are known, or there are less than 3 bins
        or no such ``ties``.
    FileNotFoundError
        If there are no such weights.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sf.pp.bin_expression(adata)
    >>> adata.layers["X_binned"].max()
    50
    """
    _check(n_bins)
    vocabulary = None if genes is None else _vocabulary(genes)
    _, adata = to_write(adata, Keys.RNA, copy=copy, caller=_CALLER)
    alignment = None if vocabulary is None else vocabulary.align(adata)
    names = adata.var_names if vocabulary is None else vocabulary.ids
    # Nothing but draws asks for the names.
    keys = gene_keys(names) if ties == "random" else np.zeros(len(names), dtype=np.uint64)

    def begin(state: MatrixState) -> _Binner:
        return _Binner(state, alignment, keys, n_bins, ties)

    state, bins = encoded(adata, layer, begin, width=len(keys), dtype=np.uint16, caller=_CALLER, distribute=distribute)
    matched = f"{adata.n_vars:,} genes" if alignment is None else alignment.summary()
    logger.info(f"{_CALLER}: {adata.n_obs:,} cells, {state}; {matched}")
    params = {"n_bins": n_bins, "ties": ties} | ({} if layer is None else {"layer": layer})
    provenance: dict[str, Any] = {"values": str(state)}
    provenance |= {} if alignment is None else {"genes": alignment.report()}
    slot, origin = "layers" if alignment is None else "obsm", {Keys.PARAMS: params, Keys.PROVENANCE: provenance}
    write(adata, {f"{slot}/{key_added}": bins, f"uns/{key_added}": origin}, caller=_CALLER)
    return adata if copy else None


def _check(n_bins: int) -> None:
    if not FEWEST_BINS <= n_bins <= MOST_BINS:
        msg = (
            f"n_bins must be from {FEWEST_BINS} to {MOST_BINS}, that of zeros included; got {n_bins}. The published "
            "number: n_bins=51."
        )
        raise ValueError(msg)


def _vocabulary(genes: GeneVocabulary | str | Path) -> GeneVocabulary:
    if isinstance(genes, GeneVocabulary):
        return genes
    from scfoundry.model._pretrained import locate

    folder = locate(genes)
    if (folder / "genes.tsv").exists():
        return GeneVocabulary.read(folder / "genes.tsv")
    from scfoundry.model.celler._checkpoint import read_genes

    return read_genes(folder)


class _Binner:
    """Turns blocks of cells, columns as in the data set, into bins; without alignment the columns are the genes."""

    def __init__(
        self,
        state: MatrixState,
        alignment: GeneAlignment | None,
        keys: NDArray[np.uint64],
        n_bins: int,
        ties: Ties,
    ) -> None:
        self.state, self.alignment, self.keys, self.n_bins, self.ties = state, alignment, keys, n_bins, ties
        self._lengths, self._genes, self._bins = [np.zeros(1, dtype=np.int64)], Growing(np.int32), Growing(np.uint16)

    def add(self, block: sparse.csr_matrix) -> None:
        """Bin the next cells."""
        # Bins are those of the logarithms, too; where columns share a gene, their counts are summed.
        if self.alignment is not None:
            block = self.alignment.apply(to_linear(block, self.state))
        elif not block.data.all():
            block = block.copy()
            block.eliminate_zeros()
        self._lengths.append(np.diff(block.indptr))
        self._genes.extend(block.indices)
        self._bins.extend(bin_values(block, n_bins=self.n_bins, ties=self.ties, keys=self.keys))

    def result(self) -> sparse.csr_matrix:
        """Bins of all cells, (n, number of genes)."""
        indptr = np.cumsum(np.concatenate(self._lengths))
        return canonical(self._bins.values(), self._genes.values(), indptr, (len(indptr) - 1, len(self.keys)))
