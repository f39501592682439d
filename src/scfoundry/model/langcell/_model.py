"""LangCell for AnnData: setup, embedding, zero-shot annotation, weights."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.data import fields

from scfoundry._settings import logger
from scfoundry.data.reader import CountsReader
from scfoundry.model._base import FoundationModel, sha256
from scfoundry.model._device import Precision, autocast, resolve_device
from scfoundry.model.langcell._checkpoint import from_released, read_release
from scfoundry.model.langcell._config import LangCellConfig, Mixture
from scfoundry.model.langcell._inference import CellStream, LabelTexts, embed_cells, match_cells
from scfoundry.model.langcell._module import LangCellModule
from scfoundry.model.langcell._tokenizer import Tokenizer, learn_vocabulary
from scfoundry.model.langcell._zero_shot import ZeroShot, mix

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData

    from scfoundry.data.contexts import Context
    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.labels import Label

__all__ = ["LangCell"]

MAX_WORDS = 8192


class LangCell(FoundationModel):
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
        Vocabulary with medians (`sf.pp.gene_medians`); that of ``adata`` with its medians if `None`.
    seed
        Seed of the initial weights.
    **config
        Values of `sf.model.LangCellConfig`.

    Examples
    --------
    >>> import scfoundry as sf
    >>> model = sf.model.LangCell.from_pretrained("langcell-mini")
    >>> latent = model.get_latent_representation(adata)

    Train on your own cells and texts:

    >>> sf.model.LangCell.setup_anndata(adata, layer="counts", text_keys="description")
    >>> model = sf.model.LangCell(adata, n_layers=2)
    >>> model.train(stage=1, max_epochs=3)
    >>> model.train(stage=2, max_epochs=3)
    """

    name = "langcell"
    citation = "Zhao et al. 2024, LangCell: Language-Cell Pre-training for Cell Identity Understanding, ICML"
    _config_cls = LangCellConfig
    _module_cls = LangCellModule

    config: LangCellConfig
    module: LangCellModule

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        text_keys: str | Sequence[str] | None = None,
        labels_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register training data.

        Parameters
        ----------
        adata
            Cells x genes with raw counts.
        layer
            Layer with the counts, ``X`` if `None`.
        text_keys
            Columns of ``obs`` with a cell's description (`sf.tl.describe_cells` writes one). Of several columns, every
            step draws one.
        labels_key
            Column of ``obs`` with cell types, for classification.
        """
        setup_args = {"layer": layer, "text_keys": text_keys, "labels_key": labels_key}
        columns = [text_keys] if isinstance(text_keys, str) else list(text_keys or ())
        data_fields = [
            fields.LayerField(REGISTRY_KEYS.X_KEY, layer, is_count_data=False),
            fields.CategoricalObsField(REGISTRY_KEYS.LABELS_KEY, labels_key),
            *(fields.CategoricalObsField(f"text_{i}", column) for i, column in enumerate(columns)),
        ]
        cls._register(adata, data_fields, setup_args, **kwargs)

    def _complete_genes(self, genes: GeneVocabulary) -> GeneVocabulary:
        if genes.medians is not None or self.adata is None:
            return genes
        from scfoundry.pp import gene_medians

        return gene_medians(self.adata, layer=self.registry["setup_args"]["layer"])

    def _complete_config(self, config: dict[str, Any]) -> dict[str, Any]:
        if config.get("text_vocabulary") or self.adata is None:
            return config
        return config | {"text_vocabulary": learn_vocabulary(self._texts().ravel(), MAX_WORDS)}

    def _texts(self) -> np.ndarray:
        """Texts of the registered cells, (n_obs, number of columns)."""
        keys = self.registry["setup_args"]["text_keys"] or ()
        columns = [keys] if isinstance(keys, str) else list(keys)
        return self.adata.obs[columns].astype(str).to_numpy()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Cuts texts into the word pieces of these weights."""
        return Tokenizer(self.config.text_vocabulary, max_length=self.config.max_text_length)

    # ---- embedding ---------------------------------------------------------------------------------------------

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        *,
        layer: str | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> np.ndarray:
        """Embed cells in the space they share with texts.

        Parameters
        ----------
        adata
            Any AnnData, in memory, backed or dask; it need not be registered and is not changed. The training data
            if `None`.
        layer
            Layer with raw counts (or log1p-normalised values), ``X`` if `None`.
        indices
            Cells to embed, all if `None`.
        batch_size
            Cells on the device at a time; by the length of their gene lists if `None`. Does not change the result.
        device
            ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
        precision
            ``"float32"``, ``"bfloat16"`` for the matrix products, or ``"auto"``: bfloat16 on CUDA, float32 elsewhere.

        Returns
        -------
        float32 array of unit vectors, (n_cells, n_latent), rows in obs order (or as in ``indices``).

        Raises
        ------
        ValueError
            If the values are neither counts nor log1p-normalised, if too few genes are known, or if a GPU is asked for
            that is not there.
        """
        reader = self._reader(adata, layer, "get_latent_representation")
        latent = self._embed(reader, batch_size=batch_size, device=resolve_device(device), precision=precision)
        return latent if indices is None else latent[np.asarray(indices)]

    def get_text_embedding(
        self, texts: Sequence[str], *, device: str = "auto", precision: Precision = "auto"
    ) -> np.ndarray:
        """Embed texts in the space they share with cells.

        Returns
        -------
        float32 array of unit vectors, (n_texts, n_latent).

        Examples
        --------
        >>> import scfoundry as sf
        >>> model = sf.model.LangCell.from_pretrained("langcell-mini")
        >>> model.get_text_embedding(["cell type: B cell."]).shape
        """
        torch_device = resolve_device(device)
        self.module.to(torch_device).eval()
        with autocast(torch_device, precision):
            return LabelTexts(self.module, self.tokenizer, [[text] for text in texts]).embedding.cpu().numpy()

    def _reader(self, adata: AnnData | None, layer: str | None, caller: str) -> CountsReader:
        """Checked and aligned data; the registered ones if there are no others."""
        if adata is None:
            if self.adata is None:
                msg = f"This model was loaded without data: pass it, {caller}(adata)."
                raise ValueError(msg)
            adata, layer = self.adata, self.registry["setup_args"]["layer"]
        return CountsReader(adata, self.genes, layer=layer, caller=caller)

    def _stream(self, reader: CountsReader, batch_size: int | None, device: torch.device) -> CellStream:
        self.module.to(device).eval()
        return CellStream(reader, self.genes, max_length=self.config.max_length, device=device, batch_size=batch_size)

    def _embed(
        self,
        reader: CountsReader,
        groups: Sequence[Context] = (),
        xy: Mapping[str, np.ndarray] | None = None,
        *,
        batch_size: int | None,
        device: torch.device,
        precision: Precision,
    ) -> np.ndarray:
        """Embed checked and aligned data. Cells are read one by one: contexts and coordinates have no effect."""
        if xy:
            logger.warning("LangCell knows no positions: the coordinates have no effect.")
        with autocast(device, precision):
            return embed_cells(self.module, self._stream(reader, batch_size, device))

    # ---- zero-shot ---------------------------------------------------------------------------------------------

    @property
    def unknown_threshold(self) -> float | None:
        """Cells whose best label fits less are unknown; `None` for weights without a fitted threshold."""
        return None

    @property
    def averages_prompts(self) -> bool:
        """Whether cell types are read by several texts; the released computation reads one."""
        return self.config.mixture != "released"

    def unsupported(self, labels: Sequence[Label]) -> list[str]:
        """Names of labels for which the weights know neither cells nor markers."""
        return []

    def zero_shot(
        self,
        adata: AnnData | CountsReader | None,
        labels: Sequence[Label],
        *,
        alpha: float | None = None,
        top_k: int | None = None,
        mixture: Mixture | None = None,
        layer: str | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> ZeroShot:
        """Probability of every label for every cell, from its texts alone.

        Parameters
        ----------
        adata
            Any AnnData (or a reader of one), in memory, backed or dask.
        labels
            Labels with one or more texts. A label is embedded in the mean direction of its texts, and matched with
            cells by the first one.
        alpha
            Weight of similarity against matching; the weights' own (0.2 as published) if `None`.
        top_k
            Match only the ``top_k`` most similar labels of each cell; the others keep their share by similarity alone.
            All labels if `None`; 0 leaves matching out.
        mixture
            ``"released"`` or ``"corrected"``, see `sf.model.LangCellConfig`; the weights' own if `None`.
        layer, batch_size, device, precision
            As in `get_latent_representation`.

        Returns
        -------
        Probabilities, cosines and match probabilities, (n_obs, n_labels) each.

        Raises
        ------
        ValueError
            If there is no such mixture, or labels come with markers, which these weights cannot use.
        """
        if mixture is not None and mixture not in get_args(Mixture):
            msg = f"mixture must be one of {', '.join(map(repr, get_args(Mixture)))}; got {mixture!r}."
            raise ValueError(msg)
        if marked := [label.name for label in labels if label.markers]:
            msg = (
                f"The weights {self.provenance['weights']!r} read ranked genes and texts and cannot use markers, given "
                f'for {", ".join(map(repr, marked))}. Leave markers out, or use model="langcell-mini".'
            )
            raise ValueError(msg)
        reader = adata if isinstance(adata, CountsReader) else self._reader(adata, layer, "zero_shot")
        torch_device = resolve_device(device)
        considered = len(labels) if top_k is None else min(top_k, len(labels))
        cells = self._stream(reader, batch_size, torch_device)
        with autocast(torch_device, precision):
            texts = LabelTexts(self.module, self.tokenizer, [label.texts for label in labels])
            similarity, odds = match_cells(self.module, cells, texts, top_k=considered)
        matching = None if odds is None else torch.from_numpy(odds)
        probabilities = mix(
            torch.from_numpy(similarity),
            matching,
            temperature=self.config.temperature,
            alpha=self.config.alpha if alpha is None else alpha,
            mixture=self.config.mixture if mixture is None else mixture,
        )
        judged = None if matching is None else matching.sigmoid().where(~matching.isinf(), torch.nan).numpy()
        return ZeroShot(probabilities.numpy(), similarity, judged)

    # ---- training ----------------------------------------------------------------------------------------------

    def train(
        self,
        max_epochs: int = 3,
        *,
        stage: Literal[1, 2] = 2,
        **kwargs: Any,
    ) -> None:
        """Train on the registered data."""
        from scfoundry.model.langcell._training import pretrain

        pretrain(self, max_epochs, stage=stage, **kwargs)

    # ---- official files ----------------------------------------------------------------------------------------

    @classmethod
    def _is_release(cls, folder: Path) -> bool:
        # Copies of the release bring a config.json of their own.
        return (folder / "cell_bert").is_dir()

    @classmethod
    def _read_release(cls, folder: Path, version: str | None, adata: AnnData | None, config: dict[str, Any]) -> Self:
        values, genes, files = read_release(folder)
        model = cls(adata, genes=genes, **(values | config))
        model.module.load_state_dict(from_released(files, model.module, source=str(folder)))
        model.description_ |= {
            "weights": "langcell",
            "licence": "MIT",
            "trained_on": "27.5 million human cells of scLibrary (CELLxGENE) with their metadata as text",
            "sha256": sha256(folder / "cell_bert" / "pytorch_model.bin"),
        }
        return model
