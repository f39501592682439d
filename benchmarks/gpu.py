"""What a CUDA machine makes of the models: the same numbers as the CPU, how fast, and in how much memory.

    python -m benchmarks gpu [--device cuda] [--n-cells 48082]

Five minutes at most. Weights that ship embed the same cells on both devices; CellPLM at its published size embeds as
many cells as the paper timed (0.85 s on an A100); the transformer of Celler at its published size is held against the
rate of matrix products in bfloat16 on the same card, with the memory of a batch. With ``--device cpu`` and small
sizes it runs anywhere.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import scfoundry as sf
from benchmarks.command import arguments, parse
from benchmarks.reporting import markdown_table, surroundings, write_results
from benchmarks.speed.celler import N_GENES, PUBLISHED, cells_of, flops
from benchmarks.speed.published import aligned_counts, chunks_of, published_model
from benchmarks.speed.scaling import tile
from scfoundry._device import Compute
from scfoundry.model._pretrained import DEFAULTS
from scfoundry.model.celler._module import CellerModule
from scfoundry.model.cellplm._streaming import stream_embeddings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PEAK_SIZE = 8192

Row = tuple[str, str, str]


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Time on the wall until the device is done, the best of several runs after one that warms up."""
    found = []
    for _ in range(repeats + 1):
        synchronise(device)
        begin = time.perf_counter()
        work()
        synchronise(device)
        found.append(time.perf_counter() - begin)
    return min(found[1:])


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def agreement(name: str, n_cells: int, device: str) -> Row:
    """Least cosine between embeddings of a cell on the CPU in float32 and on the device as by default."""
    model, adata = sf.model.load_pretrained(name), tile(n_cells)
    expected = model.get_latent_representation(adata, device="cpu", precision="float32")
    found = model.get_latent_representation(adata, device=device)
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    cosine = (expected * found).sum(1) / np.maximum(lengths, 1e-12)
    return f"{name}, least cosine to the CPU", f"{cosine.min():.5f}", "above 0.999"


def cellplm(n_cells: int, device: torch.device) -> list[Row]:
    """Time of CellPLM at its published size, counts waiting in memory."""
    module, compute = published_model().module.to(device).eval(), Compute.resolve(device)
    counts, _ = aligned_counts(n_cells)

    def embed() -> None:
        with compute.autocast():
            for _ in stream_embeddings(module, chunks_of(counts, compute.cells_at_once), n_cells, device=device):
                pass

    found = seconds(embed, device)
    return [(f"CellPLM at published size, {n_cells:,} cells", f"{found:.2f} s", "0.3 s for 48,082 on an H100")]


def transformer(batch_sizes: Sequence[int], positions: int, device: torch.device) -> list[Row]:
    """Rate and memory of Celler's layers, and the share of the rate of products that they reach."""
    dtype, size = torch.bfloat16, PEAK_SIZE if device.type == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    peak = 2 * size**3 / seconds(lambda: a @ b, device)
    rows = [("matrix products, bfloat16", f"{peak / 1e9:,.0f} GFLOP/s", "")]
    module = CellerModule(PUBLISHED, N_GENES).to(device).eval()
    for n_cells in batch_sizes:
        batch = cells_of(n_cells, positions).batch(np.arange(n_cells)).to(device)

        def states(batch: Any = batch) -> None:
            with torch.no_grad(), torch.autocast(device.type, dtype):
                module(batch)

        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        found = seconds(states, device)
        memory = (
            f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB" if device.type == "cuda" else "not measured"
        )
        share = flops(n_cells, positions) / found / peak
        rate = f"{n_cells * positions / found:,.0f} tokens/s, {share:.2f} of the products"
        rows.append((f"Celler's layers at published size, {n_cells} x {positions} positions", rate, memory))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, "gpu", data=False)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--n-cells", type=int, default=48_082)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--positions", type=int, default=PUBLISHED.max_length)
    args = parse(parser, argv)
    sf.settings.verbosity = "error"
    device = Compute.resolve(args.device).device
    rows = [agreement(name, min(args.n_cells, 1000), args.device) for name in DEFAULTS.values()]
    rows += cellplm(args.n_cells, device)
    rows += transformer(args.batch_sizes, args.positions, device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    table = markdown_table(card, ["what", "found", "aim, or memory"], rows)
    results = {"command": args.command, "surroundings": surroundings(), "device": card, "rows": rows}
    write_results(args.out, results, [f"# On a GPU\n\n`{args.command}`\n", table])
    print(table)
