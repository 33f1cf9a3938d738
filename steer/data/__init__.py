"""Data sets. Importing this reads none of them, and loads Lightning only for the data modules."""

from importlib import import_module
from typing import Any

from steer.data.fashion import fashion_mnist, to_signed
from steer.data.plane import checkerboard, ring
from steer.data.stream import StepStream, key, keyed_generator

_MODULES = ("Checkerboard", "FashionMnist", "StreamData")

__all__ = [
    "Checkerboard",
    "FashionMnist",
    "StepStream",
    "StreamData",
    "checkerboard",
    "fashion_mnist",
    "key",
    "keyed_generator",
    "ring",
    "to_signed",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module("steer.data.modules"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
