"""Values against annotations: what fits, what does not, and where in a value it does not."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from steer.annotations import (
    Above,
    AtLeast,
    AtMost,
    Built,
    Extended,
    annotated,
    misfit,
    refuse_misfits,
    words,
)
from steer.lookahead import Denoiser
from steer.loops import Cosine, MapTraining, Warmup
from steer.samplers import Jump, Sampler

NAN = math.nan
INF = math.inf


class Has(Protocol):
    def draw(self) -> int: ...


class Drawing:
    def draw(self) -> int:
        return 1


def thrice(x: Tensor) -> Tensor:
    return 3 * x


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (
            int,
            [0, -3, np.int64(3), torch.tensor(3)],
            [1.5, True, "1", None, [], NAN, 2**31, torch.tensor(1.5)],
        ),
        (
            float,
            [1, 1.5, np.float32(2), torch.tensor(2.0)],
            [True, "1", None, NAN, INF, -INF, 10**400, torch.tensor(NAN)],
        ),
        (Extended, [1.0, INF, -INF], [NAN, "inf", None]),
        (bool, [True, False], [0, 1, None, "true"]),
        (str, ["", "a"], [1, None, ["a"]]),
        (int | None, [1, None], ["", 0.5, False]),
        (Literal["max", "sum"], ["max"], ["min", None, 1]),
        (Sequence[int], [[1], (2, 3), []], ["12", [1.5], {1: 2}, 3, [True]]),
        (tuple[float, float], [(0.9, 1), [0.9, 1]], [(0.9,), [0.9, 1, 2], "ab", [0.9, NAN]]),
        (Mapping[str, float], [{"a": 1}, {}], [{"a": "b"}, {1: 1.0}, [1], {"a": INF}]),
        (Annotated[int, AtLeast(1)], [1, 7], [0, -1, 1.5, None]),
        (Annotated[float, Above(0), AtMost(1)], [0.5, 1], [0, 1.5, NAN]),
        (Annotated[Sequence[int], AtLeast(1)], [[1]], [[], 1]),
        (Tensor | Sequence[float], [torch.ones(2), [1.0]], ["ab", 3, [None]]),
        (Float[Tensor, "b"], [torch.ones(2)], [[1.0], 1.0]),
        (Sampler, [Jump(1)], [Jump, Denoiser(), "Jump"]),
        (Sampler, [Built(Jump)], [Built(Denoiser), Built(Cosine)]),
        (
            Callable[[int], float],
            [abs, Cosine(3), lambda k: 1.0],
            [Jump(1), 3, "abs", lambda: 1.0, lambda a, b: a],
        ),
        (Callable[[int], float], [Built(Cosine), Built(Warmup)], [Built(Jump), Built(Denoiser)]),
        (Callable[[Tensor], Tensor], [thrice, torch.nn.Identity()], [Cosine(3), torch.ones(2)]),
        (Has, [Drawing(), Built(Drawing)], [3, Built(Jump)]),
        (Any, [None, "x", object(), [1.0]], [NAN, [INF], {"a": [NAN]}]),
    ],
    ids=lambda value: "values" if isinstance(value, list) else str(value),
)
def test_fits(annotation, good, bad):
    assert [value for value in good if misfit(value, annotation) is not None] == []
    assert [value for value in bad if misfit(value, annotation) is None] == []
    assert all(misfit(value, annotation).expected for value in bad)


def test_where_what_was_expected_and_what_came():
    found = misfit({"a": [1, "b"]}, Mapping[str, Sequence[int]])
    assert found == (".a[1]", "a whole number", "'b'")
    assert words(int | Annotated[Sequence[str], AtLeast(1)] | None) == (
        "a whole number, a list whose items are each a string, with at least 1 of them or null"
    )


def test_a_seed_may_be_large_and_a_count_may_not():
    assert misfit(2**40, int, "seed") is None
    assert misfit(2**40, int, "steps").expected == "a whole number of at most 2147483647"


def test_keywords_that_are_handed_on_are_those_of_the_base():
    """MapTraining(..., **optimizer) hands lr on to Loop."""
    assert annotated(MapTraining)["lr"].annotation is float
    with pytest.raises(ValueError, match=r"^loop\.lr is a number; got 'abc'$"):
        refuse_misfits(MapTraining, {"lr": "abc"}, "loop.")
    with pytest.raises(
        ValueError, match=r"^loop\.weight_decay is a finite number; got nan; left out, it is 0\.0$"
    ):
        refuse_misfits(MapTraining, {"weight_decay": NAN}, "loop.")


def test_a_default_that_is_infinite_lets_infinity_in():
    def clipped(low: float = -INF, scale: float = 1.0) -> None: ...

    refuse_misfits(clipped, {"low": INF})
    with pytest.raises(ValueError, match="scale is a finite number; got inf"):
        refuse_misfits(clipped, {"scale": INF})
    with pytest.raises(ValueError, match="low is a finite number; got nan"):
        refuse_misfits(clipped, {"low": NAN})
