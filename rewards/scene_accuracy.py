"""Scene accuracy: whether a picture shows what its caption asks for; it has no gradient."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from rewards.base import Cond, Reward
from steer.build import resolve
from steer.conditions import field
from steer.nearest import hint

__all__ = ["SceneAccuracy"]


class SceneAccuracy(Reward):
    """r(x, caption) = 1 if the picture fulfils a task of its caption, 0 if not.

    Reference for the tasks: Ghosh, Hajishirzi & Schmidt 2023, arXiv 2310.11513.

    Args:
        score: the judge, (pictures in [0, 1], captions) -> a tensor (b,) for each task, NaN where a
            task does not apply to a caption; a function or its dotted path, such as
            steer.data.scenes.score.
        task: the task that is rewarded, "overall" by default.

    Raises:
        ValueError: at construction, if there is no such judge; when called, without captions, for a
            task that the judge does not know, or for captions to which it does not apply.
    """

    differentiable = False
    why_not_differentiable = "SceneAccuracy counts the objects of a picture: it has no gradient."
    instead = "Use a method without gradients, such as best-of-n, or a differentiable reward."

    def __init__(
        self, score: Callable[[Any, Any], Mapping[str, Tensor]] | str, task: str = "overall"
    ) -> None:
        super().__init__()
        self.score = resolve(score) if isinstance(score, str) else score
        if not callable(self.score):
            raise ValueError(f"SceneAccuracy: expected a function as its score, got {score!r}")
        self.task = task
        self.freeze()

    def forward(self, x: Float[Tensor, "b c h w"], cond: Cond = None) -> Float[Tensor, " b"]:
        captions = field(cond, "texts")
        if captions is None or isinstance(captions, Tensor):
            given = "none" if captions is None else "numbers"
            raise ValueError(f"SceneAccuracy: expected a caption for each picture, got {given}")
        scores = self.score(x.detach(), list(captions))
        if self.task not in scores:
            raise ValueError(f"SceneAccuracy: no task {self.task!r}; {hint(self.task, scores)}")
        value = scores[self.task].to(x)
        missing = value.isnan().nonzero()
        if len(missing):
            raise ValueError(
                f"SceneAccuracy: the task {self.task!r} does not apply to the caption"
                f" {captions[int(missing[0])]!r}: use 'overall', or captions that name it"
            )
        return value

    def extra_repr(self) -> str:
        return f"task={self.task!r}"
