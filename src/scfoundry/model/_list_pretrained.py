"""All weights that have a name, as a table."""

from __future__ import annotations

import pandas as pd

from scfoundry.model._load import class_of_model
from scfoundry.model._pretrained import REGISTRY, is_available
from scfoundry.model._verbs import verbs_of_class

__all__ = ["list_pretrained"]

COLUMNS = ["model", "parameters", "megabytes", "licence", "source", "trained_on", "citation"]


def list_pretrained() -> pd.DataFrame:
    """All weights that can be loaded by name.

    Returns
    -------
    One row per set of weights, indexed by name: model, parameters, megabytes, licence, source (``"shipped"`` with the
    package, or the page where its files are to be fetched by hand), trained_on, citation, the functions of `sf.tl` that
    it serves (``verbs``), and whether the files are on this machine (``available``).

    Examples
    --------
    >>> import scfoundry as sf
    >>> weights = sf.model.list_pretrained()
    >>> weights[["model", "parameters", "licence"]]
    >>> weights[weights["verbs"].str.contains("zero_shot_annotate")].index.tolist()
    """
    verbs = {model: verbs_of_class(class_of_model(model)) for model in {w.model for w in REGISTRY.values()}}
    rows = [
        {"name": weights.name}
        | {column: getattr(weights, column) for column in COLUMNS}
        | {
            "verbs": ", ".join(verb for verb in verbs[weights.model] if verb not in weights.lacks),
            "available": is_available(weights),
        }
        for weights in REGISTRY.values()
    ]
    return pd.DataFrame(rows).set_index("name")
