"""The pictures of a run folder: grids of images, or point clouds of samples in the plane."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

import torch
from PIL import Image
from torch import Tensor

from recipes.setup.experiment import Experiment
from steer import plots as pictures
from steer.data.stream import keyed_generator
from steer.plots.mosaic import mosaic, tile_width
from steer.plots.of_results import COLUMNS, cloud
from steer.resampling import unweighted
from steer.samplers import Result

VALUES, HELDOUT_VALUES = "reward_values", "heldout_reward_values"
STRIP, TILE = 8, 96  # images of a strip, and pixels for each
DOWN = 4  # rows of images of a single prompt
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

    def samples(
        self,
        panels: Mapping[str, Result],
        truth: Tensor | None = None,
        measured: Mapping[str, Mapping[str, Tensor]] | None = None,
        data: Tensor | None = None,
    ) -> list[Picture]:
        """grid.png: a panel for each result, of points or images; nothing for other samples.

        And rewards.png, how the rewards of single samples spread, where they are known.

        Args:
            panels: title -> result. Images appear in proportion to their weights, points in size.
            truth: exact draws (M, 2) of the tilted law, whose regions of highest density are
                outlined.
            measured: title -> what `Measure.by_prompt` found of the result.
            data: images (M, C, H, W) of the data, shown beside the samples.
        """
        known = {} if measured is None else dict(measured)
        drawn = []
        if self.shape == (2,):
            drawn.append(self.plane(panels, truth))
        elif len(self.shape) == 3:
            drawn.append(self.image_grid(panels, known, data))
        return [*drawn, *self.rewards(panels, known)]

    def rewards(
        self, panels: Mapping[str, Result], measured: Mapping[str, Mapping[str, Tensor]]
    ) -> list[Picture]:
        """rewards.png: histograms of the reward, and the held-out reward against it."""
        if not measured or not all(VALUES in seen for seen in measured.values()):
            return []
        weights = {title: panels[title].log_w.softmax(1).flatten().cpu() for title in measured}
        rewards = {
            title: (seen[VALUES].flatten().cpu(), weights[title])
            for title, seen in measured.items()
        }
        if not any(values.isfinite().any() for values, _ in rewards.values()):
            return []
        other = None
        if all(HELDOUT_VALUES in seen for seen in measured.values()):
            found = {
                title: seen[HELDOUT_VALUES].flatten().cpu() for title, seen in measured.items()
            }
            other = ("held-out reward", found)
        path = self.folder / "rewards.png"
        pictures.reward_spread(path, rewards, other)
        caption = (
            "The rewards of single samples, by weight; the outermost hundredth is at the ends."
        )
        if other is not None:
            caption += (
                " Right: samples that lie further right but lower than the unsteered or untuned"
                " ones fool the reward, or the two disagree."
            )
        return [(caption, path)]

    def plane(self, panels: Mapping[str, Result], truth: Tensor | None) -> Picture:
        """Points of the plane."""
        path = self.folder / "grid.png"
        clouds = [(title, *cloud(result)) for title, result in panels.items()]
        pictures.plane(path, clouds, None if truth is None else truth.cpu())
        caption = f"{' | '.join(panels)}: the samples."
        if truth is not None:
            caption += " Outlined: where the tilted law has half and nine tenths of its mass."
        return caption, path

    def image_grid(
        self,
        panels: Mapping[str, Result],
        measured: Mapping[str, Mapping[str, Tensor]],
        data: Tensor | None,
    ) -> Picture:
        """Rows of images, one for each prompt."""
        path = self.folder / "grid.png"
        columns = min(COLUMNS, max(ACROSS // (len(panels) + (data is not None)), 2))
        rows = [
            self.rows_of(result, measured.get(title, {}).get(VALUES), columns)
            for title, result in panels.items()
        ]
        images = [(title, row[0]) for title, row in zip(panels, rows, strict=True)]
        notes = [row[1] for row in rows]
        count = len(images[0][1])
        if data is not None:
            images.append(("data", beside(data, count, images[0][1].shape[1])))
            notes.append([[""] * images[0][1].shape[1]] * count)
        with_notes = any(note for panel in notes for row in panel for note in row)
        pictures.grid(
            path, images, self.row_labels(count), columns, notes=notes if with_notes else ()
        )
        names = " | ".join(title for title, _ in images)
        first = min(count, ROWS)
        which = f"each of the first {first} prompts" if first < len(self.titles) else "each prompt"
        caption = f"{names}: a row for {which}, drawn by weight."
        if any(VALUES in seen for seen in measured.values()):
            caption += " Under each its reward, the best first."
        if any("×" in text for row in rows for line in row[1] for text in line):
            caption += (
                " ×3: three equal samples, twins, where one particle bore the weight of several."
            )
        return caption, path

    def rows_of(
        self, result: Result, rewards: Tensor | None, columns: int
    ) -> tuple[Tensor, list[list[str]]]:
        """The images of each prompt, (P, n, C, H, W), and what is written under them.

        Samples as often as their weights say, equal ones once; the best first.
        """
        x, log_w = result.x, result.log_w[: len(result.x)]
        wanted = columns if len(x) > 1 else columns * DOWN
        kept = unweighted(log_w, min(wanted, x.shape[1]), keyed_generator("representatives"))
        groups = [twins(samples, index.tolist()) for samples, index in zip(x, kept, strict=True)]
        if rewards is not None:
            groups = [
                sorted(group, key=partial(reward_of, own), reverse=True)
                for group, own in zip(groups, rewards, strict=False)
            ]
        most = max(len(group) for group in groups)
        images, notes = [], []
        for p, group in enumerate(groups):
            shown = self.images(x[p, [index for index, _ in group]])
            white = shown.new_ones(most - len(group), *shown.shape[1:])
            images.append(torch.cat((shown, white)))
            own = None if rewards is None else rewards[p]
            texts = [note(None if own is None else float(own[i]), n) for i, n in group]
            notes.append([*texts, *[""] * (most - len(group))])
        return torch.stack(images), notes

    def strip(self, name: str, result: Result) -> Path:
        """strips/NAME.png: images of the first prompts of a result in one row."""
        path = self.folder / "strips" / f"{quote(name, safe='')}.png"
        path.parent.mkdir(exist_ok=True)
        each = max(STRIP // len(result.x), 1)
        kept = unweighted(result.log_w, min(each, result.x.shape[1]), keyed_generator("strip"))
        x = torch.cat([x[index] for x, index in zip(result.x, kept, strict=True)])[:STRIP]
        images = self.images(x[None])
        tiles = mosaic(images, tile_width(images.shape, 1, STRIP, STRIP * TILE))
        Image.fromarray(tiles).save(path)
        return path

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
        return [
            (
                "The reward of the look-ahead's estimates, and the effective sample size: a thin"
                " line for each prompt, a thick one for their mean.",
                path,
            )
        ]

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


def twins(samples: Tensor, chosen: Sequence[int]) -> list[tuple[int, int]]:
    """Groups equal samples: (the first one's index, how many were chosen), in order."""
    groups: list[tuple[int, int]] = []
    for index in chosen:
        for k, (first, count) in enumerate(groups):
            if torch.equal(samples[first], samples[index]):
                groups[k] = (first, count + 1)
                break
        else:
            groups.append((index, 1))
    return groups


def reward_of(rewards: Tensor, one: tuple[int, int]) -> float:
    """The reward of a group of equal samples."""
    return float(rewards[one[0]])


def note(reward: float | None, count: int) -> str:
    """What is written under an image: its reward, and how many equal ones there are."""
    number = "" if reward is None else re.sub(r"^(-?)0\.", r"\1.", f"{reward:.2g}")
    return number.replace("-", "−") + (f"×{count}" if count > 1 else "")


def beside(data: Tensor, rows: int, columns: int) -> Tensor:
    """Images of the data in the shape of a panel, (rows, columns, C, H, W)."""
    index = torch.arange(rows * columns) % len(data)
    return data[index].unflatten(0, (rows, columns)).float().cpu()
