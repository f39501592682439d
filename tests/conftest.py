"""Fixtures shared by all tests: matrices of every kind, small data with real gene identifiers, real data."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from cases import SmallModel
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


# Tests run side by side, one process per core.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

# Human protein-coding genes, the digits of their Ensembl identifiers.
GENES = """
    938 5022 8517 11600 19582 21355 23191 25708 26025 26297 26508 30582 34510
    38427 42753 44574 51108 51523 57608 59804 62716 65978 66336 67082 67225 67560
    75624 76944 77984 80824 84207 84234 85265 87074 87086 88832 88986 90382 92841
    100097 100219 100300 100450 100906 100911 101160 101347 101439 102265 103187 103490 104763
    104870 104904 105374 105835 106803 107581 107738 110077 110848 111229 111640 111669 111679
    111716 111796 112335 113088 113648 114353 115310 115523 115738 116741 117410 117984 118640
    119655 120129 121552 121966 122862 123416 124831 124942 125347 125740 127951 128016 129226
    130066 130313 130429 130592 132965 135046 135404 136167 136238 136826 137161 137575 137752
    138071 139278 140575 140612 141480 142347 142546 142634 142669 143384 143546 143878 143933
    145287 145649 148908 149357 153113 158050 158517 158710 158869 160213 160255 160654 160888
    160932 163041 163131 163191 163220 163221 163563 163931 164104 164111 164713 165168 166598
    167286 167552 167996 168685 169100 169230 169554 170345 170458 171223 171314 172183 172216
    172543 173762 174021 175567 177105 177156 177606 179344 180644 182287 182718 184009 184897
    185650 185862 187109 188042 188404 196126 196154 196735 197249 197540 197746 197747 197766
    197956 198712 198804 198821 198830 198938 204257 204287 204472 204482 205542 213145 213719
    221869 223865 227507 231389 271503
"""


def _dask(make_chunk: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Any]:
    def convert(values: np.ndarray) -> Any:
        dask_array = pytest.importorskip("dask.array")
        # Chunks that divide neither rows nor columns evenly, so that no block meets their edges by luck.
        chunks = (max(1, values.shape[0] // 3 + 1), max(1, values.shape[1] // 2 + 1))
        return dask_array.from_array(values, chunks=chunks).map_blocks(make_chunk, dtype=values.dtype)

    return convert


ARRAY_TYPES: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": np.array,
    "csr_matrix": sparse.csr_matrix,
    "csc_matrix": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "dask_dense": _dask(np.array),
    "dask_csr": _dask(sparse.csr_matrix),
}


# Files that take longest are begun first, so that no process waits for another at the end.
LONG = ("test_tutorials.py", "test_every_verb.py", "test_distribute.py", "test_benchmark.py", "test_parallel.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(autouse=True)
def _own_threads() -> Iterator[None]:
    """Numba, which scanpy starts, sets the number of threads of OpenMP: torch's small steps become 50 times slower."""
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(params=ARRAY_TYPES.values(), ids=list(ARRAY_TYPES))
def as_array(request: pytest.FixtureRequest) -> Callable[[np.ndarray], Any]:
    """Turn a dense array into each kind of matrix that an AnnData may hold."""
    return request.param


@pytest.fixture(scope="session")
def make_adata() -> Callable[..., AnnData]:
    """Make small data: ``make_adata(n_obs=60, n_vars=40, *, n_batches=2, seed=0, dtype="float32")``.

    Negative-binomial counts in CSR with real Ensembl identifiers as names, cells of unequal depth and none empty,
    ``obs["batch"]`` and ``obs["cell_type"]`` (two types with different profiles), ``obsm["spatial"]``.
    """
    ids = [f"ENSG{int(digits):011d}" for digits in GENES.split()]

    def make(
        n_obs: int = 60, n_vars: int = 40, *, n_batches: int = 2, seed: int = 0, dtype: str = "float32"
    ) -> AnnData:
        if n_vars > len(ids):
            pytest.fail(f"make_adata knows {len(ids)} genes; {n_vars} were asked for.")
        rng = np.random.default_rng(seed)
        cell_type = rng.integers(2, size=n_obs)
        profiles = rng.lognormal(sigma=1.0, size=(2, n_vars))
        depth = rng.lognormal(sigma=0.4, size=(n_obs, 1))
        counts = rng.poisson(rng.gamma(1.0, profiles[cell_type] * depth))
        counts[:, 0] += counts.sum(axis=1) == 0
        obs = pd.DataFrame(
            {
                "batch": pd.Categorical([f"batch {i}" for i in rng.integers(n_batches, size=n_obs)]),
                "cell_type": pd.Categorical(np.array(["B cell", "monocyte"])[cell_type]),
            },
            index=[f"cell {i}" for i in range(n_obs)],
        )
        return AnnData(
            sparse.csr_matrix(counts.astype(dtype)),
            obs=obs,
            var=pd.DataFrame(index=ids[:n_vars]),
            obsm={"spatial": rng.uniform(0, 1000, size=(n_obs, 2))},
        )

    return make


@pytest.fixture
def small_model(make_adata: Callable[..., AnnData]) -> SmallModel:
    """A model that can embed and nothing else, over the genes of ``make_adata(n_vars=160)``."""
    return SmallModel(make_adata(n_vars=160).var_names)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data sets (``.h5ad``), which is no part of the repository."""
    folder = Path(os.environ.get("SCFOUNDRY_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set SCFOUNDRY_DATA to the folder of .h5ad files")
    return folder


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Messages that the package logs during the test."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, collector = logging.getLogger("scfoundry"), Collector()
    logger.addHandler(collector)
    yield messages
    logger.removeHandler(collector)


@pytest.fixture(scope="session")
def run_fix() -> Callable[..., AnnData]:
    """Run the line that an error gives as the fix, as a user would paste it, and return the mended ``adata``."""

    def run(line: str, message: object, adata: AnnData) -> AnnData:
        assert line in str(message)
        scope = {"adata": adata, "anndata": anndata, "np": np, "sc": pytest.importorskip("scanpy")}
        exec(line, scope)  # noqa: S102
        return scope["adata"]

    return run
