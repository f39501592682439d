"""Vectors of genes from which of them interact, by a masked graph autoencoder (Hou et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from scfoundry._arguments import checks_arguments, quoted
from scfoundry._device import Compute
from scfoundry._settings import logger
from scfoundry.data.genes.names import as_names, find, gene_names
from scfoundry.nn.graph_autoencoder import graph_vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["gene_vectors_from_graph"]


@checks_arguments
def gene_vectors_from_graph(
    edges: pd.DataFrame,
    n_dims: int = 512,
    *,
    weight: str | None = None,
    mask_ratio: float = 0.5,
    max_epochs: int = 200,
    lr: float = 1e-3,
    rng: int | np.random.Generator | None = 0,
    device: str = "auto",
) -> pd.DataFrame:
    r"""Vectors of genes from a graph of interactions, in which neighbours are alike.

    CellLM :cite:p:`zhao2023celllm` begins with such vectors of a protein interaction graph; which graph, which features
    of its nodes and which settings are not published. The method is GraphMAE :cite:p:`hou2022graphmae`: features of a
    share of the genes are hidden, graph convolutions encode all genes, the states of the hidden ones are hidden again,
    and a convolution guesses their features from those around them. The features are the leading eigenvectors of the
    graph. It takes seconds for some hundred genes and grows with the number of interactions.

    Needs the extra ``scfoundry-models[graph]``.

    Parameters
    ----------
    edges
        Interactions, one per row; the first two columns name the genes, by symbols, old symbols, aliases or Ensembl
        ids. Direction plays no part; repeated pairs count once, with the highest weight. Genes that the shipped table
        (`sf.datasets.human_genes`) does not know are left out, and so are interactions of a gene with itself.
    n_dims
        Width of the vectors; ``n_hidden`` of the model that takes them, 512 as published.
    weight
        Column of `edges` with positive weights, such as STRING's score; all alike if `None`.
    mask_ratio
        Share of the genes that is hidden at a time.
    max_epochs, lr
        Steps over the whole graph, and learning rate of Adam.
    rng
        Seed or generator. The same seed gives the same vectors.
    device
        Where to compute; CUDA if there is any, else the CPU, if ``"auto"``.

    Returns
    -------
    float32 table, one row per gene that has an interaction, as `edges` calls it (the first of several names), and
    `n_dims` columns. Their mean square is 1, that of a fresh table of embeddings.

    Raises
    ------
    ImportError
        If torch-geometric is not installed.
    KeyError
        If `edges` has no column `weight`.
    ValueError
        If `edges` has fewer than two columns or no rows, only interactions of genes with themselves or of unknown
        genes, or weights that are not positive; or if a setting is out of range.

    Examples
    --------
    >>> import pandas as pd, scfoundry as sf
    >>> edges = pd.read_csv("ppi.tsv", sep="\t")  # gene_a, gene_b, score
    >>> vectors = sf.pp.gene_vectors_from_graph(edges, n_dims=128, weight="score")
    >>> model = sf.model.CellLM(adata, gene_vectors=vectors, n_hidden=128, n_heads=4, n_head=32)
    """
    _check_settings(n_dims, mask_ratio, lr)
    genes, pairs, weights = _graph(edges, weight)
    n = len(genes)
    above = sparse.coo_array((weights, pairs), shape=(n, n)).tocsr()
    seed = int(np.random.default_rng(rng).integers(2**31))
    found = graph_vectors(
        sparse.csr_matrix(above + above.T),
        n_dims=n_dims,
        mask_ratio=mask_ratio,
        max_epochs=max_epochs,
        lr=lr,
        seed=seed,
        device=Compute.resolve(device).device,
    )
    logger.info(
        f"sf.pp.gene_vectors_from_graph: {n:,} genes with {len(weights):,} interactions; loss {found.losses[0]:.3f} at "
        f"first, {found.losses[-1]:.3f} at last"
    )
    return pd.DataFrame(found.vectors, index=pd.Index(genes, name="gene"))


def _check_settings(n_dims: int, mask_ratio: float, lr: float) -> None:
    for name, value, usual in (("n_dims", n_dims, 512), ("lr", lr, 1e-3)):
        if not value > 0:
            msg = f"{name} must be positive; got {value}. Usual: {name}={usual}."
            raise ValueError(msg)
    if not 0 < mask_ratio < 1:
        msg = f"mask_ratio must lie between 0 and 1; got {mask_ratio}. Usual: mask_ratio=0.5."
        raise ValueError(msg)


def _graph(
    edges: pd.DataFrame, weight: str | None
) -> tuple[NDArray[np.object_], tuple[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]:
    """Names of n genes, and of every pair that interacts both numbers, the lower one first, and the weight."""
    columns = [column for column in edges.columns if column != weight][:2]
    if len(columns) < 2 or not len(edges):
        msg = (
            f"edges must name two genes in every row; it has {len(edges):,} rows and the columns "
            f"{quoted(edges.columns)}, where two are needed and one row at least: "
            'pd.DataFrame({"gene_a": ["TP53"], "gene_b": ["MDM2"]}).'
        )
        raise ValueError(msg)
    weights = _weights(edges, weight)
    names = as_names(pd.concat([edges[column] for column in columns]))
    rows, _ = find(gene_names().human, names)
    one, other = rows.reshape(2, -1)
    known = (one >= 0) & (other >= 0)
    if not known.any():
        msg = (
            f"In none of the {len(edges):,} rows of edges are both genes known, for example {names[rows < 0][0]!r}. "
            "Columns must hold human gene symbols or Ensembl ids. Proteins of STRING are named by its table "
            'protein.info: edges["gene_a"] = edges["protein1"].map(info["preferred_name"]), and the same for gene_b.'
        )
        raise ValueError(msg)
    kept = known & (one != other)
    if not kept.any():
        msg = (
            f"All {int(known.sum()):,} interactions of known genes are of a gene with itself, which says nothing of "
            "other genes. Pass interactions of different genes: edges[edges.iloc[:, 0] != edges.iloc[:, 1]]."
        )
        raise ValueError(msg)
    if n_unknown := int((~known).sum()):
        unknown = pd.unique(names[rows < 0])
        logger.warning(
            f"sf.pp.gene_vectors_from_graph: {n_unknown:,} of {len(edges):,} interactions are left out, for "
            f"{len(unknown):,} names are of no human gene, such as {unknown[0]!r}"
        )
    # The lower row of the table first: a pair is the same in either direction.
    low, high = np.minimum(one, other)[kept], np.maximum(one, other)[kept]
    strongest = pd.Series(weights[kept]).groupby([low, high]).max()
    low, high = (strongest.index.get_level_values(level).to_numpy() for level in (0, 1))
    at = np.unique(np.concatenate([low, high]))
    first_name = pd.Series(names, rows).groupby(level=0).first()
    places = np.searchsorted(at, low), np.searchsorted(at, high)
    return first_name[at].to_numpy(dtype=object), places, strongest.to_numpy()


def _weights(edges: pd.DataFrame, column: str | None) -> NDArray[np.float64]:
    """Weight of every row."""
    if column is None:
        return np.ones(len(edges))
    if column not in edges:
        msg = f"edges has no column {column!r}; it has {quoted(edges.columns)}."
        raise KeyError(msg)
    weights = pd.to_numeric(edges[column], errors="coerce").to_numpy(dtype=np.float64)
    if wrong := int((~(np.isfinite(weights) & (weights > 0))).sum()):
        msg = (
            f"edges[{column!r}] must hold positive weights; {wrong:,} of {len(edges):,} are not. Leave them out: "
            f"edges = edges[edges[{column!r}] > 0]."
        )
        raise ValueError(msg)
    return weights
