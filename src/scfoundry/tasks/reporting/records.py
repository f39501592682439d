"""What verbs wrote into ``uns``, as a page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scfoundry._keys import Keys

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Result", "results_of"]

# Of a list among the arguments, so many are shown.
N_SHOWN = 6


@dataclass(frozen=True)
class Result:
    """One result: the key it stands under, which function wrote it, with which weights, from which values and genes."""

    key: str
    verb: str
    units: str
    origin: Mapping[str, Any]
    params: Mapping[str, Any]
    warning: str

    @property
    def weights(self) -> str:
        """Name of the weights; "without a model" where there were none."""
        return str(self.origin.get("weights") or self.origin.get("model", ""))

    @property
    def read(self) -> str:
        """Values and genes that were read, in a sentence; empty where nothing is recorded."""
        genes = self.origin.get("genes")
        if not isinstance(genes, Mapping) or "n_kept" not in genes:
            return str(self.origin.get("values", ""))
        routes = ", ".join(f"{route} {int(n):,}" for route, n in genes.get("routes", {}).items())
        known = f"{int(genes['n_kept']):,} of {int(genes['n_input']):,} genes known"
        return f"{self.origin.get('values', 'values')}; {known}{routes and f' ({routes})'}"

    @property
    def arguments(self) -> dict[str, str]:
        """Arguments of the call, sorted by name, each in one line."""
        return {name: _line(value) for name, value in sorted(self.params.items())}


def results_of(adata: AnnData) -> list[Result]:
    """Results of all verbs, sorted by key, as files keep them; of other packages' entries none."""
    return [
        Result(
            key=key,
            verb=str(entry.get(Keys.VERB, "")),
            units=str(entry.get(Keys.UNITS, "")),
            origin=entry.get(Keys.PROVENANCE, {}),
            params=entry.get(Keys.PARAMS, {}),
            warning=str(entry.get(Keys.WARNING, "")),
        )
        for key, entry in sorted(adata.uns.items(), key=lambda item: item[0])
        if isinstance(entry, Mapping) and (Keys.PROVENANCE in entry or str(entry.get(Keys.VERB)).startswith("sf."))
    ]


def _line(value: Any) -> str:
    """A value in a line, of long lists the first few."""
    if isinstance(value, np.ndarray | list | tuple):
        few = ", ".join(map(str, list(value)[:N_SHOWN]))
        return f"{few}, ... ({len(value):,})" if len(value) > N_SHOWN else few
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_line(inner)}" for name, inner in list(value.items())[:N_SHOWN])
    return str(value)
