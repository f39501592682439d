"""Which names of perturbations mean the same."""

from __future__ import annotations

import pytest

from scfoundry.data.perturbations import components, members_of


@pytest.mark.parametrize("name", ["ENSG00000130176", "ENSG00000130176.8", "cnn1", "Cnn1", "CNN1 "])
def test_a_gene_has_one_spelling(name: str) -> None:
    members = members_of([f"MAPK1+{name}", "CNN1"], control="ctrl", known=["CNN1"])
    assert members == {f"MAPK1+{name}": ("CNN1", "MAPK1"), "CNN1": ("CNN1",)}


def test_an_older_name_means_the_gene_if_its_symbol_is_there() -> None:
    assert len(set(members_of(["P53", "TP53"], control="ctrl").values())) == 1
    # Both are aliases of POLD3, and more likely patients.
    assert len(set(members_of(["P66", "P68"], control="ctrl").values())) == 2
    assert members_of(["stim", "STIM1", "drug a", "drug A"], control="ctrl")["drug a"] == ("drug a",)


def test_the_control_is_no_part() -> None:
    assert components("ctrl+ctrl", control="ctrl") == components("ctrl", control="ctrl", sep=None) == ()
    assert components("+", control="ctrl") == ("+",)
    assert components("ctrl+KLF1", control="ctrl", sep=None) == ("ctrl+KLF1",)
