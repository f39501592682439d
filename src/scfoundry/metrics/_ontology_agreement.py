"""Whether types that are related in the Cell Ontology are near each other in an embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

from scfoundry._arguments import quoted
from scfoundry.data.labels.hierarchy import lineages
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.metrics._labelled import labelled

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["ontology_agreement"]

_MIN_TYPES = 4


def ontology_agreement(adata: AnnData, *, use_rep: str, labels_key: str) -> pd.Series:
    r"""Whether neighbouring types in the embedding neighbour in the Cell Ontology.

    Types a and b are as related as the sets of terms that they are kinds of, themselves among them, overlap,
    :math:`s_{ab} = |A \cap B| / |A \cup B|`, and as near as their mean embeddings are. The agreement of a type is
    Spearman's correlation of both over all other types, and that of the embedding the mean over types: 1 if the order
    of relatives is that of the ontology, about 0 if it has nothing to do with it.

    It asks what clusters cannot tell: whether an embedding confuses a T cell rather with an NK cell than with a neuron.
    As in the ontology-based scores of recent benchmarks of foundation models, but without a random walk.

    Parameters
    ----------
    adata
        Cells with an embedding. It is only read.
    use_rep, labels_key
        Key of ``obsm`` with the embedding, (n_obs, d), and column of ``obs`` with cell types, as ids or names.

    Returns
    -------
    ``agreement``, ``nearest_related`` (share of types whose nearest type is one of those most related to them),
    ``n_types`` that were found in the ontology and ``n_unknown`` that were not; labels of the same term are one type.

    Raises
    ------
    ValueError
        If a key does not exist, the embedding holds missing values, or fewer than four types are in the ontology.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced()
    >>> found = sf.metrics.ontology_agreement(adata, use_rep="X_pca", labels_key="bulk_labels")
    >>> bool(found["agreement"] > 0.3)
    True
    """
    cells, ontology = labelled(adata, use_rep, labels_key), CellOntology.load()
    terms = [ontology.resolve(name) for name in cells.names]
    ids = np.array(["" if term is None else term.id for term in terms])
    of_cell = ids[cells.labels]
    types = sorted(set(ids) - {""})
    if len(types) < _MIN_TYPES:
        unknown = [name for name, term in zip(cells.names, terms, strict=True) if term is None]
        shown = quoted(unknown[:5])
        msg = (
            f"{len(types)} of {len(cells.names)} labels in adata.obs[{labels_key!r}] are cell types of the ontology; "
            f"at least {_MIN_TYPES} different ones are needed. Unknown: {shown}. Use ids (CL:0000236) or names of the "
            "Cell Ontology."
        )
        raise ValueError(msg)
    means = np.stack([cells.embedding[of_cell == kind].mean(0, dtype=np.float64) for kind in types])
    near, akin = -cdist(means, means), relatedness(types, ontology)
    others = ~np.eye(len(types), dtype=bool)
    near, akin = (values[others].reshape(len(types), -1) for values in (near, akin))
    nearest = np.take_along_axis(akin, near.argmax(1)[:, None], 1)[:, 0]
    return pd.Series(
        {
            "agreement": float(np.nanmean(spearman(near, akin))),
            "nearest_related": float((nearest == akin.max(1)).mean()),
            "n_types": len(types),
            "n_unknown": int((ids == "").sum()),
        }
    )


def relatedness(types: list[str], ontology: CellOntology) -> NDArray[np.float64]:
    """Overlap of what two types are kinds of, as a share of both together, (n, n)."""
    above = lineages(types, ontology)
    return np.array([[len(above[a] & above[b]) / len(above[a] | above[b]) for b in types] for a in types])


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[Any]:
    """Correlation of ranks row by row, (n, m) to (n,); NaN where all of a row are equal."""
    x, y = (rankdata(values, axis=1) for values in (x, y))
    x, y = (values - values.mean(1, keepdims=True) for values in (x, y))
    with np.errstate(invalid="ignore"):
        return (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))
