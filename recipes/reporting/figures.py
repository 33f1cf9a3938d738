"""From results to the pictures of a run folder: images where samples decode to images, points where
they are points.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recipes.reporting import pictures
from recipes.setup.experiment import Experiment
from steer.data.stream import keyed_generator
from steer.samplers import Result

Picture = tuple[str, Path]  # caption, file
POINTS, COLUMNS, ACROSS = (
    4096,
    8,
    18,
)  # drawn at most: points, images in a row of a panel, and in a row of all


@dataclass(frozen=True)
class Gallery:
    """Draws into a run folder.

    Args:
        folder: the run folder.
        shape: of one sample.
        decode: samples -> images in [0, 1]; None if that is what they are.
        titles: what to call each prompt.
    """

    folder: Path
    shape: tuple[int, ...]
    decode: Callable[[Tensor], Tensor] | None
    titles: Sequence[str]

    def samples(self, panels: Mapping[str, Result], truth: Tensor | None = None) -> list[Picture]:
        """grid.png: a panel for each result. Images appear in proportion to their weights; points
        in size.
        """
        path = self.folder / "grid.png"
        if self.shape == (2,):
            clouds = [(title, *cloud(result)) for title, result in panels.items()]
            pictures.plane(path, clouds, None if truth is None else truth.cpu())
            law = (
                ""
                if truth is None
                else " Outlined: where the law aimed at has half and nine tenths of its mass."
            )
            return [(f"{' | '.join(panels)}: the samples.{law}", path)]
        if len(self.shape) == 3:
            columns = min(COLUMNS, max(ACROSS // len(panels), 2))
            images = [
                (title, self.images(representatives(result, columns)))
                for title, result in panels.items()
            ]
            pictures.grid(path, images, self.row_labels, columns)
            return [
                (
                    f"{' | '.join(panels)}: samples in proportion to their weights, a row for each prompt.",
                    path,
                )
            ]
        return []

    def film(self, trace: Mapping[str, Tensor], device: torch.device) -> list[Picture]:
        """filmstrip.png: what the look-ahead saw, if the sampler kept it, decoded on that device."""
        if "film" not in trace or not (self.shape == (2,) or len(self.shape) == 3):
            return []
        path, film = self.folder / "filmstrip.png", trace["film"].to(device)
        shown = self.images(film) if len(self.shape) == 3 else film
        pictures.filmstrip(path, shown, trace["film_t"], self.row_labels)
        return [
            (
                "What the look-ahead saw: where the particles heaviest at each time were about to land.",
                path,
            )
        ]

    def curves(
        self, trace: Mapping[str, Tensor], particles: int, base_reward: float | None
    ) -> list[Picture]:
        """curves.png: reward and effective sample size on the way."""
        if not trace.keys() & {"reward", "ess"}:
            return []
        path = self.folder / "curves.png"
        level = None if base_reward is None or base_reward != base_reward else base_reward
        pictures.curves(path, trace, particles, level)
        return [
            (
                "The reward where the particles were about to land, and how evenly they share the weight.",
                path,
            )
        ]

    @property
    def row_labels(self) -> list[str]:
        """The titles, if there is anything to call the prompts."""
        return list(self.titles) if any(self.titles) else []

    def images(self, x: Tensor) -> Tensor:
        """(..., *shape) -> images (..., C, H, W) in [0, 1], cut at its ends as any screen would."""
        batch, x = x.shape[: -len(self.shape)], x.flatten(0, -len(self.shape) - 1)
        with torch.no_grad():
            decoded = x if self.decode is None else self.decode(x)
        return decoded.unflatten(0, batch).clamp(0, 1).cpu()


def gallery_of(experiment: Experiment, folder: Path) -> Gallery:
    """The pictures of an experiment's samples, drawn into a run folder."""
    shape = experiment.model.shape
    return Gallery(folder, shape, experiment.decode, experiment.prompts.titles)


def representatives(result: Result, columns: int = COLUMNS, rows: int = 4) -> Tensor:
    """Particles of each prompt, (P, n, *shape), drawn by their weights: at most as many as a
    picture holds.
    """
    n = columns if len(result.x) > 1 else columns * rows
    return result.resampled(min(n, result.x.shape[1]), keyed_generator("representatives"))


def cloud(result: Result) -> tuple[Tensor, Tensor]:
    """The points of all prompts (M, 2), and their weights (M,); of very many, some drawn by their
    weights.
    """
    x, w = result.x, result.log_w.softmax(1)
    if x.shape[1] > POINTS:
        x = result.resampled(POINTS, keyed_generator("representatives"))
        w = torch.full(x.shape[:2], 1 / POINTS, dtype=w.dtype)
    return x.flatten(0, 1).cpu(), w.flatten().cpu()
