"""Molecules as graphs of their atoms, read from SMILES by RDKit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["N_FEATURES", "MoleculeGraph", "join_molecules", "molecule_graphs", "read_molecules"]

SYMBOLS = (
    *("C", "N", "O", "S", "F", "Si", "P", "Cl", "Br", "Mg", "Na", "Ca", "Fe", "As", "Al", "I", "B", "V", "K", "Tl"),
    *("Yb", "Sb", "Sn", "Ag", "Pd", "Co", "Se", "Ti", "Zn", "H", "Li", "Ge", "Cu", "Au", "Ni", "Cd", "In", "Mn", "Zr"),
    *("Cr", "Pt", "Hg", "Pb"),
)
DEGREES, VALENCES, HYDROGENS = range(11), range(7), range(5)
HYBRIDISATIONS = ("SP", "SP2", "SP3", "SP3D", "SP3D2")
CHIRALITIES = ("R", "S")

# Features of an atom: six one-hot blocks, formal charge, radical electrons, aromatic, in a ring.
N_FEATURES = 4 + sum(map(len, (SYMBOLS, DEGREES, VALENCES, HYBRIDISATIONS, HYDROGENS, CHIRALITIES)))

N_SHOWN = 5


class MoleculeGraph(NamedTuple):
    """A molecule of n atoms, all of them heavy unless its SMILES spells hydrogens that RDKit keeps."""

    atoms: NDArray[np.int8]  # features, (n, N_FEATURES)
    edges: NDArray[np.int64]  # atoms that a bond joins, in both directions, (2, 2 bonds); (2, 0) without bonds


class MoleculeBatch(NamedTuple):
    """Several molecules as one graph; no edge leads from one to another."""

    atoms: NDArray[np.int8]  # (n, N_FEATURES)
    edges: NDArray[np.int64]  # rows of atoms, (2, e)
    molecule: NDArray[np.int64]  # which molecule an atom is of, (n,)
    n_molecules: int


def read_molecules(smiles: Mapping[str, str]) -> dict[str, Any]:
    """RDKit's molecules of SMILES, by the names of the drugs.

    ImportError: if RDKit is not installed. ValueError: for SMILES that RDKit does not read, or without atoms.
    """
    try:
        from rdkit import Chem, rdBase
    except ModuleNotFoundError as error:
        msg = 'SMILES are read by the package rdkit, which is not installed: pip install "scfoundry-models[drug]".'
        raise ImportError(msg) from error
    with rdBase.BlockLogs():  # what is wrong is said below, once
        read = {drug: Chem.MolFromSmiles(text) if isinstance(text, str) else None for drug, text in smiles.items()}
    if wrong := [drug for drug, molecule in read.items() if molecule is None or molecule.GetNumAtoms() == 0]:
        listed = ", ".join(f"{smiles[drug]!r} of {drug!r}" for drug in wrong[:N_SHOWN])
        listed += ", ..." if len(wrong) > N_SHOWN else ""
        msg = (
            f"{len(wrong)} of {len(read)} SMILES are no molecules that RDKit reads: {listed}. Correct them, "
            f'smiles[{wrong[0]!r}] = "..." (PubChem lists SMILES of drugs), or leave them out: '
            f"smiles = {{drug: text for drug, text in smiles.items() if drug not in {wrong!r}}}."
        )
        raise ValueError(msg)
    return read


def molecule_graphs(smiles: Mapping[str, str]) -> dict[str, MoleculeGraph]:
    """Graphs of molecules from their SMILES, both by the names of the drugs.

    Salts keep all their parts. A value that a one-hot block does not have leaves the block at zero. Raises as
    `read_molecules` does.

    >>> molecule_graphs({"ethanol": "CCO"})["ethanol"].edges.tolist()
    [[0, 1, 1, 2], [1, 0, 2, 1]]
    """
    read = read_molecules(smiles)
    from rdkit import Chem

    implicit = Chem.ValenceType.IMPLICIT
    return {
        drug: MoleculeGraph(
            np.array([atom_features(atom, atom.GetValence(implicit)) for atom in molecule.GetAtoms()], dtype=np.int8),
            edges_of((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()),
        )
        for drug, molecule in read.items()
    }


def atom_features(atom: Any, implicit_valence: int) -> list[int]:
    """Features of one of RDKit's atoms, N_FEATURES whole numbers: those of TGSA (Zhu et al. 2022)."""
    return [
        *one_hot(atom.GetSymbol(), SYMBOLS),
        *one_hot(atom.GetDegree(), DEGREES),
        *one_hot(implicit_valence, VALENCES),
        atom.GetFormalCharge(),
        atom.GetNumRadicalElectrons(),
        *one_hot(str(atom.GetHybridization()), HYBRIDISATIONS),
        int(atom.GetIsAromatic()),
        *one_hot(atom.GetTotalNumHs(), HYDROGENS),
        int(atom.IsInRing()),
        *one_hot(atom.GetProp("_CIPCode") if atom.HasProp("_CIPCode") else None, CHIRALITIES),
    ]


def one_hot(value: object, choices: Sequence[object]) -> list[int]:
    """A one in the place of the value, zeros elsewhere."""
    return [int(value == choice) for choice in choices]


def edges_of(bonds: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """Both directions of every bond, one after the other, (2, 2 bonds)."""
    directed = [edge for begin, end in bonds for edge in ((begin, end), (end, begin))]
    return np.array(directed, dtype=np.int64).reshape(-1, 2).T


def join_molecules(graphs: Sequence[MoleculeGraph]) -> MoleculeBatch:
    """Molecules, at least one, as one graph, atoms in the order of the molecules."""
    n_atoms = np.array([len(graph.atoms) for graph in graphs])
    first = np.cumsum(n_atoms) - n_atoms
    return MoleculeBatch(
        np.concatenate([graph.atoms for graph in graphs]),
        np.concatenate([graph.edges + start for graph, start in zip(graphs, first, strict=True)], axis=1),
        np.repeat(np.arange(len(graphs)), n_atoms),
        len(graphs),
    )
