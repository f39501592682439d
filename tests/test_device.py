"""Where and how precisely models compute."""

from __future__ import annotations

import pytest
import torch

from scfoundry import _device
from scfoundry._device import Compute, bfloat16_is_faster

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("is_faster", "precision", "dtype"), [(True, "bfloat16", torch.bfloat16), (False, "float32", torch.float32)]
)
def test_the_fastest_precision_is_the_measured_one_and_stays_it_on_other_machines(
    monkeypatch, is_faster, precision, dtype
):
    monkeypatch.setattr(_device, "bfloat16_is_faster", lambda device: is_faster)
    compute = Compute.resolve("cpu", "fastest")
    assert compute == Compute.resolve("cpu", precision)
    with compute.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    # A worker does as the process that asked: rows of one result are not of two precisions.
    monkeypatch.setattr(_device, "bfloat16_is_faster", lambda device: not is_faster)
    assert compute.elsewhere() == compute


@pytest.mark.parametrize(("seconds", "is_faster"), [(0.5, True), (0.9, False), (2.0, False)])
def test_bfloat16_is_chosen_where_it_takes_clearly_less_time(monkeypatch, seconds, is_faster):
    # Four rounds of float32 and bfloat16, each with a start and an end.
    clock = iter([t for n in range(4) for t in (10 * n, 10 * n + 1, 10 * n + 5, 10 * n + 5 + seconds)])
    monkeypatch.setattr(_device.time, "perf_counter", lambda: next(clock))
    assert bfloat16_is_faster.__wrapped__(CPU) is is_faster
