"""Model cards: texts by hand, with a table of the training data made from the manifest of the corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["data_table", "filled"]


def data_table(manifest: Sequence[Mapping[str, Any]]) -> str:
    """A row per file in Markdown."""
    head = "| file | tissue | values | cells | labelled | licence of the source |\n|---|---|---|---|---|---|"
    rows = (
        f"| `{entry['file'].removesuffix('.h5ad')}` | {entry['tissue']} | {entry['values']} | {entry['cells']:,} "
        f"| {entry['labelled']:,} | {entry['licence']} |"
        for entry in manifest
    )
    return "\n".join([head, *rows])


def filled(card: Path, manifest: Sequence[Mapping[str, Any]]) -> str:
    """Text of a card, with the table in the place of ``{data}``."""
    return card.read_text().replace("{data}", data_table(manifest))
