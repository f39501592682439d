"""Imputation: genes that a spatial panel lacks, from a single-cell reference and what pre-training knows of genes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from scfoundry.stats.similarity import partial_pearson, pearson
from scfoundry.tasks.imputation.calibration import Confidence, fit_weights, rates
from scfoundry.tasks.imputation.composition import find_states
from scfoundry.tasks.imputation.evidence import EVIDENCE, OF_COUNTS, Evidence
from scfoundry.tasks.imputation.genes import genes_to_hide

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.tasks.imputation.genes import FurtherGenes

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
    was too small to hide genes. Of hidden ones as reached, with ``expected_pearson``. Of imputed ones with the kinds of
    ``evidence`` that had a weight.
    """

    counts: pd.DataFrame  # expected, on the scale of the spots' own libraries, float32, spots x genes
    confidence: pd.DataFrame
    hidden: pd.DataFrame
    weights: dict[str, float]  # exponent of every kind of evidence
    weights_of_unknown: dict[str, float]  # the same of genes that the model does not know, empty if none was imputed


class Learned(NamedTuple):
    """What hidden genes taught: exponents, (E,), correlations to expect, and those that the hidden genes reached."""

    weights: NDArray[np.float64]
    confidence: Confidence
    reached: pd.DataFrame


def impute(
    model: Any,
    spots: Cells,
    reference: Cells,
    genes: Mapping[str, int],
    further: FurtherGenes,
    *,
    options: ImputationOptions,
    compute: Compute,
) -> Imputation:
    """Expected counts of genes that spots were not measured for, some of them ``further`` ones of the reference."""
    panel = spots.measured
    hidden = genes_to_hide(spots, np.intersect1d(panel, reference.measured), options.seed)
    visible = np.setdiff1d(panel, hidden)
    if options.fine_tune:
        how: dict[str, Any] = {"max_epochs": options.max_epochs, "seed": options.seed, "compute": compute}
        model = model.fine_tune_imputation(spots, reference, panel=visible, hidden=hidden, **how)
    wanted = np.fromiter(genes.values(), dtype=np.int64)
    unknown = wanted >= further.start
    how = {"seed": options.seed, "compute": compute}
    states = find_states(model, reference, further.columns if unknown.any() else None, **how)
    used = np.isin(EVIDENCE, options.evidence)
    of_counts = used & np.isin(EVIDENCE, OF_COUNTS)
    # What is learned on hidden genes holds for the wanted ones, which nobody sees either.
    trial = Evidence(model, spots, states, visible, used, compute) if len(hidden) else None
    learned = learn(trial, spots, hidden, used, options.seed)
    final = Evidence(model, spots, states, panel, learned.weights > 0, compute)
    ways = [(np.flatnonzero(~unknown), final, learned)]
    weights_of_unknown = {}
    if states.measured is not None:
        alone = learn(trial and trial.by_counts(states.measured, of_counts), spots, hidden, of_counts, options.seed)
        ways.append((np.flatnonzero(unknown), final.by_counts(states.measured, alone.weights > 0), alone))
        weights_of_unknown = _by_kind(alone.weights)

    size = options.genes_per_block or max(1, VALUES_PER_BLOCK // spots.n_obs)
    imputed = np.empty((spots.n_obs, len(wanted)), dtype=np.float32)
    confidence = pd.DataFrame(index=list(genes), columns=CORRELATIONS, dtype=float).assign(evidence="")
    for chosen, evidence, (weights, expects, _) in ways:
        confidence.iloc[chosen, -1] = ", ".join(np.array(EVIDENCE)[weights > 0])
        for start in range(0, len(chosen), size):
            block = chosen[start : start + size]
            found, levels = evidence.of(wanted[block])
            rate = rates(found, weights, levels, empty=evidence.library == 0)
            imputed[:, block] = rate
            confidence.iloc[block, : len(CORRELATIONS)] = np.transpose(expects(rate))
    return Imputation(
        pd.DataFrame(imputed, index=spots.names, columns=list(genes)),
        confidence,
        learned.reached,
        _by_kind(learned.weights),
        weights_of_unknown,
    )


def learn(
    trial: Evidence | None, spots: Cells, hidden: NDArray[np.int64], used: NDArray[np.bool_], seed: int
) -> Learned:
    """Learn from hidden genes (vocabulary positions), which ``trial`` has not seen; nothing without any.

    Exponents of the kinds that are ``used`` stay usual ones where hidden genes have too few counts to tell.
    """
    usual = np.where(used, DEFAULT_WEIGHTS, 0.0)
    if trial is None:
        reached = pd.DataFrame(columns=[*CORRELATIONS, "expected_pearson"], dtype=float)
        return Learned(usual, Confidence(None, None), reached)
    drawn = np.sort(np.random.default_rng(seed).permutation(spots.by_name)[:MAX_SPOTS])
    found, levels = trial.of(hidden, drawn)
    truth, library = spots.read(drawn)[:, hidden].toarray(), trial.library[drawn]
    weights = fit_weights(truth, found, usual, used)
    rate = rates(found, weights, levels, empty=library == 0)
    confidence = Confidence.fit(truth, rate, library)
    x, y = np.log1p(truth.astype(np.float64)), np.log1p(rate.astype(np.float64))
    columns = {
        "pearson": pearson(x, y),
        "partial_pearson": partial_pearson(x, y, library.astype(np.float64)),
        "expected_pearson": confidence(rate)[0],
    }
    return Learned(weights, confidence, pd.DataFrame(columns, index=spots.own.alignment.names_of(hidden)))


def _by_kind(weights: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(EVIDENCE, weights.tolist(), strict=True))
