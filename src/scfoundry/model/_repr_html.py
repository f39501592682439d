"""A model as a table, as notebooks show it."""

from __future__ import annotations

from html import escape
from typing import Any

from scfoundry.model._verbs import verbs_of

__all__ = ["NotebookMixin"]


class NotebookMixin:
    """A model that notebooks show as a table."""

    def _repr_html_(self) -> str:
        return _html_of(self)


def _html_of(model: Any) -> str:
    """HTML of name, weights, genes, parameters, licence, whether it is trained, and verbs; all texts escaped."""
    described = model.provenance
    n_parameters = sum(values.numel() for values in model.module.parameters())
    otherwise = "on registered data" if model.is_trained_ else "no, random weights"
    rows = {
        "weights": described["weights"],
        "trained": f"on {described['trained_on']}" if described.get("trained_on") else otherwise,
        "genes": f"{len(model.genes):,}",
        "parameters": f"{n_parameters:,}",
        "device": str(next(model.module.parameters()).device),
        "licence": described.get("licence", ""),
        "cite": described["citation"],
        "verbs": ", ".join(f"sf.tl.{verb}" for verb in verbs_of(model)),
    }
    # Colours are the notebook's own, light or dark.
    cell = 'style="text-align: left; vertical-align: top"'
    lines = [
        f"<tr><th {cell}>{escape(name)}</th><td {cell}>{escape(str(value))}</td></tr>"
        for name, value in rows.items()
        if value
    ]
    return f"<table><caption>{escape(type(model).__name__)}</caption><tbody>{''.join(lines)}</tbody></table>"
