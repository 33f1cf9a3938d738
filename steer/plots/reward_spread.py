"""Rewards of single samples: histograms, and one reward against another."""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from steer.plots.axes import BLUE, GREEN, OCHRE, PLUM, SMALL, Canvas, dress, write_numbers

WIDTH = 1600
HEIGHT = 380
LEFT = 110
APART = 120
HEAD = 60
FOOT = 90
BINS = 40
TAILS = (0.005, 0.995)  # quantiles between which rewards are drawn
MOST = 2000  # dots of a result
COLOURS = (OCHRE, BLUE, GREEN, PLUM)

__all__ = ["reward_spread"]

Weighted = tuple[Float[Tensor, "m"], Float[Tensor, "m"]]


def reward_spread(
    path: str | Path,
    rewards: Mapping[str, Weighted],
    other: tuple[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Draws a histogram of the reward of each result, and the reward against another one.

    Args:
        path: of the PNG.
        rewards: title -> (reward of each sample (M,), weight of each sample (M,)). Rewards of
            -inf (a broken constraint) are left out.
        other: (its name, title -> its value of each of these samples (M,)).

    Raises:
        ValueError: no finite reward.
    """
    finite = {title: values.isfinite() & (w > 0) for title, (values, w) in rewards.items()}
    everyone = torch.cat([rewards[title][0][ok].double() for title, ok in finite.items()])
    if not len(everyone):
        raise ValueError("reward_spread needs a finite reward; got none")
    panels = 1 if other is None else 2
    wide = (WIDTH - LEFT - 40 - (panels - 1) * APART) // panels
    canvas = Canvas(WIDTH, HEAD + HEIGHT + FOOT)
    axes = dress(canvas.axes(LEFT, HEAD, wide, HEIGHT), "Samples by their reward")
    histograms(axes, {t: (v[finite[t]], w[finite[t]]) for t, (v, w) in rewards.items()}, everyone)
    if other is not None:
        name, values = other
        second = dress(
            canvas.axes(LEFT + wide + APART, HEAD, wide, HEIGHT), f"{name}, against the reward"
        )
        shown = {t: (rewards[t][0][ok], values[t][ok]) for t, ok in finite.items()}
        dots(second, shown)
    canvas.save(path)


def histograms(axes: Axes, rewards: Mapping[str, Weighted], everyone: Tensor) -> None:
    """One outline for each result, of equal area."""
    low, high = everyone.quantile(torch.tensor(TAILS, dtype=everyone.dtype)).tolist()
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64)
    for colour, (title, (values, weights)) in zip(COLOURS, rewards.items(), strict=False):
        if not len(values):  # every one breaks a constraint
            continue
        inside = values.double().clamp(low, high).cpu()
        mass = torch.histogram(inside, edges, weight=(weights / weights.sum()).double().cpu()).hist
        axes.stairs(mass.numpy(), edges.numpy(), color=colour, linewidth=1.6, label=title)
        axes.stairs(mass.numpy(), edges.numpy(), color=colour, fill=True, alpha=0.12)
    axes.set(xlim=(low, high), xlabel="reward", ylabel="")
    axes.set_ylim(bottom=0)
    axes.tick_params(labelleft=False)
    axes.legend(fontsize=SMALL, frameon=False, loc="upper left")


def dots(axes: Axes, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """A dot for each sample."""
    for colour, (title, (across, up)) in zip(COLOURS, pairs.items(), strict=False):
        ok = up.isfinite()
        x = across[ok][:MOST].double().cpu().numpy()
        y = up[ok][:MOST].double().cpu().numpy()
        axes.scatter(x, y, s=9, color=colour, alpha=0.5, linewidths=0, label=title, clip_on=False)
    write_numbers(axes)
    axes.set(xlabel="reward")
