"""Gene ranks against those of the released tokenizer; what is compared is described with the fixtures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from scipy import sparse

import scfoundry as sf
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.tokens import ranks as tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def read_vocabulary(table: Path) -> GeneVocabulary:
    """Genes with a token, in the order of their tokens."""
    genes = pd.read_csv(table, sep="\t", keep_default_na=False)
    genes = genes[genes["token_id"] != ""].astype({"token_id": int}).sort_values("token_id")
    assert genes["token_id"].tolist() == list(range(tokens.FIRST_GENE, tokens.cls_token(len(genes))))
    # A gene without a symbol in the source keeps none of its own: it goes by its id.
    symbols = genes["symbol"].where(genes["symbol"] != "", genes["ensembl_id"])
    return GeneVocabulary(genes["ensembl_id"], symbols, medians=genes["nonzero_median"].astype(float))


def assert_same_ranks(ranks: sparse.csr_matrix, expected: Mapping[str, np.ndarray], max_length: int) -> None:
    """Every rank holds a gene of the published tie group, and no gene occurs twice."""
    for cell, length in enumerate(expected["length"]):
        ids = ranks.data[ranks.indptr[cell] : ranks.indptr[cell + 1]].tolist()
        assert len(ids) == len(set(ids)) == min(length, max_length)
        groups = expected["tie_group"][cell, :length].tolist()
        group_of = dict(zip(expected["token_ids"][cell, :length].tolist(), groups, strict=True))
        assert [group_of[token] for token in ids] == groups[: len(ids)]


@pytest.mark.parametrize("max_length", [64, 2048])
@pytest.mark.parametrize("names", ["symbols", "Ensembl ids"])
def test_ranks_of_every_kind_of_cell(parity_folder: Callable[[str], Path], names: str, max_length: int) -> None:
    folder = parity_folder("langcell")
    expected = np.load(folder / "rank_encoding.npz")
    vocabulary = read_vocabulary(folder / "geneformer" / "gene_table.tsv")
    adata = read_h5ad(folder / "counts.h5ad")
    if names == "Ensembl ids":
        adata.var_names = adata.var["ensembl_id"]
    sf.pp.rank_encode(adata, genes=vocabulary, max_length=max_length)
    ranks = adata.obsm["X_rank"]
    assert_same_ranks(ranks, expected, max_length)
    if max_length == expected["max_len"]:
        assert np.diff(ranks.indptr).tolist() == expected["stored_length"].tolist()
    special = tokens.PAD, tokens.MASK, tokens.cls_token(len(vocabulary))
    assert special == (expected["pad_id"], expected["mask_id"], expected["cls_id"])


def test_ranks_with_the_published_vocabulary(parity_folder: Callable[[str], Path], shared_data: Path) -> None:
    table = shared_data / "geneformer_gene_table.tsv.gz"
    if not table.exists():
        pytest.skip(f"the published gene table is not at {table}")
    expected = np.load(parity_folder("langcell") / "real_vocab_rank.npz")
    counts = sparse.csr_matrix(
        (expected["counts_data"], expected["counts_indices"], expected["counts_indptr"]), shape=expected["shape"]
    )
    adata = AnnData(counts.astype(np.float32), var=pd.DataFrame(index=expected["ensembl_id"]))
    vocabulary = read_vocabulary(table)
    sf.pp.rank_encode(adata, genes=vocabulary)
    assert_same_ranks(adata.obsm["X_rank"], expected, 2048)
    assert tokens.cls_token(len(vocabulary)) == expected["input_ids"][0, 0]
