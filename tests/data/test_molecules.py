"""Graphs of molecules: what of an atom is counted, and what is no molecule."""

import sys

import numpy as np
import pytest

from scfoundry.data.molecules import CHIRALITIES, N_FEATURES, SYMBOLS, join_molecules, molecule_graphs


def graph(text):
    pytest.importorskip("rdkit", reason="the extra drug is not installed")
    return molecule_graphs({"drug": text})["drug"]


def test_features_by_hand():
    atoms = graph("C[NH3+]").atoms
    symbols, degrees, valences = atoms[:, :43], atoms[:, 43:54], atoms[:, 54:61]
    assert [SYMBOLS[i] for i in symbols.argmax(1)] == ["C", "N"]
    np.testing.assert_array_equal(degrees.argmax(1), [1, 1])
    np.testing.assert_array_equal(valences.argmax(1), [3, 0])  # hydrogens in brackets are explicit
    np.testing.assert_array_equal(atoms[:, 61], [0, 1])  # charge
    np.testing.assert_array_equal(atoms[:, 69:74].argmax(1), [3, 3])  # all hydrogens
    assert symbols.sum() == degrees.sum() == valences.sum() == 2


def test_charges_are_signed_and_radicals_counted():
    assert graph("[O-2]").atoms[0, 61] == -2
    assert graph("[CH2]").atoms[0, 62] == 2


def test_mirror_images_differ_in_chirality_alone():
    left, right = graph("N[C@@H](C)C(=O)O").atoms, graph("N[C@H](C)C(=O)O").atoms
    of_chirality = slice(N_FEATURES - len(CHIRALITIES), None)
    np.testing.assert_array_equal(left[:, : of_chirality.start], right[:, : of_chirality.start])
    np.testing.assert_array_equal(left[1, of_chirality], right[1, of_chirality][::-1])
    assert left[:, of_chirality].sum() == right[:, of_chirality].sum() == 1


def test_an_atom_that_the_list_does_not_have_is_of_no_element():
    assert graph("[Xe]").atoms[0, : len(SYMBOLS)].sum() == 0


def test_molecules_without_bonds():
    salt = graph("[Na+].[Cl-]")
    assert salt.edges.shape == (2, 0)
    batch = join_molecules([salt, graph("CC"), salt])
    np.testing.assert_array_equal(batch.edges, [[2, 3], [3, 2]])
    np.testing.assert_array_equal(batch.molecule, [0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize("text", ["C(C", "F(C)(C)C", "", None, float("nan")])
def test_what_is_no_molecule_is_refused_with_its_drug(text, capfd):
    pytest.importorskip("rdkit", reason="the extra drug is not installed")
    smiles = {"ethanol": "CCO", "unobtainium": text}
    with pytest.raises(ValueError, match=r"1 of 2 SMILES .* of 'unobtainium'") as error:
        molecule_graphs(smiles)
    assert f"{text!r} of" in str(error.value)
    assert capfd.readouterr().err == ""
    scope = {"smiles": smiles}
    exec("smiles = {" + str(error.value).split("smiles = {")[1].removesuffix("."), scope)  # noqa: S102
    assert list(molecule_graphs(scope["smiles"])) == ["ethanol"]


def test_without_the_extra_the_line_that_installs_it_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ImportError, match=r'not installed: pip install "scfoundry-models\[drug\]"'):
        molecule_graphs({"ethanol": "CCO"})
