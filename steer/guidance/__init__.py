"""Corrections to the velocity, one method per file. A guided flow map is a flow map, so samplers need not know."""

from steer.guidance.base import Guidance, Guided
from steer.guidance.classifier_free import ClassifierFree, Unconditional
from steer.guidance.value import ValueGuidance

__all__ = ["ClassifierFree", "Guidance", "Guided", "Unconditional", "ValueGuidance"]
