"""Texts for labels: what a text encoder reads for "NK" or "CD14+ Mono"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from scfoundry._arguments import checks_arguments, quoted
from scfoundry._settings import logger
from scfoundry.data.labels.identities import IDENTITIES, find_identity
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.tl._labels import meaning_of

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["describe"]

COLUMNS = ["ontology_id", "name", "text", "route"]
FREE_TEXT, GIVEN = "free text", "given"


@checks_arguments
def describe(
    labels: Iterable[str] | Mapping[str, str] | pd.Series | pd.Categorical, *, kind: str = "cell type"
) -> pd.DataFrame:
    """Resolve labels to ontology terms and to the texts that models read.

    The text of a cell type is ``cell type: {name}. {definition}``. Labels are recognised in any case, number, word
    order and spelling of markers, as are the ids and common short forms of the field. What is not surely a term stays
    as it is.

    Parameters
    ----------
    labels
        Labels, or a column of ``obs``, of which every value counts once. With a dictionary, the texts are your own; a
        term that such a text names (``"cell type: monocyte. ..."``) counts before that of the label.
    kind
        What the labels name: ``"cell type"``, ``"assay"``, ``"development stage"``, ``"disease"``, ``"ethnicity"``,
        ``"sex"``, ``"tissue"``, ``"tissue general"``. All but cell types need the extra ``scfoundry-models[ontology]``.

    Returns
    -------
    One row per label: ``ontology_id`` (empty where there is none), ``name`` of the term (the label itself where there
    is none), ``text`` and ``route``, how the term was found: ``"id"``, ``"name"``, ``"alias"``, ``"synonym"``,
    ``"broader"`` (the label says more than the term), ``"free text"`` (no term) or ``"given"`` (your own text). Labels
    with the same meaning get the same term.

    Raises
    ------
    ValueError
        If there is no label, a label or text is not a string or empty, or the kind is unknown.
    ImportError
        If labels other than cell types are asked for without the extra.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.tl.describe(["CD14+ Monocytes", "NK"])["name"].tolist()
    ['CD14-positive monocyte', 'natural killer cell']
    >>> sf.tl.describe({"my cells": "cell type: a cell that I know. It makes insulin."}).loc["my cells", "route"]
    'given'
    """
    if kind not in IDENTITIES:
        msg = f"kind must be one of {', '.join(IDENTITIES)}; got {kind!r}. Pass one of them: kind=..."
        raise ValueError(msg)
    given = dict(labels) if isinstance(labels, Mapping) else {}
    names = _checked(labels, given)
    rows = [_resolved(label, kind, given.get(label)) for label in names]
    table = pd.DataFrame(rows, columns=COLUMNS, index=pd.Index(names, name="label", dtype=object))
    if len(unknown := table.index[table["route"] == FREE_TEXT]):
        logger.warning(
            "sf.tl.describe: no ontology term for %s; their text is the label itself. Give an id or your own text: "
            'sf.tl.describe({"%s": "%s: ..."}).',
            quoted(unknown),
            unknown[0],
            kind,
        )
    return table


def _checked(labels: Iterable[str] | Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    """Labels in order; those of a column once each, sorted, so that the order of cells does not matter."""
    if isinstance(labels, str):
        msg = f"labels must be several; for one label write sf.tl.describe([{labels!r}])."
        raise ValueError(msg)
    if isinstance(labels, pd.Series | pd.Categorical):
        names = list(pd.Categorical(labels).remove_unused_categories().categories)
    else:
        names = list(labels)
    if not names:
        msg = 'There is no label to describe. Give names of cell types: sf.tl.describe(["B cell", "monocyte"]).'
        raise ValueError(msg)
    for what, values in (("label", names), ("text", list(given.values()))):
        if wrong := [value for value in values if not isinstance(value, str) or not value.strip()]:
            msg = f"Every {what} must be a string that says something; got {wrong[0]!r}. Leave it out."
            raise ValueError(msg)
    return names


def _resolved(label: str, kind: str, own: str | None) -> tuple[str, str, str, str]:
    """Id, name, text and route of a label; a text of the user's own takes the place of the term's."""
    identifier, name, text, route = "", label, f"{kind}: {label}.", FREE_TEXT
    if kind == "cell type":
        if match := meaning_of(label, () if own is None else (own,)):
            identifier, name, route = match.term.id, match.term.name, match.route
            text = CellOntology.load().text(match.term)
    elif term := find_identity(kind, label):
        identifier, name, route = term.id, term.name, term.route
        text = f"{kind}: {term.name}. {term.definition}".rstrip()
    return (identifier, name, text, route) if own is None else (identifier, name, own, GIVEN)
