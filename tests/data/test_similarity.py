from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from scfoundry.stats.similarity import cosine, partial_pearson, pearson


@pytest.fixture
def spots() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log expression of 300 spots, what is guessed of it, and their library sizes.

    Both grow with the library; beyond it they share a signal in genes 0 to 4 and nothing in genes 5 to 9.
    """
    rng = np.random.default_rng(0)
    library = rng.lognormal(7, 0.5, 300)
    signal = rng.normal(size=(300, 10))
    shared = np.arange(10) < 5
    truth = np.log1p(library / 100)[:, None] + 0.3 * signal
    guess = np.sqrt(library / 500)[:, None] + 0.3 * np.where(shared, signal, rng.normal(size=(300, 10)))
    return truth, guess, library


def test_pearson_and_cosine_are_the_usual_ones() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 30, 4))
    np.testing.assert_allclose(pearson(a, b), [stats.pearsonr(a[:, j], b[:, j])[0] for j in range(4)])
    np.testing.assert_allclose(pearson(a, b, axis=1), pearson(a.T, b.T))
    np.testing.assert_allclose(cosine(a, b), (a * b).sum(0) / np.linalg.norm(a, axis=0) / np.linalg.norm(b, axis=0))


@pytest.mark.parametrize("value", [0.1, 3.7, 0.0])
def test_constants_have_no_correlation(value: float) -> None:
    varied, constant = np.random.default_rng(2).normal(size=(50, 1)), np.full((50, 1), value)
    for a, b in ((varied, constant), (constant, varied), (constant, constant)):
        assert np.isnan(pearson(a, b))
        assert np.isnan(partial_pearson(a, b, np.arange(50.0)))
    assert np.isnan(cosine(varied, constant)) == (value == 0)


def test_only_what_the_library_does_not_explain_counts(spots: tuple[np.ndarray, ...]) -> None:
    truth, guess, library = spots
    assert (pearson(truth, guess) > 0.4).all()
    partial = partial_pearson(truth, guess, library)
    assert (partial[:5] > 0.95).all()
    assert (np.abs(partial[5:]) < 0.2).all()


@pytest.mark.parametrize(
    "of_library",
    [lambda x: x, np.log1p, np.sqrt, lambda x: np.log1p(0.01 * x), lambda x: x**1.5, lambda x: 1000 - 0.1 * x],
    ids=["plain", "log1p", "sqrt", "log1p of a share", "power", "falling"],
)
def test_a_guess_from_the_library_alone_has_none(spots: tuple[np.ndarray, ...], of_library) -> None:
    truth, _, library = spots
    guess = np.repeat(of_library(library)[:, None], 10, axis=1)
    assert np.abs(pearson(truth, guess)).min() > 0.3
    np.testing.assert_array_equal(partial_pearson(truth, guess, library), 0)


@pytest.mark.parametrize("unit", [0.01, 7.0, 1e4])
def test_the_unit_of_the_library_hardly_matters(spots: tuple[np.ndarray, ...], unit: float) -> None:
    truth, guess, library = spots
    expected = partial_pearson(truth, guess, library)
    np.testing.assert_allclose(partial_pearson(truth, guess, library**0.7), expected, atol=0.02)
    np.testing.assert_allclose(partial_pearson(truth, guess, library * unit), expected, atol=0.02)


def test_shifting_and_scaling_either_side_changes_nothing(spots: tuple[np.ndarray, ...]) -> None:
    truth, guess, library = spots
    expected = partial_pearson(truth, guess, library)
    np.testing.assert_allclose(partial_pearson(3 * truth - 1, 0.01 * guess + 5, library), expected, rtol=1e-6)
    np.testing.assert_allclose(partial_pearson(guess, truth, library), expected, rtol=1e-6)
    np.testing.assert_allclose(partial_pearson(truth, -guess, library), -expected, rtol=1e-6)


def test_spots_of_one_size_leave_plain_pearson(spots: tuple[np.ndarray, ...]) -> None:
    truth, guess, _ = spots
    np.testing.assert_allclose(partial_pearson(truth, guess, np.full(300, 50.0)), pearson(truth, guess))


def test_few_sizes_are_means_of_their_spots(spots: tuple[np.ndarray, ...]) -> None:
    truth, guess, _ = spots
    library = np.repeat([10.0, 100.0], 150)
    rest = [x - np.repeat([x[:150].mean(0), x[150:].mean(0)], 150, axis=0) for x in (truth, guess)]
    np.testing.assert_allclose(partial_pearson(truth, guess, library), pearson(*rest), rtol=1e-6)
