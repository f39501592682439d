"""Responses, structures and further tables as users give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scfoundry._arguments import quoted, require_column
from scfoundry._compat import data_frame, obs_column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["further_tables", "responses_of", "smiles_of", "tissues_of"]


def table_of(adata: AnnData, key: str, what: str) -> pd.DataFrame:
    """A table in ``obsm``, columns named. ValueError: if there is none."""
    if key not in adata.obsm:
        msg = f"adata.obsm has no {key!r}; it has {quoted(adata.obsm.keys())}. Pass one of them, or a table, as {what}."
        raise ValueError(msg)
    values = data_frame(adata.obsm[key])
    if isinstance(values, pd.DataFrame):
        return values.rename(columns=str).set_axis(adata.obs_names)
    array = np.asarray(values.todense() if hasattr(values, "todense") else values)
    return pd.DataFrame(array, index=adata.obs_names, columns=[f"{key}{i}" for i in range(array.shape[1])])


def responses_of(adata: AnnData, response: pd.DataFrame | str) -> pd.DataFrame:
    """Responses of the lines of an AnnData, in their order, NaN where not measured.

    ValueError: if lines or drugs repeat, values are infinite or no numbers, or no line is in both.
    """
    table = table_of(adata, response, "response") if isinstance(response, str) else response
    if not isinstance(table, pd.DataFrame):
        msg = (
            f"response must be a key of adata.obsm or a table, lines x drugs; got {type(table).__name__}: "
            "pd.DataFrame(values, index=adata.obs_names, columns=drugs)."
        )
        raise ValueError(msg)
    table = table.rename(index=str, columns=str)
    for axis, what, drop in ((table.index, "line", "index"), (table.columns, "drug", "columns")):
        if not axis.is_unique:
            msg = (
                f"The {what} {axis[axis.duplicated()][0]!r} occurs twice in response. Keep one, for example: "
                f"response = response.loc[{'' if drop == 'index' else ':, '}~response.{drop}.duplicated()]."
            )
            raise ValueError(msg)
    if not adata.obs_names.is_unique:
        msg = "Lines are found by name, and some in adata share one. Make names unique: adata.obs_names_make_unique()."
        raise ValueError(msg)
    try:
        table = table.astype(np.float64)
    except (TypeError, ValueError) as error:
        msg = f"response holds values that are no numbers ({error}). Convert it: response.apply(pd.to_numeric)."
        raise ValueError(msg) from error
    if np.isinf(table.to_numpy()).any():
        msg = "response holds infinite values. Leave them out: response = response.replace([np.inf, -np.inf], np.nan)."
        raise ValueError(msg)
    if not table.index.isin(adata.obs_names).any():
        msg = (
            f"None of the {len(table):,} lines of response is in adata.obs_names: {quoted(table.index, 2)} against "
            f"{quoted(adata.obs_names, 2)}. If the rows are the lines in order: response.set_axis(adata.obs_names)."
        )
        raise ValueError(msg)
    return table.reindex(adata.obs_names.astype(str))


def smiles_of(adata: AnnData, smiles: Mapping[str, str] | pd.Series | pd.DataFrame | str | None) -> dict[str, str]:
    """Structures by name of drug, without empty ones. ValueError: if a drug has two, or there is no such slot."""
    if isinstance(smiles, str):
        if smiles not in adata.uns:
            msg = f"adata.uns has no {smiles!r}; it has {quoted(adata.uns)}. Pass a mapping: smiles={{drug: text}}."
            raise ValueError(msg)
        smiles = adata.uns[smiles]
    if smiles is None:
        return {}
    if isinstance(smiles, pd.DataFrame):
        if "smiles" not in smiles.columns and smiles.shape[1] != 1:
            msg = (
                f"The table of SMILES has the columns {quoted(smiles.columns)}. Name one 'smiles', drugs being its "
                "index."
            )
            raise ValueError(msg)
        smiles = smiles["smiles"] if "smiles" in smiles.columns else smiles.iloc[:, 0]
    if isinstance(smiles, pd.Series):
        if not smiles.index.is_unique:
            twice = smiles.index[smiles.index.duplicated()][0]
            msg = f"The drug {twice!r} has two SMILES. Keep one: smiles = smiles[~smiles.index.duplicated()]."
            raise ValueError(msg)
        smiles = smiles.to_dict()
    if not isinstance(smiles, Mapping):
        msg = f"smiles must be a key of adata.uns or a mapping from drug to text; got {type(smiles).__name__}."
        raise ValueError(msg)
    found = {str(drug): text for drug, text in smiles.items()}
    return {
        drug: text
        for drug, text in found.items()
        if not (pd.isna(text) or (isinstance(text, str) and not text.strip()))
    }


def further_tables(adata: AnnData, features: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Tables of ``obsm`` by name. ValueError: if one is not there, or holds anything but finite numbers."""
    tables = {key: table_of(adata, key, "features") for key in features}
    for key, table in tables.items():
        if not all(pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind) for kind in table.dtypes):
            msg = f"adata.obsm[{key!r}] holds columns that are no numbers. Encode them: pd.get_dummies(table)."
            raise ValueError(msg)
        if not np.isfinite(table.to_numpy(dtype=np.float64)).all():
            msg = f"adata.obsm[{key!r}] holds missing or infinite values. Fill them: table.fillna(table.mean())."
            raise ValueError(msg)
    return tables


def tissues_of(adata: AnnData, key: str | None, split: str) -> pd.Series | None:
    """Tissue of every line. ValueError: if it is needed and not there, or given for nothing."""
    if (key is None) == (split == "cold_tissue"):
        fix = 'tissue_key="tissue"' if key is None else 'split="cold_tissue", or leave tissue_key out'
        msg = f"Tissues are what split='cold_tissue' leaves out, and nothing else does; got split={split!r}: {fix}."
        raise ValueError(msg)
    if key is None:
        return None
    require_column(adata.obs, key, fix="tissue_key")
    tissues = obs_column(adata, key)
    if tissues.isna().any():
        msg = f"Some lines have no tissue in adata.obs[{key!r}]. Drop them: adata = adata[adata.obs[{key!r}].notna()]."
        raise ValueError(msg)
    return tissues.set_axis(adata.obs_names.astype(str))
