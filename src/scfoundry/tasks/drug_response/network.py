r"""The published network: a vector of the line, a graph of the drug, and what both say together (Zhao et al. 2023).

.. math:: \hat y = \mathrm{MLP}_{512, 512, 1}(\mathrm{MLP}_{1024, 256}(x) \oplus \mathrm{GIN}(\text{drug}))

Trained on the squared error of standardised responses until held-out pairs are predicted no better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from scfoundry.data.molecules import N_FEATURES, MoleculeGraph, join_molecules
from scfoundry.nn.molecule_encoder import MoleculeEncoder
from scfoundry.tasks._fitted import prefixed, under
from scfoundry.train.cells import BestWeights, CellDataModule, CellTrainingPlan
from scfoundry.train.plan import fit, seeded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor

    from scfoundry._device import Compute

__all__ = ["NetworkResponses"]

MAX_EPOCHS, PATIENCE, LR, BATCH_SIZE = 300, 10, 1e-4, 16
LINE_WIDTHS, DRUG_WIDTH, HEAD_WIDTH, DROPOUT = (1024, 256), 256, 512, 0.2


class ResponseNetwork(nn.Module):
    """Response of a line with F features to a drug."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        first, second = LINE_WIDTHS
        self.line = nn.Sequential(
            *(nn.Linear(n_features, first), nn.ReLU(), nn.Dropout(DROPOUT)),
            *(nn.Linear(first, second), nn.ReLU(), nn.Dropout(DROPOUT)),
        )
        self.drug = MoleculeEncoder(N_FEATURES, n_output=DRUG_WIDTH, dropout=DROPOUT)
        self.head = nn.Sequential(
            *(nn.Linear(second + DRUG_WIDTH, HEAD_WIDTH), nn.ELU(), nn.Dropout(DROPOUT)),
            *(nn.Linear(HEAD_WIDTH, HEAD_WIDTH), nn.ELU(), nn.Dropout(DROPOUT)),
            nn.Linear(HEAD_WIDTH, 1),
        )

    def molecules(self, graphs: Sequence[MoleculeGraph]) -> Tensor:
        """Vectors of drugs, (d, 256)."""
        joined, device = join_molecules(graphs), next(self.parameters()).device
        parts = (torch.from_numpy(part).to(device) for part in (joined.atoms, joined.edges, joined.molecule))
        return self.drug(*parts, joined.n_molecules)

    def forward(self, lines: Tensor, drugs: Tensor) -> Tensor:
        """Standardised responses of pairs, (B, F) and (B, 256) to (B,)."""
        return self.head(torch.cat([self.line(lines), drugs], dim=1))[:, 0]


class NetworkResponses:
    """A trained network, with the scales of what it reads and predicts.

    It stands in scvi-tools' runner for a model: ``module``, ``history_``, ``is_trained_``.
    """

    def __init__(self, n_features: int, center: NDArray, scale: NDArray, of_response: NDArray) -> None:
        self.module = ResponseNetwork(n_features)
        self.center, self.scale, self.of_response = center, scale, of_response
        self.history_: dict[str, pd.DataFrame] | None = None
        self.is_trained_ = False

    def to_device(self, device: Any) -> None:
        """Move the module."""
        self.module.to(device)

    @classmethod
    def fit(
        cls,
        features: NDArray[np.float64],
        response: NDArray[np.float64],
        graphs: Sequence[MoleculeGraph],
        held_out: NDArray[np.bool_],
        *,
        max_epochs: int | None,
        batch_size: int | None,
        checkpoint_dir: str | Path | None,
        seed: int,
        compute: Compute,
    ) -> Self:
        """Learn from lines (n, F) and responses (n, D), NaN where not measured; ``held_out`` (n, D) say when to stop.

        Scales are of training lines and pairs alone.
        """
        measured = np.isfinite(response)
        learned = measured & ~held_out
        rows = learned.any(1)
        center, scale = features[rows].mean(0), features[rows].std(0)
        of_response = np.array([response[learned].mean(), response[learned].std() or 1.0])
        with seeded(seed, compute.device):
            found = cls(features.shape[1], center, np.where(scale > 0, scale, 1), of_response)
        found.to_device(compute.device)
        module, lines = found.module, found._lines(features, compute)
        which_line, which_drug = (torch.from_numpy(index) for index in np.nonzero(measured))
        targets = torch.from_numpy((response[measured] - of_response[0]) / of_response[1]).float().to(compute.device)
        is_held_out = held_out[measured]
        data = CellDataModule(
            np.flatnonzero(~is_held_out),
            np.flatnonzero(is_held_out),
            lengths=np.zeros(len(is_held_out), dtype=np.int64),
            batch_size=batch_size or BATCH_SIZE,
        )

        def loss(pairs: NDArray[np.int64], step: int) -> dict[str, Tensor]:
            present, number = torch.unique(which_drug[pairs], return_inverse=True)
            drugs = module.molecules([graphs[i] for i in present.tolist()])[number.to(compute.device)]
            predicted = module(lines[which_line[pairs].to(compute.device)], drugs)
            return {"loss": F.mse_loss(predicted, targets[torch.from_numpy(pairs).to(compute.device)])}

        plan = CellTrainingPlan(
            module, data, loss, lr=LR, weight_decay=0.0, warmup_steps=0, schedule="constant", seed=seed
        )
        callbacks = [BestWeights(module, PATIENCE)] if is_held_out.any() else []
        fit(
            found,
            plan,
            data,
            max_epochs=MAX_EPOCHS if max_epochs is None else max_epochs,
            checkpoint_dir=checkpoint_dir,
            callbacks=callbacks,
            **compute.trainer_arguments(),
        )
        module.eval()
        return found

    def _lines(self, features: NDArray[np.float64], compute: Compute) -> Tensor:
        return torch.from_numpy((features - self.center) / self.scale).float().to(compute.device)

    @torch.inference_mode()
    def predict(
        self, features: NDArray[np.float64], graphs: Sequence[MoleculeGraph], compute: Compute
    ) -> NDArray[np.float64]:
        """Responses of lines to drugs, known or new, (m, F) to (m, d)."""
        self.to_device(compute.device)
        self.module.eval()
        lines, drugs = self._lines(features, compute), self.module.molecules(graphs)
        # Line by line: no batch can show in a result.
        found = [self.module(line.expand(len(drugs), -1), drugs) for line in lines]
        mean, deviation = self.of_response
        return torch.stack(found).double().cpu().numpy() * deviation + mean

    def arrays(self) -> dict[str, NDArray]:
        """What `from_arrays` reads."""
        arrays = {name: tensor.cpu().numpy() for name, tensor in self.module.state_dict().items()}
        return prefixed("module.", arrays) | {
            "center": self.center,
            "scale": self.scale,
            "of_response": self.of_response,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> Self:
        """The same again."""
        found = cls(len(arrays["center"]), arrays["center"], arrays["scale"], arrays["of_response"])
        state = {name: torch.from_numpy(values) for name, values in under("module.", arrays).items()}
        found.module.load_state_dict(state)
        found.module.eval()
        return found
