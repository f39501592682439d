"""Perturbations hidden from a method: unseen genes, pairs of them, and pairs of seen ones."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scfoundry as sf

KEYS = {"perturbation_key": "gene", "control": "ctrl"}
GENES = [f"G{i}" for i in range(20)]


def screen(names: list[str], n_cells: int = 3) -> AnnData:
    labels = np.repeat(["ctrl", *names], n_cells)
    obs = pd.DataFrame({"gene": labels}, index=[f"cell{i}" for i in range(len(labels))])
    return AnnData(np.ones((len(labels), 2), dtype=np.float32), obs=obs)


def test_single_perturbations_as_in_adamson() -> None:
    adata = screen([f"P{i}" for i in range(80)])
    sf.pp.split_perturbations(adata, **KEYS)
    table = adata.uns["perturbation_split"]["perturbations"]
    assert table["split"].value_counts().to_dict() == {"train": 54, "test": 20, "valid": 6}
    assert set(table["group"]) == {"single"}
    assert (table["n_cells"] == 3).all()
    by_cell = adata.obs["perturbation_split"]
    assert by_cell[adata.obs["gene"] == "ctrl"].eq("train").all()
    for name, part in table["split"].items():
        assert by_cell[adata.obs["gene"] == name].eq(part).all()


def test_pairs_are_grouped_by_how_many_genes_training_lacks() -> None:
    pairs = [f"{a}+{b}" for a, b in combinations(GENES, 2)]
    adata = screen(GENES + pairs, n_cells=1)
    sf.pp.split_perturbations(adata, **KEYS)
    table = adata.uns["perturbation_split"]["perturbations"]
    learned = {gene for name in table.index[table["split"] == "train"] for gene in name.split("+")}
    for name, row in table.iterrows():
        n_unseen = len(set(str(name).split("+")) - learned)
        assert row["n_unseen"] == n_unseen
        assert row["group"] == (f"{n_unseen}/2 unseen" if "+" in str(name) else "single")
    tested = table[table["split"] == "test"]
    assert set(tested["group"]) == {"single", "0/2 unseen", "1/2 unseen", "2/2 unseen"}
    # A gene that is unseen in a test pair occurs in no training perturbation at all, single or not.
    assert (table.loc[table["split"] == "train", "n_unseen"] == 0).all()


def test_the_order_of_cells_plays_no_part_but_the_seed_does() -> None:
    adata = screen(GENES)
    shuffled = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    tables = [
        sf.pp.split_perturbations(cells, **KEYS, rng=seed, copy=True).uns["perturbation_split"]["perturbations"]
        for cells, seed in ((adata, 0), (shuffled, 0), (adata, 1))
    ]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0]["split"].equals(tables[2]["split"])
    assert "perturbation_split" not in adata.obs


def test_the_control_in_a_name_says_nothing() -> None:
    sf.pp.split_perturbations(adata := screen(["A+ctrl", "B", "ctrl+C", "ctrl+ctrl", "D", "E"]), **KEYS, valid=0)
    table = adata.uns["perturbation_split"]["perturbations"]
    assert "ctrl+ctrl" not in table.index
    assert table["group"].eq("single").all()


@pytest.mark.parametrize("seed", range(5))
def test_both_names_of_a_pair_are_in_the_same_part(seed: int) -> None:
    pairs = list(combinations(GENES[:8], 2))
    names = [f"{a}+{b}" for a, b in pairs] + [f"{b}+{a}" for a, b in pairs]
    adata = screen([*GENES[:8], *names], n_cells=1)
    sf.pp.split_perturbations(adata, **KEYS, test=0.3, valid=0.3, rng=seed)
    split = adata.uns["perturbation_split"]["perturbations"]["split"].astype(str)
    assert split[[f"{a}+{b}" for a, b in pairs]].tolist() == split[[f"{b}+{a}" for a, b in pairs]].tolist()
    once = screen([*GENES[:8], *names[: len(pairs)]], n_cells=1)
    sf.pp.split_perturbations(once, **KEYS, test=0.3, valid=0.3, rng=seed)
    alone = once.uns["perturbation_split"]["perturbations"]["split"].astype(str)
    assert split[alone.index].tolist() == alone.tolist()


def test_cells_without_a_perturbation_are_in_no_part(tmp_path: object) -> None:
    adata = screen(GENES)
    adata.obs.loc["cell5", "gene"] = None
    sf.pp.split_perturbations(adata, **KEYS, key_added="part")
    assert adata.obs["part"].isna().tolist() == [i == 5 for i in range(adata.n_obs)]
    adata.obs["gene"] = adata.obs["gene"].fillna("")
    adata.write_h5ad(tmp_path / "screen.h5ad")


def test_bad_input_is_named_with_its_fix() -> None:
    adata = screen(["A", "B"])
    with pytest.raises(ValueError, match=r"no column 'guide'; its columns: 'gene'.*as perturbation_key"):
        sf.pp.split_perturbations(adata, perturbation_key="guide", control="ctrl")
    with pytest.raises(ValueError, match=r"No cell is 'control' .*'A', 'B', 'ctrl'.*control="):
        sf.pp.split_perturbations(adata, perturbation_key="gene", control="control")
    with pytest.raises(ValueError, match="All cells are 'ctrl'"):
        sf.pp.split_perturbations(adata[:3].copy(), **KEYS)
    with pytest.raises(ValueError, match="one perturbation only, 'A'"):
        sf.pp.split_perturbations(adata[:6].copy(), **KEYS)
    with pytest.raises(ValueError, match="must be shares between 0 and 1"):
        sf.pp.split_perturbations(adata, **KEYS, test=25)
    with pytest.raises(ValueError, match="leave none of the 2 perturbations to learn from"):
        sf.pp.split_perturbations(adata, **KEYS, test=0.5, valid=0.5)
    with pytest.raises(ValueError, match="sep must be the text between the genes"):
        sf.pp.split_perturbations(adata, **KEYS, sep="")
    assert list(adata.obs) == ["gene"]
    assert not adata.uns
