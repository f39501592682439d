"""Models as scvi-tools knows them. Only this file and `_saving.py` touch its private interfaces; both load slowly."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from scvi.data import AnnDataManager, fields
from scvi.model.base import BaseModelClass

from scfoundry.model._base import InferenceModel
from scfoundry.model._registration import refuse_lazy_columns, refuse_missing_keys
from scfoundry.model._saving import SavesPlainly

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from anndata import AnnData

__all__ = ["FoundationModel", "registered"]


class FoundationModel(InferenceModel, SavesPlainly):
    """Base of all models: an AnnData or nothing, a vocabulary of genes, a configuration of plain values.

    Parameters
    ----------
    adata
        Training data registered with ``setup_anndata``. Inference needs none.
    registry
        Registry of a saved model; filled in by scvi-tools' ``load``.
    genes
        Vocabulary, its gene ids in order, or what `GeneVocabulary.as_dict` gives. The genes of ``adata`` if `None`.
    seed
        Seed of the initial weights.
    **config
        Values of the model's configuration.
    """

    # Attributes of a model without training data are plain; here they are what scvi-tools makes them.
    adata = BaseModelClass.adata
    registry = BaseModelClass.registry
    to_device = BaseModelClass.to_device

    def _take_data(self, adata: AnnData | None, registry: dict | None) -> None:
        BaseModelClass.__init__(self, adata, registry)

    def _keep_arguments(self, arguments: dict[str, Any]) -> None:
        self.init_params_ = self._get_init_params(arguments)

    def _change_config(self, **values: Any) -> None:
        """Change values of the configuration of model and module, and what `save` keeps of it for `load`."""
        super()._change_config(**values)
        self.init_params_["kwargs"]["config"] |= values

    def get_var_names(self, legacy_mudata_format: bool = False) -> np.ndarray:
        """Genes of the training data, or the vocabulary where there was none."""
        if "X" in self.registry["field_registries"] or self._adata is not None:
            return BaseModelClass.get_var_names(self, legacy_mudata_format)
        return self._genes.ids

    @classmethod
    def setup_annbatch(cls, *args: Any, **kwargs: Any) -> None:
        """Refuse scvi-tools' way to train from disk; a ValueError says ours, which needs no collection of its own."""
        msg = (
            f"{cls.__name__} is not set up by setup_annbatch: train reads cells from the file or store where "
            f"they lie, in blocks that are mixed. {cls.__name__}.setup_anndata(anndata.experimental.read_lazy("
            '"atlas.zarr")), or sc.read_h5ad("atlas.h5ad", backed="r").'
        )
        raise ValueError(msg)

    @classmethod
    def _register(
        cls,
        adata: AnnData,
        setup_args: dict[str, Any],
        columns: Mapping[str, str | None],
        *,
        spatial_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Finish ``setup_anndata``: register the layer, columns of ``obs`` by what they are, and coordinates.

        ValueError: where the data lack what a key names, or their columns were opened lazily.
        """
        if columns:
            refuse_lazy_columns(adata)
        refuse_missing_keys(adata, setup_args, kwargs, caller=f"sf.model.{cls.__name__}.setup_anndata")
        data_fields: list[Any] = [
            # `train` checks the whole matrix; scvi-tools would look at 20 values drawn from numpy's global generator.
            fields.LayerField("X", setup_args["layer"], is_count_data=False),
            *(fields.CategoricalObsField(name, column) for name, column in columns.items()),
            *([] if spatial_key is None else [fields.ObsmField("spatial", spatial_key)]),
        ]
        manager = AnnDataManager(fields=data_fields, setup_method_args=cls._get_setup_method_args(**setup_args))
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)


@cache
def registered(model: type[InferenceModel]) -> type[Any]:
    """The model of the same name that scvi-tools knows, to be a name of ``_classes.py``: pickles find it there."""
    own = {"__doc__": model.__doc__, "__module__": "scfoundry.model._classes", "__qualname__": model.__qualname__}
    make: Any = type(FoundationModel)
    return make(model.__name__, (model, FoundationModel), own)
