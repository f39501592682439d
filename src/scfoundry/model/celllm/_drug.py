"""Official tensors of CellLM's encoder of drugs, which stand beside the cell encoder in files for drug response."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scfoundry.data.molecules import N_FEATURES
from scfoundry.nn.checkpoint import CheckpointError, account_for, renamed
from scfoundry.nn.molecule_encoder import MoleculeEncoder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["released_drug_encoder"]

LAYERS, LINEAR = "GNN_drug.convs_drug.", "drug_emb.0."
# Released stem -> our stem; what follows, such as "0.nn.2.weight", is the same.
STEMS = {LAYERS: "layers.", "GNN_drug.bns_drug.": "norms.", LINEAR: "linear."}
PARTS = ("GNN_drug.", "drug_emb.")


def released_drug_encoder(tensors: Mapping[str, Tensor], *, source: str) -> MoleculeEncoder:
    """The released encoder of drugs, not in training; tensors of other parts of the model are passed over.

    CheckpointError: if tensors of this part are missing, unexpected, or of another shape than the others imply.
    """
    found = {name: tensor for name, tensor in tensors.items() if name.startswith(PARTS)}
    needed = (f"{LAYERS}0.nn.0.weight", f"{LINEAR}weight")
    if missing := [name for name in needed if name not in found]:
        msg = f"{source} lacks {', '.join(missing)}: it holds no encoder of drugs. Is it the file of another task?"
        raise CheckpointError(msg)
    numbers = {name.removeprefix(LAYERS).split(".")[0] for name in found if name.startswith(LAYERS)}
    module = MoleculeEncoder(N_FEATURES, len(found[needed[0]]), len(numbers), len(found[needed[1]]))
    module.load_state_dict(account_for({renamed(name, STEMS): t for name, t in found.items()}, module, source=source))
    return module.eval()
