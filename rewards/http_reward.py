"""A scorer behind an address: any program that answers pictures with numbers over HTTP."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from rewards.remote import Nonsense, Question, RemoteReward, shown
from steer.annotations import AtLeast, Count, NotNegative, Positive

__all__ = ["HttpReward"]


class HttpReward(RemoteReward):
    """r(x, y) as a server answers it.

    One POST for each batch of n pictures, as JSON:

        {"images": ["<PNG in base64>", ...], "prompt": ["...", ...], "<column>": ["...", ...]}

    `prompt` and the further columns hold n texts each: those of cond, or the text fields of a
    steer.Condition, its `texts` under the name "prompt"; without a condition there are none. The
    server answers

        {"scores": [0.31, ...]}

    with n finite numbers in the order of the pictures, higher is better.

    Args:
        url, concurrent, timeout, retries, backoff, cache, key_variable: see `RemoteReward`.
        batch: n, at most.
        name: what scores are kept under; change it with the model behind the address.

    Raises:
        ValueError, ConnectionError: see `RemoteReward`.
    """

    why_not_differentiable = "HttpReward asks a server, which sends no gradient."
    instead = "Use a method without gradients, such as best-of-n, or the same model in torch."

    def __init__(
        self,
        url: str,
        batch: Count = 16,
        concurrent: Count = 4,
        timeout: Positive = 60.0,
        retries: Annotated[int, AtLeast(0)] = 4,
        backoff: NotNegative = 1.0,
        cache: str | Path | None = None,
        key_variable: str | None = None,
        name: str = "",
    ) -> None:
        super().__init__(url, batch, concurrent, timeout, retries, backoff, cache, key_variable)
        self.name = name

    def body(self, questions: Sequence[Question]) -> dict[str, Any]:
        names = questions[0].columns
        if "images" in names:
            raise ValueError("HttpReward: a column called images hides the pictures: rename it")
        columns = {name: [question.columns[name] for question in questions] for name in names}
        return {**columns, "images": [question.encoded for question in questions]}

    def scores(self, answer: Any, questions: Sequence[Question]) -> list[float]:
        found = answer.get("scores") if isinstance(answer, dict) else None
        if not isinstance(found, list):
            raise Nonsense(f'expected {{"scores": [...]}}, got {shown(answer)}')
        return found

    def identity(self) -> str:
        return f"http {self.url} {self.name}"
