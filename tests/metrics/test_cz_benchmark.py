"""Scores by tasks of cz-benchmarks: by its own classes where it is installed, and by its interface anywhere."""

from __future__ import annotations

import importlib.util
from enum import Enum
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from pydantic import BaseModel, ConfigDict

import scfoundry as sf


class Inputs(BaseModel):
    """Named as cz-benchmarks names the inputs of its tasks."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    obs: pd.DataFrame
    input_labels: pd.Series
    batch_labels: pd.Series
    n_folds: int = 5


class Metric(Enum):
    CENTRE = "distance_to_centre"


class Task:
    input_model = Inputs

    def run(self, cell_representation, task_input):
        self.given = cell_representation, task_input
        return [SimpleNamespace(metric_type=Metric.CENTRE, value=np.float32(0.5), params={"k": 3})]


@pytest.fixture
def cells() -> AnnData:
    """Three types in two batches, far apart, and a cell without a type."""
    rng = np.random.default_rng(0)
    types = np.repeat(["B", "T", "NK"], 40).astype(object)
    embedding = rng.normal(size=(120, 5)) + 20 * np.eye(3, 5)[np.repeat(np.arange(3), 40)]
    obs = pd.DataFrame({"cell_type": types, "batch": np.tile([1, 2], 60)}, index=[f"c{i}" for i in range(120)])
    obs.iloc[7, 0] = None
    return AnnData(obs=obs.astype({"cell_type": "category"}), obsm={"X_emb": embedding.astype(np.float32)})


def score(cells, task, **how):
    return sf.metrics.cz_benchmark(cells, task, use_rep="X_emb", labels_key="cell_type", **how)


def test_a_task_gets_what_it_asks_for(cells):
    task = Task()
    table = score(cells, task, batch_key="batch", n_folds=2)
    assert table.to_dict("records") == [
        {"task": "Task", "metric": "distance_to_centre", "value": 0.5, "params": {"k": 3}}
    ]
    embedding, given = task.given
    assert len(embedding) == 119, "the cell without a label is left out"
    assert given.input_labels.index.tolist() == given.obs.index.tolist()
    assert "c7" not in given.obs.index
    assert set(given.batch_labels) == {"1", "2"}
    assert given.n_folds == 2


def test_what_a_task_misses_is_named(cells):
    with pytest.raises(ValueError, match=r'Task asks for batch_labels=\.\.\., .*batches as batch_key="\.\.\."'):
        score(cells, Task())
    with pytest.raises(ValueError, match="no column 'plate'"):
        score(cells, Task(), batch_key="plate")


@pytest.mark.skipif(importlib.util.find_spec("czbenchmarks") is None, reason="cz-benchmarks is not installed")
@pytest.mark.parametrize(
    ("name", "how", "at_least"),
    [
        ("ClusteringTask", {}, {"adjusted_rand_index": 0.9}),
        ("EmbeddingTask", {}, {"silhouette_score": 0.7}),
        ("BatchIntegrationTask", {"batch_key": "batch"}, {"entropy_per_cell": 0.5, "batch_silhouette": 0.8}),
        ("MetadataLabelPredictionTask", {"n_folds": 3}, {"mean_fold_accuracy": 0.95}),
    ],
)
def test_its_own_tasks_score(cells, name, how, at_least):
    from czbenchmarks import tasks

    found = score(cells, getattr(tasks, name)(), **how).groupby("metric")["value"].max()
    for metric, least in at_least.items():
        assert found[metric] > least
