"""Molecules as counts of substructures: Morgan fingerprints of their SMILES (Rogers and Hahn 2010)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfoundry._settings import logger
from scfoundry.data.molecules import read_molecules

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["N_BITS", "morgan_fingerprints", "tanimoto"]

N_BITS, RADIUS = 2048, 2
# What an organic drug is made of; another element in one is worth a line in the log.
NON_METALS = frozenset({"C", "N", "O", "S", "F", "Si", "P", "Cl", "Br", "I", "B", "H", "Se", "As", "D"})


def morgan_fingerprints(smiles: Mapping[str, str]) -> NDArray[np.uint8]:
    """How often a molecule has a substructure of up to two bonds around an atom, folded, (molecules, N_BITS).

    Of a salt the largest part is read, its counter-ions are left out; metals are atoms like others. Both are named in
    the log. ImportError and ValueError as `molecule_graphs`.

    >>> morgan_fingerprints({"ethanol": "CCO", "as a salt": "CC[O-].[Na+]"}).sum(1).tolist()
    [7, 7]
    """
    molecules = read_molecules(smiles)
    from rdkit import Chem
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=N_BITS)
    parts = {drug: Chem.GetMolFrags(molecule, asMols=True) for drug, molecule in molecules.items()}
    salts = [drug for drug, of_drug in parts.items() if len(of_drug) > 1]
    metals = [drug for drug, molecule in molecules.items() if _elements(molecule) - NON_METALS]
    for drugs, what in ((salts, "are salts or mixtures, of which the largest part is read"), (metals, "hold a metal")):
        if drugs:
            logger.info("%d of %d drugs %s: %s.", len(drugs), len(parts), what, ", ".join(drugs[:5]))
    largest = [max(of_drug, key=lambda part: part.GetNumHeavyAtoms()) for of_drug in parts.values()]
    if not largest:
        return np.zeros((0, N_BITS), dtype=np.uint8)
    counts = np.stack([generator.GetCountFingerprintAsNumPy(molecule) for molecule in largest])
    return np.minimum(counts, np.iinfo(np.uint8).max).astype(np.uint8)


def _elements(molecule: Any) -> set[str]:
    return {atom.GetSymbol() for atom in molecule.GetAtoms()}


def tanimoto(counts: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Substructures that two molecules share, of those that either has, (m, B) and (n, B) to (m, n); 1 for the same."""
    both = np.stack([np.minimum(row, others).sum(1, dtype=np.float64) for row in counts]) if len(counts) else 0.0
    sizes = counts.sum(1, dtype=np.float64)[:, None] + others.sum(1, dtype=np.float64)
    return np.zeros_like(sizes) + both / np.maximum(sizes - both, 1)
