"""Embed contexts one after the other, here or by workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from scfoundry._settings import settings
from scfoundry.model.cellplm._by_workers import embed_by_workers
from scfoundry.model.cellplm._samples import ContextReader
from scfoundry.model.cellplm._streaming import stream_embeddings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.data.matrix.contexts import Context

__all__ = ["embed_contexts"]


def embed_contexts(
    model: Any, cells: Cells, contexts: Sequence[Context], compute: Compute, noise: torch.Generator | None = None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Rows of cells of some contexts, chunk by chunk, and their embeddings, (n, Z).

    ``noise``: of ``latent_embedding="gumbel"``, which has a sequence and leaves workers alone.
    """
    if cells.workers is not None and model.config.latent_embedding != "gumbel":
        yield from embed_by_workers(model, cells, contexts, compute)
        return
    model.module.to(compute.device).eval()
    n_cells = sum(len(context.rows) for context in contexts)
    reader = ContextReader(cells.reader, cells.coordinates)
    how: dict[str, Any] = {"device": compute.device, "generator": noise}
    with tqdm(desc=model.name, total=n_cells, unit="cell", disable=not settings.show_progress) as bar:
        for context in contexts:
            chunks, start = reader.chunks(context, compute.cells_at_once), 0
            stream = stream_embeddings(model.module, chunks, len(context.rows), **how)
            while True:
                with compute.autocast():  # which would reach whoever is handed a chunk inside
                    chunk = next(stream, None)
                if chunk is None:
                    break
                yield context.rows[start : start + len(chunk)], chunk.numpy()
                start += len(chunk)
                bar.update(len(chunk))
