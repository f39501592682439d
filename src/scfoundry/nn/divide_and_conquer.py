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
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import distributed
from torch.autograd.function import once_differentiable

from scfoundry.nn.processes import together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor

__all__ = ["SharedParameters", "encode_in_parts", "gather_rows"]

Part = TypeVar("Part")

# Most that outputs of the two passes may differ, relative to their norm: far above rounding, far below other dropout.
TOLERANCE = 1e-2


class SharedParameters:
    """What several calls of `encode_in_parts` for one loss take gradients of, the sum of which is handed from one on.

    Without it every call has a sum of its own, while autograd holds that of the calls before.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.ends: Sequence[Tensor] = self.parameters


def encode_in_parts(
    encode: Callable[[Part], tuple[Tensor, ...]],
    parts: Sequence[Part],
    parameters: Iterable[Tensor] | SharedParameters,
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
        All that gradients are taken of; whatever else an output depends on counts as constant. Calls for one loss are
        given the same `SharedParameters`, so that they hold the gradients once.

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
    shared = parameters if isinstance(parameters, SharedParameters) else SharedParameters(parameters)
    outputs = InParts.apply(encode, parts, shared.parameters, *shared.ends)
    n_rows = len(outputs) - len(shared.ends)
    shared.ends = outputs[n_rows:]
    return outputs[:n_rows]


class InParts(torch.autograd.Function):
    """Outputs of all parts as one function of the parameters, each of which gets its gradient once.

    ``ends``: the parameters, or what an earlier call has put out for them after its rows. What comes back through those
    put out here are the gradients of later calls, which the own ones are added to.
    """

    @staticmethod
    def forward(
        ctx: Any, encode: Callable, parts: Sequence, parameters: Sequence[Tensor], *ends: Tensor
    ) -> tuple[Tensor, ...]:
        """Encode all parts, keeping nothing but the outputs and what is random."""
        ctx.set_materialize_grads(False)
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
        ctx.n_rows = len(rows)
        return *rows, *ends

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Encode each part again, and pass the gradients of its rows on."""
        parameters, rows = ctx.saved_tensors[: -ctx.n_rows], ctx.saved_tensors[-ctx.n_rows :]
        above, totals = gradients[: ctx.n_rows], list(gradients[ctx.n_rows :])
        complete = [torch.zeros_like(row) if g is None else g for row, g in zip(rows, above, strict=True)]
        rows_of, gradients_of = ([x.split(ctx.sizes) for x in whole] for whole in (rows, complete))
        apart = torch.zeros((), device=rows[0].device)
        for k, (part, circumstances) in enumerate(zip(ctx.parts, ctx.circumstances, strict=True)):
            with circumstances.again():
                outputs = ctx.encode(part)
            for output, before in zip(outputs, rows_of, strict=True):
                apart = torch.maximum(apart, relative_difference(output, before[k]))
            with added_one_by_one(parameters, totals):
                torch.autograd.grad(outputs, parameters, [g[k] for g in gradients_of], allow_unused=True)
        if apart > TOLERANCE:
            msg = (
                f"The encoder gave other outputs for the same rows when gradients were taken (by {apart:.0%}). Until "
                "then leave its weights and its train() or eval() as they are, and draw random numbers from torch's "
                "global generators: a generator of one's own, or numpy's, is not replayed."
            )
            raise RuntimeError(msg)
        return None, None, None, *totals


def relative_difference(output: Tensor, before: Tensor) -> Tensor:
    """Norm of the difference to that of the output."""
    with torch.no_grad():
        return (output - before).float().norm() / before.float().norm().clamp(min=torch.finfo(torch.float32).tiny)


@contextmanager
def added_one_by_one(parameters: Sequence[Tensor], totals: list[Tensor | None]) -> Iterator[None]:
    """Add every gradient to its total as soon as it is there, so that those of all parameters are held only once."""

    def add(gradient: Tensor, i: int) -> Tensor:
        total = totals[i]
        if total is None:
            totals[i] = gradient.clone()  # autograd may give one tensor to several parameters
        else:
            total += gradient
        return gradient.new_zeros(()).expand_as(gradient)  # what autograd holds in its place until all are there

    handles = [parameter.register_hook(partial(add, i=i)) for i, parameter in enumerate(parameters)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
