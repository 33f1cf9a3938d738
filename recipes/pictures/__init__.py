"""The pictures of a run folder: images or points, what the look-ahead saw, and the curves of a run.

All of them are drawn on white at twice the size they are meant to be seen at, and none asks what a config is.
"""

from recipes.pictures.contest import Point, contest
from recipes.pictures.film import filmstrip
from recipes.pictures.image_grid import grid
from recipes.pictures.point_clouds import Cloud, plane
from recipes.pictures.step_errors import step_errors
from recipes.pictures.traces import curves
from recipes.pictures.training import training_curves

__all__ = ["Cloud", "Point", "contest", "curves", "filmstrip", "grid", "plane", "step_errors", "training_curves"]
