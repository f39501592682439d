r"""Divide and conquer: the exact gradient of a loss over any number of rows, in the memory of a few (Zhao et al. 2023).

A contrastive loss needs the representations of a whole batch at once, but only gradients need what an encoder computed
on the way there. So the batch is encoded part by part and nothing but the representations :math:`h` is kept; they give
the loss and its gradient with respect to them; then each part is encoded again, with gradients, and passes its rows on:

.. math:: \frac{dL}{dw} = \sum_k \sum_{i \in k} \frac{\partial L}{\partial h_i} \frac{\partial h_i}{\partial w}

The paper evaluates the loss anew for every part; that one evaluation is enough is GradCache (Gao et al. 2021), the form
used here. Both passes must agree to the last bit: random numbers are replayed, and whether they agree is checked.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import distributed
from torch.autograd.function import once_differentiable

from scfoundry.nn.processes import together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor

__all__ = ["encode_in_parts", "gather_rows"]

Part = TypeVar("Part")

# Most that outputs of the two passes may differ, relative to their norm: far above rounding, far below other dropout.
TOLERANCE = 1e-2


def encode_in_parts(
    encode: Callable[[Part], tuple[Tensor, ...]], parts: Sequence[Part], parameters: Iterable[Tensor]
) -> tuple[Tensor, ...]:
    """Encode parts one after the other so that gradients take the memory of one.

    Losses are then formed from the rows of all parts, as many losses as there are, and they may be scaled. The encoder
    may use autocast. Under `DistributedDataParallel` gradients are exchanged once, after the last part.

    Parameters
    ----------
    encode
        Outputs of a part: tensors whose first dimension is its rows. What is random in it must come from torch's global
        generators, and it must compute the same until gradients have been taken.
    parts
        What ``encode`` is called with: mini-batches, each view of one being a part. They may differ in size.
    parameters
        All that gradients are taken of; whatever else an output depends on counts as constant.

    Returns
    -------
    Every output with the rows of all parts, in their order.

    Raises
    ------
    RuntimeError
        When gradients are taken, if the encoder does not give the same outputs again.

    Examples
    --------
    >>> views = [*cells.split(16), *cells.split(16)]  # the same cells twice, with different dropout
    >>> (h,) = encode_in_parts(lambda part: (module(part),), views, module.parameters())
    >>> loss = two_view_loss(*h.chunk(2), temperature=0.05)
    >>> loss.backward()
    """
    if len(parts) == 1:
        return encode(parts[0])
    return InParts.apply(encode, parts, *(p for p in parameters if p.requires_grad))


class InParts(torch.autograd.Function):
    """Outputs of all parts as one function of the parameters, each of which gets its gradient once."""

    @staticmethod
    def forward(ctx: Any, encode: Callable, parts: Sequence, *parameters: Tensor) -> tuple[Tensor, ...]:
        """Encode all parts, keeping nothing but the outputs and what is random."""
        devices = sorted({parameter.device for parameter in parameters}, key=str)
        ctx.encode, ctx.parts, ctx.circumstances = encode, parts, []
        outputs = []
        with own_autocast_cache():
            for part in parts:
                ctx.circumstances.append(Circumstances.present(devices))
                outputs.append(encode(part))
        ctx.sizes = [len(first) for first, *_ in outputs]
        rows = tuple(torch.cat(output) for output in zip(*outputs, strict=True))
        # Autograd refuses saved tensors that have been changed since, such as by an optimiser.
        ctx.save_for_backward(*parameters, *rows)
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Encode each part again, and pass the gradients of its rows on."""
        n = len(ctx.saved_tensors) - len(gradients)
        parameters, rows = ctx.saved_tensors[:n], ctx.saved_tensors[n:]
        rows_of, gradients_of = ([x.split(ctx.sizes) for x in whole] for whole in (rows, gradients))
        totals: list[Tensor | None] = [None] * n
        apart = torch.zeros((), device=rows[0].device)
        for k, (part, circumstances) in enumerate(zip(ctx.parts, ctx.circumstances, strict=True)):
            with circumstances.again():
                outputs = ctx.encode(part)
            for output, before in zip(outputs, rows_of, strict=True):
                apart = torch.maximum(apart, relative_difference(output, before[k]))
            above = [gradient[k] for gradient in gradients_of]
            found = list(torch.autograd.grad(outputs, parameters, above, allow_unused=True))
            for i in range(n):  # one after the other: sums of all would be a third copy of all gradients
                totals[i], found[i] = added(totals[i], found[i]), None
        if apart > TOLERANCE:
            msg = (
                f"The encoder gave other outputs for the same rows when gradients were taken (by {apart:.0%}). Until "
                "then leave its weights and its train() or eval() as they are, and draw random numbers from torch's "
                "global generators: a generator of one's own, or numpy's, is not replayed."
            )
            raise RuntimeError(msg)
        return None, None, *totals


def relative_difference(output: Tensor, before: Tensor) -> Tensor:
    """Norm of the difference to that of the output."""
    with torch.no_grad():
        return (output - before).float().norm() / before.float().norm().clamp(min=torch.finfo(torch.float32).tiny)


def added(total: Tensor | None, further: Tensor | None) -> Tensor | None:
    """Sum of gradients, `None` being zero."""
    if total is None or further is None:
        return further if total is None else total
    return total + further


class Circumstances(NamedTuple):
    """On what the outputs of an encoder depend beside its weights and input."""

    generators: dict[torch.device, Tensor]  # states of torch's global generators
    autocast: dict[str, tuple[bool, torch.dtype]]  # whether and to which type, by kind of device

    @classmethod
    def present(cls, devices: Sequence[torch.device]) -> Circumstances:
        """Those of now, for what is computed on these devices."""
        everywhere = {torch.device("cpu"), *devices}
        autocast = {
            kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
            for kind in sorted({device.type for device in everywhere})
        }
        return cls({device: generator_state(device) for device in everywhere}, autocast)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Compute with gradients as it was then, and leave the generators as they are now."""
        now = {device: generator_state(device) for device in self.generators}
        try:
            with ExitStack() as stack:
                stack.enter_context(torch.enable_grad())
                for kind, (enabled, dtype) in self.autocast.items():
                    stack.enter_context(torch.autocast(kind, dtype, enabled))
                stack.enter_context(own_autocast_cache())
                set_generator_states(self.generators)
                yield
        finally:
            set_generator_states(now)


@contextmanager
def own_autocast_cache() -> Iterator[None]:
    """Keep the copies of weights that autocast makes within from those without: only some of them carry gradients."""
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.clear_autocast_cache()


def generator_state(device: torch.device) -> Tensor:
    """State of a device's global generator."""
    if device.type == "cpu":
        return torch.get_rng_state()
    states = torch.get_device_module(device)
    return states.get_rng_state() if device.type == "mps" else states.get_rng_state(device)


def set_generator_states(states: dict[torch.device, Tensor]) -> None:
    """Bring global generators into these states."""
    for device, state in states.items():
        if device.type == "cpu":
            torch.set_rng_state(state)
        elif device.type == "mps":
            torch.mps.set_rng_state(state)
        else:
            torch.get_device_module(device).set_rng_state(state, device)


def gather_rows(rows: Tensor) -> Tensor:
    """Rows (t, Z) of all processes in the order of their ranks, (T, Z); those of a single process as they are.

    Every process then computes the same loss of all T rows, and takes its gradient with respect to its own ones, times
    the number of processes: what `DistributedDataParallel` averages is then the gradient of one process with all rows.
    """
    if not together():
        return rows
    n_ranks, rank = distributed.get_world_size(), distributed.get_rank()
    sizes = [torch.zeros((), dtype=torch.int64, device=rows.device) for _ in range(n_ranks)]
    distributed.all_gather(sizes, torch.tensor(len(rows), device=rows.device))
    longest = int(torch.stack(sizes).max())
    filled = rows.detach().new_zeros(longest, *rows.shape[1:])
    filled[: len(rows)] = rows.detach()
    gathered = [torch.empty_like(filled) for _ in range(n_ranks)]
    distributed.all_gather(gathered, filled)
    all_rows = [part[:size] for part, size in zip(gathered, sizes, strict=True)]
    all_rows[rank] = ScaledGradient.apply(rows, n_ranks)
    return torch.cat(all_rows)


class ScaledGradient(torch.autograd.Function):
    """The same rows, their gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, factor: float) -> Tensor:
        """Nothing changes."""
        ctx.factor = factor
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Scale."""
        return gradient * ctx.factor, None
