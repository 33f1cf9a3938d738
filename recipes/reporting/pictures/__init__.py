"""The pictures of a run folder: images or points, what the look-ahead saw, and the curves of a run.

All of them are drawn on white at twice the size they are meant to be seen at, and none asks what a
config is.
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
