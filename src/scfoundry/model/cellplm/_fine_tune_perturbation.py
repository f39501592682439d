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

from scfoundry._settings import settings
from scfoundry.data.matrix.contexts import Context
from scfoundry.model.cellplm._replaced_genes import embed_replaced, expression_of
from scfoundry.nn.heads import MLPHead
from scfoundry.train.contexts import fine_tune
from scfoundry.train.plan import seeded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model.cellplm._module import CellPLMModule
    from scfoundry.train.plan import Trainable

    Head = dict[str, NDArray[np.float32]]

__all__ = ["fine_tune_perturbations", "replaced_gene_changes"]

MAX_EPOCHS = 100
LR = 5e-4
EMBEDDER_LR = 5e-5
WEIGHT_DECAY = 1e-6
PATIENCE = 10
VALIDATION = 0.1
CELLS_PER_STEP = 64
PARTS = ("embedder", "layers", "norm", "latent")


def fine_tune_perturbations(
    model: Trainable[CellPLMModule],
    controls: Cells,
    conditions: Sequence[tuple[str, Sequence[int]]],
    profiles: NDArray[np.float64],
    genes: NDArray[np.int64],
    *,
    value: float,
    max_epochs: int | None,
    seed: int,
    compute: Compute,
) -> Head:
    """Train the encoder, and a head from the latent to the log expression of all genes.

    A tenth of the perturbations, at least one, is for validation where there are more than four, and the best weights
    by it return. An epoch shows as many perturbations as there are.

    ``controls``: control cells, every group a context. ``conditions``: context and vocabulary positions of the replaced
    genes of every condition; without genes it is the controls. ``profiles``, ``genes``: mean log expression of every
    condition, (n, g), and vocabulary positions of the genes that it is of, (g,). ``value``: what replaces the log
    expression of a perturbed gene. ``max_epochs``: most epochs, 100 if `None`. Returns weights of the head by name.
    """
    device = compute.device
    rng = np.random.default_rng(seed)
    with seeded(seed, device):
        head = new_head(model.module)
    outputs = torch.from_numpy(genes).to(device)
    targets = torch.from_numpy(profiles).float()
    levels = {name: targets[i].to(device) for i, (name, replaced) in enumerate(conditions) if not replaced}
    shuffled = rng.permutation([i for i, (_, replaced) in enumerate(conditions) if replaced]).tolist()
    n_validation = max(1, round(VALIDATION * len(shuffled))) if len(shuffled) > 4 else 0
    validation, training = shuffled[:n_validation], shuffled[n_validation:]
    rows_of = {context.name: context.rows for context in controls.contexts}

    def error(i: int) -> Tensor:
        name, replaced = conditions[i]
        rows = rows_of[name]
        drawn = rows[torch.randperm(len(rows))[:CELLS_PER_STEP].sort().values.numpy()]
        expression = expression_of(model.module, controls, drawn)

        def against(target: Tensor, genes: Sequence[int]) -> Tensor:
            predicted = head(embed_replaced(model.module, expression, genes, value))[:, outputs]
            return F.mse_loss(predicted, target.expand(len(drawn), -1))

        return against(levels[name], ()) + against(targets[i].to(device), replaced)

    def loss(context: Context, step: int) -> dict[str, Tensor]:
        if model.module.training:
            return {"loss": error(training[int(torch.randint(len(training), ()))])}
        return {"loss": torch.stack([error(i) for i in validation]).mean()}

    fine_tune(
        model,
        [Context("controls", np.arange(controls.n_obs))],
        loss,
        parts=PARTS,
        head=head,
        cells_per_step=max(1, controls.n_obs // len(training)),
        max_epochs=MAX_EPOCHS if max_epochs is None else max_epochs,
        lr=LR,
        part_lrs={"embedder": EMBEDDER_LR},
        weight_decay=WEIGHT_DECAY,
        warmup_steps=len(training),
        patience=PATIENCE if validation else None,
        seed=seed,
        compute=compute,
    )
    return {name: weight.cpu().numpy() for name, weight in head.state_dict().items()}


@torch.no_grad()
def replaced_gene_changes(
    module: CellPLMModule,
    controls: Cells,
    head: Head,
    conditions: Sequence[Sequence[int]],
    value: float,
    compute: Compute,
) -> NDArray[np.float64]:
    """Mean output for controls, one context, with genes replaced, less that for the same cells as they are, (n, G)."""
    module.to(compute.device).eval()
    output = new_head(module)
    output.load_state_dict({name: torch.from_numpy(weight) for name, weight in head.items()})
    output.to(compute.device).eval()
    expression = expression_of(module, controls)

    def level(genes: Sequence[int]) -> NDArray[np.float64]:
        expected = output(embed_replaced(module, expression, genes, value))
        return expected.float().mean(0).cpu().numpy().astype(np.float64)

    bar = tqdm(conditions, desc="cellplm", unit="condition", disable=not settings.show_progress)
    with compute.autocast():
        start = level(())
        return np.array([level(genes) - start for genes in bar])


def new_head(module: CellPLMModule) -> MLPHead:
    """A network from the latent to the log expression of all genes, with fresh weights."""
    config, n_genes = module.config, len(module.embedder.genes)
    return MLPHead(config.n_latent, n_genes, n_hidden=config.n_decoder_hidden, n_layers=2, dropout=config.dropout)
