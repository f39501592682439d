"""What models offer beyond embedding. `sf.tl` asks for nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry._device import Precision
    from scfoundry.data.labels import Label
    from scfoundry.data.matrix.contexts import Context
    from scfoundry.data.matrix.reader import CountsReader
    from scfoundry.model.cellplm._cell_attention import CellAttention
    from scfoundry.model.langcell._config import Mixture
    from scfoundry.model.langcell._matching import ZeroShot
    from scfoundry.tasks.cell_attention.pairs import Scale
    from scfoundry.tasks.imputation.impute import Imputation

__all__ = [
    "AttendsToCells",
    "Imputes",
    "LearnsFromSharedGenes",
    "LearnsLabels",
    "LearnsPathways",
    "Query",
    "ReadsTexts",
    "Train",
]

Train = Literal["all", "head"]


@runtime_checkable
class ReadsTexts(Protocol):
    """A model with cells and texts in one space."""

    @property
    def unknown_threshold(self) -> float | None:
        """Cells whose `ZeroShot.fit` is below are unknown; `None` where nobody has fitted one."""

    @property
    def averages_prompts(self) -> bool:
        """Whether a cell type is read by several texts (name, synonyms, parents), or by name and definition alone."""

    def zero_shot(
        self,
        adata: AnnData | CountsReader | None,
        labels: Sequence[Label],
        *,
        alpha: float | None = None,
        top_k: int | None = None,
        mixture: Mixture | None = None,
        adapt: bool | None = None,
        layer: str | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> ZeroShot:
        """Probability of every label for every cell."""

    def get_text_embedding(
        self, texts: Sequence[str], *, device: str = "auto", precision: Precision = "auto"
    ) -> np.ndarray:
        """Embed texts in the space they share with cells, unit vectors (n_texts, n_latent)."""

    def refuse_unusable(
        self,
        labels: Sequence[Label],
        *,
        alpha: float | None = None,
        top_k: int | None = None,
        mixture: Mixture | None = None,
    ) -> None:
        """Refuse what the weights cannot use, before anything is computed."""

    def unsupported(self, labels: Sequence[Label]) -> list[str]:
        """Names of the labels for which the weights know neither cells nor markers."""


class Query(NamedTuple):
    """Cells to annotate, as a model sees them while it learns.

    Attributes
    ----------
    adata
        The cells.
    reader
        Their counts, checked and aligned.
    batch_key
        Column of ``obs`` that names the context of a cell.
    """

    adata: AnnData
    reader: CountsReader
    batch_key: str | None


@runtime_checkable
class LearnsLabels(Protocol):
    """A model that can be fine-tuned on labelled cells."""

    def fit_labels(
        self,
        adata: AnnData,
        labels: Sequence[Label],
        codes: NDArray[np.int64],
        *,
        query: Query | None = None,
        genes: NDArray[np.int64] | None = None,
        train: Train | None = None,
        layer: str | None = None,
        batch_key: str | None = None,
        max_epochs: int | None = None,
        seed: int = 0,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> Self:
        """Return a copy fine-tuned on cells of ``labels[codes]``; neither this model nor ``adata`` changes.

        A model whose unit is a group of cells sees those of a sample (``batch_key``) together, and those of ``query``
        with them; ``genes`` are the positions of those to learn from. Others need none of the three.
        """

    def predict_labels(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> NDArray[np.float32]:
        """Probability of every label for every cell, (n_obs, n_labels), labels as in `fit_labels`."""


@runtime_checkable
class LearnsFromSharedGenes(Protocol):
    """A model that learns labels from the genes which reference and query both measured, and from no others."""

    @property
    def learns_from_shared_genes(self) -> bool:
        """Whether it does; `False` where a model of the kind reads the genes of either side."""


@runtime_checkable
class LearnsPathways(Protocol):
    """A model that learns labels of which a cell may have several."""

    def fit_pathways(
        self,
        adata: AnnData,
        targets: pd.DataFrame,
        *,
        query: Query | None = None,
        genes: NDArray[np.int64] | None = None,
        train: Train | None = None,
        layer: str | None = None,
        max_epochs: int | None = None,
        seed: int = 0,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> Self:
        """Return a copy that has learned which pathways are active; neither this model nor ``adata`` changes."""

    def predict_pathways(
        self,
        adata: AnnData,
        *,
        layer: str | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> NDArray[np.float32]:
        """Probability of every pathway, each on its own, (n_obs, P)."""


@runtime_checkable
class AttendsToCells(Protocol):
    """A model whose cells attend to each other."""

    def cell_attention(
        self,
        reader: CountsReader,
        groups: Sequence[Context],
        xy: Mapping[str, NDArray[np.float32]],
        codes: NDArray[np.int64],
        n_codes: int,
        *,
        k: int,
        encoder_layer: int = -1,
        scale: Scale = "shares",
        batch_size: int | None = None,
        device: str = "auto",
    ) -> CellAttention:
        """Weights of the cells of a context for each other: the ``k`` largest, and all of them between groups."""


@runtime_checkable
class Imputes(Protocol):
    """A model that predicts genes which a spatial panel lacks."""

    def impute(
        self,
        adata: AnnData,
        reference: AnnData,
        genes: Sequence[str] | None = None,
        *,
        context_key: str | None = None,
        spatial_key: str | None = "spatial",
        reference_context_key: str | None = None,
        layer: str | None = None,
        reference_layer: str | None = None,
        evidence: Sequence[str] = ...,
        fine_tune: bool = False,
        max_epochs: int | None = None,
        genes_per_block: int | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> Imputation:
        """Expected counts of the genes, after all arguments were checked; nothing changes."""
