"""Build the Cell Ontology table shipped with the package from the wheel `cellxgene-ontology-guide` on PyPI.

Anyone can rebuild the table without scraping a website::

    pip install cellxgene-ontology-guide==1.11.1   # Cell Ontology v2026-03-26, schema 7.1.0
    python scripts/make_cell_ontology.py src/scfoundry/data/cell_ontology.tsv.gz

Terms that the ontology has retired are left out; their ids stay known as former ids of the term that replaced them. The
columns are described in ``src/scfoundry/data/cell_ontology.md``.
"""

from __future__ import annotations

import argparse
import gzip
from collections import defaultdict
from pathlib import Path

from cellxgene_ontology_guide.ontology_parser import OntologyParser

SCHEMA = "7.1.0"
ROOT = "CL:0000000"
HEADER = ("id", "name", "definition", "synonyms", "parents", "former_ids")


def one_line(text: str) -> str:
    """Text without line breaks, tabs and the separator of lists."""
    return " ".join(text.replace("|", "/").split())


def build() -> list[tuple[str, ...]]:
    """One row per cell type, sorted by id."""
    guide = OntologyParser(schema_version=SCHEMA)
    ids = sorted(guide.get_term_label_to_id_map("CL").values())
    retired = {term for term in guide.cxg_schema.ontology("CL") if guide.is_term_deprecated(term)}
    former = defaultdict(list)
    for term in sorted(retired):
        former[guide.get_term_replacement(term)].append(term)
    rows = []
    for term in ids:
        parents = sorted(guide.get_term_parents(term))
        if term in retired or not (parents or term == ROOT):  # parts of cells have no parent among cells
            continue
        name = guide.get_term_label(term)
        synonyms = dict.fromkeys(one_line(synonym) for synonym in guide.get_term_synonyms(term))
        definition = one_line(guide.get_term_description(term) or "")
        lists = ("|".join(names) for names in (synonyms, parents, former[term]))
        rows.append((term, one_line(name), definition, *lists))
    return rows


def main() -> None:
    """Write the table, byte for byte the same on every run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="table to write (.tsv.gz)")
    arguments = parser.parse_args()
    rows = build()
    lines = ("\t".join(row) for row in (HEADER, *rows))
    content = gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)
    arguments.out.write_bytes(content)
    print(f"{len(rows):,} cell types, {len(content) / 1e3:.0f} kB: {arguments.out}")


if __name__ == "__main__":
    main()
