import tracemalloc

import numpy as np
import pytest
from scipy.special import log_softmax

from scfoundry.stats import adaptation as _adaptation
from scfoundry.stats.adaptation import adapted, adapted_fit, adapted_log_odds


@pytest.fixture
def clusters():
    """Three clouds of cells, and a model that is right about two thirds of each."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [120, 60, 20])
    components = rng.normal(size=(200, 4)) + 6 * np.eye(4)[truth]
    said = np.where(rng.random(200) < 0.66, truth, rng.integers(3, size=200))
    return truth, components, log_softmax(1.5 * np.eye(3)[said], axis=1)


def test_moves_cells_along_with_their_neighbours(clusters):
    truth, components, log_prior = clusters
    before = (log_prior.argmax(1) == truth).mean()
    after = (adapted_log_odds(log_prior, components).argmax(1) == truth).mean()
    assert before < 0.85
    assert after > 0.98


def fits_of(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fits of cells, those of the last type being foreign ones: both overlap."""
    return np.exp(rng.normal(np.where(truth == 2, -4, -1), 2)).clip(0, 1).astype(np.float32)


def test_cells_of_a_foreign_type_agree_that_no_label_fits(clusters):
    truth, components, _ = clusters
    truth, components = np.tile(truth, 5), np.tile(components, (5, 1))
    rng = np.random.default_rng(0)
    components = components + rng.normal(size=components.shape) / 4
    fit = fits_of(truth, rng)
    agreed = adapted_fit(fit, components, np.arange(1000))

    def caught(values):
        return np.mean(values[truth == 2] < np.quantile(values[truth < 2], 0.05))

    assert caught(fit) < 0.5
    assert caught(agreed) > 0.8
    assert agreed.dtype == np.float32
    assert ((agreed >= 0) & (agreed <= 1)).all()


def test_fits_do_not_depend_on_the_order_of_cells(clusters):
    truth, components, _ = clusters
    fit, cells = fits_of(truth, np.random.default_rng(0)), np.random.default_rng(1).permutation(200)
    agreed = adapted_fit(fit, components, np.arange(200))
    np.testing.assert_array_equal(adapted_fit(fit[cells], components[cells], np.argsort(cells)), agreed[cells])


def test_fits_of_few_cells_and_of_cells_without_a_place_stay(clusters):
    truth, components, _ = clusters
    fit = fits_of(truth, np.random.default_rng(0))
    few = np.arange(40)
    np.testing.assert_array_equal(adapted_fit(fit[few], components[few], few), fit[few])
    components[::50] = np.nan
    agreed = adapted_fit(fit, components, np.arange(200))
    np.testing.assert_array_equal(agreed[::50], fit[::50])
    assert (agreed != fit).sum() == 196


def test_rows_are_log_probabilities(clusters):
    _, components, log_prior = clusters
    np.testing.assert_allclose(np.exp(adapted_log_odds(log_prior, components)).sum(1), 1, atol=1e-6)


def test_order_of_cells_and_labels_and_rotation_play_no_part(clusters):
    _, components, log_prior = clusters
    result = adapted_log_odds(log_prior, components)
    cells, labels = np.random.default_rng(1).permutation(200), [2, 0, 1]
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(4, 4)))[0]
    np.testing.assert_allclose(adapted_log_odds(log_prior[cells], components[cells]), result[cells], atol=1e-5)
    np.testing.assert_allclose(adapted_log_odds(log_prior[:, labels], components), result[:, labels], atol=1e-5)
    np.testing.assert_allclose(adapted_log_odds(log_prior, components @ rotation), result, atol=1e-5)


def test_a_label_of_twenty_cells_keeps_what_the_model_says(clusters):
    _, components, log_prior = clusters
    rare = np.full((200, 4), -8.0)
    rare[:, :3] = log_prior
    rare[:20] = np.log([0.01, 0.01, 0.01, 0.97])
    assert (adapted_log_odds(rare, components)[:20].argmax(1) == 3).all()


def test_a_label_offered_in_vain_attracts_no_cloud(clusters):
    truth, components, log_prior = clusters
    offered = np.hstack([log_prior, np.tile(log_prior[:, :1] - 0.3, 20)])
    assert (adapted_log_odds(offered, components).argmax(1) == truth).mean() > 0.95


def test_a_label_that_no_cell_carries_stays_empty(clusters):
    _, components, log_prior = clusters
    unused = np.hstack([log_prior, np.full((200, 1), -20.0)])
    result = adapted_log_odds(unused, components)
    assert not (result.argmax(1) == 3).any()
    np.testing.assert_array_equal(result.argmax(1), adapted_log_odds(log_prior, components).argmax(1))


@pytest.mark.parametrize("n_cells", [1, 2, 3])
def test_few_cells_give_finite_results(clusters, n_cells):
    _, components, log_prior = clusters
    assert np.isfinite(adapted_log_odds(log_prior[:n_cells], components[:n_cells])).all()


def test_cells_all_alike_keep_what_the_model_says(clusters):
    _, _, log_prior = clusters
    result = adapted_log_odds(log_prior, np.zeros((200, 4)))
    np.testing.assert_array_equal(result.argmax(1), log_prior.argmax(1))


def test_the_size_of_blocks_plays_no_part(clusters, monkeypatch):
    _, components, log_prior = clusters
    whole = adapted_log_odds(log_prior, components)
    monkeypatch.setattr(_adaptation, "CELLS_PER_BLOCK", 7)
    np.testing.assert_allclose(adapted_log_odds(log_prior, components), whole, atol=1e-5)


def test_memory_is_that_of_the_result(monkeypatch):
    monkeypatch.setattr(_adaptation, "CELLS_PER_BLOCK", 500)
    rng = np.random.default_rng(0)
    log_prior, components = rng.normal(size=(20_000, 50)).astype(np.float32), rng.normal(size=(20_000, 3))
    tracemalloc.start()
    result = adapted_log_odds(log_prior, components)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.dtype == np.float32
    assert peak < 2 * result.nbytes


def test_cells_without_a_place_have_no_influence_and_keep_what_the_model_says(clusters):
    _, components, log_prior = clusters
    result = adapted_log_odds(
        np.vstack([log_prior, np.tile([3.0, 2.0, 0.0], (300, 1))]), np.vstack([components, np.full((300, 4), np.nan)])
    )
    np.testing.assert_allclose(result[:200], adapted_log_odds(log_prior, components), atol=1e-5)
    assert (np.argsort(-result[200:], axis=1) == [0, 1, 2]).all()


@pytest.mark.parametrize(
    "components", [np.zeros((2, 0)), np.array([[1.0], [np.nan]])], ids=["no component", "one cell with a place"]
)
def test_without_cells_to_agree_with_all_stays_as_it_is(components):
    probabilities = np.array([[0.7, 0.3], [0.5, 0.5]], dtype=np.float32)
    assert adapted(probabilities, components, 3) is probabilities


def test_a_cell_keeps_a_share_of_its_own(clusters):
    _, components, log_prior = clusters
    alone = np.exp(log_prior).astype(np.float32)
    agreed = adapted(alone, components, 1)
    assert agreed.dtype == np.float32
    np.testing.assert_allclose(agreed.sum(1), 1, rtol=1e-5)
    assert (agreed >= 0.3 * alone - 1e-6).all()
    assert adapted(alone, components, 4).max(1).mean() < agreed.max(1).mean()
