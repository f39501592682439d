"""One model in threads, forked processes, and workers of joblib and dask: the numbers of a plain call."""

from __future__ import annotations

import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import dask
import joblib
import numpy as np
import pytest

import scfoundry as sf
from scfoundry.model._load import load_weights

# What is sent to other processes: found there by its name, with all its arguments.
EMBED = functools.partial(sf.tl.embed, adapt=None, copy=True, device="cpu")


@pytest.fixture(scope="module")
def work(make_adata):
    model, cells = load_weights("celllm-mini"), [make_adata(20, 200, seed=seed) for seed in (0, 1)]
    return model, cells, [EMBED(adata, model).obsm["X_celllm"] for adata in cells]


def in_threads(cells, model):
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(EMBED, cells, [model, model]))


def forked(cells, model):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        return list(pool.map(EMBED, cells, [model, model], timeout=100))


def by_joblib(cells, model):
    return joblib.Parallel(n_jobs=2, timeout=100)(joblib.delayed(EMBED)(adata, model) for adata in cells)


def by_dask(cells, model):
    return dask.compute(*(dask.delayed(EMBED)(adata, model) for adata in cells), scheduler="threads")


# Of a process that has many threads, as a suite's has, Python itself warns before it is forked.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("way", [in_threads, forked, by_joblib, by_dask])
def test_the_numbers_are_those_of_a_plain_call(work, way):
    model, cells, expected = work
    for found, embedding in zip(way(cells, model), expected, strict=True):
        np.testing.assert_allclose(found.obsm["X_celllm"], embedding, atol=1e-5)
