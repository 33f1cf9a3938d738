"""A vision-language model as judge, behind an endpoint of OpenAI's chat format."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from rewards.remote import Nonsense, Question, RemoteReward, shown
from steer.annotations import AtLeast, Count, NotNegative, Positive

__all__ = ["VlmJudge"]

QUESTION = (
    "Does this picture show what the prompt asks for? Prompt: {prompt}\n"
    "Rate it from {low:g} (not at all) to {high:g} (perfectly). "
    "Answer with one line: Score: <number>"
)
NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?![\d.,]*\d|e[-+]?\d)"
OF = r"\s*(?:/\s*\d+)?"  # of how many
SCORE = re.compile(
    rf"score\s*(?:\([^)]*\))?[\s*_]*(?:[:=]|is\b)[\s*_]*({NUMBER}){OF}", re.IGNORECASE
)
ALONE = re.compile(rf"\W*?({NUMBER}){OF}\W*", re.IGNORECASE)


class VlmJudge(RemoteReward):
    """r(x, y) = the rating that a vision-language model answers.

    One POST to <url>/chat/completions for each picture, with the picture as a data URL and the
    question behind it, at temperature 0. The rating is the number behind the last "Score" of the
    answer, as in "Score: 7" or "score = 7/10", or the whole answer. An answer without one, or with
    one outside the scale, is nonsense and asked again. vLLM, SGLang, llama.cpp and Ollama serve
    this format.

    A judge can be flattered like any other reward: look at the pictures, and hold another one out.

    Reference: Zheng et al. 2023, Judging LLM-as-a-Judge, arXiv:2306.05685.

    Args:
        url: of the endpoint, up to its version, such as http://localhost:8000/v1.
        model: its name there.
        question: what is asked; {prompt}, {low}, {high} and the names of further text fields of a
            steer.Condition stand for their values.
        low, high: the scale.
        max_tokens: of an answer.
        concurrent, timeout, retries, backoff, cache, key_variable: see `RemoteReward`.

    Raises:
        ValueError: if low is not below high, or the question has a place that no column fills; and,
            as ConnectionError, see `RemoteReward`.
    """

    why_not_differentiable = "VlmJudge asks a server, which sends no gradient."
    instead = "Use a method without gradients, such as best-of-n, or a differentiable reward."

    def __init__(
        self,
        url: str,
        model: str,
        question: str = QUESTION,
        low: float = 0.0,
        high: float = 10.0,
        max_tokens: Count = 256,
        concurrent: Count = 8,
        timeout: Positive = 120.0,
        retries: Annotated[int, AtLeast(0)] = 4,
        backoff: NotNegative = 1.0,
        cache: str | Path | None = None,
        key_variable: str | None = None,
    ) -> None:
        if not low < high:
            raise ValueError(f"VlmJudge: expected low < high, got low={low}, high={high}")
        super().__init__(
            url.rstrip("/"), 1, concurrent, timeout, retries, backoff, cache, key_variable
        )
        self.model = model
        self.question = question
        self.low = low
        self.high = high
        self.max_tokens = max_tokens

    def address(self) -> str:
        return f"{self.url}/chat/completions"

    def body(self, questions: Sequence[Question]) -> dict[str, Any]:
        (question,) = questions
        picture = {"url": f"data:image/png;base64,{question.encoded}"}
        content = [
            {"type": "image_url", "image_url": picture},
            {"type": "text", "text": self.asked(question)},
        ]
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }

    def asked(self, question: Question) -> str:
        """Fill in the question. Raises ValueError for a place that nothing fills."""
        values = {**question.columns, "low": self.low, "high": self.high}
        try:
            return self.question.format(**values)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"VlmJudge: question={shown(self.question)} cannot be filled in ({error!r}): there "
                f"are {', '.join(values)}"
            ) from error

    def scores(self, answer: Any, questions: Sequence[Question]) -> list[float]:
        try:
            text = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise Nonsense(f"expected a chat completion, got {shown(answer)}") from error
        rating = rating_of(text if isinstance(text, str) else "")
        if rating is None:
            raise Nonsense(f"expected a rating, as in 'Score: 7', got {shown(text)}")
        if not self.low <= rating <= self.high:
            raise Nonsense(
                f"expected a rating from {self.low:g} to {self.high:g}, got {rating:g} in "
                f"{shown(text)}"
            )
        return [rating]

    def identity(self) -> str:
        settings = (self.url, self.model, self.question, self.low, self.high, self.max_tokens)
        return f"chat {settings!r}"


def rating_of(text: str) -> float | None:
    """Find the rating in an answer: behind the last "Score", or all that there is; else None."""
    found = SCORE.findall(text)
    alone = ALONE.fullmatch(text)
    if not found and alone:
        found = [alone[1]]
    return float(found[-1]) if found else None
