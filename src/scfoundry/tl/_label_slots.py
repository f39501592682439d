"""Where labels, their scores and their origin go in an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._keys import Keys

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry.data.reader import CountsReader

__all__ = ["empty_cells", "write_labels"]

CELLS_PER_BLOCK = 8192


def empty_cells(reader: CountsReader) -> NDArray[np.bool_]:
    """Which cells express no gene of the model, (n_obs,)."""
    blocks = reader.blocks(np.arange(reader.n_obs), CELLS_PER_BLOCK)
    return np.concatenate([np.diff(block.indptr) == 0 for block in blocks])


def write_labels(
    adata: AnnData,
    key: str,
    names: list[str],
    *,
    scores: NDArray[np.float32],
    decided: NDArray[np.float32],
    named: NDArray[np.bool_],
    origin: dict[str, Any],
) -> None:
    """Write the best label of every cell, its score, all scores and where they come from.

    Parameters
    ----------
    adata
        Where to.
    key
        Name of the results.
    names
        Labels, sorted.
    scores
        Of every label by the cell alone, (n_obs, n_labels).
    decided
        Scores that decide, of the cell or its group, (n_obs, n_labels).
    named
        Cells that get a label, (n_obs,); the others are unknown.
    origin
        For ``uns``.
    """
    categories = names if named.all() or Keys.UNKNOWN in names else [*names, Keys.UNKNOWN]
    codes = decided.argmax(1)
    if not named.all():
        codes[~named] = categories.index(Keys.UNKNOWN)
    slots = {
        key: pd.Categorical.from_codes(codes, categories),
        Keys.score(key): decided.max(1).astype(np.float32),
    }
    # AnnData's files refuse columns with a slash, as in T/NK.
    columns = [name.replace("/", "|") for name in names]
    table = pd.DataFrame(scores.astype(np.float32), index=adata.obs_names, columns=columns)
    for name, values in slots.items():
        adata.obs[name] = values
    adata.obsm[Keys.scores(key)] = table
    adata.uns[key] = origin
