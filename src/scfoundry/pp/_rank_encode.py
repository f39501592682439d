"""Rank value encoding: the genes of a cell in the order of their expression (Theodoris et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from scfoundry._arguments import checks_arguments
from scfoundry._keys import Keys
from scfoundry._settings import logger
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.growing import Growing
from scfoundry.data.matrix.checks import to_linear
from scfoundry.data.modality import to_write
from scfoundry.data.slots import write
from scfoundry.data.tokens.ranks import checksum, rank_tokens, ranked_matrix
from scfoundry.pp._cell_by_cell import encoded

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse

    from scfoundry.data.genes import GeneAlignment
    from scfoundry.data.matrix.checks import MatrixState

__all__ = ["rank_encode"]

_CALLER: Final = "sf.pp.rank_encode"


@checks_arguments
def rank_encode(
    adata: AnnData,
    *,
    genes: GeneVocabulary | str | Path | None = None,
    max_length: int = 2048,
    layer: str | None = None,
    key_added: str = Keys.RANKS,
    distribute: bool = False,
    copy: bool = False,
) -> AnnData | None:
    r"""Turn every cell into the tokens of its genes, most telling first.

    The genes that cell :math:`i` expresses are sorted :cite:p:`theodoris2023geneformer` by

    .. math:: \frac{c_{ij}}{m_j}

    in descending order, where :math:`c_{ij}` is the count and :math:`m_j` the median of gene :math:`j` over the cells
    of a corpus that express it; equal ratios stay in vocabulary order. Sequencing depth cancels out: log1p-normalised
    counts have the same order, ties included (beyond some ten thousand counts of a gene, float32 blurs them). Genes
    that the vocabulary does not have are left out. Gene j of the vocabulary has the token j + 2: 0 pads, 1 masks, and
    the one after the last gene stands for the cell, which models put in front of the ranks themselves.

    Genes are found by name. The order of genes and cells, the type of array and its chunks do not change the result.
    A dask array is read when the result is: chunk by chunk, in parallel, and checked then; its first chunk with values
    tells counts from log1p-normalised values.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or log1p-normalised values, whose order is the same; in memory, backed or dask.
    genes
        Vocabulary with medians, as `sf.pp.gene_medians` makes it from any corpus; or weights whose vocabulary to
        take, a name of `sf.model.list_pretrained` or a folder, that of LangCell's official files included. Those of
        ``"langcell"`` if `None`.
    max_length
        Genes to keep per cell.
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

    ``adata.obsm["X_rank"]`` (``key_added``)
        Tokens, int32 CSR, (n_obs, max_length): those of cell i are ``data[indptr[i]:indptr[i + 1]]``, and none where
        it expresses no gene of the vocabulary. For a dask array, a dask array of such matrices.
    ``adata.uns["X_rank"]`` (``key_added``)
        ``"params"``: the arguments; ``"provenance"``: what the values were, how each gene was matched, and a checksum
        of the vocabulary.

    Raises
    ------
    ValueError
        If the values are neither counts nor log1p-normalised, too few genes are known, the vocabulary has no medians,
        or ``max_length`` is below 1.
    FileNotFoundError
        If there are no such weights.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> sf.pp.rank_encode(adata)
    >>> ranks = adata.obsm["X_rank"]
    >>> first_cell = ranks.data[ranks.indptr[0] : ranks.indptr[1]]
    """
    if max_length < 1:
        msg = f"max_length must be at least 1 gene; got {max_length}. The published length: max_length=2048."
        raise ValueError(msg)
    vocabulary, medians = _vocabulary(genes)
    _, adata = to_write(adata, Keys.RNA, copy=copy, caller=_CALLER)
    alignment = vocabulary.align(adata)

    def begin(state: MatrixState) -> _Encoder:
        return _Encoder(state, alignment, medians, max_length)

    state, ranks = encoded(adata, layer, begin, width=max_length, dtype=np.int32, caller=_CALLER, distribute=distribute)
    logger.info(f"{_CALLER}: {adata.n_obs:,} cells, {state}; {alignment.summary()}")
    params = {"layer": layer, "max_length": max_length}
    origin = {
        Keys.PARAMS: {name: value for name, value in params.items() if value is not None},
        Keys.PROVENANCE: {
            "vocabulary": checksum(vocabulary),
            "values": str(state),
            "genes": alignment.report(),
        },
    }
    write(adata, {f"obsm/{key_added}": ranks, f"uns/{key_added}": origin}, caller=_CALLER)
    return adata if copy else None


def _vocabulary(genes: GeneVocabulary | str | Path | None) -> tuple[GeneVocabulary, NDArray[np.float64]]:
    """Find the vocabulary and its medians."""
    if isinstance(genes, GeneVocabulary):
        vocabulary, name = genes, "The vocabulary"
    else:
        from scfoundry.model._pretrained import locate as folder_of

        folder = folder_of("langcell" if genes is None else genes)
        vocabulary, name = _vocabulary_in(folder), f"The vocabulary of {str(genes or 'langcell')!r}"
    if vocabulary.medians is None:
        msg = (
            f"{name} ({len(vocabulary):,} genes) has no medians, by which {_CALLER} divides. "
            "Compute them from a corpus of raw counts: genes=sf.pp.gene_medians(adata)."
        )
        raise ValueError(msg)
    return vocabulary, vocabulary.medians


def _vocabulary_in(folder: Path) -> GeneVocabulary:
    """Vocabulary of a saved model, or of LangCell's official files."""
    if (folder / "genes.tsv").exists():
        return GeneVocabulary.read(folder / "genes.tsv")
    from scfoundry.model.langcell._checkpoint import read_genes

    try:
        return read_genes(folder)
    except FileNotFoundError as error:
        msg = (
            f"{folder} holds no genes.tsv, nor Geneformer's gene_median_dictionary.pkl and token_dictionary.pkl. Give "
            "the folder of a saved model or of the official LangCell, or a vocabulary: genes=sf.pp.gene_medians(adata)."
        )
        raise FileNotFoundError(msg) from error


class _Encoder:
    """Turns blocks of cells, columns as in the data set, into their tokens."""

    def __init__(
        self, state: MatrixState, alignment: GeneAlignment, medians: NDArray[np.float64], max_length: int
    ) -> None:
        self.state, self.alignment, self.medians, self.max_length = state, alignment, medians, max_length
        self._lengths, self._tokens = [np.zeros(1, dtype=np.int64)], Growing(np.int32)

    def add(self, block: sparse.csr_matrix) -> None:
        """Rank the next cells."""
        counts = to_linear(block, self.state)
        starts, tokens = rank_tokens(
            counts, self.medians, max_length=self.max_length, gene_of_column=self.alignment.target
        )
        self._lengths.append(np.diff(starts))
        self._tokens.extend(tokens)

    def result(self) -> sparse.csr_matrix:
        """Tokens of all cells, (n, max_length)."""
        return ranked_matrix(np.cumsum(np.concatenate(self._lengths)), self._tokens.values(), self.max_length)
