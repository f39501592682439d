"""`save` and `load` of scvi-tools without pickles: attributes as JSON, tensors and arrays as safetensors."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from anndata import read_h5ad
from scvi.model._utils import parse_device_args
from scvi.model.base import BaseModelClass
from scvi.model.base._save_load import _validate_var_names

from scfoundry._settings import logger
from scfoundry.model._folder import CHECKSUMS
from scfoundry.nn.checkpoint import (
    CheckpointError,
    account_for,
    plain_file,
    read_json,
    read_safetensors,
    sha256,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anndata import AnnData
    from torch import Tensor


__all__ = ["SavesPlainly"]

VALUES_FILE, TENSORS_FILE, ADATA_FILE, PICKLE_FILE = "model.json", "model.safetensors", "adata.h5ad", "model.pt"
# How values that JSON has no word for stand in it; tensors are called so in their file.
ARRAY, FRAME, TENSOR = "array", "frame", "tensor"
STATE, ATTRIBUTES = "state.", "attributes."
# What `load` makes anew.
BUILT_FROM = ("registry_", "init_params_", "var_names")
# Arguments of a class that no file gives.
GIVEN = {"adata", "registry"}


class SavesPlainly(BaseModelClass):
    """A model of scvi-tools whose `save` writes, and whose `load` reads, plain values."""

    description_: dict[str, Any]
    module: Any
    _config_cls: ClassVar[Any]
    _filled: ClassVar[Callable[..., Any]]

    def save(
        self,
        dir_path: str | Path,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        save_kwargs: dict[str, Any] | None = None,
        legacy_mudata_format: bool = False,
        datamodule: Any = None,
        **anndata_write_kwargs: Any,
    ) -> None:
        """Save the model with its registration and history, for `load`; without the state of its training.

        Writes ``model.json`` and ``model.safetensors``: nothing in them is ever run.

        Parameters
        ----------
        dir_path
            Folder, which must not exist.
        prefix
            Put before the names of files.
        overwrite
            Write to a folder that exists.
        save_anndata
            Write the training data, too.
        save_kwargs, legacy_mudata_format, datamodule
            Of scvi-tools, without effect.
        **anndata_write_kwargs
            Arguments of `anndata.AnnData.write_h5ad`.

        Raises
        ------
        ValueError
            If the folder exists, or there are no data to write.
        """
        folder, prefix = Path(dir_path), prefix or ""
        if folder.exists() and not overwrite:
            msg = f"{folder} exists. Write to another folder, or replace what is there: save(..., overwrite=True)."
            raise ValueError(msg)
        if save_anndata and self.adata is None:
            msg = "This model was loaded without data. Leave them out: save_anndata=False."
            raise ValueError(msg)
        attributes = {name: value for name, value in self._get_user_attributes() if name.endswith("_")}
        attributes["var_names"] = self.get_var_names()
        tensors = {f"{STATE}{name}": value.detach().cpu() for name, value in self.module.state_dict().items()}
        values = {name: _packed(value, f"{ATTRIBUTES}{name}", tensors) for name, value in attributes.items()}
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".saving-") as place:
            unfinished = Path(place)
            from safetensors.torch import save_file

            save_file({name: value.contiguous().clone() for name, value in tensors.items()}, unfinished / TENSORS_FILE)
            if save_anndata:
                self.adata.write_h5ad(unfinished / ADATA_FILE, **anndata_write_kwargs)
            values[CHECKSUMS] = {path.name: sha256(path) for path in sorted(unfinished.iterdir())}
            (unfinished / VALUES_FILE).write_text(json.dumps(values, allow_nan=False))
            for written in sorted(unfinished.iterdir(), key=lambda path: path.name == VALUES_FILE):
                written.replace(folder / f"{prefix}{written.name}")

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: AnnData | bool | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
        backup_url: str | None = None,
        datamodule: Any = None,
        allowed_classes_names_list: list[str] | None = None,
    ) -> Self:
        """Load what `save` wrote. Nothing in it is run.

        Parameters
        ----------
        dir_path
            Folder.
        adata
            Data like those of the training, registered anew; those that were saved if `None`; none if `False`.
        accelerator, device
            Where the model is to be, in scvi-tools' words.
        prefix
            As it was saved with.
        backup_url, datamodule
            Of scvi-tools; nothing is downloaded, and there are no data modules.
        allowed_classes_names_list
            Names of other classes whose models may be loaded.

        Raises
        ------
        CheckpointError
            If the files are damaged, belong to another model, or were pickled.
        FileNotFoundError
            If there are none.
        """
        folder, prefix = Path(dir_path), prefix or ""
        attributes, state = _read(folder, prefix, cls)
        registry, arguments = attributes["registry_"], attributes["init_params_"]
        if registry.get("model_name") not in (cls.__name__, *(allowed_classes_names_list or [])):
            msg = (
                f"{folder} holds a {registry.get('model_name')}, not a {cls.__name__}. Load it with its own class: "
                f"sf.model.{registry.get('model_name')}.load({str(folder)!r})."
            )
            raise CheckpointError(msg)
        saved = folder / f"{prefix}{ADATA_FILE}"
        if adata is None and saved.exists():
            adata = _read_data(saved, attributes)
        elif adata is None:
            logger.info("%s holds no data: the model is loaded without. For none: load(..., adata=False).", folder)
        if adata is not None and not isinstance(adata, bool):
            _validate_var_names(adata, attributes["var_names"])
            cls.setup_anndata(adata, source_registry=registry, **registry["setup_args"])
        source = str(folder / f"{prefix}{TENSORS_FILE}")
        model = cls._filled(
            lambda module: account_for(state, module, source=source),
            state.values(),
            source,
            None if isinstance(adata, bool) else adata,
            registry,
            **arguments["non_kwargs"],
            **arguments["kwargs"].get("config", {}),
        )
        for name in attributes.keys() & {name for name, _ in model._get_user_attributes()} - set(BUILT_FROM):
            setattr(model, name, attributes[name])
        device = parse_device_args(accelerator, device, return_device="torch", validate_single_device=True)[2]
        model.to_device(device)
        model.module.eval()
        return model

    @staticmethod
    def load_registry(dir_path: str | Path, prefix: str | None = None) -> dict[str, Any]:
        """Registry of a saved model."""
        values = read_json(Path(dir_path) / f"{prefix or ''}{VALUES_FILE}")
        return _unpacked(values["registry_"], read_safetensors(Path(dir_path) / f"{prefix or ''}{TENSORS_FILE}"))

    @classmethod
    def convert_legacy_save(cls, *args: Any, **kwargs: Any) -> None:
        """Refuse what scvi-tools before 0.15 pickled: no model of this package was ever saved so."""
        msg = (
            f"No {cls.__name__} was saved by scvi-tools before 0.15. For weights: {cls.__name__}.from_pretrained(...)."
        )
        raise ValueError(msg)


def _read(folder: Path, prefix: str, cls: type[SavesPlainly]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Attributes, and the state of the module."""
    values, tensors = folder / f"{prefix}{VALUES_FILE}", folder / f"{prefix}{TENSORS_FILE}"
    if not values.exists() and (pickled := folder / f"{prefix}{PICKLE_FILE}").exists():
        msg = (
            f"{pickled} is pickled: loading it would run what is in it, and it is not loaded for safety. If you trust "
            "where it is from, convert it: from scvi.model.base import BaseModelClass; "
            f"BaseModelClass.load.__func__(sf.model.{cls.__name__}, {str(folder)!r}, adata=False).save({'converted'!r})"
        )
        raise CheckpointError(msg)
    if missing := [path.name for path in (values, tensors) if not path.exists()]:
        msg = f"{folder} lacks {', '.join(missing)}: it was not written by {cls.__name__}.save."
        raise FileNotFoundError(msg)
    stored = read_safetensors(tensors)
    try:
        attributes = {name: _unpacked(value, stored) for name, value in read_json(values).items()}
        registry, arguments, _ = (attributes[name] for name in BUILT_FROM)
        named = {**arguments["non_kwargs"], **arguments["kwargs"]}
        plain = isinstance(registry, dict) and named.keys() <= inspect.signature(cls).parameters.keys() - GIVEN
        cls._config_cls.from_dict(arguments["kwargs"].get("config", {}))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        msg = f"{values} is damaged ({error}). Save the model again."
        raise CheckpointError(msg) from error
    if not plain:
        msg = f"{values} does not describe a model. Save it again."
        raise CheckpointError(msg)
    _require_unchanged(tensors, attributes, TENSORS_FILE)
    return attributes, {name.removeprefix(STATE): t for name, t in stored.items() if name.startswith(STATE)}


def _read_data(path: Path, attributes: Mapping[str, Any]) -> AnnData:
    """Data that were saved with a model."""
    _require_unchanged(plain_file(path), attributes, ADATA_FILE)
    try:
        return read_h5ad(path)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        msg = (
            f"{path} is damaged: no AnnData can be read from it ({error}). Save the model again, or load it without "
            "data: load(..., adata=False)."
        )
        raise CheckpointError(msg) from error


def _require_unchanged(path: Path, attributes: Mapping[str, Any], name: str) -> None:
    """CheckpointError: if a file is not the one that was saved; older models do not say which it was."""
    noted = (attributes.get(CHECKSUMS) or {}).get(name)
    if noted is not None and noted != sha256(path):
        msg = f"{path} changed after the model was saved: damaged, or of another model. Save the model again."
        raise CheckpointError(msg)


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A value in the words of JSON; numbers of arrays go to ``tensors``, by their place."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_packed(part, f"{name}.{i}", tensors) for i, part in enumerate(value)]
    if isinstance(value, dict):
        return {str(key): _packed(part, f"{name}.{key}", tensors) for key, part in value.items()}
    if isinstance(value, pd.DataFrame):
        columns = {column: _packed(value[column].to_numpy(), f"{name}.{column}", tensors) for column in value}
        index = _packed(value.index.to_numpy(), f"{name}.index", tensors)
        return {FRAME: {"columns": columns, "index": index, "name": value.index.name}}
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().cpu()
        return {TENSOR: name}
    array = np.asarray(value)
    if array.dtype.kind in "fiub":
        tensors[name] = torch.from_numpy(np.array(array))
        return {ARRAY: name}
    return {ARRAY: [_packed(part, name, tensors) for part in array.tolist()]}


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {ARRAY}:
        content = value[ARRAY]
        return tensors[content].numpy().copy() if isinstance(content, str) else np.array(content, dtype=object)
    if value.keys() == {TENSOR}:
        return tensors[value[TENSOR]].clone()
    if value.keys() == {FRAME}:
        parts = {name: _unpacked(part, tensors) for name, part in value[FRAME].items()}
        return pd.DataFrame(parts["columns"], index=pd.Index(parts["index"], name=parts["name"]))
    return {name: _unpacked(part, tensors) for name, part in value.items()}
