"""Scores by the tasks of cz-benchmarks, which is asked by its interface and never imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry.metrics._labelled import labelled

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["cz_benchmark"]


def cz_benchmark(
    adata: AnnData, task: Any, *, use_rep: str, labels_key: str, batch_key: str | None = None, **inputs: Any
) -> pd.DataFrame:
    """Score an embedding by a task of cz-benchmarks.

    Its tasks take an embedding and an object with labels, named differently from task to task; this fills it in. Any
    object with ``input_model`` and ``run`` serves as a task. cz-benchmarks comes from PyPI (``pip install
    cz-benchmarks``) and is no dependency.

    Parameters
    ----------
    adata
        Cells with an embedding; those without a label are left out. It is only read.
    task
        For example ``czbenchmarks.tasks.ClusteringTask()``, ``EmbeddingTask()``, ``MetadataLabelPredictionTask()``,
        ``BatchIntegrationTask()`` or ``SequentialOrganizationTask()``; its random seed is an argument of its own.
    use_rep, labels_key, batch_key
        Key of ``obsm`` with the embedding, (n_obs, d), columns of ``obs`` with labels and, for a task that asks for
        them, batches.
    **inputs
        Further inputs of the task, such as ``n_folds=3``.

    Returns
    -------
    One row per score: ``task``, ``metric`` and ``value``, and ``params``, what the task says of the score.

    Raises
    ------
    ValueError
        If a key does not exist, the embedding holds missing values, or the task asks for more than was given.

    Examples
    --------
    >>> import scfoundry as sf
    >>> from czbenchmarks.tasks import ClusteringTask  # doctest: +SKIP
    >>> sf.tl.embed(adata, model="cellplm")  # doctest: +SKIP
    >>> sf.metrics.cz_benchmark(adata, ClusteringTask(), use_rep="X_cellplm", labels_key="cell_type")  # doctest: +SKIP
    """
    cells = labelled(adata, use_rep, labels_key)
    obs = adata.obs.iloc[cells.rows]
    labels = pd.Series(np.array(cells.names)[cells.labels], index=obs.index, name=labels_key)
    known: dict[str, Any] = {"obs": obs, "labels": labels, "input_labels": labels}
    if batch_key is not None:
        if batch_key not in obs:
            msg = f"adata.obs has no column {batch_key!r}. Pass the column with batches as batch_key."
            raise ValueError(msg)
        known["batch_labels"] = obs[batch_key].astype(str)
    asked = task.input_model.model_fields
    known = {name: value for name, value in known.items() if name in asked} | inputs
    missing = [name for name, field in asked.items() if field.is_required() and name not in known]
    if missing:
        names = ", ".join(f"{name}=..." for name in missing)
        batches = ', batches as batch_key="..."' if "batch_labels" in missing else ""
        msg = f"{type(task).__name__} asks for {names}, which was not given: pass it by that name{batches}."
        raise ValueError(msg)
    results = task.run(cell_representation=cells.embedding, task_input=task.input_model(**known))
    rows = [
        (type(task).__name__, _text(found.metric_type), float(found.value), dict(found.params)) for found in results
    ]
    return pd.DataFrame(rows, columns=["task", "metric", "value", "params"])


def _text(metric: Any) -> str:
    """Name of a score, which is an enumeration's."""
    return str(getattr(metric, "value", metric))
