"""Labels by two linear heads: one reads the embedding of a cell, one reads its genes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from scipy.special import softmax

from scfoundry._arguments import quoted
from scfoundry._settings import logger
from scfoundry.stats.splits import stratified_split
from scfoundry.tasks._fitted import prefixed, under
from scfoundry.tasks.annotation.fine_tune import fine_tune_encoder
from scfoundry.tasks.annotation.linear_heads import EmbeddingHead, GeneHead

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.labels import Label
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.nn.label_loss import LabelLoss, LossName

__all__ = ["CellHeads"]

# The shares of labels differ from sample to sample: half of what a head has learned of them is taken back.
PRIOR_TAKEN_BACK = 0.5
HELD_OUT = 0.1


@dataclass(frozen=True, eq=False)
class CellHeads:
    r"""The mean of two log probabilities, by the embedding and by the genes of a cell.

    .. math:: p_i = \operatorname{softmax}\left(\tfrac{1}{2} (W \tilde z_i + b) + \tfrac{1}{2} (V x_i + a)\right)

    An embedding knows what cell types have in common over studies, but little of differences it has never seen; single
    genes tell those apart, but follow the technology. Each is fitted by itself, and the surer one decides. Heads and
    model read no genes but those of `by_genes`.
    """

    by_embedding: EmbeddingHead
    by_genes: GeneHead

    shared_genes_only: ClassVar[bool] = True
    usual_loss: ClassVar[LossName] = "balanced_softmax"

    @classmethod
    def fit(
        cls,
        model: Any,
        labelled: Cells,
        codes: NDArray[np.int64],
        *,
        query: Cells | None,
        loss: LabelLoss,
        max_epochs: int | None,
        seed: int,
        compute: Compute,
        tune: bool,
        lora: bool = False,
    ) -> tuple[Any, Self]:
        """Fit to labelled cells and their genes, those to annotate in their contexts; with ``tune`` in a tuned copy."""
        rng, rows, among = np.random.default_rng(seed), labelled.by_name, _among(labelled, query)
        learned, held_out = stratified_split(codes, HELD_OUT, rows, rng, at_least=1) if tune else (rows, rows[:0])
        by_embedding = EmbeddingHead.fit(model.embed(among, compute)[: len(codes)], codes, learned, loss, rng)
        if tune:
            how: dict[str, Any] = {"max_epochs": max_epochs, "seed": seed, "compute": compute, "lora": lora}
            model, by_embedding = fine_tune_encoder(model, among, codes, held_out, by_embedding, loss=loss, **how)
        by_genes = GeneHead.fit(labelled, labelled.measured, codes, rows, loss, rng)
        # A loss that knows the sizes of labels leaves nothing of them to take back.
        prior = (not loss.loss.prior) * PRIOR_TAKEN_BACK * np.log(np.bincount(codes) / len(codes))
        return model, cls(
            by_embedding._replace(bias=by_embedding.bias - prior), by_genes._replace(bias=by_genes.bias - prior)
        )

    def predict(self, model: Any, cells: Cells, labels: Sequence[Label], compute: Compute) -> NDArray[np.float32]:
        """Probabilities of the labels, (n_obs, L)."""
        by_embedding = self.by_embedding.logits(model.embed(cells, compute))
        return softmax((by_embedding + self.by_genes.logits(cells)) / 2, axis=1).astype(np.float32)

    def arrays(self) -> dict[str, NDArray]:
        """What `from_arrays` makes the same heads of."""
        return prefixed("embedding_", self.by_embedding._asdict()) | prefixed("genes_", self.by_genes._asdict())

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Self:
        """Heads that were stored."""
        return cls(EmbeddingHead(**under("embedding_", arrays)), GeneHead(**under("genes_", arrays)))


def _among(reference: Cells, query: Cells | None) -> Cells:
    """The labelled cells, and after them cells to annotate that share a context with one of them."""
    if query is None:
        return reference
    names = [[context.name for context in cells.contexts] for cells in (reference, query)]
    if set(names[0]).isdisjoint(names[1]):
        logger.warning(
            "No context holds cells of both data sets (reference: %s; query: %s), so the query plays no part while "
            "labels are learned. For common contexts, name samples alike or leave out both batch keys.",
            *(quoted(sorted(some)[:3]) + ", ..." * (len(some) > 3) for some in names),
        )
    both = reference.followed_by(query, reference.measured)
    shared = [context.rows for context in both.contexts if context.rows[0] < reference.n_obs]
    return both.take(np.sort(np.concatenate(shared)))
