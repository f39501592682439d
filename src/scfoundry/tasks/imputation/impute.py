"""Imputation: genes that a spatial panel lacks, from a single-cell reference and what pre-training knows of genes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry.stats.similarity import partial_pearson, pearson
from scfoundry.tasks.imputation.calibration import Confidence, fit_weights, rates
from scfoundry.tasks.imputation.composition import find_states
from scfoundry.tasks.imputation.evidence import EVIDENCE, Evidence
from scfoundry.tasks.imputation.genes import genes_to_hide, names_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells

__all__ = ["Imputation", "ImputationOptions", "impute"]

# Where a panel is too small to hide some of its genes: what the benchmarks found on average.
DEFAULT_WEIGHTS = (1.0, 1.0, 2.0, 0.0)
# Values of one kind of evidence that are in memory at a time.
VALUES_PER_BLOCK = 2**24
MAX_SPOTS = 20_000
CORRELATIONS = ["pearson", "partial_pearson"]


@dataclass(frozen=True)
class ImputationOptions:
    """What a user decides."""

    evidence: Sequence[str]  # kinds of those that the model has, see `choose_evidence`
    fine_tune: bool = False  # a copy on spots and cells first; the model `FineTunesImputation`
    max_epochs: int | None = None  # of that at most, as many as the model finds right if `None`
    genes_per_block: int | None = None  # genes imputed at a time, chosen for the memory if `None`
    seed: int = 0


@dataclass(frozen=True)
class Imputation:
    """Imputed genes.

    Of every gene that was imputed, and of those of the panel that were hidden to learn this, the correlation with the
    unseen truth to expect: ``pearson`` of log1p counts, ``partial_pearson`` beyond library size; NaN where the panel
    was too small to hide genes. Of hidden ones as reached, with ``expected_pearson``.
    """

    counts: pd.DataFrame  # expected, on the scale of the spots' own libraries, float32, spots x genes
    confidence: pd.DataFrame
    hidden: pd.DataFrame
    weights: dict[str, float]  # exponent of every kind of evidence


def impute(
    model: Any,
    spots: Cells,
    reference: Cells,
    genes: Mapping[str, int],
    *,
    options: ImputationOptions,
    compute: Compute,
) -> Imputation:
    """Expected counts of genes that spots were not measured for."""
    panel = spots.measured
    hidden = genes_to_hide(spots, np.intersect1d(panel, reference.measured), options.seed)
    visible = np.setdiff1d(panel, hidden)
    if options.fine_tune:
        how: dict[str, Any] = {"max_epochs": options.max_epochs, "seed": options.seed, "compute": compute}
        model = model.fine_tune_imputation(spots, reference, panel=visible, hidden=hidden, **how)
    states = find_states(model, reference, seed=options.seed, compute=compute)
    used = np.isin(EVIDENCE, options.evidence)
    weights, confidence = np.where(used, DEFAULT_WEIGHTS, 0.0), Confidence(None, None)
    reached = pd.DataFrame(columns=[*CORRELATIONS, "expected_pearson"], dtype=float)
    if len(hidden):
        # What is learned on hidden genes holds for the wanted ones, which nobody sees either.
        trial = Evidence(model, spots, states, visible, used, compute)
        weights, confidence, reached = learn(trial, spots, hidden, weights, options.seed)
    final = Evidence(model, spots, states, panel, weights > 0, compute)
    wanted = np.fromiter(genes.values(), dtype=np.int64)
    size = options.genes_per_block or max(1, VALUES_PER_BLOCK // spots.n_obs)
    imputed = np.empty((spots.n_obs, len(wanted)), dtype=np.float32)
    expected = np.empty((2, len(wanted)))
    for start in range(0, len(wanted), size):
        block = slice(start, start + size)
        found, levels = final.of(wanted[block])
        imputed[:, block] = rates(found, weights, levels, empty=final.library == 0)
        expected[:, block] = confidence(imputed[:, block])
    names = list(genes)
    return Imputation(
        pd.DataFrame(imputed, index=spots.names, columns=names),
        pd.DataFrame(expected.T, index=names, columns=CORRELATIONS),
        reached,
        dict(zip(EVIDENCE, weights.tolist(), strict=True)),
    )


def learn(
    trial: Evidence, spots: Cells, hidden: NDArray[np.int64], default: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.float64], Confidence, pd.DataFrame]:
    """Exponents of the evidence, what correlation to expect of a gene, and what hidden genes reached.

    Of ``trial``, which has not seen the hidden genes (vocabulary positions); ``default`` exponents (E,) stay where
    these have too few counts to tell.
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(spots.by_name)[:MAX_SPOTS])
    found, levels = trial.of(hidden, drawn)
    truth, library = spots.read(drawn)[:, hidden].toarray(), trial.library[drawn]
    weights = fit_weights(truth, found, default, trial.used)
    rate = rates(found, weights, levels, empty=library == 0)
    confidence = Confidence.fit(truth, rate, library)
    x, y = np.log1p(truth.astype(np.float64)), np.log1p(rate.astype(np.float64))
    columns = {
        "pearson": pearson(x, y),
        "partial_pearson": partial_pearson(x, y, library.astype(np.float64)),
        "expected_pearson": confidence(rate)[0],
    }
    return weights, confidence, pd.DataFrame(columns, index=names_of(hidden, spots))
