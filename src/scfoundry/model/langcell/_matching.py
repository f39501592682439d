"""From cosines and matches to probabilities of texts (Zhao et al. 2024, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from scfoundry.stats.adaptation import adapted

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from scfoundry.model.langcell._config import Mixture
    from scfoundry.stats.components import LogMoments

__all__ = ["ZeroShot", "best_texts", "mix"]


@dataclass(frozen=True)
class ZeroShot:
    """What a model says of n cells and P labels.

    Attributes
    ----------
    probabilities
        float32, (n, P), rows sum to 1.
    similarity
        Cosine of cell and label, float32, (n, P).
    matching
        Probability that cell and label match, each pair judged on its own, float32, (n, P); NaN where a label was not
        considered for a cell. `None` if the weights have no matching head or it was left out.
    fit
        How well the best label fits at all, between 0 and 1, float32, (n,); by it cells are found that no label fits.
        The highest probability if `None`.
    moments
        Moments of the same cells' log expression, where they were gathered in passing.
    params
        Arguments as they took effect, defaults of the weights included.
    """

    probabilities: NDArray[np.float32]
    similarity: NDArray[np.float32]
    matching: NDArray[np.float32] | None
    fit: NDArray[np.float32] | None = None
    moments: LogMoments | None = None
    params: Mapping[str, Any] = field(default_factory=lambda: {"adapt": False})

    def adapted(self, components: NDArray[np.floating], *, temperature: float) -> ZeroShot:
        """The same after cells that lie together, by their principal components (n, k), have been brought to agree.

        Fewer than two cells with a place among others, or cells that are all alike, are left as they are.
        """
        probabilities = adapted(self.probabilities, components, temperature)
        if probabilities is self.probabilities:
            return self
        return replace(self, probabilities=probabilities, params={**self.params, "adapt": True})


def best_texts(similarity: Tensor, top_k: int) -> Tensor:
    """The ``top_k`` most similar texts of every cell in the order of texts, (n, k); ties go to the first."""
    order = similarity.argsort(dim=1, descending=True, stable=True)
    return order[:, :top_k].sort(dim=1).values


def mix(similarity: Tensor, matching: Tensor | None, *, temperature: float, alpha: float, mixture: Mixture) -> Tensor:
    r"""Probabilities of P texts for n cells.

    .. math:: p = \alpha \operatorname{softmax}(s / \tau) + (1 - \alpha) \operatorname{softmax}(m)

    where :math:`m` is the match probability as released, and its log odds in the corrected form. Of numbers between 0
    and 1, a softmax over P texts is flat: the released term varies by less than e / P.

    Parameters
    ----------
    similarity
        Cosine of cells and texts, (n, P).
    matching
        Log odds of a match, (n, P), minus infinity where a text was not considered: its share of the second term is 0.
        Without it, similarity decides alone.
    temperature, alpha
        :math:`\tau` and :math:`\alpha`.
    mixture
        ``"released"`` or ``"corrected"``.
    """
    by_similarity = (similarity / temperature).softmax(1)
    if matching is None:
        return by_similarity
    scores = torch.where(matching.isinf(), matching, matching.sigmoid()) if mixture == "released" else matching
    return alpha * by_similarity + (1 - alpha) * scores.softmax(1)
