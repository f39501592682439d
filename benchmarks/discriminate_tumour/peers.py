"""Probabilities of a tumour by regression, and a score of copy numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.peers import log_normalised

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

__all__ = ["copy_number_score", "logistic_regression"]

# Genes in a window, the least mean expression of one that takes part, and where relative expression is cut.
WINDOW, LEAST, MOST = 100, 0.1, 3.0


def logistic_regression(known: AnnData, query: AnnData) -> NDArray[np.float64]:
    """Probability of a tumour by standardised log expression; tumours and normal tissue weigh as much."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000, class_weight="balanced"))
    model.fit(log_normalised(known).X.toarray(), known.obs["tumour"])
    return model.predict_proba(log_normalised(query).X.toarray())[:, 1]


def copy_number_score(known: AnnData, query: AnnData, positions: pd.DataFrame) -> NDArray[np.float64]:
    r"""How far expression along the chromosomes is from that of normal cells (after Patel et al. 2014).

    Log expression minus its mean in normal tissue, the mean of its studies, is cut at 3 either way, averaged over
    windows of 100 expressed genes in the order of the chromosome, and centred by the median window of a cell. The score
    is the mean square over windows. ``positions``: ``chromosome`` and ``start``, by gene.
    """
    normal, cells = log_normalised(known[~known.obs["tumour"]]), log_normalised(query)
    means = [
        np.asarray(normal[rows].X.mean(0)).ravel()
        for rows in normal.obs.groupby("study", observed=True).indices.values()
    ]
    reference = np.mean(means, axis=0)
    relative = np.clip(cells.X.toarray() - reference, -MOST, MOST)
    located = positions.reindex(query.var_names).assign(place=np.arange(query.n_vars))
    located = located[located["chromosome"].notna() & (reference > LEAST)].sort_values(["chromosome", "start"])
    smooth = []
    for _, genes in located.groupby("chromosome"):
        sums = np.cumsum(np.pad(relative[:, genes["place"]], ((0, 0), (1, 0))), axis=1)
        width = min(WINDOW, len(genes))
        smooth.append((sums[:, width:] - sums[:, :-width]) / width)
    windows = np.hstack(smooth)
    return np.square(windows - np.median(windows, axis=1, keepdims=True)).mean(1)
