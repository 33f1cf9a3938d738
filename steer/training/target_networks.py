"""The target network of a self-distillation loss: the student, its moving average, or a teacher.

    network(student, step) -> the FlowMap behind the stop-gradient target.

`SelfTarget` makes an objective self-distillation, `TeacherTarget` makes it distillation;
`EmaTarget` steadies the former. (`steer.loops.Ema` is another average: that of the weights that are
validated and shipped.)
"""

import copy
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from steer.checkpoint import difference
from steer.conditions import pick
from steer.flow_map import Cond, FlowMap
from steer.networks.shapes import WrongShape

__all__ = ["EmaTarget", "SelfTarget", "TargetNetwork", "TeacherTarget"]


class TargetNetwork(nn.Module, ABC):
    """The map that gives the targets while the student learns.

    Attributes:
        guidance: the weight of classifier-free guidance in its velocity; None where that is the
            student's own.
        source: who it is, in words, for tables.
    """

    guidance: float | None = None
    source: str

    @abstractmethod
    def forward(self, student: FlowMap, step: int) -> FlowMap:
        """Returns the map to evaluate at this step. Its callers stop the gradient."""

    def check(self, x: Tensor, cond: Cond) -> None:
        """Raises ValueError if it does not take samples and conditions such as these."""


class SelfTarget(TargetNetwork):
    """The student's own current weights: self-distillation.

    Reference: Boffi et al. 2025, arXiv 2505.18825.
    """

    source = "itself"

    def forward(self, student: FlowMap, step: int) -> FlowMap:
        return student


class EmaTarget(TargetNetwork):
    """The exponential moving average of the student, w <- d w + (1 - d) w_student at every step.

    It is kept here, apart from the average that is shipped, since its decay is a setting of the
    method; it is saved in checkpoints with the objective, so that a resumed run goes on from the
    same target. It is kept in float32 or better, whatever the student is cast to: steps of a
    thousandth of a difference are lost in bfloat16. A student in lower precision is given a copy in
    its own.

    Args:
        flow_map: a map of the student's build, such as the student itself: it is copied.
        decay: d.

    Raises:
        ValueError: a decay outside [0, 1); and when called, a student of another build.
    """

    last: Tensor

    def __init__(self, flow_map: FlowMap, decay: float = 0.99):
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1); got {decay}")
        self.flow_map = copy.deepcopy(flow_map).requires_grad_(False).eval()
        self.decay = decay
        self.rounded: tuple[FlowMap, ...] = ()  # a tuple hides it from torch
        self.register_buffer("last", torch.tensor(-1))
        self._apply(lambda tensor: tensor)  # widens a map that is in lower precision already

    @property
    def source(self) -> str:  # type: ignore[override]
        return f"its average ({self.decay})"

    def train(self, mode: bool = True) -> "EmaTarget":
        """Stays in eval mode: targets are computed without dropout."""
        return self

    @torch.no_grad()
    def forward(self, student: FlowMap, step: int) -> FlowMap:
        if step != int(self.last):  # once a step, however often the objective is called in it
            self.follow(student, self.decay if int(self.last) >= 0 else 0.0)
            self.last.fill_(step)
            self.rounded = ()
        return self.flow_map if self.exact_for(student) else self.in_precision_of(student)

    def exact_for(self, student: FlowMap) -> bool:
        """Whether the student's weights have the average's precision."""
        pairs = zip(student.parameters(), self.flow_map.parameters(), strict=True)
        return all(own.dtype == kept.dtype for own, kept in pairs)

    def in_precision_of(self, student: FlowMap) -> FlowMap:
        """Returns the average rounded to the student's precision, copied once a step."""
        if not self.rounded:
            rounded = copy.deepcopy(student).requires_grad_(False).eval()
            rounded.load_state_dict(self.flow_map.state_dict())
            self.rounded = (rounded,)
        return self.rounded[0]

    def _apply(self, fn: Any, recurse: bool = True) -> "EmaTarget":
        """Moves like any module, but to no precision below float32, to which `fn` would round."""

        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if not moved.is_floating_point():
                return moved
            dtype = torch.promote_types(moved.dtype, torch.float32)
            return moved if moved.dtype == dtype else tensor.to(moved.device, dtype)

        return super()._apply(kept, recurse)

    def follow(self, student: FlowMap, decay: float) -> None:
        """Averages weights and copies buffers.

        Raises:
            ValueError: a student of another build, naming the first tensor that differs.
        """
        own = self.flow_map.state_dict()
        other = student.state_dict()
        if differs := difference(other, own):
            raise ValueError(
                f"EmaTarget was given another map than the student: {differs};"
                " build it from the student"
            )
        learned = dict(student.named_parameters())
        for name, average in own.items():
            if name in learned and decay > 0:
                average.lerp_(learned[name].to(average.dtype), 1 - decay)
            else:
                average.copy_(other[name])


class TeacherTarget(TargetNetwork):
    """A finished model, guided or not: distillation. It is neither trained nor saved with the run.

    Args:
        flow_map: a FlowMap on the student's own path; where only its velocity is evaluated, its
            jumps need not be good.

    Raises:
        ValueError: when called, if it is the student itself or on another path.
    """

    source = "a teacher"

    def __init__(self, flow_map: FlowMap):
        super().__init__()
        self.guidance = flow_map.guidance
        self.kept = (flow_map.requires_grad_(False).eval(),)  # a tuple hides it from torch
        self.checked: torch.Size | None = None

    def forward(self, student: FlowMap, step: int) -> FlowMap:
        (teacher,) = self.kept
        shared = {id(p) for p in teacher.parameters()}
        if any(id(p) in shared for p in student.parameters()):
            raise ValueError(
                "the frozen teacher is the student itself; give it copy.deepcopy(flow_map), or"
                " leave it out"
            )
        if teacher.schedule != student.schedule:
            raise ValueError(
                f"the teacher's path is {teacher.schedule} and the student's {student.schedule}:"
                " wrap the teacher in steer.Rescheduled(teacher, schedule)"
            )
        weight = next(student.parameters(), None)
        return teacher if weight is None else teacher.to(weight.device)

    @torch.no_grad()
    def check(self, x: Tensor, cond: Cond) -> None:
        """Evaluates the teacher at the first sample, once for every shape.

        Raises:
            ValueError: it does not take such samples or conditions, or its velocity has another
                shape.
        """
        if self.checked == x.shape[1:]:
            return
        (teacher,) = self.kept
        one = x[:1]
        try:
            shape = teacher.velocity(one, 0.5, pick(cond, slice(1))).shape
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, WrongShape) as error:
            raise ValueError(f"{self._misfit(x)}: {str(error).splitlines()[0]}") from error
        if shape != one.shape:
            raise ValueError(f"{self._misfit(x)}: its velocity has shape {tuple(shape[1:])}")
        self.checked = x.shape[1:]

    def _misfit(self, x: Tensor) -> str:
        shape = tuple(x.shape[1:])
        return f"the teacher does not take samples of shape {shape}, as the student does"
