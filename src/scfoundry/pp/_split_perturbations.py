"""Perturbations to hide from a method that predicts unseen ones (Roohani et al. 2023, Wen et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scfoundry._arguments import checks_arguments
from scfoundry._keys import Keys
from scfoundry._settings import logger
from scfoundry.data.modality import to_write
from scfoundry.data.perturbations import members_of, perturbation_labels
from scfoundry.data.slots import write

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["split_perturbations"]

CALLER = "sf.pp.split_perturbations"
TRAIN, VALID, TEST = "train", "valid", "test"

Parts = dict[str, tuple[str, ...]]


@checks_arguments
def split_perturbations(
    adata: AnnData,
    *,
    perturbation_key: str,
    control: str,
    test: float = 0.25,
    valid: float = 0.1,
    sep: str | None = "+",
    rng: int | np.random.Generator | None = 0,
    key_added: str = Keys.PERTURBATION_SPLIT,
    copy: bool = False,
) -> AnnData | None:
    """Divide perturbations, not cells, into train, validation and test.

    A share of the perturbed genes is drawn and becomes unseen: every perturbation with one of them is for test, so that
    of two genes none, one or both are new to a method. Of the combinations whose genes are all seen the same share is
    for test, too. The rest is divided once more, by the share for validation. A screen of single genes is thus split as
    that of Adamson (25 % of the perturbations, 10 % of the rest), one with pairs as that of Norman
    :cite:p:`roohani2023gears,wen2024cellplm`.

    Parameters
    ----------
    adata
        Cells x genes; only ``obs`` is read.
    perturbation_key
        Column of ``obs`` with the perturbation of every cell. Cells without one are in no part.
    control
        Name of unperturbed cells, which belong to train.
    test, valid
        Share of genes, and of combinations of seen genes, for test; the same for validation, of what is left.
    sep
        What joins the genes of a combination, as in ``"KLF1+SET"``; names are taken whole if `None`.
    rng
        Seed or generator. The order of cells plays no part.
    key_added
        Where to write.
    copy
        Return a changed copy instead of changing ``adata``.

    Returns
    -------
    `None`, or the copy if ``copy=True``. Sets:

    ``adata.obs["perturbation_split"]`` (``key_added``)
        ``"train"``, ``"valid"`` or ``"test"``, categorical.
    ``adata.uns["perturbation_split"]`` (``key_added``)
        ``"perturbations"``: of every perturbation its ``split``, ``group`` (``"single"``, ``"0/2 unseen"``,
        ``"1/2 unseen"``, ``"2/2 unseen"``: how many of its genes occur in no perturbation for training), ``n_unseen``
        and ``n_cells``; ``"params"``: the arguments.

    Raises
    ------
    ValueError
        If ``obs`` has no such column, the control is not in it, or shares leave nothing to learn from or to test.

    Examples
    --------
    >>> import anndata as ad, numpy as np, scfoundry as sf
    >>> adata = ad.AnnData(np.ones((6, 2)))
    >>> adata.obs["gene"] = ["ctrl", "A", "B", "C", "D", "A+B"]
    >>> sf.pp.split_perturbations(adata, perturbation_key="gene", control="ctrl", valid=0, rng=1)
    >>> table = adata.uns["perturbation_split"]["perturbations"]
    >>> table.index[table["split"] == "test"].tolist()
    ['A+B', 'B']
    """
    if not (0 < test < 1 and 0 <= valid < 1):
        msg = (
            f"test={test} and valid={valid} must be shares between 0 and 1, test above 0. "
            "The published ones: test=0.25, valid=0.1."
        )
        raise ValueError(msg)
    labels = perturbation_labels(adata, perturbation_key, control=control, sep=sep)
    n_cells = labels[labels != control].value_counts().sort_index()
    parts = members_of(map(str, n_cells.index), control=control, sep=sep)
    if len(parts) < 2:
        msg = (
            f"adata.obs[{perturbation_key!r}] holds one perturbation only, {next(iter(parts))!r}; with it for test "
            "nothing is left to learn from. Name a column with more of them: perturbation_key=..."
        )
        raise ValueError(msg)

    generator = np.random.default_rng(rng)
    for_test = _drawn(parts, test, generator)
    rest = {name: genes for name, genes in parts.items() if name not in for_test}
    for_valid = _drawn(rest, valid, generator) if valid else set()
    split = {name: TEST if name in for_test else VALID if name in for_valid else TRAIN for name in parts}
    if TRAIN not in split.values():
        msg = (
            f"test={test} and valid={valid} leave none of the {len(parts)} perturbations to learn from. Lower them: "
            "test=0.25, valid=0."
        )
        raise ValueError(msg)
    table = _table(parts, split, n_cells)

    _, adata = to_write(adata, Keys.RNA, copy=copy, caller=CALLER)
    values = labels.map(split | {control: TRAIN})
    origin = {
        Keys.PARAMS: {
            "perturbation_key": perturbation_key,
            "control": control,
            "test": test,
            "valid": valid,
            **({} if sep is None else {"sep": sep}),
            **({"rng": int(rng)} if isinstance(rng, int | np.integer) else {}),
        },
        "perturbations": table,
    }
    results = {f"obs/{key_added}": pd.Categorical(values, [TRAIN, VALID, TEST]), f"uns/{key_added}": origin}
    write(adata, results, caller=CALLER)
    counts = [table["split"].value_counts()[part] for part in (TRAIN, VALID, TEST)]
    logger.info("%s: %d perturbations for training, %d for validation, %d for test.", CALLER, *counts)
    return adata if copy else None


def _drawn(parts: Parts, share: float, rng: np.random.Generator) -> set[str]:
    """Perturbations with a gene that is drawn to be unseen, and a share of the combinations without one."""
    genes = sorted({gene for members in parts.values() for gene in members})
    unseen = set(rng.choice(genes, max(1, round(share * len(genes))), replace=False))
    drawn = {name for name, members in parts.items() if unseen & set(members)}
    # A pair has two names, A+B and B+A.
    seen = list(dict.fromkeys(parts[name] for name in sorted(parts) if len(parts[name]) > 1 and name not in drawn))
    chosen = {seen[i] for i in rng.choice(len(seen), round(share * len(seen)), replace=False)} if seen else set()
    return drawn | {name for name, members in parts.items() if members in chosen}


def _table(parts: Parts, split: dict[str, str], n_cells: pd.Series) -> pd.DataFrame:
    """One row per perturbation."""
    learned = {gene for name, members in parts.items() if split[name] == TRAIN for gene in members}
    n_unseen = [len(set(members) - learned) for members in parts.values()]
    groups = [
        "single" if len(members) == 1 else f"{n}/{len(members)} unseen"
        for n, members in zip(n_unseen, parts.values(), strict=True)
    ]
    return pd.DataFrame(
        {
            "split": pd.Categorical([split[name] for name in parts], [TRAIN, VALID, TEST]),
            "group": pd.Categorical(groups),
            "n_unseen": n_unseen,
            "n_cells": n_cells.to_numpy(),
        },
        index=pd.Index(list(parts), name="perturbation"),
    )
