"""Where a verb reads cells and writes results: an AnnData, or a store on disk whose results need not fit in memory."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfoundry._version import __version__
from scfoundry.data.modality import to_write
from scfoundry.data.store import Store
from scfoundry.data.unfinished import Unfinished
from scfoundry.tasks.embedding.kept import InMemory, OnDisk
from scfoundry.tl._opening import described, write_results, wrote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anndata import AnnData
    from mudata import MuData

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells

__all__ = ["Target"]

CELLS_LOOKED_AT = 100
# Of a latent and an embedding, twice: while they come, and in the store.
BYTES_PER_CELL = 1024


class Target:
    """An AnnData, or one in a MuData, that results are written to.

    ``adata``: what the user gets back as a copy. ``cells``: the AnnData that is read.
    """

    def __init__(self, adata: AnnData | MuData, cells: AnnData, caller: str) -> None:
        self.adata, self.cells, self.caller = adata, cells, caller

    @classmethod
    @contextmanager
    def of(
        cls, adata: AnnData | MuData | str | Path, modality: str, *, copy: bool, column: str | None, caller: str
    ) -> Iterator[Target]:
        """Of cells in memory or opened by anndata; or of a store at a path, whose ``column`` of ``obs`` is needed.

        Refused are a path that is no store or cannot be written, and a copy of one; else as `to_write`.
        """
        if not isinstance(adata, str | Path):
            yield Target(*to_write(adata, modality, copy=copy, caller=caller), caller)
            return
        if copy:
            msg = (
                f"{caller} writes into the store at a path, and copy=True returns an AnnData. For that, read it: "
                f'{caller}(sc.read("{adata}"), copy=True).'
            )
            raise ValueError(msg)
        store = Store.at(adata, caller=caller)
        try:
            yield InStore(store, store.open((column,)), caller)
        finally:
            store.close()

    @contextmanager
    def keeping(
        self, key: str, arguments: Mapping[str, Any], cells: Cells, model: Any, fitted: Any, compute: Compute
    ) -> Iterator[InMemory]:
        """Where rows are kept until they are written under a key of ``obsm``; the rest tells the call from others."""
        yield InMemory()

    def write(self, results: Mapping[str, Any], *, units: str) -> None:
        """Write results by address, all or none; see `write_results`."""
        write_results(self.cells, results, units=units, caller=self.caller)


class InStore(Target):
    """A store on disk, to which results are written that come some rows after others."""

    def __init__(self, store: Store, cells: AnnData, caller: str) -> None:
        super().__init__(cells, cells, caller)
        self._store, self._unfinished = store, Unfinished(store.path, {})

    @contextmanager
    def keeping(
        self, key: str, arguments: Mapping[str, Any], cells: Cells, model: Any, fitted: Any, compute: Compute
    ) -> Iterator[InMemory]:
        """See `Target`."""
        self._store.require_room(cells.n_obs * BYTES_PER_CELL, caller=self.caller)
        run = dict(arguments) | {"device": compute.device.type, "scfoundry": __version__}
        run |= {"weights": _fingerprint_of_weights(model, fitted), "data": _fingerprint_of_cells(cells)}
        self._unfinished = Unfinished(self._store.path.with_name(f"{self._store.path.name}.{key}.unfinished"), run)
        with self._unfinished.begun(caller=self.caller):
            yield OnDisk(self._unfinished)

    def write(self, results: Mapping[str, Any], *, units: str) -> None:
        """See `Target`."""
        self._store.write(described(results, units=units, caller=self.caller), self._unfinished.folder)
        wrote(results, units=units, caller=self.caller, where=str(self._store.path))


def _fingerprint_of_weights(model: Any, fitted: Any | None) -> str:
    """What tells weights from others, and what was fitted with them."""
    found = hashlib.sha256()
    module = getattr(model, "module", None)
    arrays = {} if module is None else {name: value.detach().cpu() for name, value in module.state_dict().items()}
    for name, value in arrays.items():
        found.update(name.encode())
        found.update(value.float().numpy().tobytes())
    stored, values = ({}, {}) if fitted is None else fitted._stored()
    for name, value in stored.items():
        found.update(name.encode())
        found.update(np.ascontiguousarray(value).tobytes())
    found.update(repr(values).encode())
    return f"{model.provenance['weights']} {found.hexdigest()[:16]}"


def _fingerprint_of_cells(cells: Cells) -> str:
    """What tells a data set from others: names, contexts, places, what all values have in common, and some of them."""
    found = hashlib.sha256()
    found.update(np.ascontiguousarray(cells.names).view(np.uint8).data)
    found.update(np.ascontiguousarray(cells.own.alignment.names.astype(str)).tobytes())
    for context in cells.contexts:
        found.update(context.name.encode())
        found.update(np.ascontiguousarray(context.rows).view(np.uint8).data)
        found.update(np.ascontiguousarray(cells.coordinates.get(context.name, ())).tobytes())
    report = cells.own.report
    found.update(repr((str(report.state), report.maximum, report.median_total, report.integer_fraction)).encode())
    some = cells.read(np.unique(np.linspace(0, cells.n_obs - 1, CELLS_LOOKED_AT).astype(np.int64)))
    for values in (some.data, some.indices, some.indptr):
        found.update(values.tobytes())
    return f"{cells.n_obs} cells {found.hexdigest()[:16]}"
