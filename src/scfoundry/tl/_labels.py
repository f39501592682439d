"""From the texts that a user gives to labels with terms, prompts and markers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd

from scfoundry._arguments import quoted
from scfoundry._keys import Keys
from scfoundry._settings import logger
from scfoundry.data.genes.match import match
from scfoundry.data.genes.names import as_names
from scfoundry.data.labels import Label
from scfoundry.data.labels.identities import IDENTITIES
from scfoundry.data.labels.ontology import CellOntology

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.labels.ontology import Match

__all__ = [
    "Markers",
    "Texts",
    "as_table",
    "classes_of",
    "labels_of",
    "markers_of",
    "meaning_of",
    "with_markers",
    "with_prompts",
]

Texts: TypeAlias = Iterable[str] | Mapping[str, str | Sequence[str]] | pd.Series | pd.DataFrame
Markers: TypeAlias = Mapping[str, Sequence[str]]

IDENTITY_PREFIXES = tuple(f"{kind}: " for kind in IDENTITIES)
CELL_TYPE = "cell type: "
END_OF_NAME = re.compile(r"\.(?:\s|$)")


def labels_of(texts: Texts, *, caller: str) -> tuple[Label, ...]:
    """Labels as given (see `sf.tl.zero_shot_annotate`), each with its text and the term it stands for.

    Raises
    ------
    ValueError
        If there is no text, a text is no string or says nothing, or two labels are the same by name, term or text.
    """
    given = _by_label(texts, caller)
    if not given:
        msg = f'{caller} needs at least one text and got none: {caller}(adata, ["B cell", "monocyte"]).'
        raise ValueError(msg)
    if silent := [label for label, own in given if own == () and isinstance(texts, Mapping)]:
        msg = (
            f"{caller}: there is no text for {silent[0]!r}. Give one, or pass labels without texts: texts=list(texts)."
        )
        raise ValueError(msg)
    for label, own in given:
        if wrong := [text for text in (label, *own) if not isinstance(text, str) or not text.strip()]:
            msg = f"{caller}: labels and texts must be strings that say something; got {wrong[0]!r} for {label!r}."
            raise ValueError(msg)
    names = pd.Index([label for label, _ in given])
    if not names.is_unique:
        repeated = quoted(names[names.duplicated()].unique())
        once = "texts[~texts.index.duplicated()]" if isinstance(texts, pd.DataFrame) else "list(dict.fromkeys(texts))"
        msg = f"{caller} got {repeated} more than once. Give every label once: texts={once}."
        raise ValueError(msg)
    if Keys.UNKNOWN in names:
        msg = (
            f"{caller}: {Keys.UNKNOWN!r} is what cells are called that no text fits, and cannot be a label as well. "
            f'Leave it out: texts=[text for text in texts if text != "{Keys.UNKNOWN}"].'
        )
        raise ValueError(msg)
    labels = tuple(_label(label, own) for label, own in given)
    _check_meanings(labels, caller)
    return labels


def _by_label(texts: Texts | None, caller: str) -> list[tuple[str, tuple[str, ...]]]:
    """Every label, and the texts that the user brings for it, if any."""
    if texts is None:
        return []
    if isinstance(texts, str):
        msg = f"{caller} chooses between several texts; got one string. Pass a list: texts=[{texts!r}, ...]."
        raise ValueError(msg)
    if isinstance(texts, pd.DataFrame):
        if "text" not in texts:
            columns = quoted(texts.columns)
            msg = (
                f"{caller}: a table of texts needs a column 'text', as sf.tl.describe gives it; got {columns}. Or pass "
                "a list of labels."
            )
            raise ValueError(msg)
        # Several texts stand one per line, as `as_table` writes them.
        return [
            (label, tuple(text.splitlines()) if isinstance(text, str) and text.strip() else (text,))
            for label, text in texts["text"].items()
        ]
    # A column of obs may be called text as well, but is indexed by cells.
    if isinstance(texts, pd.Series) and (texts.name, texts.index.name) == ("text", "label"):
        return [(label, (text,)) for label, text in texts.items()]
    if isinstance(texts, pd.Series | pd.Categorical):
        return [(label, ()) for label in pd.Categorical(texts).remove_unused_categories().categories]
    if isinstance(texts, Mapping):
        return [
            (label, tuple(own) if isinstance(own, Sequence) and not isinstance(own, str) else (own,))
            for label, own in texts.items()
        ]
    return [(label, ()) for label in texts]


def _label(name: str, own: tuple[str, ...]) -> Label:
    if not own and name.startswith(IDENTITY_PREFIXES):
        own = (name,)
    if own and own[0].startswith(IDENTITY_PREFIXES) and not own[0].startswith(CELL_TYPE):
        return Label(name, own)
    found = meaning_of(name, own)
    text = f"{CELL_TYPE}{name}." if found is None else CellOntology.load().text(found.term)
    return Label(name, own or (text,), None if found is None else found.term.id)


def meaning_of(name: str, own: Sequence[str]) -> Match | None:
    """Term of a label: the one that its own texts name, else the one that it names itself."""
    ontology = CellOntology.load()
    for text in own:
        found = ontology.match(END_OF_NAME.split(text.removeprefix(CELL_TYPE), maxsplit=1)[0])
        # A sentence that mentions a type among other words does not name it.
        if found is not None and (text.startswith(CELL_TYPE) or found.route != "broader"):
            return found
    return ontology.match(name)


def classes_of(names: Sequence[str]) -> tuple[Label, ...]:
    """Labels of a reference, in the order of their names; those of one meaning are read by their names."""
    labels = [_label(name, ()) for name in sorted(names)]
    times = Counter(label.texts for label in labels)
    return tuple(
        replace(label, texts=(f"{CELL_TYPE}{label.name}.",)) if times[label.texts] > 1 else label for label in labels
    )


def _check_meanings(labels: Sequence[Label], caller: str) -> None:
    """Refuse labels with the same text; those that share a term have but their texts to set them apart."""
    first: dict[tuple[str, ...], Label] = {}
    for label in labels:
        other = first.setdefault(label.texts, label)
        if other is label:
            continue
        if label.term is None or label.term != other.term:
            msg = f"{caller}: {other.name!r} and {label.name!r} have the same text. Give each its own, or keep one."
        else:
            term = CellOntology.load()[label.term]
            msg = (
                f"{caller}: {other.name!r} and {label.name!r} both stand for {term.name!r} ({term.id}), so no text "
                f"tells them apart. Keep one, or give texts of your own: "
                f'texts={{"{other.name}": "cell type: ...", "{label.name}": "cell type: ..."}}.'
            )
        raise ValueError(msg)
    named = Counter(label.term for label in labels if label.term is not None)
    for term_id in (term_id for term_id, n_labels in named.items() if n_labels > 1):
        alike = [repr(label.name) for label in labels if label.term == term_id]
        logger.warning(
            "%s: %s stand for %r (%s); only the wording of their texts tells them apart.",
            caller,
            " and ".join(alike) + " both" if len(alike) == 2 else ", ".join(alike) + " all",
            CellOntology.load()[term_id].name,
            term_id,
        )


def with_prompts(labels: Sequence[Label], model: Any) -> tuple[Label, ...]:
    """Further texts (name, synonyms, parents) for labels read by the text of their term, if the model averages them."""
    from scfoundry.model._capabilities import ReadsTexts, can

    if not can(model, ReadsTexts) or not model.averages_prompts:
        return tuple(labels)
    ontology = CellOntology.load()
    prompted = []
    for label in labels:
        texts = label.texts
        if label.term is not None and texts == (ontology.text(ontology[label.term]),):
            found = ontology.match(label.name)
            # What the label says beyond its term is worth reading too.
            more = found is not None and (found.term.id, found.route) == (label.term, "broader")
            beyond = (f"{CELL_TYPE}{label.name}.",) if more else ()
            texts = tuple(dict.fromkeys((*texts, *ontology.prompts(ontology[label.term]), *beyond)))
        prompted.append(replace(label, texts=texts))
    return tuple(prompted)


def markers_of(texts: Texts, markers: Markers | None) -> Markers:
    """Markers by label: those that a table of texts holds, as `as_table` writes it, and those given with it."""
    held = texts["markers"].items() if isinstance(texts, pd.DataFrame) and "markers" in texts else ()
    return {label: genes.split(",") for label, genes in held if isinstance(genes, str) and genes} | dict(markers or {})


def with_markers(
    labels: Sequence[Label], markers: Markers, *, genes: GeneVocabulary, measured: NDArray[np.integer], caller: str
) -> tuple[Label, ...]:
    """The user's markers, as ids of the genes that both the model and the data (vocabulary positions) have.

    Raises
    ------
    ValueError
        If markers are given for something that is no label, not as a list, or none of a label's is known.
    """
    if unknown := [name for name in markers if name not in {label.name for label in labels}]:
        msg = (
            f"{caller}: there are markers for {quoted(unknown)}, but no such label; the labels: "
            f"{quoted(label.name for label in labels)}. Spell them as in texts."
        )
        raise ValueError(msg)
    present = set(genes.ids[measured])
    return tuple(
        replace(label, markers=_known(label.name, markers[label.name], genes, present, caller))
        if label.name in markers
        else label
        for label in labels
    )


def _known(
    label: str, markers: Sequence[str], genes: GeneVocabulary, present: set[str], caller: str
) -> tuple[str, ...]:
    if isinstance(markers, str):
        msg = f'{caller}: the markers of {label!r} must be a list of genes: markers={{"{label}": ["{markers}"]}}.'
        raise ValueError(msg)
    found = match(genes.index, as_names(markers))
    ids = dict.fromkeys(genes.ids[found.target[found.kept]].tolist())
    known = tuple(gene for gene in ids if gene in present)
    if not known:
        msg = (
            f"{caller}: none of the markers of {label!r} ({', '.join(markers)}) is a gene that both the model and "
            "adata have. Give human gene symbols or Ensembl ids of genes in adata.var_names."
        )
        raise ValueError(msg)
    if missing := len(markers) - len(known):
        logger.warning("%s: %d of %d markers of %r are not in model and data.", caller, missing, len(markers), label)
    return known


def as_table(labels: Sequence[Label]) -> pd.DataFrame:
    """Labels as a table that AnnData writes to disk: several texts one per line, several genes with commas."""
    rows = [
        ("\n".join(" ".join(text.splitlines()) for text in label.texts), label.term or "", ",".join(label.markers))
        for label in labels
    ]
    index = pd.Index([label.name for label in labels], name="label")
    return pd.DataFrame(rows, columns=["text", "ontology_id", "markers"], index=index)
