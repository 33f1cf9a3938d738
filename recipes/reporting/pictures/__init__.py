"""Pictures: image grids, point clouds, filmstrips of the look-ahead, and curves.

All are drawn on white at twice the size at which they are shown, and none depends on a config.
"""

from recipes.reporting.pictures.comparison import Point, cost_curves
from recipes.reporting.pictures.filmstrip import filmstrip
from recipes.reporting.pictures.image_grid import grid
from recipes.reporting.pictures.point_clouds import Cloud, plane
from recipes.reporting.pictures.step_errors import step_errors
from recipes.reporting.pictures.traces import curves
from recipes.reporting.pictures.training import training_curves

__all__ = [
    "Cloud",
    "Point",
    "cost_curves",
    "curves",
    "filmstrip",
    "grid",
    "plane",
    "step_errors",
    "training_curves",
]
