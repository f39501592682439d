"""Parts of the batch integration of Celler; the whole is in ``tests/tasks/test_integration.py``."""

import numpy as np
import torch
from cases import MODELS

from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells
from scfoundry.model.celler._domains import DomainNorm
from scfoundry.train.cells import CellDataModule


def test_a_step_sees_cells_of_one_batch_and_an_epoch_all_cells():
    groups = np.array([0] * 21 + [1] * 7 + [2])
    data = CellDataModule(np.arange(29), np.arange(0), lengths=np.ones(29), batch_size=4, groups=groups)
    batches = data.epoch(np.random.default_rng(0))
    assert len(batches) == len(data.train_dataloader()) == 6 + 2 + 1
    assert all(len(np.unique(groups[batch])) == 1 for batch in batches)
    assert sorted(np.concatenate(batches)) == list(range(29))


def test_statistics_are_those_of_all_positions_of_a_batch_and_of_others_pooled():
    norm, rng = DomainNorm(3, 4).eval(), np.random.default_rng(0)
    x, of_position = torch.tensor(rng.normal(3, 2, (90, 4)), dtype=torch.float32), torch.arange(90) % 2
    norm.measure((x[start : start + 40], of_position[start : start + 40]) for start in (0, 40, 80))
    for batch in range(2):
        own = x[of_position == batch]
        torch.testing.assert_close(norm.mean[batch], own.mean(0))
        torch.testing.assert_close(norm.variance[batch], own.var(0, correction=0))
        normalised = norm(own[:, None], torch.full((45,), batch))
        torch.testing.assert_close(normalised.mean(0), torch.zeros(1, 4), atol=1e-5, rtol=0)
    # Of a batch without positions they stay as they are.
    assert (norm.mean[2] == 0).all()
    assert (norm.variance[2] == 1).all()


def test_the_copy_is_normalised_by_what_its_final_weights_make_of_every_batch(make_adata):
    adata = make_adata(30, 20)
    model = MODELS["celler"](adata.var_names)
    cells = Cells.of(adata, model.genes, batch_key="batch", caller="test")
    cells = cells.take(cells.by_name)
    compute = Compute.resolve("cpu", "float32")
    tuned = model.fine_tune_integration(cells, max_epochs=1, seed=0, compute=compute)
    assert tuned.config.batches == tuple(sorted(adata.obs["batch"].unique()))
    assert (tuned.config.max_length, tuned.config.mask_ratio, tuned.config.cls_value) == (21, 0.4, 0)
    for batch in tuned._tokens(cells).stream(torch.device("cpu")):
        assert batch.genes.shape[1] == 21  # with the genes that a cell does not express
    inputs, of_cell = [], []
    with torch.no_grad():
        for batch in tuned._tokens(cells).stream(torch.device("cpu")):
            inputs.append(tuned.module.gene_and_value(batch))
            of_cell.append(batch.batches)
    x, of_cell = torch.cat(inputs), torch.cat(of_cell)
    for number in range(2):
        torch.testing.assert_close(tuned.module.domain_norm.mean[number], x[of_cell == number].mean((0, 1)))
