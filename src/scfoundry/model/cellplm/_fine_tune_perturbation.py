"""The published scheme: control cells with a gene replaced, through encoder and head, to the perturbed profile.

The loss is the mean squared error against the mean profile of the perturbed cells (section 4.5 of the paper, whose code
was not released).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from scfoundry._device import Compute, autocast
from scfoundry._settings import settings
from scfoundry.data.matrix.contexts import Context
from scfoundry.model.cellplm._replaced_genes import perturbed
from scfoundry.nn.counts import SparseCounts
from scfoundry.train.contexts import fine_tune

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scfoundry._device import Precision
    from scfoundry.data.matrix.reader import CountsReader
    from scfoundry.model.cellplm._model import CellPLM
    from scfoundry.tasks.perturbation.conditions import Condition
    from scfoundry.tasks.perturbation.responses import Responses

    Array = NDArray[np.float64]

__all__ = ["MAX_EPOCHS", "predicted_changes", "train_on_responses"]

MAX_EPOCHS = 100
LR = 5e-4
EMBEDDER_LR = 5e-5
PATIENCE = 10
VALIDATION = 0.1
CELLS_PER_STEP = 64
MOST_CONTROLS = 512
PARTS = ("embedder", "layers", "norm", "latent", "expression_head")


def train_on_responses(
    model: CellPLM,
    reader: CountsReader,
    control_rows: Mapping[str, NDArray[np.int64]],
    responses: Responses,
    positions: Mapping[str, int],
    *,
    value: float,
    max_epochs: int,
    seed: int,
    device: torch.device,
    precision: Precision,
) -> None:
    """Train a twin with an expression head.

    A tenth of the conditions, at least one, is for validation where there are more than four, and the best weights by
    it return. An epoch shows as many conditions as there are.

    Parameters
    ----------
    model
        Is changed.
    reader
        Checked and aligned data.
    control_rows
        Control cells by group.
    responses
        Measured means.
    positions
        Vocabulary position of every perturbed gene; conditions with another are left out.
    value
        What replaces the log expression of a perturbed gene.
    max_epochs
        Most epochs.
    seed
        Of everything random.
    device, precision
        Where and how to compute.
    """
    rng = np.random.default_rng(seed)
    measured = reader.alignment.kept
    outputs = torch.from_numpy(reader.alignment.target[measured].astype(np.int64)).to(device)
    usable = [i for i, condition in enumerate(responses.conditions) if set(condition.parts) <= positions.keys()]
    usable = rng.permutation(usable).tolist()
    n_validation = max(1, round(VALIDATION * len(usable))) if len(usable) > 4 else 0
    validation, training = usable[:n_validation], usable[n_validation:]
    profiles = torch.from_numpy(responses.means[:, measured]).float()
    levels = {
        group: torch.from_numpy(profile[measured]).float().to(device) for group, profile in responses.controls.items()
    }

    def output(rows: NDArray[np.int64], parts: Sequence[str]) -> Tensor:
        cells = SparseCounts.from_csr(reader.read(rows)).to(device).log_normalised(model.config.library_size)
        changed = perturbed(cells, [positions[part] for part in parts], value)
        return model.module.expression_head(model.module.latent.embedding(model.module.encode(changed)))[:, outputs]

    def error(i: int) -> Tensor:
        condition = responses.conditions[i]
        rows = control_rows[condition.group]
        drawn = rows[torch.randperm(len(rows))[:CELLS_PER_STEP].sort().values.numpy()]
        control = F.mse_loss(output(drawn, ()), levels[condition.group].expand(len(drawn), -1))
        return control + F.mse_loss(output(drawn, condition.parts), profiles[i].to(device).expand(len(drawn), -1))

    def loss(context: Context, step: int) -> dict[str, Tensor]:
        if model.module.training:
            return {"loss": error(training[int(torch.randint(len(training), ()))])}
        return {"loss": torch.stack([error(i) for i in validation]).mean()}

    everything = np.sort(np.concatenate(list(control_rows.values())))
    fine_tune(
        model,
        [Context("controls", everything)],
        loss,
        parts=PARTS,
        max_epochs=max_epochs,
        lr=LR,
        part_lrs={"embedder": EMBEDDER_LR},
        weight_decay=1e-6,
        warmup_steps=len(training),
        patience=PATIENCE if validation else None,
        cells_per_step=max(1, len(everything) // len(training)),
        seed=seed,
        compute=Compute(device, precision),
    )


@torch.no_grad()
def predicted_changes(
    model: CellPLM,
    reader: CountsReader,
    control_rows: Mapping[str, NDArray[np.int64]],
    conditions: Sequence[Condition],
    positions: Mapping[str, int],
    value: float,
    *,
    seed: int,
    device: torch.device,
    precision: Precision,
) -> Array:
    """Mean output for perturbed controls less that for the same cells unperturbed, over the genes kept, (n, g).

    Of many controls some are read, the same for all conditions; their order in the file plays no part if rows are
    sorted by name.
    """
    module = model.module.to(device).eval()
    outputs = reader.alignment.target[reader.alignment.kept]

    def level(cells: SparseCounts, parts: Sequence[str]) -> Array:
        changed = perturbed(cells, [positions[part] for part in parts], value)
        expected = module.expression_head(module.latent.embedding(module.encode(changed)))
        return expected.float().mean(0).cpu().numpy().astype(np.float64)[outputs]

    drawn = {
        group: np.sort(np.random.default_rng(seed).permutation(rows)[:MOST_CONTROLS])
        for group, rows in control_rows.items()
    }
    changes = []
    with autocast(device, precision):
        for condition in tqdm(conditions, desc="cellplm", unit="condition", disable=not settings.show_progress):
            cells = (
                SparseCounts.from_csr(reader.read(drawn[condition.group]))
                .to(device)
                .log_normalised(model.config.library_size)
            )
            changes.append(level(cells, condition.parts) - level(cells, ()))
    return np.array(changes)
