"""The same numbers in any form that an AnnData can hold them: read as the same, or refused with the way out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from cases import SmallModel
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import scfoundry as sf
from scfoundry.data.matrix.loaders import row_blocks
from scfoundry.data.matrix.numbers import as_real_numbers

DTYPES = (
    "<f4",
    "<f8",
    ">f4",
    ">f8",
    "<i4",
    ">i4",
    "<i8",
    ">i8",
    "u1",
    "<u2",
    ">u2",
    "<f2",
    "longdouble",
    "object",
    "?",
)


@pytest.fixture(autouse=True, scope="module")
def quiet():
    """A line in the log for every case would be thousands."""
    sf.settings.verbosity = "error"
    yield
    sf.settings.verbosity = "info"


def read_only(matrix):
    for values in (matrix.data, matrix.indices, matrix.indptr) if sparse.issparse(matrix) else (matrix,):
        values.setflags(write=False)
    return matrix


def dask(matrix):
    array = pytest.importorskip("dask.array")
    return array.from_array(matrix, chunks=(3, 5))


DENSE = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "read-only": lambda m: read_only(m.copy()),
    "strided": lambda m: np.repeat(m, 2, axis=1)[:, ::2],
    "dask": dask,
}
SPARSE = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "read-only csr": lambda m: read_only(sparse.csr_matrix(m)),
}
# What scipy's sparse matrices hold.
SPARSE_DTYPES = ("<f4", "<f8", "<i4", "<i8", "u1", "<u2")
FORMS = [(dtype, name, make) for name, make in DENSE.items() for dtype in DTYPES]
FORMS += [(dtype, name, make) for name, make in SPARSE.items() for dtype in SPARSE_DTYPES]


@st.composite
def counts(draw):
    """A small count matrix, with empty cells, genes that nothing expresses, or nothing at all."""
    n_cells, n_genes = draw(st.integers(1, 9)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.poisson(draw(st.sampled_from([0.0, 0.3, 2.0, 20.0])), (n_cells, n_genes)).astype(np.float64)


@given(counts(), st.sampled_from(FORMS))
def test_a_matrix_is_read_as_the_numbers_it_holds(matrix, form):
    dtype, _, make = form
    if dtype == "?":
        matrix = (matrix > 0).astype(np.float64)
    adata = AnnData(make(matrix.astype(dtype)))
    read = sparse.vstack([block for _, block in row_blocks(adata, block_size=2)]).toarray()
    np.testing.assert_array_equal(read.astype(np.float64), matrix)


@given(counts(), st.sampled_from(FORMS), st.randoms(use_true_random=False))
def test_a_verb_gives_the_same_for_every_form(matrix, form, random):
    dtype, _, make = form
    matrix = np.minimum(matrix, 1) if dtype == "?" else matrix
    genes = [f"gene{i}" for i in range(matrix.shape[1])]
    model = SmallModel(genes)

    def embedded(values, order):
        adata = AnnData(values, var=pd.DataFrame(index=np.array(genes)[order]))
        return sf.tl.embed(adata, model=model, adapt=None, copy=True).obsm["X_small"]

    order = list(range(matrix.shape[1]))
    expected = embedded(matrix.astype(np.float32), order)
    random.shuffle(order)
    np.testing.assert_allclose(embedded(make(matrix[:, order].astype(dtype)), order), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (np.array([[1 + 1j, 2]]), "complex numbers"),
        (np.array([["1", "two"]]), "text"),
        (np.array([["a", None]], dtype=object), "text"),
        (np.array([["2020-01-01"]], dtype="datetime64[D]"), "dates"),
    ],
)
def test_what_is_no_number_is_refused_with_the_line_that_converts_it(values, what):
    with pytest.raises(ValueError, match=rf"holds {what}, not real numbers.*adata.X = adata.X.astype\('float32'\)"):
        as_real_numbers(values)


def test_plain_numbers_are_not_copied():
    values = np.ones((2, 3), dtype=np.float32)
    assert np.shares_memory(as_real_numbers(values), values)
    assert as_real_numbers(matrix := sparse.csr_matrix(values)) is matrix
