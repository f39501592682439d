"""Peak memory of embedding many cells, each measurement in a fresh process (Linux)."""

from __future__ import annotations

import itertools
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.speed.published import aligned_counts, chunks_of, published_model
from scfoundry.model.cellplm._streaming import stream_embeddings

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["embedding_memory", "in_fresh_process", "peak_above_start", "status_bytes"]

# Input chunks that take turns: no input of the size of the data is ever in memory.
N_DISTINCT_CHUNKS = 4


def in_fresh_process(work: Callable[..., Any], *arguments: object) -> Any:
    """Call a function of a module in a new interpreter and hand back what it returns.

    Raises
    ------
    concurrent.futures.process.BrokenProcessPool
        If the process dies, as where memory runs out.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def peak_above_start(work: Callable[[], object]) -> int:
    """Peak resident bytes while working, above what is resident before."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the present
    before = status_bytes("VmRSS")
    work()
    return status_bytes("VmHWM") - before


def status_bytes(field: str) -> int:
    """A number of this process by the name that Linux has for it."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        msg = f"/proc/self/status has no {field}: peak memory can only be measured on Linux."
        raise OSError(msg)
    return int(found[1]) * 1024


def embedding_memory(n_cells: int, chunk: int, max_resident: int | None) -> int:
    """Bytes at the peak while a context is embedded, beyond the model; embeddings are dropped as they come."""
    module = published_model().module
    distinct, _ = aligned_counts(N_DISTINCT_CHUNKS * chunk)
    blocks = list(chunks_of(distinct, chunk))

    def embed() -> None:
        context = itertools.islice(itertools.cycle(blocks), n_cells // chunk)
        device = torch.device("cpu")
        for _ in stream_embeddings(module, context, n_cells, device=device, max_resident=max_resident):
            pass

    return peak_above_start(embed)
