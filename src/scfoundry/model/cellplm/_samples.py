"""The contexts of an AnnData as tensors: whole for embedding, sampled for training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from scfoundry.data.matrix.contexts import unit_coordinates
from scfoundry.nn.counts import SparseCounts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from scfoundry.data.genes import GeneVocabulary
    from scfoundry.data.matrix.contexts import Context
    from scfoundry.data.matrix.reader import Reader

__all__ = ["ContextBatch", "ContextReader", "ContextSample", "check_training"]


class ContextBatch(NamedTuple):
    """Cells of one context that the module embeds together."""

    counts: SparseCounts
    coordinates: Tensor | None = None  # x and y in [0, 1], (n, 2)

    def to(self, device: torch.device) -> ContextBatch:
        """Move to a device."""
        return ContextBatch(self.counts.to(device), None if self.coordinates is None else self.coordinates.to(device))


@dataclass(frozen=True)
class ContextSample:
    """Cells of one context as tensors."""

    counts: SparseCounts  # Raw counts of n cells
    genes: Tensor  # Vocabulary positions of the genes that were measured, (g,)
    coordinates: Tensor | None = None  # x and y in [0, 1], (n, 2)
    # Rows of the decoder's label tables, (n,)
    batch: Tensor | None = None
    dataset: Tensor | None = None

    def restricted(self, genes: Tensor) -> ContextSample:
        """Leave only these genes measured, as on a smaller panel."""
        elsewhere = torch.ones(self.counts.n_genes, dtype=torch.bool)
        elsewhere[genes] = False
        values = self.counts.values.masked_fill(elsewhere[self.counts.genes], 0.0)
        return replace(self, counts=replace(self.counts, values=values), genes=genes)

    def to(self, device: torch.device | str) -> ContextSample:
        """Move to a device."""
        moved = {
            name: value.to(device)
            for name in ("counts", "genes", "coordinates", "batch", "dataset")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved)


class ContextReader:
    """Reads the cells of contexts when it is their turn.

    ``positions``: coordinates of the contexts that have some, see `scfoundry.data.matrix.contexts.coordinates`.
    ``batches``: row of the decoder's batch table for every cell, (n_obs,); `None` if the model does not know these
    batches. ``measured``: context -> identifiers of the genes measured there; by default the genes detected in the
    context.
    """

    def __init__(
        self,
        reader: Reader,
        positions: Mapping[str, np.ndarray],
        *,
        batches: np.ndarray | None = None,
        measured: Mapping[str, Sequence[str]] | None = None,
        genes: GeneVocabulary | None = None,
    ) -> None:
        self.reader = reader
        self.batches = batches
        self.measured, self.genes = measured, genes
        self._unit = {name: torch.from_numpy(unit_coordinates(xy)) for name, xy in positions.items()}
        self._genes_of: dict[str, Tensor] = {}

    def chunks(self, context: Context, size: int) -> Iterator[tuple[SparseCounts, Tensor | None]]:
        """Counts and unit coordinates of a whole context, ``size`` cells at a time."""
        unit = self._unit.get(context.name)
        for i, block in enumerate(self.reader.blocks(context.rows, size)):
            yield SparseCounts.from_csr(block), None if unit is None else unit[i * size : (i + 1) * size]

    def sample(self, context: Context, cells: Tensor) -> ContextSample:
        """Some cells of a context; the others are not read."""
        rows = context.rows[cells.numpy()]
        unit = self._unit.get(context.name)
        return ContextSample(
            SparseCounts.from_csr(self.reader.read(rows)),
            genes=self._measured_genes(context),
            coordinates=None if unit is None else unit[cells],
            batch=None if self.batches is None else torch.from_numpy(self.batches[rows].astype(np.int64)),
        )

    def _measured_genes(self, context: Context) -> Tensor:
        if context.name not in self._genes_of:
            if self.measured is None or self.genes is None:
                found = [np.unique(block.indices) for block in self.reader.blocks(context.rows, 4096)]
                positions = np.unique(np.concatenate(found))
            else:
                positions = self.genes.align(self.measured[context.name]).measured
            self._genes_of[context.name] = torch.from_numpy(np.asarray(positions, dtype=np.int64))
        return self._genes_of[context.name]


def check_training(
    module: nn.Module,
    contexts: Sequence[Context],
    measured: Mapping[str, Sequence[str]] | None,
    panel_sizes: tuple[int, int] | None,
    n_genes: int,
    part_lrs: Mapping[str, float] | None,
) -> None:
    """Refuse parts that the module does not have, panels without genes, and measured genes of some contexts only."""
    parts = {name for name, _ in module.named_modules() if name}
    if wrong := {part: rate for part, rate in (part_lrs or {}).items() if part not in parts or not rate >= 0}:
        known = ", ".join(sorted(part for part in parts if "." not in part))
        msg = (
            f"part_lrs must name parts of the model ({known}) and give each a rate of at least 0; got {wrong}. "
            "For one rate: part_lrs=None."
        )
        raise ValueError(msg)
    if panel_sizes is not None and not 1 <= panel_sizes[0] <= panel_sizes[1]:
        msg = f"panel_sizes must be (fewest, most) genes, of at least 1; got {panel_sizes}. For all: panel_sizes=None."
        raise ValueError(msg)
    if panel_sizes is not None and panel_sizes[0] > n_genes:
        msg = f"panel_sizes={panel_sizes} is more genes than the model has, {n_genes:,}. For all: panel_sizes=None."
        raise ValueError(msg)
    names = {context.name for context in contexts}
    if measured is not None and (missing := sorted(names - measured.keys())):
        msg = (
            f"measured_genes must name the genes of every context; {', '.join(missing[:5])} is missing. Give a list to "
            "each, or pass None: the genes detected in a context."
        )
        raise ValueError(msg)
