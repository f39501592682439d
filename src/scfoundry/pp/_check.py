"""What a model would read of a data set, before anything is computed."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._arguments import checks_arguments
from scfoundry._keys import Keys
from scfoundry._settings import logger
from scfoundry.data.genes.match import match
from scfoundry.data.genes.names import as_names
from scfoundry.data.genes.overlap import SCHEMES
from scfoundry.data.matrix.checks import MatrixReport, MatrixState, inspect_matrix, require_counts
from scfoundry.data.matrix.loaders import row_blocks
from scfoundry.data.matrix.state import to_linear
from scfoundry.data.modality import modality_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from scfoundry.data.genes import GeneAlignment, GeneVocabulary
    from scfoundry.model import FoundationModel

__all__ = ["InputCheck", "check"]

CALLER = "sf.pp.check"


@dataclass(frozen=True, eq=False)
class InputCheck:
    """What `sf.pp.check` found; printed, it says what a person needs to know.

    Attributes
    ----------
    weights
        Name of the model's weights.
    n_cells, n_genes
        Size of the data.
    values
        What the values are: ``"raw counts"``, ``"log1p-normalised values"``, ``"scaled values"`` or
        ``"normalised values"``; `None` where there are none.
    scheme
        What the names of the genes are, such as ``"gene symbols"`` or ``"mouse Ensembl ids"``.
    n_matched, n_vocabulary
        Genes of the model that the data have, and all of its genes.
    share_of_counts
        Share of all counts that are of genes the model knows; `None` where the values cannot be read.
    n_empty
        Cells without any count; `None` where the values cannot be read.
    genes
        By gene of the data: ``gene`` of the model, and the ``route`` by which its name was found; both empty where the
        model does not know it. (n_vars,)
    notes
        What deserves a look: results would be computed.
    problems
        What verbs refuse, each with the line that mends it.
    """

    weights: str
    n_cells: int
    n_genes: int
    values: str | None
    scheme: str
    n_matched: int
    n_vocabulary: int
    share_of_counts: float | None
    n_empty: int | None
    genes: pd.DataFrame = field(repr=False)
    notes: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether verbs accept the data."""
        return not self.problems

    @property
    def known(self) -> str:
        """How many genes of the data are known, by route."""
        routes = self.genes.loc[self.genes["route"] != "", "route"].value_counts()
        found = ", ".join(f"{route} {n:,}" for route, n in routes.items())
        return f"{routes.sum():,} of {self.n_genes:,} known{found and f' ({found})'}"

    def __str__(self) -> str:
        read = "" if self.share_of_counts is None else f", with {self.share_of_counts:.1%} of all counts"
        empty = f", {self.n_empty:,} of them without counts" if self.n_empty else ""
        lines = {
            "data": f"{self.n_cells:,} cells{empty}, {self.n_genes:,} genes",
            "values": self.values or "none that can be read",
            "genes": f"{self.scheme}; {self.known}{read}",
            "model": f"{self.weights}, {self.n_matched:,} of its {self.n_vocabulary:,} genes are measured",
        }
        shown = [f"{name:<8}{text}" for name, text in lines.items()]
        shown += [f"{'note':<8}{text}" for text in self.notes] + [f"{'refused':<8}{text}" for text in self.problems]
        return "\n".join([*shown, "ready" if self.ok else "not ready"])

    __repr__ = __str__


@checks_arguments
def check(
    adata: AnnData | MuData,
    model: str | Path | FoundationModel = "cellplm",
    *,
    layer: str | None = None,
    modality: str = Keys.RNA,
) -> InputCheck:
    """Say what a model would read of a data set: values, genes, and what verbs would refuse, with the line to mend it.

    All verbs check this before they compute. Here it is by itself, and nothing is raised for what is wrong with the
    data. The data are only read, all values once or twice.

    Parameters
    ----------
    adata
        Cells x genes; in memory, backed, dask, or in a `MuData`.
    model
        A model's name (its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model.
    layer
        Layer with the values, ``X`` if `None`.
    modality
        Modality of a `MuData`.

    Returns
    -------
    The findings, see `InputCheck`: ``print`` shows them, ``.ok`` says whether verbs accept the data, and ``.genes`` how
    every gene was found.

    Raises
    ------
    FileNotFoundError
        If there are no such weights.
    ValueError
        If a `MuData` has no such modality.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> adata = sc.datasets.pbmc68k_reduced().raw.to_adata()
    >>> found = sf.pp.check(adata, model="cellplm")
    >>> found.ok, found.values
    (True, 'log1p-normalised values')
    >>> sf.pp.check(sc.datasets.pbmc68k_reduced()).problems[0][:63]
    'sf.pp.check needs raw counts or log1p-normalised values, but ad'
    """
    from scfoundry.model._load import load_weights

    loaded: Any = model if hasattr(model, "provenance") else load_weights(model)
    cells = modality_of(adata, modality)
    genes: GeneVocabulary = loaded.genes
    problems: list[str] = []
    with messages() as notes:
        report = attempt(problems, lambda: require_counts(cells, layer=layer, caller=CALLER, allow_log1p=True))
        alignment = match(genes.index, as_names(cells.var_names), var=cells.var)
        attempt(problems, lambda: genes.align(cells))
    if report and report.state is MatrixState.LOG1P:
        refused: list[str] = []
        learning = "a verb that learns from counts, such as sf.tl.denoise,"
        attempt(refused, lambda: require_counts(cells, layer=layer, caller=learning))
        notes += refused
    readable = report or attempt([], lambda: inspect_matrix(cells, layer=layer))
    share = share_of_counts(cells, layer, report, alignment) if report and len(alignment.kept) else None
    return InputCheck(
        weights=loaded.provenance["weights"],
        n_cells=cells.n_obs,
        n_genes=cells.n_vars,
        values=None if readable is None else str(readable.state),
        scheme=SCHEMES[alignment.scheme],
        n_matched=len(alignment.measured),
        n_vocabulary=len(genes),
        share_of_counts=share,
        n_empty=None if readable is None else readable.n_empty,
        genes=routes_of(alignment, genes),
        notes=tuple(notes),
        problems=tuple(problems),
    )


def attempt(problems: list[str], look: Callable[[], Any]) -> Any:
    """What was found, or `None` and the reason among the problems."""
    try:
        return look()
    except (ValueError, TypeError) as error:
        problems.append(str(error))
        return None


@contextmanager
def messages() -> Iterator[list[str]]:
    """Collect what would be logged, instead of showing it."""
    collected: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            collected.append(record.getMessage())

    shown, logger.handlers = logger.handlers, [Collect()]
    try:
        yield collected
    finally:
        logger.handlers = shown


def share_of_counts(adata: AnnData, layer: str | None, report: MatrixReport, alignment: GeneAlignment) -> float:
    """Share of all counts that are of genes the model knows, on the linear scale."""
    of_gene = np.zeros(adata.n_vars)
    for _, block in row_blocks(adata, layer=layer):
        of_gene += np.asarray(to_linear(block, report.state).sum(0, dtype=np.float64)).ravel()
    return float(of_gene[alignment.kept].sum() / max(of_gene.sum(), 1))


def routes_of(alignment: GeneAlignment, genes: GeneVocabulary) -> pd.DataFrame:
    """The model's gene and the route by every gene of the data, (n_vars,)."""
    ids = np.append(genes.ids.astype(str), "")
    found = {"gene": ids[alignment.target], "route": alignment.route.astype(str)}
    return pd.DataFrame(found, index=pd.Index(alignment.names.astype(str), name="name"))
