"""Training by two processes, `strategy="ddp"`: the same weights as by one process that takes the same cells."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from cases import registered

if TYPE_CHECKING:
    from pathlib import Path

N_RANKS, N_CELLS = 2, 24
# Steps of one process that take what two processes take: their batches one after the other, random numbers being those
# of a batch; or, where all cells of a step are contrasted, twice the batch, and then nothing may be random.
IN_TURN = {"accumulate_grad_batches": N_RANKS}
SMALL = {"batch_size": 4}
LESS = SMALL | {"part_size": 2, "gradient_checkpointing": True, "lora": 2}
HALF, ALL = ({"batch_size": n, "validation_size": 0.0} for n in (N_CELLS // N_RANKS, N_CELLS))
CONTRAST = {"loss_weights": {"masked_genes": 0, "matching": 0}}
CERTAIN = {"dropout": 0.0, "text_dropout": 0.0, "queue_size": 2 * N_CELLS}
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # Changes of the configuration, arguments of every process, and of one alone.
    "cellplm": ({}, {}, IN_TURN),
    "cellplm_gmvae": ({}, {}, IN_TURN),
    "langcell": (CERTAIN, HALF | CONTRAST, ALL | CONTRAST),
    "cellnamer": ({}, SMALL, SMALL | IN_TURN),
    "celler": ({}, SMALL, SMALL | IN_TURN),
    "celllm": ({}, *(how | {"loss_weights": {"contrastive": 0}} for how in (SMALL, SMALL | IN_TURN))),
    "scpalm": ({"replace_every": 0}, SMALL, SMALL | IN_TURN),
    "celler, with less memory and resumed": ({}, LESS | {"checkpoint_dir": "checkpoints"}, LESS | IN_TURN),
}
# Softmax does not change when all keys move alike, so that this gradient is rounding, which Adam takes as a direction;
# codes in use are counted at every batch.
LEFT_OUT = ("attention.key.bias", "quantiser.unused_for")


def trained(name: str, how: dict[str, Any]) -> dict[str, Any]:
    """Weights and history after a training, which was interrupted in between where it leaves checkpoints."""
    how = {
        "lr": 1e-3,
        "warmup_steps": 0,
        "schedule": "constant",
        "seed": 1,
        "accelerator": "cpu",
        "enable_progress_bar": False,
    } | how
    for max_epochs in (1, 2) if "checkpoint_dir" in how else (2,):
        model = registered(name.split(",")[0], **RUNS[name][0])
        model.train(max_epochs=max_epochs, **how)
    history = {key: frame.iloc[:, 0].astype(float).tolist() for key, frame in model.history.items()}
    return {"weights": model.module.state_dict(), "history": history}


def on_a_rank() -> None:
    """Every training as one of two processes, which leaves what it learned in a file."""
    torch.set_num_threads(1)
    for name, (_, how, _) in RUNS.items():
        torch.save(trained(name, how | {"strategy": "ddp", "devices": N_RANKS}), f"{name}.{os.environ['LOCAL_RANK']}")
    # One of them alone, although they still know each other.
    if os.environ["LOCAL_RANK"] == "0":
        torch.save(trained("langcell", RUNS["langcell"][2] | {"devices": 1}), "alone")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes left what each learned."""
    place = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": os.pathsep.join(sys.path)}
    # Not forked: a child would wait for threads of torch that it does not have.
    run = [sys.executable, "-c", "import runpy, sys; runpy.run_path(sys.argv[1])['on_a_rank']()", __file__]
    own = [{"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(N_RANKS)} for rank in range(N_RANKS)]
    ranks = [subprocess.Popen(run, cwd=place, env=shared | of_rank) for of_rank in own]  # noqa: S603
    assert [rank.wait(timeout=240) for rank in ranks] == [0] * N_RANKS
    assert not (place / "lightning_logs").exists()
    return place


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_learn_what_one_does(name: str, folder: Path) -> None:
    first, second = (torch.load(folder / f"{name}.{rank}") for rank in range(N_RANKS))
    one = trained(name, RUNS[name][2])
    for key, value in one["weights"].items():
        torch.testing.assert_close(second["weights"][key], first["weights"][key], rtol=0, atol=0, msg=key)
        if not key.endswith(LEFT_OUT):
            torch.testing.assert_close(first["weights"][key], value, rtol=1e-4, atol=1e-5, msg=key)
    # The first process has the history of both.
    assert first["history"].keys() == one["history"].keys()
    for key, values in one["history"].items():
        np.testing.assert_allclose(first["history"][key], values, rtol=1e-5, atol=1e-6, err_msg=key)


def test_the_next_training_may_be_of_one_process(folder: Path) -> None:
    found, expected = torch.load(folder / "alone"), trained("langcell", RUNS["langcell"][2])
    for key, value in expected["weights"].items():
        torch.testing.assert_close(found["weights"][key], value, rtol=0, atol=0, msg=key)
