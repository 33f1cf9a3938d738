"""The pictures of a run folder: grids of images, or point clouds of samples in the plane."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recipes.setup.experiment import Experiment
from steer import plots as pictures
from steer.plots.of_results import COLUMNS, cloud, representatives
from steer.samplers import Result

Picture = tuple[str, Path]  # caption, file
ROWS = 12  # prompts of which images are drawn, at most
ACROSS = 18  # images in a row of all panels, at most


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
        """grid.png: a panel for each result, of points or images; nothing for other samples.

        Args:
            panels: title -> result. Images appear in proportion to their weights, points in size.
            truth: exact draws (M, 2) of the tilted law, whose regions of highest density are
                outlined.
        """
        if self.shape == (2,):
            return [self.plane(panels, truth)]
        return [self.image_grid(panels)] if len(self.shape) == 3 else []

    def plane(self, panels: Mapping[str, Result], truth: Tensor | None) -> Picture:
        """Points of the plane."""
        path = self.folder / "grid.png"
        clouds = [(title, *cloud(result)) for title, result in panels.items()]
        pictures.plane(path, clouds, None if truth is None else truth.cpu())
        caption = f"{' | '.join(panels)}: the samples."
        if truth is not None:
            caption += " Outlined: where the tilted law has half and nine tenths of its mass."
        return caption, path

    def image_grid(self, panels: Mapping[str, Result]) -> Picture:
        """Rows of images, one for each prompt."""
        path = self.folder / "grid.png"
        columns = min(COLUMNS, max(ACROSS // len(panels), 2))
        images = [
            (title, self.images(representatives(result, columns)))
            for title, result in panels.items()
        ]
        rows = len(images[0][1])
        pictures.grid(path, images, self.row_labels(rows), columns)
        names = " | ".join(panels)
        first = min(rows, ROWS)
        which = f"each of the first {first} prompts" if first < len(self.titles) else "each prompt"
        caption = f"{names}: a row for {which}."
        if any((result.log_w != result.log_w[:, :1]).any() for result in panels.values()):
            caption = (
                f"{names}: a row for {which}, a sample as often as its weight says; the same"
                " one again and again means that one particle bore the weight of the row."
            )
        return caption, path

    def film(self, trace: Mapping[str, Tensor], device: torch.device) -> list[Picture]:
        """filmstrip.png: the look-ahead's estimates, where the sampler recorded them.

        Args:
            trace: of a result.
            device: where they are decoded.
        """
        if "film" not in trace or not (self.shape == (2,) or len(self.shape) == 3):
            return []
        path = self.folder / "filmstrip.png"
        film = trace["film"].to(device)
        shown = self.images(film) if len(self.shape) == 3 else film
        pictures.filmstrip(path, shown, trace["film_t"], self.row_labels(film.shape[1]))
        return [("The look-ahead's estimates for the heaviest particles at each time.", path)]

    def curves(
        self, trace: Mapping[str, Tensor], particles: int, base_reward: float | None
    ) -> list[Picture]:
        """curves.png: reward and effective sample size against time."""
        if not trace.keys() & {"reward", "ess"}:
            return []
        path = self.folder / "curves.png"
        level = None if base_reward is None or base_reward != base_reward else base_reward
        pictures.curves(path, trace, particles, level)
        return [("The reward of the look-ahead's estimates, and the effective sample size.", path)]

    def row_labels(self, rows: int) -> list[str]:
        """The titles of the first prompts, if there is anything to call them."""
        return list(self.titles[:rows]) if any(self.titles) else []

    @property
    def shown(self) -> int:
        """Of how many prompts, the first ones, there are pictures."""
        return min(len(self.titles), ROWS) if len(self.shape) == 3 else len(self.titles)

    def images(self, x: Tensor) -> Tensor:
        """(..., *shape) -> images (..., C, H, W), clamped to [0, 1]."""
        batch = x.shape[: -len(self.shape)]
        x = x.flatten(0, -len(self.shape) - 1)
        with torch.no_grad():
            decoded = x if self.decode is None else self.decode(x)
        return decoded.unflatten(0, batch).clamp(0, 1).cpu()


def gallery_of(experiment: Experiment, folder: Path) -> Gallery:
    """The pictures of an experiment's samples, drawn into a run folder."""
    shape = experiment.model.shape
    return Gallery(folder, shape, experiment.decode, experiment.prompts.titles)
