"""Load weights of any model: which class reads them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from scfoundry._arguments import checks_arguments
from scfoundry.model._pretrained import DEFAULTS, REGISTRY, locate
from scfoundry.nn.checkpoint import read_json

if TYPE_CHECKING:
    from pathlib import Path

    from scfoundry.model._base import InferenceModel
    from scfoundry.model._foundation import FoundationModel

__all__ = ["class_of_model", "load_pretrained", "load_weights"]

# Model, which is also the name of its folder -> class.
CLASSES = {
    "cellplm": "CellPLM",
    "langcell": "LangCell",
    "cellnamer": "CellNamer",
    "celler": "Celler",
    "celllm": "CellLM",
    "scpalm": "ScPaLM",
}


@checks_arguments
def load_pretrained(source: str | Path) -> FoundationModel:
    """Load weights of any model.

    Parameters
    ----------
    source
        A model (``"cellplm"``: its default weights), a name of `list_pretrained`, or a folder.

    Returns
    -------
    The model on the CPU, in evaluation mode.

    Raises
    ------
    FileNotFoundError
        If there are no such weights, or their files have to be downloaded by hand; the message says from where.

    Examples
    --------
    >>> import scfoundry as sf
    >>> model = sf.model.load_pretrained("cellplm")
    """
    from scfoundry.model._foundation import registered

    return registered(class_of(source)).from_pretrained(source)


def load_weights(source: str | Path) -> InferenceModel:
    """Load weights as `load_pretrained` does, for inference: scvi-tools stays out of it."""
    return class_of(source).from_pretrained(source)


def class_of(source: str | Path) -> type[InferenceModel]:
    """Class that reads weights, without training data."""
    folder = locate(source)
    name = DEFAULTS.get(str(source), str(source))
    model = REGISTRY[name].model if name in REGISTRY else _model_of(folder)
    return class_of_model(model)


def class_of_model(model: str) -> type[InferenceModel]:
    """Class of a model, without training data."""
    return getattr(importlib.import_module(f"scfoundry.model.{model}._model"), CLASSES[model])


def _model_of(folder: Path) -> str:
    """Model whose weights a folder holds."""
    config = folder / "config.json"
    model = read_json(config).get("model") if config.exists() else None
    if isinstance(model, str) and model in CLASSES:
        return model
    released = [name for name in CLASSES if class_of_model(name)._is_release(folder)]
    if not released:
        msg = (
            f"{folder} does not say which model it holds. Name the class: "
            f"sf.model.CellPLM.from_pretrained({str(folder)!r})."
        )
        raise FileNotFoundError(msg)
    return released[0]
