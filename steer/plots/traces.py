"""Traces of a sampler: the look-ahead's reward and the effective sample size against time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from torch import Tensor

from steer.plots.axes import BLUE, FAINT, OCHRE, SMALL, Canvas, dress, write_numbers

WIDTH = 1600
LEFT = 110
RIGHT = 40
HEAD = 60
FOOT = 84
APART = 90
HEIGHTS = {"reward": 400, "ess": 220}
TITLES = {
    "reward": "Reward of the look-ahead",
    "ess": "Effective sample size, as a fraction of the particles",
}


def curves(
    path: str | Path, trace: Mapping[str, Tensor], particles: int, base_reward: float | None = None
) -> None:
    """Draws the "reward" (T, P) and "ess" (T, P) of a trace against "t" (T,).

    Or against "seen_t", where not every step has them.

    A thin line for each prompt and a thick one for their mean; marks at the times when prompts were
    resampled ("resampled", (T, P)), the darker the more of them.

    Args:
        path: of the PNG.
        trace: a sampler's Result.trace.
        particles: per prompt; the effective sample size is drawn as a fraction of them.
        base_reward: mean reward of the unsteered samples, drawn as a level.

    Raises:
        ValueError: a trace with neither, or shapes that do not fit.
    """
    names = check(trace)
    canvas = Canvas(WIDTH, HEAD + sum(HEIGHTS[name] + APART for name in names) - APART + FOOT)
    top = HEAD
    for name in names:
        axes = dress(canvas.axes(LEFT, top, WIDTH - LEFT - RIGHT, HEIGHTS[name]), TITLES[name])
        if name == "reward":
            reward_panel(axes, trace, base_reward)
        else:
            ess_panel(axes, trace, particles)
        axes.set(
            xlim=(0, 1), xticks=[0, 0.2, 0.4, 0.6, 0.8, 1], xlabel="t" if name == names[-1] else ""
        )
        axes.tick_params(labelbottom=name == names[-1])
        top += HEIGHTS[name] + APART
    canvas.save(path)


def check(trace: Mapping[str, Tensor]) -> list[str]:
    """The panels that a trace has values for. Raises ValueError for shapes that do not fit."""
    names = [name for name in HEIGHTS if name in trace]
    if not names or "t" not in trace:
        raise ValueError(
            "curves needs 't' and 'reward' or 'ess' in the trace; got"
            f" {', '.join(trace) or 'nothing'}"
        )
    for name in names:
        if trace[name].ndim != 2 or trace[name].shape[:1] != times(trace, name).shape:
            raise ValueError(
                f"curves needs {name!r} (T, P) with T = {len(trace['t'])}; got"
                f" {tuple(trace[name].shape)}"
            )
    return names


def times(trace: Mapping[str, Tensor], name: str) -> Tensor:
    """The times of the steps that recorded it."""
    seen = trace.get("seen_t", trace["t"])
    return seen if len(seen) == len(trace[name]) else trace["t"]


def reward_panel(axes: Axes, trace: Mapping[str, Tensor], base_reward: float | None) -> None:
    """The reward, and the level of the unsteered samples."""
    lines(axes, times(trace, "reward"), trace["reward"])
    if base_reward is not None:
        axes.axhline(base_reward, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)))
    write_numbers(axes)
    if base_reward is not None:
        at: dict[str, Any] = {
            "xycoords": axes.get_yaxis_transform(),
            "textcoords": "offset points",
            "ha": "right",
        }
        axes.annotate("unsteered", (1, base_reward), (-3, 4), fontsize=SMALL, color=FAINT, **at)


def ess_panel(axes: Axes, trace: Mapping[str, Tensor], particles: int) -> None:
    """The effective sample size, and when it led to resampling."""
    lines(axes, times(trace, "ess"), trace["ess"] / particles)
    axes.set(ylim=(0, 1.04), yticks=[0, 0.5, 1])
    if "resampled" in trace and trace["resampled"].any():
        shares = trace["resampled"].double().mean(1).tolist()
        for t, share in zip(times(trace, "resampled").tolist(), shares, strict=True):
            axes.axvline(
                t, 0, 0.13, color=OCHRE, linewidth=1.3, alpha=max(share, 0.3) if share else 0
            )
        at: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "bottom"}
        axes.text(1, 1.05, "| resampled", fontsize=SMALL, color=OCHRE, **at)


def lines(axes: Axes, t: Tensor, rows: Tensor) -> None:
    """A thin line for each prompt, a thick one for the mean over prompts."""
    t = t.double()
    rows = rows.double()
    if rows.shape[1] > 1:
        axes.plot(t.numpy(), rows.numpy(), color=BLUE, linewidth=0.6, alpha=0.35)
    axes.plot(t.numpy(), rows.mean(1).numpy(), color=BLUE, linewidth=1.8)
