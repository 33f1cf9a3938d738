"""The samples of one sampler, and what was measured of them, as the parts of a run keep them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from recipes.setup.parts import Parts
from steer.counting import Evaluations
from steer.samplers import Result

FILM = "film"


@dataclass(frozen=True)
class Drawn:
    """Samples of some prompts.

    Attributes:
        result: of the sampler; of many parts, x and the film are those of the first prompts.
        measured: what was measured of each prompt, see `Measure.by_prompt`.
        seconds: that the sampler took.
        reach: the largest absolute value of a sample.
    """

    result: Result
    measured: Mapping[str, Tensor]
    seconds: float
    reach: float = field(default=0.0)

    def tensors(self, name: str, shown: int, whole: bool) -> dict[str, Tensor]:
        """The tensors to keep, under names that begin with that of the sampler.

        Args:
            name: of the sampler.
            shown: of how many of these prompts pictures are drawn.
            whole: whether the samples of all prompts are kept, or of those only.
        """
        result = self.result
        kept = {"x": result.x if whole else result.x[:shown], "log_w": result.log_w}
        if result.log_z is not None:
            kept["log_z"] = result.log_z
        for key, value in result.trace.items():
            kept[f"trace.{key}"] = value[:, :shown] if key == FILM else value
        kept |= {f"measured.{key}": value for key, value in self.measured.items()}
        return {f"{name}.{key}": value for key, value in kept.items()}

    def figures(self) -> dict[str, Any]:
        """The rest, for JSON; evaluations in all, not per sample."""
        samples = self.result.log_w.numel()
        evaluations = asdict(self.result.evaluations)
        return {
            "claim": self.result.claim,
            "evaluations": {key: round(n * samples) for key, n in evaluations.items()},
            "samples": samples,
            "seconds": self.seconds,
            "reach": float(self.result.x.abs().max()),
        }


def joined(parts: Parts, name: str, shown: int) -> Drawn:
    """The samples of a sampler over all parts.

    Args:
        parts: all finished.
        name: of the sampler.
        shown: of how many prompts there are pictures.
    """
    figures = [part[name] for part in parts.figures()]
    known = [key.removeprefix(f"{name}.") for key in parts.names() if key.startswith(f"{name}.")]

    def of_all(key: str, dim: int = 0) -> Tensor:
        return torch.cat(parts.read(f"{name}.{key}"), dim)

    def of_trace(key: str) -> Tensor:
        rows = next(parts.each(f"{name}.trace.{key}"))
        return rows if key == "t" or key.endswith("_t") else of_all(f"trace.{key}", 1)

    in_trace = [key.removeprefix("trace.") for key in known if key.startswith("trace.")]
    in_measured = [key.removeprefix("measured.") for key in known if key.startswith("measured.")]
    samples = sum(part["samples"] for part in figures)
    spent = {
        key: sum(part["evaluations"][key] for part in figures) for key in figures[0]["evaluations"]
    }
    result = Result(
        parts.first(f"{name}.x", shown),
        of_all("log_w"),
        of_all("log_z") if "log_z" in known else None,
        trace={key: of_trace(key) for key in in_trace},
        evaluations=Evaluations(**spent).per(samples),
        claim=figures[0]["claim"],
    )
    return Drawn(
        result,
        {key: of_all(f"measured.{key}") for key in in_measured},
        sum(part["seconds"] for part in figures),
        max(part["reach"] for part in figures),
    )
