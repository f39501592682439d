"""What is read of lines, or of cells: expression of their own genes, the latent of a model, further tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import sparse

from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.genes.match import own_names
from scfoundry.data.genes.names import as_names
from scfoundry.data.matrix.checks import MatrixReport, MatrixState, inspect_matrix
from scfoundry.data.matrix.loaders import row_blocks
from scfoundry.data.matrix.log_normalisation import log_cp10k

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells

__all__ = ["EXPRESSION", "LATENT", "Lines", "Source"]

EXPRESSION, LATENT = "expression", "latent"
SPECIES = "human"


@dataclass(frozen=True, eq=False)
class Source:
    """Where expression is read: of an AnnData as it is, or of what a model reads."""

    names: NDArray[np.str_]  # of the lines, (n,)
    adata: AnnData | None = None
    layer: str | None = None
    cells: Cells | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, adata: AnnData, *, layer: str | None, caller: str) -> Self:
        """Any finite values on a logarithmic or standardised scale; counts are brought to one.

        ValueError: if there is no line or gene, or values are missing or infinite.
        """
        where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
        if 0 in adata.shape:
            msg = (
                f"{caller} needs at least one line and one gene; adata has {adata.n_obs} and {adata.n_vars}. "
                "Read the data again, and print(adata.shape) after every filter."
            )
            raise ValueError(msg)
        report = inspect_matrix(adata, layer=layer)
        if n_wrong := report.n_nan + report.n_infinite:
            msg = f"{where} holds {n_wrong:,} missing or infinite values. To drop such genes: adata = adata[:, keep]."
            raise ValueError(msg)
        names = adata.obs_names.to_numpy().astype(str)
        _require_expressed(names, report)
        return cls(names, adata, layer, None, {"values": str(report.state)})

    @classmethod
    def read_by(cls, cells: Cells) -> Self:
        """All genes of the data set that a model reads. ValueError: if a line expresses none."""
        _require_expressed(cells.names, cells.own.report)
        return cls(cells.names, cells=cells, provenance=cells.provenance)

    def own_genes(self) -> GeneVocabulary:
        """The genes of the data set, in an order that does not depend on it."""
        own = self.cells.own.alignment.names if self.cells is not None else self.adata.var_names  # type: ignore[union-attr]
        return GeneVocabulary(own_names(as_names(own), SPECIES), species=SPECIES)

    def expression(self, genes: GeneVocabulary) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Values (n, G), and which genes are measured, (G,). ValueError: if too few of the genes are."""
        if self.cells is not None:
            reader = self.cells.own.over(genes)
            blocks = [log_cp10k(block) for block in reader.blocks(np.arange(self.cells.n_obs), 4096)]
            positions: NDArray[np.integer] = reader.measured
        else:
            alignment = genes.align(self.adata)
            counts = self.provenance["values"] == str(MatrixState.COUNTS)
            aligned = (alignment.apply(block) for _, block in row_blocks(self.adata, layer=self.layer))
            blocks = [log_cp10k(block) if counts else block for block in aligned]
            positions = alignment.measured
        measured = np.zeros(len(genes.ids), dtype=bool)
        measured[positions] = True
        return sparse.vstack(blocks, format="csr").toarray().astype(np.float64), measured


def _require_expressed(names: NDArray[np.str_], report: MatrixReport) -> None:
    if report.n_empty:
        first = str(names[report.empty_rows[0]])
        msg = (
            f"{report.n_empty} lines or cells have no expression, for example {first!r}: nothing can be said of them. "
            f'Drop them: adata = adata[adata.obs_names != "{first}"].copy().'
        )
        raise ValueError(msg)


@dataclass(frozen=True, eq=False)
class Lines:
    """Blocks of features of n lines, (n, F) each, and which of these are measured, if not all."""

    names: NDArray[np.str_]
    blocks: dict[str, NDArray[np.float64]]
    measured: dict[str, NDArray[np.bool_]]

    @classmethod
    def read(
        cls,
        source: Source,
        genes: GeneVocabulary,
        *,
        model: Any,
        further: Mapping[str, pd.DataFrame],
        columns: Mapping[str, Sequence[str]],
        compute: Compute,
    ) -> Self:
        """Read expression, a model's latent if there is one, and further tables with these ``columns``.

        ValueError: if a table lacks a column, or holds missing values.
        """
        values, measured = source.expression(genes)
        blocks = {EXPRESSION: values}
        if model is not None:
            blocks[LATENT] = model.embed(source.cells, compute).astype(np.float64)
        for name, wanted in columns.items():
            table = further[name]
            if lacking := [column for column in wanted if column not in table.columns]:
                msg = (
                    f"The table {name!r} lacks {len(lacking)} columns that were learned from, for example "
                    f"{lacking[0]!r}. Add them: table[{lacking[0]!r}] = ..."
                )
                raise ValueError(msg)
            blocks[name] = table[list(wanted)].to_numpy(dtype=np.float64)
            if not np.isfinite(blocks[name]).all():
                msg = f"The table {name!r} holds missing or infinite values. Fill them: table.fillna(table.mean())."
                raise ValueError(msg)
        return cls(source.names, blocks, {EXPRESSION: measured})

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Some of the lines."""
        return type(self)(self.names[rows], {k: v[rows] for k, v in self.blocks.items()}, self.measured)
