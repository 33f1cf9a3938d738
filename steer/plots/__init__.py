"""Pictures: image grids, point clouds, filmstrips of the look-ahead, and curves.

All are drawn on white at twice the size at which they are shown. `Result.grid` and
`Result.filmstrip` draw a sampler's result.
"""

from steer.plots.comparison import Point, cost_curves
from steer.plots.filmstrip import filmstrip
from steer.plots.image_grid import grid
from steer.plots.point_clouds import Cloud, plane
from steer.plots.reward_spread import reward_spread
from steer.plots.step_errors import step_errors
from steer.plots.traces import curves
from steer.plots.training import training_curves

__all__ = [
    "Cloud",
    "Point",
    "cost_curves",
    "curves",
    "filmstrip",
    "grid",
    "plane",
    "reward_spread",
    "step_errors",
    "training_curves",
]
