"""Gene sets of groups of genes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import false_discovery_control, hypergeom

from scfoundry.tasks._enrichment import enrichment

GENES = np.arange(100, 200)
NAMES = [f"g{i}" for i in GENES]


def of_groups(groups, sets, max_q=0.05):
    return enrichment(groups, GENES, sets, group="programme", names=NAMES, max_q=max_q)


def test_sets_of_a_group_are_found_and_others_are_not():
    programmes = np.repeat([0, 1, -1], [20, 20, 60])
    sets = {
        "first": GENES[:15],
        "spread": GENES[::7],
        "elsewhere": np.arange(50),
        "second": np.r_[GENES[20:30], np.arange(50)],
    }
    table = of_groups({"1": programmes == 0, "2": programmes == 1}, sets)
    assert table[["programme", "gene_set"]].to_numpy().tolist() == [["1", "first"], ["2", "second"]]
    first, second = (row for _, row in table.iterrows())
    assert (first["n_shared"], first["n_programme"], first["n_gene_set"]) == (15, 20, 15)
    assert first["fold_enrichment"] == pytest.approx(5)
    # Genes that were not looked at do not count.
    assert (second["n_shared"], second["n_gene_set"]) == (10, 10)
    assert second["genes"].split(", ") == [f"g{i}" for i in range(120, 130)]
    assert (table["q_value"] >= table["p_value"]).all()


def test_groups_may_share_genes_and_each_is_tested_by_the_hypergeometric_distribution():
    rng = np.random.default_rng(0)
    groups = {f"group {i}": rng.random(100) < 0.3 for i in range(4)}
    sets = {f"set {i}": np.flatnonzero(rng.random(300) < 0.2) for i in range(5)}
    table = of_groups(groups, sets, max_q=1.0)
    p_values = np.ones((4, 5))
    for i, members in enumerate(groups.values()):
        for j, positions in enumerate(sets.values()):
            in_set = np.isin(GENES, positions)
            at_least = np.arange((members & in_set).sum(), 101)
            p_values[i, j] = hypergeom.pmf(at_least, 100, in_set.sum(), members.sum()).sum()
    q_values = false_discovery_control(p_values.ravel()).reshape(4, 5)
    assert len(table) == 20
    for row in table.itertuples():
        at = int(row.programme[-1]), int(row.gene_set[-1])
        assert row.p_value == pytest.approx(p_values[at])
        assert row.q_value == pytest.approx(q_values[at])
    assert table["programme"].tolist() == sorted(table["programme"])
    for _, of_group in table.groupby("programme"):
        assert of_group["p_value"].is_monotonic_increasing


@pytest.mark.parametrize("groups", [{}, {"1": np.zeros(100, dtype=bool)}])
def test_nothing_is_found_where_there_is_nothing(groups):
    table = of_groups(groups, {"a": np.arange(3)})
    assert len(table) == 0
    assert "q_value" in table
