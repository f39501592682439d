"""LangCell for AnnData: setup, embedding, labels from texts, weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from scfoundry._arguments import checks_arguments, quoted
from scfoundry._device import Compute
from scfoundry._settings import logger
from scfoundry.data.tokens.medians import nonzero_medians
from scfoundry.model._capabilities import TextScores
from scfoundry.model._parts import by_cell
from scfoundry.model._pretrained import LANGCELL_DATA, LANGCELL_PAPER
from scfoundry.model._registration import refuse_lazy_columns
from scfoundry.model.langcell._checkpoint import from_released, read_release
from scfoundry.model.langcell._config import LangCellConfig
from scfoundry.model.langcell._inference import LabelTexts, embed_cells, gene_attention, match_cells
from scfoundry.model.langcell._matching import mix
from scfoundry.model.langcell._module import LangCellModule
from scfoundry.model.langcell._tokenizer import learn_vocabulary
from scfoundry.model.langcell._trainable import TrainableLangCell
from scfoundry.model.langcell._training_data import require_texts
from scfoundry.nn.attention_factors import attention_of_cls
from scfoundry.nn.checkpoint import sha256

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.labels import Label
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.nn.attention_factors import ClsAttention, GeneAttention
    from scfoundry.nn.label_loss import LabelLoss

__all__ = ["LangCell"]

MAX_WORDS = 8192
# Up to this many cells per label, learning through the texts of the labels is better than a head (Zhao et al. 2024).
FEW_CELLS = 9


class LangCell(TrainableLangCell):
    r"""Cells and texts in one space :cite:p:`zhao2024langcell`.

    A cell is the list of its genes ranked by expression relative to each gene's median, read by a transformer. A second
    transformer reads a text, on its own or while looking at the states of a cell. The cosine of the two embeddings says
    how similar cell and text are; a matching head judges them together.

    Parameters
    ----------
    adata
        Training data registered with `setup_anndata`. Inference needs none.
    registry
        Filled in by `load`.
    genes
        Vocabulary with medians (`sf.pp.gene_medians`). Medians that it lacks are those of ``adata``, of the genes
        expressed there. All genes of ``adata`` if `None`.
    seed
        Seed of the initial weights.
    **config
        Values of `sf.model.LangCellConfig`.

    Examples
    --------
    Train one on your own cells and texts; from random weights with a rate of 1e-4 to 1e-3:

    >>> import scfoundry as sf
    >>> adata.obs["description"] = sf.tl.describe_cells(adata)
    >>> sf.model.LangCell.setup_anndata(adata, layer="counts", text_keys="description")
    >>> model = sf.model.LangCell(adata, n_layers=2)
    >>> model.train(stage=1, max_epochs=3, lr=3e-4)
    >>> model.train(stage=2, max_epochs=3, lr=3e-4)

    Official weights, as published, or with another mixture of similarity and matching:

    >>> model = sf.model.LangCell.from_pretrained("folder with the official files")
    >>> model = sf.model.LangCell.from_pretrained("folder with the official files", alpha=0.5, match_top_k=10)
    """

    name = "langcell"
    citation = LANGCELL_PAPER
    _config_cls = LangCellConfig
    _module_cls = LangCellModule

    unknown_threshold: float | None = None

    @classmethod
    @checks_arguments
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        text_keys: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register cells, and texts that describe them, to learn from.

        Parameters
        ----------
        adata
            Cells x genes with raw counts.
        layer
            Layer with the counts, ``X`` if `None`.
        text_keys
            Columns of ``obs`` with a cell's description (`sf.tl.describe_cells` writes one). Of several columns, every
            step draws one.

        Raises
        ------
        ValueError
            If a column has no text for some cells.
        KeyError
            If there is no such column.
        """
        setup_args = dict(locals())
        columns = [text_keys] if isinstance(text_keys, str) else list(text_keys or ())
        if columns:
            refuse_lazy_columns(adata)
        for column in columns:
            require_texts(adata, column)
        if "source_registry" in kwargs:
            # No weight depends on texts: other data may have others.
            kwargs["extend_categories"] = True
        cls._register(adata, setup_args, {f"text_{i}": column for i, column in enumerate(columns)}, **kwargs)

    def _complete_genes(self, genes: GeneVocabulary) -> GeneVocabulary:
        if genes.medians is not None or self.adata is None:
            return genes
        layer = self.registry["setup_args"]["layer"]
        expressed = nonzero_medians(self.adata, layer=layer, caller="LangCell", genes=genes)
        if unexpressed := len(genes) - len(expressed):
            logger.info(f"LangCell: {unexpressed:,} of {len(genes):,} genes are left out: no cell of adata has them")
        return expressed

    def _complete_config(self, config: dict[str, Any]) -> dict[str, Any]:
        if config.get("text_vocabulary") or self.adata is None:
            return config
        return config | {"text_vocabulary": learn_vocabulary(self._texts().ravel(), MAX_WORDS)}

    # ---- inference ---------------------------------------------------------------------------------------------

    @by_cell()
    def embed(self, cells: Cells, compute: Compute) -> NDArray[np.float32]:
        """Embed cells in the space they share with texts: unit vectors, (n_obs, n_latent)."""
        with compute.autocast():
            return embed_cells(self.module, self.stream(cells.reader, compute))

    @property
    def n_layers(self) -> int:
        """Layers in which genes attend to each other."""
        return self.config.n_layers

    def gene_attention(self, cells: Cells, layers: Collection[int], compute: Compute) -> Iterator[GeneAttention]:
        """Queries and keys of layers, batch by batch; see `AttendsToGenes`."""
        return gene_attention(self.module, self.stream(cells.reader, compute), layers)

    def cls_attention(self, cells: Cells, compute: Compute) -> Iterator[ClsAttention]:
        """How ``<cls>`` divides its attention between genes; see `AttendsFromCls`."""
        return attention_of_cls(self.gene_attention(cells, range(self.n_layers), compute), self.n_layers)

    def embed_texts(self, texts: Sequence[str], compute: Compute | None = None) -> NDArray[np.float32]:
        """Embed texts in the space they share with cells: unit vectors, float32, (n_texts, n_latent).

        Examples
        --------
        >>> model.embed_texts(["cell type: B cell."]).shape
        (1, 256)
        """
        compute = compute or Compute.resolve()
        self.module.to(compute.device).eval()
        with compute.autocast():
            return LabelTexts(self.module, self.tokenizer, [[text] for text in texts]).embedding.cpu().numpy()

    @by_cell()
    def score_texts(self, cells: Cells, labels: Sequence[Label], compute: Compute) -> TextScores:
        r"""Probability of every label for every cell, each cell judged by itself.

        A mixture of similarity and matching by ``alpha``, ``mixture`` and ``match_top_k`` of the configuration. A label
        is embedded in the mean direction of its texts, and matched with cells by the first one.
        """
        config = self.config
        top_k = min(config.match_top_k or len(labels), len(labels)) if config.alpha < 1 else 0
        with compute.autocast():
            stream = self.stream(cells.reader, compute)
            texts = LabelTexts(self.module, self.tokenizer, [label.texts for label in labels])
            similarity, odds = match_cells(self.module, stream, texts, top_k=top_k)
        matching = None if odds is None else torch.from_numpy(odds)
        probabilities = mix(
            torch.from_numpy(similarity),
            matching,
            temperature=config.temperature,
            alpha=config.alpha,
            mixture=config.mixture,
        ).numpy()
        matched = None if matching is None else matching.sigmoid().where(~matching.isinf(), torch.nan).numpy()
        params = {"top_k": top_k, "alpha": config.alpha, "mixture": config.mixture}
        return TextScores(probabilities, similarity, matched, params=params)

    @property
    def averages_prompts(self) -> bool:
        """Whether cell types are read by several texts; the released computation reads one."""
        return self.config.mixture != "released"

    @property
    def adapts(self) -> bool:
        """Whether the weights were calibrated for labels that cells lying together have been brought to agree on."""
        return self.config.adapt

    @property
    def adapted_temperature(self) -> float:
        """Divisor that calibrates log probabilities after that."""
        return self.config.adapted_temperature

    def check_labels(self, labels: Sequence[Label]) -> list[str]:
        """Refuse markers, which are no words; no label is known to be beyond these weights."""
        if marked := [label.name for label in labels if label.markers]:
            msg = (
                f"The weights {self.provenance['weights']!r} read ranked genes and texts and cannot use markers, given "
                f'for {quoted(marked)}. Leave markers out, or use model="cellnamer".'
            )
            raise ValueError(msg)
        return []

    # ---- labels and pathways of a reference --------------------------------------------------------------------

    def fine_tune_labels(
        self,
        cells: Cells,
        labels: Sequence[Label],
        codes: NDArray[np.int64],
        *,
        max_epochs: int | None,
        loss: LabelLoss,
        seed: int,
        compute: Compute,
        lora: bool = False,
    ) -> Self:
        """Copy that learned the labels: of few cells per label through their texts, of many by a head (LangCell-CE)."""
        tuned, order = self.copy(n_classes=0, classes=(), multilabel=False), cells.by_name
        names = np.array([label.name for label in labels], dtype=object)[codes[order]]
        how: dict[str, Any] = ({} if max_epochs is None else {"max_epochs": max_epochs}) | {"loss": loss, "seed": seed}
        how |= compute.trainer_arguments() | {"lora": lora}
        if np.bincount(codes).max() <= FEW_CELLS:
            texts = {label.name: label.texts[0] for label in labels}
            tuned.fine_tune_texts(cells.take(order), names, texts, **how)
        else:
            tuned.train_classifier(cells.take(order), names, **how)
        return tuned

    @by_cell()
    def label_probabilities(self, cells: Cells, labels: Sequence[Label], compute: Compute) -> NDArray[np.float32]:
        """Probability of every label that was learned, (n_obs, L)."""
        if not self.config.n_classes:
            # The text that was learned by.
            labels = [replace(label, texts=label.texts[:1]) for label in labels]
            return self.score_texts(cells, labels, compute).probabilities
        columns = [self.config.classes.index(label.name) for label in labels]
        return self.class_probabilities(cells, compute)[:, columns]

    def fine_tune_pathways(
        self, cells: Cells, targets: pd.DataFrame, *, max_epochs: int | None, seed: int, compute: Compute
    ) -> Self:
        """Copy that learned which pathways are active, by a focal loss."""
        tuned, order = self.copy(), cells.by_name
        how: dict[str, Any] = ({} if max_epochs is None else {"max_epochs": max_epochs}) | {"seed": seed}
        tuned.train_multilabel(cells.take(order), targets.iloc[order], **how, **compute.trainer_arguments())
        return tuned

    def pathway_probabilities(self, cells: Cells, compute: Compute) -> NDArray[np.float32]:
        """Probability of every pathway that was learned, each on its own, (n_obs, P)."""
        return self.class_probabilities(cells, compute)

    # ---- official files ----------------------------------------------------------------------------------------

    @classmethod
    def _is_release(cls, folder: Path) -> bool:
        # Copies of the release bring a config.json of their own.
        return (folder / "cell_bert").is_dir()

    @classmethod
    def _read_release(cls, folder: Path, version: str | None, adata: AnnData | None, config: dict[str, Any]) -> Self:
        values, genes, files = read_release(folder)
        model = cls._filled(
            lambda module: from_released(files, module, source=str(folder)),
            (tensor for file in files.values() for tensor in file.values()),
            str(folder),
            adata,
            genes=genes,
            **(values | config),
        )
        model.description_ |= {
            "weights": "langcell",
            "licence": "MIT",
            "trained_on": LANGCELL_DATA,
            "sha256": sha256(folder / "cell_bert" / "pytorch_model.bin"),
        }
        return model
