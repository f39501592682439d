"""Speed of LangCell's cell encoder at published size, as ratios within one run.

    python -m benchmarks speed_langcell [--cpu-time]

Random weights; cells of about 1,000 genes. Measured are the encoder in both precisions, for the embedding (of the last
layer only ``<cls>`` is computed) and for the states of all genes, against the machine's matrix products, against the
same cells padded to 2,048 positions, and against Hugging Face's BertModel so padded. Whatever is
compared takes turns, and the best of several runs counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import BertConfig, BertModel

from benchmarks.command import arguments, parse
from benchmarks.reporting import markdown_table, surroundings, write_results
from benchmarks.speed.clock import Clock
from benchmarks.speed.products import Peak
from scfoundry._device import Compute, Precision
from scfoundry.model.langcell._config import LangCellConfig
from scfoundry.model.langcell._encoders import CellEncoder
from scfoundry.model.langcell._inference import TOKENS_PER_STEP
from scfoundry.nn.sequences import TokenLists, length_sorted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CPU = torch.device("cpu")
N_TOKENS = 25_427
# The released structure (Geneformer 12L).
PUBLISHED = LangCellConfig(n_hidden=512, n_layers=12, n_heads=8, n_intermediate=1024, max_length=2048)
SHAPES = ((2048, 512, 512), (2048, 512, 1024), (2048, 1024, 512), (2048, 2048, 2048))
EMBEDDING, STATES = "sorted by length, embedding", "sorted by length, all states"
PRECISIONS: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def cells_of(n_cells: int, mean: int, spread: int) -> TokenLists:
    """Random gene lists of different lengths, ``<cls>`` in front."""
    rng = np.random.default_rng(0)
    lengths = rng.normal(mean, spread, n_cells).round().astype(int).clip(10, PUBLISHED.max_length - 1)
    lists = [rng.permutation(np.arange(2, N_TOKENS - 1))[:n] for n in lengths]
    return TokenLists.of(lists).beginning_with(N_TOKENS - 1)


def flops(cells: TokenLists, *, only_cls: bool = False) -> int:
    """Floating point operations of the matrix products of real positions; nothing else is counted."""
    d, f = PUBLISHED.n_hidden, PUBLISHED.n_intermediate
    n = cells.lengths
    whole = PUBLISHED.n_layers - only_cls
    # Of the last layer, <cls> needs the keys and values of all positions, and the rest of itself alone.
    last = n * 2 * d * d + 2 * d * d + 2 * d * f + 2 * n * d
    return int(2 * (whole * (n * (4 * d * d + 2 * d * f) + 2 * n * n * d) + only_cls * last).sum())


def hugging_face() -> BertModel:
    """The same structure as the released code builds it, with today's attention."""
    config = BertConfig(
        vocab_size=N_TOKENS,
        hidden_size=PUBLISHED.n_hidden,
        num_hidden_layers=PUBLISHED.n_layers,
        num_attention_heads=PUBLISHED.n_heads,
        intermediate_size=PUBLISHED.n_intermediate,
        hidden_act=PUBLISHED.activation,
        max_position_embeddings=PUBLISHED.max_length,
        attn_implementation="sdpa",
    )
    return BertModel(config, add_pooling_layer=False).eval()


def padded(cells: TokenLists) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Every cell filled up to the longest that the model takes."""
    for batch in length_sorted(cells, tokens_per_step=TOKENS_PER_STEP["cpu"], batch_size=1):
        missing = PUBLISHED.max_length - batch.tokens.shape[1]
        tokens = torch.nn.functional.pad(batch.tokens, (0, missing))
        yield tokens, torch.arange(PUBLISHED.max_length)[None] < batch.tokens.shape[1]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = arguments(__doc__, "speed_langcell", data=False)
    parser.add_argument("--cpu-time", action="store_true", help="one thread, processor time: for a busy machine")
    parser.add_argument("--n-cells", type=int, default=8)
    parser.add_argument("--genes", type=int, nargs=2, default=(1000, 100), help="mean and spread of genes per cell")
    parser.add_argument("--repeats", type=int, default=2)
    args = parse(parser, argv)

    clock = Clock(cpu_time=args.cpu_time)
    results = {"command": args.command, "surroundings": surroundings(), "clock": "cpu" if args.cpu_time else "wall"}
    cells = cells_of(args.n_cells, *args.genes)
    encoder, peer = CellEncoder(PUBLISHED, N_TOKENS).eval(), hugging_face()

    def by_length(n_wanted: int | None = None) -> None:
        for batch in length_sorted(cells, tokens_per_step=TOKENS_PER_STEP["cpu"]):
            encoder(batch.tokens, batch.present, n_wanted=n_wanted)

    def to_the_longest() -> None:
        for tokens, present in padded(cells):
            encoder(tokens, present)

    def by_hugging_face() -> None:
        for tokens, present in padded(cells):
            peer(input_ids=tokens, attention_mask=present)

    ways: dict[str, Callable[[], None]] = {
        EMBEDDING: lambda: by_length(n_wanted=1),
        STATES: by_length,
        "padded to 2,048": to_the_longest,
        "BertModel, padded to 2,048": by_hugging_face,
    }
    peaks = {precision: Peak(dtype, SHAPES) for precision, dtype in PRECISIONS.items()}
    seconds = {way: dict.fromkeys(PRECISIONS, float("inf")) for way in ways}
    for _ in range(args.repeats):
        for precision, peak in peaks.items():
            for way, run in ways.items():
                peak.measure(clock)
                with torch.no_grad(), Compute(CPU, precision).autocast():
                    taken = clock.once(run)
                seconds[way][precision] = min(taken, seconds[way][precision])

    rows = []
    for way, by_precision in seconds.items():
        work = flops(cells, only_cls=way == EMBEDDING)
        for precision, taken in by_precision.items():
            speed = work / taken
            share = speed / peaks[precision].flops_per_second
            ratio = taken / seconds[EMBEDDING][precision]
            rows.append(
                (way, precision, f"{args.n_cells / taken:.2f}", f"{speed / 1e9:.1f}", f"{share:.2f}", f"{ratio:.1f}")
            )
    title = (
        f"Cell encoder, {args.n_cells} cells of {cells.lengths.mean():,.0f} positions, "
        f"{'one thread, processor time' if args.cpu_time else 'time on the wall'}; peak of matrix products "
        + ", ".join(f"{peak.flops_per_second / 1e9:.1f} GFLOP/s in {p}" for p, peak in peaks.items())
    )
    columns = ["batches", "precision", "cells/s", "GFLOP/s", "share of peak", "times the embedding"]
    table = markdown_table(title, columns, rows)
    print(table)
    results |= {
        "positions_per_cell": float(cells.lengths.mean()),
        "flop_per_cell": {way: flops(cells, only_cls=way == EMBEDDING) / args.n_cells for way in (EMBEDDING, STATES)},
        "peak_flops_per_second": {p: peak.flops_per_second for p, peak in peaks.items()},
        "cells_per_second": {way: {p: args.n_cells / s for p, s in by.items()} for way, by in seconds.items()},
        "surroundings_after": surroundings(),
    }
    write_results(args.out, results, [table])
