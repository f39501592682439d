"""How well a pretrained CellPLM embeds cells it has never seen, beside PCA and scVI.

    python benchmarks/embedding_quality.py DATA_FOLDER --weights cellplm-mini
    python benchmarks/embedding_quality.py DATA_FOLDER --fast --weights runs/trial

CellPLM is not trained on the scored data; PCA and scVI are fitted to it. Prints one table per data set and writes every
number with the settings and the machine. ``--fast`` scores one folder of weights by neighbours, Leiden clusters and
silhouettes alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from quality.data import DATA_SETS
from quality.report import markdown_table
from quality.scores import quick_scores

import scfoundry as sf

if TYPE_CHECKING:
    from anndata import AnnData
    from quality.data import DataSet

QUICK_COLUMNS = (
    "15-NN accuracy",
    "cross-batch 15-NN accuracy",
    "Leiden ARI",
    "Leiden NMI",
    "best Leiden ARI",
    "best Leiden NMI",
    "silhouette label",
    "silhouette batch",
)


def embed_both_ways(adata: AnnData, data: DataSet, weights: str) -> list[str]:
    """Embed each batch as its own context, where there are batches, and all cells as one; return the keys."""
    keys: dict[str, str | None] = {"CellPLM, one context": None}
    if data.batch_key:
        keys = {"CellPLM, a context per batch": data.batch_key} | keys
    for key, batch_key in keys.items():
        sf.tl.embed(adata, model=weights, batch_key=batch_key, key_added=key)
    return list(keys)


def main() -> None:
    """Embed, score, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER", help="folder with the .h5ad files")
    parser.add_argument("--weights", default="cellplm-mini", help="name or folder of pretrained weights")
    parser.add_argument("--fast", action="store_true", help="neighbours, Leiden clusters and silhouettes only")
    args = parser.parse_args()

    sf.settings.verbosity = "warning"
    for data in DATA_SETS:
        adata = data.read(args.data)
        scored = data.scored(adata)
        rows = {}
        for key in embed_both_ways(adata, data, args.weights):
            rows[key] = quick_scores(adata.obsm[key][scored.cells], scored)
        print(markdown_table(data.name, QUICK_COLUMNS, rows))


if __name__ == "__main__":
    main()
