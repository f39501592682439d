"""What a training did, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scfoundry._arguments import quoted
from scfoundry.pl._drawing import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

__all__ = ["history"]


def history(
    model: Any,
    keys: str | Sequence[str] | None = None,
    *,
    logy: bool = False,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes | None:
    """Draw losses and other values of a training, epoch by epoch, those of the validation in broken lines.

    Parameters
    ----------
    model
        A model after ``model.train()``, or its ``history``.
    keys
        Names of values, such as ``"train_loss_epoch"``; if `None`, all losses, of training and of validation.
    logy
        Values on a logarithmic axis.
    ax
        Where to draw; a new figure if `None`.
    show
        Show the figure and return nothing.
    save
        File to write the figure to, of any kind that matplotlib knows.

    Returns
    -------
    The axes, unless ``show``.

    Raises
    ------
    ValueError
        If nothing was trained, or there is no such value.

    Examples
    --------
    >>> import scfoundry as sf
    >>> model.train(max_epochs=10)  # doctest: +SKIP
    >>> sf.pl.history(model)  # doctest: +SKIP
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    values = model if isinstance(model, Mapping) else getattr(model, "history", None)
    if not values:
        msg = "There is no history of a training. Train first: model.train()."
        raise ValueError(msg)
    wanted = [keys] if isinstance(keys, str) else [name for name in values if "loss" in name and "step" not in name]
    wanted = wanted if keys is None or isinstance(keys, str) else list(keys)
    if missing := [name for name in wanted if name not in values]:
        msg = f"The history has no {quoted(missing)}; it has {quoted(values)}. Pass some of them as keys."
        raise ValueError(msg)
    if ax is None:
        _, ax = plt.subplots(figsize=(5, 3.4), layout="constrained")
    for name in wanted:
        series = values[name].iloc[:, 0].astype(float)
        style = "--" if "val" in name else "-"
        ax.plot(series.index, series, style, marker="o" if len(series) < 20 else None, markersize=4, label=name)
    ax.set(xlabel="epoch", ylabel="loss" if all("loss" in name for name in wanted) else "value")
    ax.set_yscale("log" if logy else "linear")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return shown(ax, show, save)
