"""Whether an embedding keeps types apart and batches together (Zhao et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.metrics import silhouette_score

from scfoundry._arguments import quoted
from scfoundry.metrics._clustering import clustering
from scfoundry.metrics._labelled import labelled

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["integration"]

_RESOLUTIONS = tuple(step / 10 for step in range(1, 21))


def integration(
    adata: AnnData,
    *,
    use_rep: str,
    labels_key: str,
    batch_key: str,
    rng: int | np.random.Generator | None = 0,
) -> pd.Series:
    r"""Scores of an integrated embedding as LangCell reports them :cite:p:`zhao2024langcell`.

    With silhouettes :math:`\mathrm{ASW}_C` of the types and :math:`\mathrm{ASW}_B` of the batches, each over all cells,

    .. math::

        S = 0.6 \cdot \tfrac13 \Bigl(\mathrm{ARI} + \mathrm{NMI} + \tfrac{\mathrm{ASW}_C + 1}{2}\Bigr)
            + 0.4 \cdot (1 - |\mathrm{ASW}_B|).

    ARI and NMI are those of clusters at the resolution of 0.1 to 2 with the best NMI: the labels choose it. Clusters
    are Leiden's; the paper has Louvain's.

    These are **not** scIB's scores, though the paper cites them. scIB averages the silhouette of batches *within*
    types, which this one silhouette over all cells confounds with composition: it is high, too, where nothing is
    integrated but types are far apart. scIB's batch score has four further parts. Use `sf.tl.benchmark` for scIB's, and
    these to compare with the paper's tables.

    Parameters
    ----------
    adata
        Cells with an embedding. It is only read.
    use_rep, labels_key, batch_key
        Key of ``obsm`` with the embedding, (n_obs, d), and columns of ``obs`` with types and batches. Cells without a
        type take no part.
    rng
        Seed of Leiden.

    Returns
    -------
    ``nmi``, ``ari``, ``asw_cell``, ``avg_bio``, ``asw_batch`` and ``s_final``, each between 0 and 1 (ARI may be
    negative), 1 being best; ``resolution`` of the clusters.

    Raises
    ------
    ValueError
        If a key does not exist, the embedding holds missing values, or there are fewer than two types or batches.

    Examples
    --------
    >>> import numpy as np, scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced()
    >>> adata.obs["batch"] = np.arange(adata.n_obs) % 2
    >>> found = sf.metrics.integration(adata, use_rep="X_pca", labels_key="bulk_labels", batch_key="batch")
    >>> bool(found["asw_batch"] > 0.99)
    True
    """
    cells = labelled(adata, use_rep, labels_key)
    if batch_key not in adata.obs.columns:
        msg = f"adata.obs has no {batch_key!r}; its columns: {quoted(adata.obs.columns)}."
        raise ValueError(msg)
    batches = adata.obs[batch_key].astype(str).to_numpy()[cells.rows]
    if len(np.unique(batches)) < 2:
        msg = (
            f"adata.obs[{batch_key!r}] holds one batch, so that there is nothing to integrate. Score the embedding by "
            f"sf.metrics.clustering(adata, use_rep={use_rep!r}, labels_key={labels_key!r})."
        )
        raise ValueError(msg)
    keys: dict[str, Any] = {"use_rep": use_rep, "labels_key": labels_key}
    best = float(clustering(adata, **keys, resolutions=_RESOLUTIONS, rng=rng)["nmi_resolution"])
    nmi, ari = clustering(adata, **keys, resolutions=(best,), rng=rng)[["nmi", "ari"]]
    asw_cell = (float(silhouette_score(cells.embedding, cells.labels)) + 1) / 2
    asw_batch = 1 - abs(float(silhouette_score(cells.embedding, batches)))
    avg_bio = (nmi + ari + asw_cell) / 3
    return pd.Series(
        {
            "nmi": nmi,
            "ari": ari,
            "asw_cell": asw_cell,
            "avg_bio": avg_bio,
            "asw_batch": asw_batch,
            "s_final": 0.6 * avg_bio + 0.4 * asw_batch,
            "resolution": best,
        }
    )
