"""One-jump draws from p(x1 | x_t) on Fashion-MNIST, against GLASS.

    python -m recipes.experiments.fashion_posterior      # ten minutes on one core

Test images are noised to x_t; the shipped posterior map draws from p(x1 | x_t) without a class, one
evaluation a draw. Beside it stands GLASS at 4 and 16 steps of Heun, 8 and 32 evaluations a draw, of
the same outer map's velocity. The reference are other draws of the last: energy distance in the
judge's features, over that between two sets of the last (1 is perfect); and how often the judge
assigns the class of the noised image, and how different the draws are.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import steer
from recipes.experiments.cells import FOLDER, Cells
from recipes.experiments.findings import Finding, short, table, within
from rewards import from_signed, load_classifier
from steer.data import fashion_mnist
from steer.data.fashion import to_signed
from steer.flow_map import FlowMap
from steer.lookahead import Glass, Lookahead, Posterior
from steer.maps.posterior import PosteriorMap
from steer.metrics.diversity import cosine_diversity
from steer.metrics.energy_distance import energy_distance

TIMES = (0.0, 0.2, 0.4, 0.6, 0.8)
IMAGES = 16
DRAWS = 16
SHOWN = (0, 3, 23)
SHOWN_DRAWS = 5
SHOWN_TIMES = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
JUDGE_BY = "fashion-patch"
WEIGHTS = ("fashion", "fashion-posterior", JUDGE_BY)


def posterior_map() -> PosteriorMap:
    """The shipped posterior map, of an outer and an inner map."""
    return PosteriorMap(steer.load("fashion"), steer.load("fashion-posterior"))


METHODS: dict[str, Callable[[int], Lookahead]] = {
    "posterior map, 1 evaluation": Posterior,
    "GLASS, 8 evaluations": lambda draws: Glass(draws, steps=4),
    "GLASS, 32 evaluations": lambda draws: Glass(draws, steps=16),
}
BEST = "GLASS, 32 evaluations"


def noised(chosen: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Test images at time t, each with its own noise, the same at every time; and their labels."""
    images, labels = fashion_mnist("test")
    x1 = to_signed(images[chosen])
    path = steer.Linear()
    x0 = torch.randn(x1.shape, generator=torch.Generator().manual_seed(5))
    return path.interpolate(x0, x1, torch.full((len(chosen),), t)), labels[chosen]


def drawn(flow_map: FlowMap, name: str, x_t: Tensor, t: float, draws: int, seed: int) -> Tensor:
    """(draws, B, 1, 28, 28) images in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        guesses = METHODS[name](draws)(flow_map, x_t, t, generator=generator)
    return from_signed(guesses.x1.flatten(0, 1)).unflatten(0, (draws, len(x_t)))


class Seen(NamedTuple):
    """The judge's view of draws at one time.

    Their features (draws, images, d), and whether the class of the noised image is assigned.
    """

    features: Tensor
    right: Tensor


@cache
def seen(name: str, seed: int) -> list[Seen]:
    """The judge's features of a method's draws at every time."""
    flow_map = posterior_map()
    judge = load_classifier(JUDGE_BY)
    found = []
    for t in TIMES:
        x_t, labels = noised(torch.arange(100, 100 + IMAGES), t)
        x = drawn(flow_map, name, x_t, t, DRAWS, seed)
        with torch.no_grad():
            features = judge.features(x.flatten(0, 1))
            logits = judge(x.flatten(0, 1))
        found.append(
            Seen(
                *(
                    z.unflatten(0, x.shape[:2])
                    for z in (features, logits.argmax(1) == labels.repeat(DRAWS))
                )
            )
        )
    return found


def compare(name: str) -> list[dict[str, float]]:
    """The distance to the best draws over its floor, the judge's agreement and the diversity.

    Each at every time.
    """
    found = []
    even = torch.full((DRAWS,), 1 / DRAWS)
    for ours, reference, again in zip(seen(name, 1), seen(BEST, 2), seen(BEST, 1), strict=True):
        far, floor = (
            torch.stack(
                [energy_distance(a[:, i], reference.features[:, i]).abs() for i in range(IMAGES)]
            )
            for a in (ours.features, again.features)
        )
        diversity = torch.stack(
            [cosine_diversity(ours.features[:, i], even) for i in range(IMAGES)]
        )
        found.append(
            {
                "distance": float(far.mean() / floor.mean()),
                "std_error": float(far.std() / IMAGES**0.5 / floor.mean()),
                "agreement": float(ours.right.double().mean()),
                "diversity": float(diversity.mean()),
            }
        )
    return found


def film() -> None:
    """Draws a block for each image.

    Above, x_t as t grows; below, draws from p(x1 | x_t), each column at its own time.
    """
    flow_map = posterior_map()
    columns = len(SHOWN_TIMES)
    figure = Figure(
        figsize=(1.0 * columns * len(SHOWN), 1.02 * (SHOWN_DRAWS + 1) + 0.3), layout="constrained"
    )
    FigureCanvasAgg(figure)
    blocks: Any = figure.subfigures(1, len(SHOWN))
    for block, chosen in zip(blocks, SHOWN, strict=True):
        axes = block.subplots(SHOWN_DRAWS + 1, columns)
        for column, t in enumerate(SHOWN_TIMES):
            x_t, _ = noised(torch.tensor([chosen]), t)
            draws = drawn(flow_map, "posterior map, 1 evaluation", x_t, t, SHOWN_DRAWS, seed=4)[
                :, 0, 0
            ]
            for row, image in enumerate((from_signed(x_t)[0, 0], *draws)):
                ax = axes[row, column]
                ax.imshow(image, cmap="gray", vmin=0, vmax=1)
                ax.set_xticks([])
                ax.set_yticks([])
                ax.spines[:].set_visible(False)
            axes[0, column].set_title(f"t = {t:g}", fontsize=8)
        if chosen == SHOWN[0]:
            axes[0, 0].set_ylabel("x_t", fontsize=9)
            axes[(SHOWN_DRAWS + 1) // 2, 0].set_ylabel("draws of x1", fontsize=9)
    figure.savefig(FOLDER / "fashion_posterior.png", dpi=130)


def results(cells: Mapping[str, Any]) -> str:
    """Distance, agreement and diversity at each time."""
    rows = []
    for what in ("distance", "agreement", "diversity"):
        for name in METHODS:
            if what == "distance" and name == BEST:
                continue  # 1 by definition
            row = [
                within(cell[what], cell["std_error"], 2)
                if what == "distance"
                else short(cell[what], 2)
                for cell in cells[name]
            ]
            rows.append([f"{what}: {name}", *row])
    return table(["draws", *(f"t = {short(t, 1)}" if t else "t = 0" for t in TIMES)], rows)


def findings(cells: Mapping[str, Any]) -> list[Finding]:
    """None."""
    return []


def main() -> None:
    kept = Cells("fashion_posterior", WEIGHTS)
    film()
    for name in METHODS:
        kept.get(name, partial(compare, name))
    kept.prune()
    print(results(kept.cells))


if __name__ == "__main__":
    main()
