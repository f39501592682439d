"""LangCell for AnnData: setup, embedding, zero-shot annotation, weights."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, get_args

from scvi import REGISTRY_KEYS
from scvi.data import fields

from scfoundry._device import Compute, Precision, resolve_device
from scfoundry._settings import logger
from scfoundry.data.matrix.reader import CountsReader
from scfoundry.model._base import FoundationModel
from scfoundry.model.cellnamer._corpus import require_labels, what_is_known
from scfoundry.model.cellnamer._model import ByExpression
from scfoundry.model.cellnamer._module import CellTypeScorer
from scfoundry.model.langcell._by_ranks import ByRanks
from scfoundry.model.langcell._checkpoint import from_released, read_release
from scfoundry.model.langcell._config import LangCellConfig, Mixture
from scfoundry.model.langcell._module import LangCellModule
from scfoundry.model.langcell._tokenizer import learn_vocabulary
from scfoundry.model.langcell._train import Teachable
from scfoundry.model.langcell._training_data import require_texts
from scfoundry.nn.checkpoint import sha256
from scfoundry.stats.components import principal_components
from scfoundry.tasks.annotation.pathways import IdentifiesPathways
from scfoundry.tasks.annotation.reference import LearnsReference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import torch
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.labels import Label
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.matrix.contexts import Context
    from scfoundry.model.langcell._matching import ZeroShot

__all__ = ["LangCell"]

MAX_WORDS = 8192


class LangCell(Teachable, LearnsReference, IdentifiesPathways, FoundationModel):
    r"""Cells and texts in one space :cite:p:`zhao2024langcell`.

    The weights say how cells are read. As published (``cell_encoder="rank_bert"``), a cell is the list of its genes
    ranked by expression relative to each gene's median, read by a transformer. A second transformer reads a text, on
    its own or while looking at the states of a cell. The cosine of the two embeddings says how similar cell and text
    are; a matching head judges them together.

    The small form (``cell_encoder="expression_mlp"``, the default weights ``langcell-mini``) is for corpora of some
    thousand cells: small networks read standardised expression and the n-grams of a text, and labels are scored by
    their cosine, by markers, and by likeness to the types of the training data.

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
    >>> import scfoundry as sf
    >>> model = sf.model.LangCell.from_pretrained("langcell-mini")
    >>> latent = model.get_latent_representation(adata)

    Train the published form on your own cells and texts; from random weights with a rate of 1e-4 to 1e-3:

    >>> sf.model.LangCell.setup_anndata(adata, layer="counts", text_keys="description")
    >>> model = sf.model.LangCell(adata, n_layers=2)
    >>> model.train(stage=1, max_epochs=3, lr=3e-4)
    >>> model.train(stage=2, max_epochs=3, lr=3e-4)

    Train the small form on your own labelled cells:

    >>> sf.model.LangCell.setup_anndata(adata, layer="counts", labels_key="cell_type", batch_key="study")
    >>> model = sf.model.LangCell(adata, cell_encoder="expression_mlp")
    >>> model.train()
    >>> sf.tl.zero_shot_annotate(other, ["B cell", "NK"], model=model)
    """

    name = "langcell"
    citation = "Zhao et al. 2024, LangCell: Language-Cell Pre-training for Cell Identity Understanding, ICML"
    _config_cls = LangCellConfig
    _module_cls = LangCellModule

    # LangCellConfig and LangCellModule, or ScorerConfig and CellTypeScorer: `config.cell_encoder` decides.
    config: Any
    module: Any

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        text_keys: str | Sequence[str] | None = None,
        labels_key: str | None = None,
        batch_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register training data: texts for ranked genes, labels for standardised expression.

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
            Column of ``obs`` with cell types, from which standardised expression learns. A label that stands for a Cell
            Ontology term (``"NK"``, ``"CD14+ Mono"``, ``"CL:0000236"``; see `sf.tl.describe`) is read as that term, any
            other as its own type. Cells named ``"unknown"``, ``"unassigned"`` and the like have none.
        batch_key
            Column of ``obs`` with the study of a cell; one study if `None`. A study measured the genes of which it has
            counts. Of standardised expression only.

        Raises
        ------
        ValueError
            If a column has no text or no label for some cells.
        KeyError
            If there is no such column.
        """
        setup_args = dict(locals())
        columns = [text_keys] if isinstance(text_keys, str) else list(text_keys or ())
        for column in columns:
            require_texts(adata, column)
        if labels_key is not None:
            require_labels(adata, labels_key)
        if "source_registry" in kwargs:
            # No weight depends on texts and labels: other data may have others.
            kwargs["extend_categories"] = True
        data_fields = [
            fields.LayerField(REGISTRY_KEYS.X_KEY, layer, is_count_data=False),
            fields.CategoricalObsField(REGISTRY_KEYS.LABELS_KEY, labels_key),
            fields.CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, batch_key),
            *(fields.CategoricalObsField(f"text_{i}", column) for i, column in enumerate(columns)),
        ]
        cls._register(adata, data_fields, setup_args, **kwargs)

    def _complete_genes(self, genes: GeneVocabulary) -> GeneVocabulary:
        if genes.medians is not None or self.adata is None:
            return genes
        from scfoundry.pp import gene_medians

        expressed = gene_medians(self.adata, layer=self.registry["setup_args"]["layer"], genes=genes)
        if unexpressed := len(genes) - len(expressed):
            logger.info(f"LangCell: {unexpressed:,} of {len(genes):,} genes are left out: no cell of adata has them")
        return expressed

    def _complete_config(self, config: dict[str, Any]) -> dict[str, Any]:
        if config.get("text_vocabulary") or config.get("types") or self.adata is None:
            return config
        if config.get("cell_encoder") == "expression_mlp":
            return config | what_is_known(self, self.genes, config.get("markers"))
        return config | {"text_vocabulary": learn_vocabulary(self._texts().ravel(), MAX_WORDS)}

    def _texts(self) -> np.ndarray:
        """Texts of the registered cells, (n_obs, number of columns)."""
        keys = self.registry["setup_args"]["text_keys"] or ()
        columns = [keys] if isinstance(keys, str) else list(keys)
        return self.adata.obs[columns].astype(str).to_numpy()

    @cached_property
    def reading(self) -> Any:
        """How these weights read cells and texts: `ByRanks` or `ByExpression`."""
        if isinstance(self.module, CellTypeScorer):
            return ByExpression(self.module, self.genes)
        return ByRanks(self.module, self.genes)

    def _build_module(self) -> LangCellModule | CellTypeScorer:
        module = LangCellModule if self.config.cell_encoder == "rank_bert" else CellTypeScorer
        return module(self.config, len(self.genes))

    # ---- embedding ---------------------------------------------------------------------------------------------

    def embed(self, cells: Cells, compute: Compute) -> np.ndarray:
        """Embed cells in the space they share with texts: unit vectors, float32, (n_obs, n_latent)."""
        if cells.coordinates:
            logger.warning("LangCell knows no positions: the coordinates have no effect.")
        return self.reading.embed(
            cells.reader, batch_size=compute.batch_size, device=compute.device, precision=compute.precision
        )

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
        return self.reading.embed_texts(texts, device=resolve_device(device), precision=precision)

    def _reader(self, adata: AnnData | None, layer: str | None, caller: str) -> CountsReader:
        """Checked and aligned data; the registered ones if there are no others."""
        if adata is None:
            if self.adata is None:
                msg = f"This model was loaded without data: pass it, {caller}(adata)."
                raise ValueError(msg)
            adata, layer = self.adata, self.registry["setup_args"]["layer"]
        return CountsReader(adata, self.genes, layer=layer, caller=caller)

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
        return self.reading.embed(reader, batch_size=batch_size, device=device, precision=precision)

    # ---- zero-shot ---------------------------------------------------------------------------------------------

    @property
    def unknown_threshold(self) -> float | None:
        """Cells whose best label fits less are unknown; `None` for weights without a fitted threshold."""
        return self.reading.unknown_threshold

    @property
    def averages_prompts(self) -> bool:
        """Whether cell types are read by several texts; the released computation reads one."""
        return self.reading.averages_prompts

    def unsupported(self, labels: Sequence[Label]) -> list[str]:
        """Names of labels for which the weights know neither cells nor markers."""
        return self.reading.unsupported(labels)

    def refuse_unusable(
        self,
        labels: Sequence[Label],
        *,
        alpha: float | None = None,
        top_k: int | None = None,
        mixture: Mixture | None = None,
    ) -> None:
        """Refuse what the weights cannot use, before anything is computed."""
        if mixture is not None and mixture not in get_args(Mixture):
            msg = f"mixture must be one of {', '.join(map(repr, get_args(Mixture)))}; got {mixture!r}."
            raise ValueError(msg)
        self.reading.refuse(labels, weights=self.provenance["weights"], alpha=alpha, top_k=top_k, mixture=mixture)

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
        adapt
            Bring cells that lie together in the data set to agree; as the weights were calibrated if `None`. Official
            weights judge every cell by itself. So do weights on standardised expression with ``adapt=False``, but for
            the z-scores: these use mean and standard deviation of every gene in the data set at hand.
        layer, batch_size, device, precision
            As in `get_latent_representation`.

        Returns
        -------
        Probabilities, cosines and match probabilities, (n_obs, n_labels) each.

        Raises
        ------
        ValueError
            If there is no such mixture, or the weights cannot use markers, ``alpha``, ``top_k`` or ``mixture``.
        """
        self.refuse_unusable(labels, alpha=alpha, top_k=top_k, mixture=mixture)
        reader = adata if isinstance(adata, CountsReader) else self._reader(adata, layer, "zero_shot")
        result = self.reading.zero_shot(
            reader,
            labels,
            alpha=alpha,
            top_k=top_k,
            mixture=mixture,
            batch_size=batch_size,
            device=resolve_device(device),
            precision=precision,
        )
        if adapt or (adapt is None and self.config.adapt):
            components = principal_components(reader, moments=result.moments)
            return result.adapted(components, temperature=self.config.adapted_temperature)
        return result

    # ---- capabilities ------------------------------------------------------------------------------------------

    @property
    def adapts(self) -> bool:
        """Whether the weights were calibrated for labels that cells lying together have been brought to agree on."""
        return self.config.adapt

    @property
    def adapted_temperature(self) -> float:
        """Divisor that calibrates log probabilities after that."""
        return self.config.adapted_temperature

    def check_labels(self, labels: Sequence[Label]) -> list[str]:
        """Names of the labels for which the weights know neither cells nor markers; refuse what they cannot use."""
        self.refuse_unusable(labels)
        return self.unsupported(labels)

    def embed_texts(self, texts: Sequence[str], compute: Compute) -> NDArray[np.float32]:
        """Embed texts in the space they share with cells: unit vectors, (n_texts, n_latent)."""
        return self.reading.embed_texts(texts, device=compute.device, precision=compute.precision)

    def score_texts(self, cells: Cells, labels: Sequence[Label], compute: Compute) -> ZeroShot:
        """Probability of every label for every cell, each cell judged by itself."""
        return self.reading.zero_shot(
            cells.reader,
            labels,
            alpha=None,
            top_k=None,
            mixture=None,
            batch_size=compute.batch_size,
            device=compute.device,
            precision=compute.precision,
        )

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
