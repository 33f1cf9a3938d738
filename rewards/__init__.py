"""rewards: judges of samples, one per file: images in [0, 1], or points of the plane, -> one number each."""

from rewards.base import FunctionReward, Reward, as_reward
from rewards.brightness import Brightness
from rewards.checkpoint import load_classifier, save_classifier
from rewards.classifier import ClassLogProbability
from rewards.clip import ClipScore
from rewards.colour import Colour
from rewards.compose import Clipped, Decoded, Ensemble, Smoothed, Sum, from_signed
from rewards.jpeg import JpegSize
from rewards.left_brighter import LeftBrighter
from rewards.linear import Linear
from rewards.measurement import Measurement
from rewards.quadratic import Quadratic
from rewards.switch import Switch
from rewards.symmetry import Symmetry

__all__ = [
    "Brightness",
    "ClassLogProbability",
    "ClipScore",
    "Clipped",
    "Colour",
    "Decoded",
    "Ensemble",
    "FunctionReward",
    "JpegSize",
    "LeftBrighter",
    "Linear",
    "Measurement",
    "Quadratic",
    "Reward",
    "Smoothed",
    "Sum",
    "Switch",
    "Symmetry",
    "as_reward",
    "from_signed",
    "load_classifier",
    "save_classifier",
]
