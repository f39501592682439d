"""Cells read as standardised expression: what small corpora can teach."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from scipy.special import softmax

from scfoundry._device import Precision, autocast
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.model.cellnamer._inference import ExpressionStream, embed_expression, score_expression
from scfoundry.model.cellnamer._module import OfferedLabel
from scfoundry.model.langcell._matching import ZeroShot

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch

    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.labels import Label
    from scfoundry.data.matrix.reader import CountsReader
    from scfoundry.model.cellnamer._inference import DataMoments
    from scfoundry.model.cellnamer._module import CellTypeScorer, LabelPlan
    from scfoundry.model.langcell._config import Mixture

__all__ = ["ByExpression"]


class ByExpression:
    """Embeds cells and texts and scores labels, by the small scorer.

    Parameters
    ----------
    module
        Holds the computation.
    genes
        Vocabulary.
    """

    averages_prompts = True

    def __init__(self, module: CellTypeScorer, genes: GeneVocabulary) -> None:
        self.module, self.genes = module, genes
        self._moments: WeakKeyDictionary[CountsReader, DataMoments] = WeakKeyDictionary()

    @property
    def unknown_threshold(self) -> float | None:
        """Threshold that was fitted beside the weights."""
        return float(self.module.unknown_threshold)

    def unsupported(self, labels: Sequence[Label]) -> list[str]:
        """Labels for which there are neither training cells nor markers."""
        plan = self._plan(self._offered(labels))
        return [labels[i].name for i in plan.uninformed]

    def refuse(
        self,
        labels: Sequence[Label],
        *,
        weights: str,
        alpha: float | None,
        top_k: int | None,
        mixture: Mixture | None,
    ) -> None:
        """Refuse arguments of the published mixture."""
        given = {"alpha": alpha, "top_k": top_k, "mixture": mixture}
        if idle := [f"{name}={value!r}" for name, value in given.items() if value is not None]:
            msg = (
                f"The weights {weights!r} match cells and texts in another way than the published mixture and know "
                f"neither alpha, top_k nor mixture; got {', '.join(idle)}. Leave them out, or pass a folder with "
                "official LangCell weights: model=folder."
            )
            raise ValueError(msg)

    def embed(
        self, reader: CountsReader, *, batch_size: int | None, device: torch.device, precision: Precision
    ) -> np.ndarray:
        """Cell embeddings, (n_obs, Z)."""
        with autocast(device, precision):
            return embed_expression(self.module, self._cells(reader, batch_size, device))

    def embed_texts(self, texts: Sequence[str], *, device: torch.device, precision: Precision) -> np.ndarray:
        """Text embeddings, (P, Z)."""
        self.module.to(device).eval()
        with autocast(device, precision):
            return self.module.embed_texts([[text] for text in texts]).detach().float().cpu().numpy()

    def zero_shot(
        self,
        reader: CountsReader,
        labels: Sequence[Label],
        *,
        alpha: float | None,
        top_k: int | None,
        mixture: Mixture | None,
        batch_size: int | None,
        device: torch.device,
        precision: Precision,
    ) -> ZeroShot:
        """Sum of what text, markers and known types say."""
        return self.score(reader, self._offered(labels), batch_size=batch_size, device=device, precision=precision)

    def score(
        self,
        reader: CountsReader,
        offered: Sequence[OfferedLabel],
        *,
        batch_size: int | None,
        device: torch.device,
        precision: Precision,
    ) -> ZeroShot:
        """Probabilities of labels, each cell judged by itself, given its z-scores within the data set."""
        with autocast(device, precision):
            cells = self._cells(reader, batch_size, device)
            plan = self._plan(offered)
            logits, similarity, outside = score_expression(self.module, cells, plan)
        probabilities = softmax(logits, axis=1)
        fit = (1 - outside) * probabilities.max(1)
        return ZeroShot(probabilities, similarity, None, fit=fit, moments=cells.moments.normalised)

    def _plan(self, offered: Sequence[OfferedLabel]) -> LabelPlan:
        """Labels as tensors, by weights that know what to compare them with."""
        if not self.module.n_studies.any() and not self.module.profiles.of_types.any():
            msg = (
                "This model has learned no cell types yet. Train it on labelled cells: LangCell.setup_anndata(adata, "
                "labels_key=\"cell_type\"), model = LangCell(adata, cell_encoder='expression_mlp'), "
                'model.train(stage=2). Or load weights that know them: sf.model.load_pretrained("langcell").'
            )
            raise ValueError(msg)
        return self.module.plan(offered, CellOntology.load())

    def _cells(self, reader: CountsReader, batch_size: int | None, device: torch.device) -> ExpressionStream:
        """Blocks of cells; a reader that is read again is not gone through for its moments again."""
        cells = ExpressionStream(self.module.to(device).eval(), reader, batch_size, self._moments.get(reader))
        self._moments[reader] = cells.moments
        return cells

    def _offered(self, labels: Sequence[Label]) -> list[OfferedLabel]:
        return [
            OfferedLabel(label.texts, (label.term,) if label.term else (), dict.fromkeys(self._positions(label), 1.0))
            for label in labels
        ]

    def _positions(self, label: Label) -> list[int]:
        return self.genes.index_of(label.markers).tolist()
