"""The description of a cell from its metadata: eight identities in a fixed order (Zhao et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scfoundry._arguments import checks_arguments
from scfoundry._compat import obs_column
from scfoundry._keys import Keys
from scfoundry._settings import logger
from scfoundry.data.labels.identities import IDENTITIES, find_identity, has_ontologies
from scfoundry.data.labels.ontology import CellOntology
from scfoundry.data.modality import modality_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

__all__ = ["describe_cells"]

# CELLxGENE names; `ethnicity` is that of its first schemas.
_COLUMNS = {
    identity: ("self_reported_ethnicity", "ethnicity") if identity == "ethnicity" else (identity.replace(" ", "_"),)
    for identity in IDENTITIES
}
_TERM_ID = "_ontology_term_id"
_UNKNOWN = frozenset(
    {"", "n/a", "na", "nan", "none", "not applicable", "not available", "unassigned", "unknown", "unspecified"}
)


@checks_arguments
def describe_cells(
    adata: AnnData | MuData,
    columns: Mapping[str, str] | None = None,
    *,
    definitions: bool = True,
    modality: str = Keys.RNA,
) -> pd.Series:
    """Describe every cell in words, from its metadata.

    The description has up to eight parts, ``{identity}: {name}. {definition}``, joined by ``;`` in this order: assay,
    cell type, development stage, disease, ethnicity, sex, tissue, tissue general. What is missing or unknown is left
    out.

    Cell types are found in the Cell Ontology, which ships with the package. The terms of the other identities need the
    extra ``scfoundry-models[ontology]``; without it they stay as written and have no definition, so that the same data
    give other texts on another machine. Train and annotate with the extra, or without it.

    Parameters
    ----------
    adata
        Cells with metadata in ``obs``. It is only read.
    columns
        Column of ``obs`` by identity, ``{"cell type": "annotation", "tissue": "organ"}``. If `None`, the columns that
        CELLxGENE names: ``assay``, ``cell_type``, ``development_stage``, ``disease``, ``self_reported_ethnicity``,
        ``sex``, ``tissue``, ``tissue_general``. Ids in ``{column}_ontology_term_id`` count before the labels.
    definitions
        Whether to add definitions: of cell types always, of the others where the extra is installed. Assays have none.
    modality
        Modality of a `MuData`, whose own ``obs`` is read.

    Returns
    -------
    Text of every cell, categorical, indexed like ``obs``; empty for a cell of which nothing is known.

    Raises
    ------
    ValueError
        If an identity is not one of the eight, ``obs`` has none of the columns, or a `MuData` no such modality.

    References
    ----------
    Zhao S. et al. LangCell: Language-Cell Pre-training for Cell Identity Understanding. ICML 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from anndata import AnnData
    >>> import scfoundry as sf
    >>> adata = AnnData(np.ones((2, 1)))
    >>> adata.obs["cell_type"] = ["NK", "unknown"]
    >>> adata.obs["sex"] = ["female", "male"]
    >>> sf.tl.describe_cells(adata, definitions=False).tolist()
    ['cell type: natural killer cell. ; sex: female.', 'sex: male.']
    """
    adata = modality_of(adata, modality)
    columns = _checked(adata, columns)
    if (others := [identity for identity in columns if identity != "cell type"]) and not has_ontologies():
        logger.info(
            "sf.tl.describe_cells: without the extra scfoundry-models[ontology], %s stay as written and undefined; "
            "with it, the texts differ. For all terms: pip install 'scfoundry-models[ontology]'.",
            ", ".join(others),
        )
    parts = {identity: _parts(adata, identity, column, definitions) for identity, column in columns.items()}
    frame = pd.DataFrame({identity: codes for identity, (codes, _) in parts.items()})
    combination = frame.groupby(list(frame), sort=False).ngroup().to_numpy()
    texts = [
        " ; ".join(filter(None, (parts[identity][1][code] for identity, code in zip(frame, row, strict=True))))
        for row in frame.drop_duplicates().itertuples(index=False, name=None)
    ]
    of_text, distinct = pd.factorize(np.array(texts, dtype=object))
    described = pd.Categorical.from_codes(of_text[combination], categories=distinct)
    return pd.Series(described, index=adata.obs_names, name="text")


def _checked(adata: AnnData, columns: Mapping[str, str] | None) -> dict[str, str]:
    """Column of every identity, in the order of the description."""
    present = ", ".join(map(str, adata.obs.columns)) or "no columns"
    if columns is None:
        found = {identity: [name for name in names if name in adata.obs] for identity, names in _COLUMNS.items()}
        columns = {identity: names[0] for identity, names in found.items() if names}
        if not columns:
            msg = (
                f"adata.obs has none of the columns that describe a cell; it has {present}. Name them: "
                'sf.tl.describe_cells(adata, {"cell type": "your_column"}).'
            )
            raise ValueError(msg)
    if strange := sorted(set(columns).difference(IDENTITIES)):
        msg = f"{strange[0]!r} is no identity of a cell; the keys of columns must be among {', '.join(IDENTITIES)}."
        raise ValueError(msg)
    absent = sorted(column for column in columns.values() if column not in adata.obs)
    if absent or not columns:
        wanted = f"{absent[0]!r}" if absent else "any of the columns asked for"
        msg = f"adata.obs has no column {wanted}; it has {present}. Name one of these."
        raise ValueError(msg)
    return {identity: columns[identity] for identity in IDENTITIES if identity in columns}


def _parts(adata: AnnData, identity: str, column: str, definitions: bool) -> tuple[NDArray[np.int64], list[str]]:
    """Part of the description by pair of label and id, and the pair of every cell."""
    label_of, labels = _known(obs_column(adata, column))
    ids_column = f"{column}{_TERM_ID}"
    id_of, ids = _known(obs_column(adata, ids_column)) if ids_column in adata.obs else (np.zeros_like(label_of), [""])
    pairs, pair_of = np.unique(label_of * len(ids) + id_of, return_inverse=True)
    found = [_part(identity, labels[pair // len(ids)], ids[pair % len(ids)], definitions=definitions) for pair in pairs]
    return pair_of, found


def _known(column: pd.Series) -> tuple[NDArray[np.int64], list[str]]:
    """Value of every cell as a code, and the values, empty where unknown."""
    codes, values = pd.factorize(column, use_na_sentinel=True)
    spelled = [str(value).strip() for value in values]
    known = ["" if value.lower() in _UNKNOWN else value for value in spelled]
    return np.where(codes < 0, len(known), codes), [*known, ""]


def _part(identity: str, label: str, identifier: str, *, definitions: bool) -> str:
    """Part of the description; an id counts before its label, and free text stays as it is."""
    terms = (_term(identity, asked) for asked in (identifier, label) if asked)
    name, definition = next(filter(None, terms), (label, ""))
    text = f"{identity}: {name}. {definition if definitions and identity != 'assay' else ''}"
    return text.rstrip() if name else ""


def _term(identity: str, label: str) -> tuple[str, str] | None:
    """Name and definition of a label or id."""
    if identity == "cell type":
        term = CellOntology.load().resolve(label)
        return None if term is None else (term.name, term.definition)
    found = find_identity(identity, label) if has_ontologies() else None
    return None if found is None else (found.name, found.definition)
