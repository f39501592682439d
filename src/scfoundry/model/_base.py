"""What all models share: genes, configuration, module and weights. Nothing here loads scvi-tools."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch

from scfoundry._arguments import checks_arguments, fits, shown
from scfoundry._compat import versions
from scfoundry._device import Compute
from scfoundry._version import __version__
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.matrix.cells import Cells
from scfoundry.data.slots import refuse_meaningless
from scfoundry.model._capabilities import warn_of_idle_positions
from scfoundry.model._folder import CONFIG_FILE, checked_sha256, read_folder, write_folder
from scfoundry.model._hub import HubMixin
from scfoundry.model._pretrained import locate
from scfoundry.model._repr_html import NotebookMixin
from scfoundry.nn.checkpoint import CheckpointError, account_for, built_within

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry._device import Precision
    from scfoundry.model._module import FoundationModule

__all__ = ["InferenceModel"]

# Weights without a name of their own: at random, or learned from registered data.
UNTRAINED, OWN_TRAINING = "untrained", "own training"


class InferenceModel(HubMixin, NotebookMixin, ABC):
    """A model as far as its weights make it one: it embeds any cells, and has no training data.

    A subclass names its configuration and module, registers training data in ``setup_anndata``, and implements
    ``train``, ``embed`` and, for released weights, ``_read_release``; further abilities are in ``_capabilities.py``.
    Its registration is that of `FoundationModel`, under which it becomes a model of scvi-tools (``_foundation.py``).
    """

    reads_positions: bool = False
    """Whether coordinates of cells change the embedding."""

    name: ClassVar[str]
    citation: ClassVar[str]
    _config_cls: ClassVar[type[Any]]
    _module_cls: ClassVar[type[FoundationModule]]

    config: Any
    module: FoundationModule
    adata: Any = None
    """Training data."""

    # Of models with training data alone, which are those of `FoundationModel`
    registry: Any
    adata_manager: Any
    summary_stats: dict[str, Any]
    _register: ClassVar[Callable[..., None]]

    is_trained_: bool = False
    history_: dict[str, pd.DataFrame] | None = None

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        genes: GeneVocabulary | Sequence[str] | Mapping[str, Any] | None = None,
        seed: int = 0,
        **config: Any,
    ) -> None:
        if adata is None and registry is None:
            if genes is None:
                msg = (
                    f"{type(self).__name__} needs a vocabulary or training data: {type(self).__name__}(genes=[...]), "
                    f"or {type(self).__name__}.setup_anndata(adata) and {type(self).__name__}(adata)."
                )
                raise ValueError(msg)
            about = {"scvi_version": version("scvi-tools"), "model_name": type(self).__name__}
            registry = about | {"setup_args": {}, "field_registries": {}}
        self._take_data(adata, registry)
        genes = self.get_var_names().tolist() if genes is None else genes
        if not isinstance(genes, GeneVocabulary | Mapping) and not fits(genes, Iterable[str]):
            msg = f"genes must be names of genes, genes=adata.var_names, or a GeneVocabulary; got {shown(genes)}."
            raise ValueError(msg)
        if not isinstance(genes, GeneVocabulary):
            genes = GeneVocabulary(**genes) if isinstance(genes, Mapping) else GeneVocabulary(genes)
        if not len(genes):
            msg = f"{type(self).__name__} needs at least one gene: genes=adata.var_names."
            raise ValueError(msg)
        self._genes = self._complete_genes(genes)
        # `save` keeps the arguments: plain values.
        genes = self._genes.as_dict()
        config = self._complete_config(config)
        self.config = self._config_cls.from_dict(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = self._module_cls(self.config, len(self._genes))
        self.module.eval()
        self.description_: dict[str, Any] = {"weights": UNTRAINED, "citation": self.citation}
        self._model_summary_string = (
            f"{type(self).__name__} with {len(self._genes):,} genes and "
            f"{sum(p.numel() for p in self.module.parameters()):,} parameters"
        )
        self._keep_arguments(locals())

    def _take_data(self, adata: AnnData | None, registry: dict | None) -> None:
        """Begin with registered training data, or the registry of some."""
        self.registry, self.summary_stats = registry, {}

    def _keep_arguments(self, arguments: dict[str, Any]) -> None:
        """Keep what the model was made with, for `save`."""

    def _complete_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """Add what follows from the training data."""
        return config

    def _change_config(self, **values: Any) -> None:
        """Change values of the configuration of model and module."""
        self.config = self.module.config = replace(self.config, **values)

    def copy(self, **config: Any) -> Self:
        """A model with weights of its own and without the training data, to be fine-tuned.

        Parts that only the changed configuration has, such as a head or a table of other batches, start with fresh
        weights.
        """
        copied = type(self)(genes=self.genes, **(self.config.as_dict() | config))
        fresh, own = copied.module.state_dict(), self.module.state_dict()
        kept = {name: value for name, value in own.items() if name in fresh and fresh[name].shape == value.shape}
        copied.module.load_state_dict(fresh | kept)
        # They are no longer the weights that the checksum stands for.
        copied.description_ = {k: v for k, v in self.description_.items() if k != "sha256"}
        copied.description_["weights"] = f"{self.description_['weights']}, fine-tuned"
        copied.is_trained_ = True
        return copied

    def lacks(self, capability: type) -> str | None:
        """Why these weights cannot do what the class can, in one sentence; `None` if they can."""
        return None

    def _complete_genes(self, genes: GeneVocabulary) -> GeneVocabulary:
        """Add what a model knows of its genes beyond their names."""
        return genes

    @property
    def genes(self) -> GeneVocabulary:
        """Vocabulary, in the order of the model's gene parameters."""
        return self._genes

    @property
    def provenance(self) -> dict[str, Any]:
        """Model, weights, licence, citation and versions, as `sf.tl` functions write it to ``uns``."""
        made_with = {"scfoundry": __version__} | versions()
        own = {"weights": OWN_TRAINING} if self.is_trained_ and self.description_["weights"] == UNTRAINED else {}
        return {"model": self.name} | self.description_ | own | {"versions": made_with}

    def get_var_names(self, legacy_mudata_format: bool = False) -> np.ndarray:
        """Genes of the training data, or the vocabulary where there was none."""
        return self._genes.ids

    def to_device(self, device: torch.device | str) -> None:
        """Move the module."""
        self.module.to(device)

    # ---- embedding ---------------------------------------------------------------------------------------------

    @abstractmethod
    def embed(self, cells: Cells, compute: Compute) -> NDArray[np.float32]:
        """Embed checked and aligned cells, (n_obs, n_latent), rows in their order."""

    @checks_arguments
    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        spatial_key: str | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> NDArray[np.float32]:
        """Embed cells.

        Parameters
        ----------
        adata
            Any AnnData, in memory, backed or dask, which is only read; the training data with its registered keys if
            `None`.
        layer, batch_key, spatial_key, device, precision, batch_size
            As in `sf.tl.embed`.
        indices
            Cells to return, all if `None`. They are still embedded among all cells of their context.

        Returns
        -------
        float32 array, (n_cells, n_latent), rows in obs order (or as in ``indices``).

        Raises
        ------
        ValueError
            If there are no data, or as in `sf.tl.embed`.
        """
        compute = Compute.resolve(device, precision, batch_size)
        caller = "get_latent_representation"
        if adata is None and self.adata is None:
            msg = f"This model was loaded without data: pass it, {caller}(adata)."
            raise ValueError(msg)
        if adata is None:
            cells = self.registered_cells(caller)
        else:
            keys: dict[str, Any] = {"layer": layer, "batch_key": batch_key, "spatial_key": spatial_key}
            cells = Cells.of(adata, self.genes, **keys, caller=caller)
        warn_of_idle_positions(self, cells)
        latent = self.embed(cells, compute)
        refuse_meaningless(latent, cells, caller=caller)
        return latent if indices is None else latent[np.asarray(indices)]

    def registered_cells(self, caller: str) -> Cells:
        """The training data, checked and aligned; a ValueError where there are none."""
        if self.adata is None:
            name = type(self).__name__
            msg = (
                f"There is nothing to train on: this model was loaded without data. Register it, {name}.setup_anndata"
                f"(adata, ...), and load the weights with it: {name}.from_pretrained(source, adata)."
            )
            raise ValueError(msg)
        setup = self.registry["setup_args"]
        keys: dict[str, Any] = {key: setup.get(key) for key in ("layer", "batch_key", "spatial_key")}
        return Cells.of(self.adata, self.genes, **keys, caller=caller)

    # ---- weights -----------------------------------------------------------------------------------------------

    @classmethod
    @checks_arguments
    def from_pretrained(
        cls, source: str | Path, adata: AnnData | None = None, *, version: str | None = None, **config: Any
    ) -> Self:
        """Load weights: ours by name or folder, or official files as the authors released them.

        Parameters
        ----------
        source
            A name of `sf.model.list_pretrained`, a folder that `save_pretrained` wrote or with the official files, or
            ``"hf://owner/name"`` on the Hugging Face Hub, with ``"@revision"`` after it if not the newest.
        adata
            Registered training data, to fine-tune on. Inference needs none.
        version
            Which official release, where a folder holds several.
        **config
            Configuration values to change, such as ``latent_embedding="gumbel"``.

        Returns
        -------
        The model on the CPU, in evaluation mode.

        Raises
        ------
        CheckpointError
            If the files are damaged or belong to another model; missing, unexpected and reshaped tensors raise, too.
        FileNotFoundError
            If the source does not exist, or its files have to be downloaded by hand.

        Examples
        --------
        >>> import scfoundry as sf
        >>> model = sf.model.CellPLM.from_pretrained("cellplm-mini")
        """
        folder = locate(source)
        if (folder / CONFIG_FILE).exists() and not cls._is_release(folder):
            model = cls._read_folder(folder, adata, config)
        else:
            model = cls._read_release(folder, version, adata, config)
        model.is_trained_ = True
        return model

    @classmethod
    def _read_folder(cls, folder: Path, adata: AnnData | None, config: dict[str, Any]) -> Self:
        """Load what `save_pretrained` wrote."""
        saved = read_folder(folder, cls.name)
        source = str(saved.weights)
        try:
            cls._config_cls.from_dict(saved.config)
        except ValueError as error:
            msg = f"{folder / CONFIG_FILE} is damaged: {error} Download or save the model again."
            raise CheckpointError(msg) from error
        model = cls._filled(
            lambda module: account_for(saved.tensors, module, source=source),
            saved.tensors.values(),
            source,
            adata,
            genes=saved.genes,
            **(saved.config | config),
        )
        model.description_ = saved.description | {"sha256": checked_sha256(folder)}
        return model

    @classmethod
    def _filled(
        cls,
        state: Callable[[Any], dict[str, torch.Tensor]],
        tensors: Iterable[torch.Tensor],
        source: str,
        adata: AnnData | None,
        registry: dict[str, Any] | None = None,
        *,
        genes: GeneVocabulary | Mapping[str, Any],
        **config: Any,
    ) -> Self:
        """A model of a configuration and ``tensors`` from outside; nothing is allocated before the two fit.

        ``state``: maps a module, which need not hold memory, to what it is to hold; parts that it leaves out start with
        fresh weights. CheckpointError: if they do not fit.
        """
        with built_within(tensors, source=source):
            planned = cls(None, registry, genes=genes, **config).module
        found = state(planned)
        model = cls(adata, registry, genes=genes, **config)
        model.module.load_state_dict(model.module.state_dict() | found)
        return model

    @classmethod
    def _is_release(cls, folder: Path) -> bool:
        """Whether a folder holds official files although a ``config.json`` is among them."""
        return False

    @classmethod
    def _read_release(cls, folder: Path, version: str | None, adata: AnnData | None, config: dict[str, Any]) -> Self:
        """Load official files; models whose authors released weights say how."""
        msg = (
            f"{folder} holds no {CONFIG_FILE}: it was not written by {cls.__name__}.save_pretrained. Name the "
            "folder that was."
        )
        raise FileNotFoundError(msg)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        weights: str | None = None,
        licence: str | None = None,
        trained_on: str | None = None,
        card: str | None = None,
    ) -> None:
        """Write ``config.json``, ``model.safetensors``, ``genes.tsv`` and a model card ``README.md``.

        A model loaded from the folder has bit for bit the weights that were written.

        Parameters
        ----------
        folder
            Created if it does not exist.
        dtype
            Type of the stored weights; `torch.float16` halves the size and rounds them.
        weights, licence, trained_on
            Name of these weights, their licence, and the data they learned from.
        card
            Text of the model card; a short one is written if `None`.

        Examples
        --------
        >>> import scfoundry as sf
        >>> model = sf.model.CellPLM(genes=["ENSG00000198851", "ENSG00000111640"])
        >>> model.save_pretrained("my_model")
        """
        folder = Path(folder)
        given = {"weights": weights, "licence": licence, "trained_on": trained_on}
        description = self.description_ | {key: value for key, value in given.items() if value is not None}
        description.pop("sha256", None)
        if description["weights"] == UNTRAINED and self.is_trained_:
            description["weights"] = folder.name
        parameters = sum(p.numel() for p in self.module.parameters())
        saved = {"model": self.name} | description | {"parameters": parameters, "config": self.config.as_dict()}
        card = card or self._default_card(description)
        write_folder(folder, saved, self.module.state_dict(), self.genes, card, dtype=dtype)

    def _default_card(self, description: dict[str, Any]) -> str:
        """Say the least a card must say."""
        lines = [f"# {description['weights']}", "", f"{self._model_summary_string}.", ""]
        lines += [f"- {key}: {value}" for key, value in description.items()]
        return "\n".join(lines) + "\n"
