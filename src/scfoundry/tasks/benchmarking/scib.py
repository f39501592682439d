"""The scores of scib-metrics and its aggregates (Luecken et al. 2022)."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.neighbors import NearestNeighbors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Scores = dict[str, list[float]]

__all__ = ["AGGREGATES", "BATCH", "BIO", "require_scib", "scib_scores", "table"]

BIO = ("isolated labels", "KMeans NMI", "KMeans ARI", "silhouette label", "cLISI")
BATCH = ("BRAS", "iLISI", "kBET", "graph connectivity", "PCR comparison")
AGGREGATES = ("bio conservation", "batch correction", "total")
# Neighbours that LISI, kBET and graph connectivity look at, as scib-metrics does.
N_LISI, N_KBET, N_CONNECTED = 90, 50, 15


def require_scib(*, caller: str) -> str:
    """Version of scib-metrics, on which scores depend; an ImportError without it, before anything is computed."""
    try:
        return version("scib-metrics")
    except PackageNotFoundError as error:
        msg = f'{caller} needs scib-metrics: pip install "scfoundry-models[scib]".'
        raise ImportError(msg) from error


@contextmanager
def no_root_handler() -> Iterator[None]:
    """Keep the caller's logging as it is: scib-metrics writes to the root logger, which would set itself up for it."""
    if logging.root.handlers:
        yield
        return
    silent = logging.NullHandler()
    logging.root.addHandler(silent)
    try:
        yield
    finally:
        logging.root.removeHandler(silent)


@no_root_handler()
def scib_scores(
    embedding: NDArray[np.float32],
    labels: NDArray[np.str_],
    batches: NDArray[np.str_] | None,
    unintegrated: NDArray[np.float32],
    seeds: Sequence[int] = (0,),
) -> Scores:
    """Compute what `scib_metrics.benchmark.Benchmarker` computes, not rescaled between methods.

    Neighbours are exact, and k-means runs once per seed; everything else is deterministic and has one value.

    Parameters
    ----------
    embedding
        (n, d).
    labels, batches
        Cell types, (n,), and batches, (n,); `None` where there is one alone, and nothing to correct.
    unintegrated
        Principal components of the same cells, the reference of PCR comparison, (n, p).
    seeds
        Of k-means.
    """
    import scib_metrics
    from scib_metrics.utils import KMeans

    around = _Neighbours(embedding)
    of_one = np.zeros(len(labels), str) if batches is None else batches
    scores: Scores = {
        "isolated labels": [float(scib_metrics.isolated_labels(embedding, labels, of_one))],
        "silhouette label": [float(scib_metrics.silhouette_label(embedding, labels))],
        "cLISI": [float(scib_metrics.clisi_knn(around.nearest(N_LISI), labels))],
        "KMeans NMI": [],
        "KMeans ARI": [],
    }
    for seed in seeds:
        clusters = KMeans(len(np.unique(labels)), seed=seed).fit(embedding).labels_
        scores["KMeans NMI"].append(float(normalized_mutual_info_score(labels, clusters)))
        scores["KMeans ARI"].append(float(adjusted_rand_score(labels, clusters)))
    scores["bio conservation"] = _aggregate(scores, BIO, len(seeds))
    if batches is not None:
        pcr = scib_metrics.pcr_comparison(unintegrated, embedding, batches, categorical=True)
        scores |= {
            "BRAS": [float(scib_metrics.bras(embedding, labels, batches))],
            "iLISI": [float(scib_metrics.ilisi_knn(around.nearest(N_LISI), batches))],
            "kBET": [_kbet(around.nearest(N_KBET), labels, batches)],
            "graph connectivity": [float(scib_metrics.graph_connectivity(around.nearest(N_CONNECTED), labels))],
            "PCR comparison": [float(pcr)],
        }
        scores["batch correction"] = _aggregate(scores, BATCH, len(seeds))
        both = zip(scores["bio conservation"], scores["batch correction"], strict=True)
        scores["total"] = [0.6 * bio + 0.4 * batch for bio, batch in both]
    return scores


def _kbet(around: object, labels: NDArray[np.str_], batches: NDArray[np.str_]) -> float:
    """KBET by type, without a line in the log for every type that is of one batch."""
    import scib_metrics

    log = logging.getLogger("scib_metrics")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        return float(scib_metrics.kbet_per_label(around, batches, labels))
    finally:
        log.setLevel(level)


def table(scores: Mapping[str, Scores]) -> pd.DataFrame:
    """Mean over seeds, a row per embedding from best to worst, a column per score."""
    means = {name: {score: float(np.mean(values)) for score, values in of.items()} for name, of in scores.items()}
    found = pd.DataFrame(means).T
    columns = [score for score in (*AGGREGATES, *BIO, *BATCH) if score in found]
    by = "total" if "total" in found else "bio conservation"
    return found[columns].sort_values(by, ascending=False, kind="stable")


class _Neighbours:
    """Exact neighbours, a cell being its own first one, as scib-metrics expects."""

    def __init__(self, embedding: NDArray[np.float32]) -> None:
        n = min(N_LISI, len(embedding) - 1)
        self.distances, self.indices = NearestNeighbors(n_neighbors=n).fit(embedding).kneighbors(embedding)

    def nearest(self, n: int) -> object:
        from scib_metrics.nearest_neighbors import NeighborsResults

        return NeighborsResults(indices=self.indices[:, :n], distances=self.distances[:, :n])


def _aggregate(scores: Scores, names: Sequence[str], n_seeds: int) -> list[float]:
    """Mean of several scores, per seed; deterministic ones count the same for every seed."""
    per_seed = [np.broadcast_to(scores[name], n_seeds) for name in names]
    return [float(value) for value in np.mean(per_seed, axis=0)]
