"""Labels by a linear head that starts from what their texts say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from scipy.special import softmax

from scfoundry.stats.adaptation import adapted
from scfoundry.tasks.annotation.features import CellFeatures, LinearHead
from scfoundry.tasks.annotation.head_fit import fit_head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.labels import Label
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.nn.label_loss import LabelLoss, LossName

__all__ = ["TextHead"]

# Features are some 20 long: a weight vector of length 1 moves a logit as far as the texts do.
RIDGE = 1.0
LEAST_PROBABILITY = 1e-4


class TextHead(LinearHead):
    r"""Softmax regression on features of cells, with log probabilities by the texts as an offset.

    .. math:: \text{logit}_{ij} = \log p_{ij} + w_j \cdot x_i + b_j

    Without labelled cells it is the annotation by texts; the more there are, the less the texts count. Cells that lie
    together are then brought to agree, if the model's texts are calibrated for that.
    """

    shared_genes_only: ClassVar[bool] = False
    usual_loss: ClassVar[LossName] = "cross_entropy"

    @classmethod
    def fit(
        cls,
        model: Any,
        reference: Cells,
        labels: Sequence[Label],
        codes: NDArray[np.int64],
        *,
        query: Cells | None,
        genes: NDArray[np.int64],
        loss: LabelLoss,
        seed: int,
        compute: Compute,
    ) -> Self:
        """Fit to labelled cells; axes of components are those of reference and query together, over ``genes``."""
        features, values = CellFeatures.fit(model, reference, query, genes, compute)
        order = reference.by_name
        weights, bias = fit_head(
            values[order].astype(np.float64),
            codes[order],
            len(labels),
            loss,
            np.random.default_rng(seed),
            ridge=RIDGE,
            bias_ridge=RIDGE,
            offset=_by_texts(model, reference, labels, compute)[order],
        )
        return cls(weights, bias, features)

    def predict(self, model: Any, cells: Cells, labels: Sequence[Label], compute: Compute) -> NDArray[np.float32]:
        """Probabilities of the labels, (n_obs, L)."""
        logits, components = self.logits(model, cells, compute, _by_texts(model, cells, labels, compute))
        probabilities = softmax(logits, axis=1).astype(np.float32)
        return adapted(probabilities, components, model.adapted_temperature) if model.adapts else probabilities


def _by_texts(model: Any, cells: Cells, labels: Sequence[Label], compute: Compute) -> NDArray[np.float64]:
    """Log probabilities by the texts alone, (n_obs, L)."""
    probabilities = model.score_texts(cells, labels, compute).probabilities
    return np.log(np.maximum(probabilities.astype(np.float64), LEAST_PROBABILITY))
