"""CellNamer for AnnData: setup, embedding, labels from texts, training."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from scipy.special import softmax

from scfoundry._arguments import checks_arguments
from scfoundry._device import Compute
from scfoundry._settings import logger
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.model._base import InferenceModel
from scfoundry.model._capabilities import TextScores
from scfoundry.model._parts import by_cell
from scfoundry.model._registration import refuse_lazy_columns
from scfoundry.model.cellnamer._calibration import calibrate
from scfoundry.model.cellnamer._config import CellNamerConfig
from scfoundry.model.cellnamer._corpus import UNION, RegisteredCells, known_from, labels_of, require_labels
from scfoundry.model.cellnamer._inference import (
    ExpressionStream,
    data_moments,
    embed_expression,
    score_expression,
)
from scfoundry.model.cellnamer._module import CellNamerModule, OfferedLabel
from scfoundry.stats.splits import stratified_split

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry.data.labels import Label
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.matrix.reader import Reader
    from scfoundry.model.cellnamer._inference import DataMoments
    from scfoundry.model.cellnamer._module import LabelPlan
    from scfoundry.model.cellnamer._training import Contrast, Stage
    from scfoundry.train.plan import Schedule

__all__ = ["CellNamer"]


class CellNamer(InferenceModel):
    """A model of our own, inspired by LangCell :cite:p:`zhao2024langcell`; it is not LangCell.

    It names cells from texts, and is made for corpora of some thousand cells. Small networks read log expression,
    standardised per gene; a text is the mean of its hashed n-grams. A label is scored by the cosine of cell and text,
    by its marker genes, and by the known types that the Cell Ontology says it covers.

    Parameters
    ----------
    adata
        Training data registered with `setup_anndata`. Inference needs none.
    registry
        Filled in by `load`.
    genes
        Vocabulary; the genes of ``adata`` if `None`.
    seed
        Seed of the initial weights.
    **config
        Values of `sf.model.CellNamerConfig`.

    Examples
    --------
    >>> import scfoundry as sf
    >>> model = sf.model.CellNamer.from_pretrained("cellnamer-mini")
    >>> latent = model.get_latent_representation(adata)

    Train one on your own labelled cells:

    >>> sf.model.CellNamer.setup_anndata(adata, layer="counts", labels_key="cell_type", batch_key="study")
    >>> model = sf.model.CellNamer(adata, markers={"tuft cell": ["POU2F3", "TRPM5"]})
    >>> model.train()
    >>> sf.tl.zero_shot_annotate(other, ["B cell", "NK", "tuft cell"], model=model)
    """

    name = "cellnamer"
    citation = "scfoundry developers 2026, CellNamer, inspired by Zhao et al. 2024 (LangCell)"
    _config_cls = CellNamerConfig
    _module_cls = CellNamerModule

    config: CellNamerConfig
    module: CellNamerModule

    averages_prompts = True

    @cached_property
    def _moments(self) -> WeakKeyDictionary[Reader, DataMoments]:
        """Moments of data sets that were read, so that the next pass need not gather them again."""
        return WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_moments"}

    @classmethod
    @checks_arguments
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        labels_key: str | None = None,
        batch_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register labelled cells to learn from.

        Parameters
        ----------
        adata
            Cells x genes with raw counts.
        layer
            Layer with the counts, ``X`` if `None`.
        labels_key
            Column of ``obs`` with cell types. A label that stands for a Cell Ontology term (``"NK"``,
            ``"CD14+ Mono"``, ``"CL:0000236"``; see `sf.tl.describe`) is read as that term, several terms joined by
            ``|`` (``"CL:0000084|CL:0000623"``) as a cell of one of these types, any other label as its own type. Cells
            named ``"unknown"``, ``"unassigned"`` and the like have none.
        batch_key
            Column of ``obs`` with the study of a cell; one study if `None`. A study measured the genes of which it has
            counts.

        Raises
        ------
        ValueError
            If some cells have no label.
        KeyError
            If there is no such column.
        """
        setup_args = dict(locals())
        if labels_key is not None:
            refuse_lazy_columns(adata)
            require_labels(adata, labels_key)
        if "source_registry" in kwargs:
            # No weight depends on the names of labels and studies: other data may have others.
            kwargs["extend_categories"] = True
        cls._register(adata, setup_args, {"labels": labels_key, "batch": batch_key}, **kwargs)

    def _complete_config(self, config: dict[str, Any]) -> dict[str, Any]:
        if config.get("types") or self.adata is None:
            return config
        key = self.registry["setup_args"].get("labels_key")
        if key is None:
            msg = (
                "CellNamer(adata) learns the cell types of its training data, but no labels are registered: "
                'CellNamer.setup_anndata(adata, labels_key="cell_type").'
            )
            raise ValueError(msg)
        return config | known_from(labels_of(self.adata.obs[key]), key, self.genes, config.get("markers"))

    # ---- inference ---------------------------------------------------------------------------------------------

    @by_cell(moments="data_moments")
    def embed(self, cells: Cells, compute: Compute, *, moments: DataMoments | None = None) -> NDArray[np.float32]:
        """Embed cells in the space they share with texts: unit vectors, (n_obs, n_latent).

        ``moments``: those of the data set that the cells are part of, if they are not all of it.
        """
        with compute.autocast():
            return embed_expression(self.module, self._stream(cells, compute, moments))

    def embed_texts(self, texts: Sequence[str], compute: Compute | None = None) -> NDArray[np.float32]:
        """Embed texts in the space they share with cells: unit vectors, float32, (n_texts, n_latent).

        Examples
        --------
        >>> import scfoundry as sf
        >>> model = sf.model.CellNamer.from_pretrained("cellnamer-mini")
        >>> model.embed_texts(["cell type: B cell."]).shape
        (1, 96)
        """
        compute = compute or Compute.resolve()
        self.module.to(compute.device).eval()
        with compute.autocast():
            return self.module.embed_texts([[text] for text in texts]).detach().float().cpu().numpy()

    @by_cell(moments="data_moments")
    def score_texts(
        self, cells: Cells, labels: Sequence[Label], compute: Compute, *, moments: DataMoments | None = None
    ) -> TextScores:
        """Probability of every label for every cell by its texts, its markers and the known types it covers.

        Each cell is judged by itself, but for the z-scores: these use mean and standard deviation of every gene in the
        data set at hand.
        """
        with compute.autocast():
            plan = self._plan(labels)
            stream = self._stream(cells, compute, moments)
            logits, similarity, outside = score_expression(self.module, stream, plan)
        probabilities = softmax(logits, axis=1)
        fit = (1 - outside) * probabilities.max(1)
        return TextScores(probabilities, similarity, None, fit=fit, moments=stream.moments.normalised)

    @property
    def unknown_threshold(self) -> float | None:
        """Cells whose best label fits less are unknown."""
        return float(self.module.unknown_threshold)

    @property
    def adapts(self) -> bool:
        """Whether the weights were calibrated for labels that cells lying together have been brought to agree on."""
        return self.config.adapt

    @property
    def adapted_temperature(self) -> float:
        """Divisor that calibrates log probabilities after that."""
        return self.config.adapted_temperature

    def check_labels(self, labels: Sequence[Label]) -> list[str]:
        """Names of the labels for which there are neither training cells nor markers."""
        return [labels[i].name for i in self._plan(labels).uninformed]

    def _plan(self, labels: Sequence[Label]) -> LabelPlan:
        """Labels as tensors, by weights that know what to compare them with."""
        if not self.module.n_studies.any() and not self.module.profiles.weights.any():
            msg = (
                "This model has learned no cell types yet. Train it on labelled cells: CellNamer.setup_anndata(adata, "
                'labels_key="cell_type"), model = CellNamer(adata), model.train(stage=2). Or load weights that know '
                'them: sf.model.load_pretrained("cellnamer").'
            )
            raise ValueError(msg)
        offered = [
            OfferedLabel(
                label.texts,
                tuple(label.term.split(UNION)) if label.term else (),
                dict.fromkeys(self.genes.index_of(label.markers).tolist(), 1.0),
            )
            for label in labels
        ]
        return self.module.plan(offered, CellOntology.load())

    def data_moments(self, cells: Cells, compute: Compute) -> DataMoments:
        """Moments of a data set; one that is read again is not gone through for them again."""
        if cells.reader not in self._moments:
            self._moments[cells.reader] = data_moments(self.module.to(compute.device), cells.reader)
        return self._moments[cells.reader]

    def _stream(self, cells: Cells, compute: Compute, moments: DataMoments | None) -> ExpressionStream:
        moments = moments or self.data_moments(cells, compute)
        return ExpressionStream(self.module.to(compute.device).eval(), cells.reader, moments, compute.batch_size)

    # ---- training ----------------------------------------------------------------------------------------------

    @checks_arguments
    def train(
        self,
        max_epochs: int | None = None,
        *,
        stage: Stage = 2,
        contrast: Contrast = "batch",
        loss_weights: Mapping[str, float] | None = None,
        lr: float = 2e-3,
        weight_decay: float = 1e-4,
        warmup_steps: int | None = None,
        schedule: Schedule = "cosine",
        batch_size: int = 112,
        part_size: int | None = None,
        validation_size: float = 0.1,
        seed: int = 0,
        checkpoint_dir: str | Path | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Learn the cell types of the registered data, through the texts of what their labels stand for.

        Broader, narrower and similar types are no negatives. Cells are shown as other studies might have seen them,
        thinned and on smaller panels; with ``markers`` some are made up. At most 100,000 cells are held in memory: of
        more, the largest types of a study keep as many as each other, drawn at random. At the end of stage 2 the
        temperature of probabilities and the threshold for unknown cells are fitted to the held-out cells. These are of
        the same studies: other studies may lie further off.

        Parameters
        ----------
        max_epochs
            Passes over these cells; as many as make 260 steps if `None`. Rare types are drawn more often than others.
        stage
            2 learns by ``"cell_text"`` contrast, recognition of ``"known_types"``, and ``"matching"`` with profiles of
            ``markers``; it is enough. 1, before it, trains the cell networks alone by ``"masked_genes"`` and
            ``"cell_cell"`` contrast; it reads cells without a label, too.
        contrast
            Of stage 1: ``"batch"`` holds what gradients need of all cells of a batch; ``"divide_and_conquer"`` that of
            ``part_size`` cells, with the same gradients, for batches of thousands. Stage 2 contrasts each cell with a
            text of every type and with no other cell, which is exact in a batch of any size.
        loss_weights
            Weights of these objectives that differ from 1.
        lr, weight_decay
            Of AdamW.
        warmup_steps
            Steps over which the learning rate grows from zero; a tenth of all if `None`.
        schedule
            ``"cosine"`` or ``"linear"`` down to zero at the last step, or ``"constant"``.
        batch_size
            Cells per step.
        part_size
            Cells whose gradients are in memory at a time where a batch is divided; 112 if `None`.
        validation_size
            Share of every type of a study that is held out. With 0, temperature and threshold stay as they are.
        seed
            Seed of everything random in training. The same seed gives the same weights.
        checkpoint_dir
            Where to leave a checkpoint after every epoch. If one is there, training goes on from it.
        **trainer_kwargs
            ``accelerator``, ``strategy``, ``devices``, ``precision`` (:doc:`/guide/large`), and
            further arguments of scvi-tools' `~scvi.train.Trainer`.

        Raises
        ------
        ValueError
            If there are no data, the weights know other cell types than the data have, or a batch cannot be divided.

        Notes
        -----
        ``model.history`` holds ``loss`` and every objective per epoch, training and validation.
        """
        called_with = dict(locals())
        from scfoundry.model.cellnamer._training import check_arguments, check_types, train

        part_size = check_arguments(stage, contrast, batch_size, part_size)
        registered = self._registered("CellNamer.train")
        check_types(self.config, registered, self.provenance["weights"])
        if n_empty := int(registered.empty.sum()):
            logger.warning("%d cells without a gene of the vocabulary are left out.", n_empty)
        readable = np.flatnonzero(~registered.empty if stage == 1 else ~registered.empty & registered.labelled)
        split = stratified_split(registered.groups, validation_size, readable, np.random.default_rng(seed))
        how = {name: called_with[name] for name in ("lr", "weight_decay", "warmup_steps", "schedule", "seed")}
        trainer_kwargs |= {"max_epochs": max_epochs, "batch_size": batch_size, "checkpoint_dir": checkpoint_dir}
        trainer_kwargs |= {"part_size": part_size, "called_with": called_with}
        train(self, registered, split, stage=stage, loss_weights=loss_weights, plan_kwargs=how, **trainer_kwargs)
        if stage == 2 and len(split[1]):
            found = calibrate(self, self.config.types, registered, split[1], Compute.resolve(self.module.device))
            if found is not None:
                self._change_config(adapted_temperature=found[0])
                self.module.unknown_threshold.fill_(found[1])

    def _registered(self, caller: str) -> RegisteredCells:
        """The training data with labels and studies."""
        cells, setup = self.registered_cells(caller), self.registry["setup_args"]
        studies = np.zeros(cells.n_obs, dtype=str)
        if (key := setup["batch_key"]) is not None:
            studies = self.adata.obs[key].to_numpy().astype(str)
        return RegisteredCells(cells, self.genes, labels_of(self.adata.obs[setup["labels_key"]]), studies)
