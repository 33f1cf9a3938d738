"""Training and tuning as Lightning loops; with data/, the only room that knows Lightning."""

from steer.loops.averaging import Ema
from steer.loops.base import Loop
from steer.loops.classifier_training import ClassifierTraining, FlipAndShift, to_unit
from steer.loops.csv_log import CsvLog, read_csv_log
from steer.loops.divergence import Diverged
from steer.loops.identities import Identities
from steer.loops.last_checkpoint import LastCheckpoint
from steer.loops.map_training import MapTraining
from steer.loops.pictures import ImageGrid, Pictures, PlaneHistogram
from steer.loops.progress import StepProgress
from steer.loops.quiet import quiet
from steer.loops.reward_tuning import RewardTuning
from steer.loops.schedules import Constant, Cosine, InverseSqrt, LrSchedule, Trapezoid, Warmup

__all__ = [
    "ClassifierTraining",
    "Constant",
    "Cosine",
    "CsvLog",
    "Diverged",
    "Ema",
    "FlipAndShift",
    "Identities",
    "ImageGrid",
    "InverseSqrt",
    "LastCheckpoint",
    "Loop",
    "LrSchedule",
    "MapTraining",
    "Pictures",
    "PlaneHistogram",
    "RewardTuning",
    "StepProgress",
    "Trapezoid",
    "Warmup",
    "quiet",
    "read_csv_log",
    "to_unit",
]
