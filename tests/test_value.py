"""The value and its gradient in pieces: the same numbers as at once, and never more than a piece in
memory.
"""

from itertools import pairwise

import pytest
import torch

from rewards import Quadratic
from steer.analytic import GaussianMixture
from steer.guidance import Guided, ValueGuidance
from steer.lookahead import Glass, Guesses, Lookahead, Posterior, log_uniform, split
from steer.tilt import Tilt
from steer.value import Query, Value

REWARD = Quadratic([1.0, 0.5], 2.0)
NOISE = torch.randn(7, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Fixed(Lookahead):
    """Guesses x t + fixed noise, all at once or in pieces."""

    random = True

    def __init__(self, rows=slice(0, 7), at_once=None):
        self.rows, self.at_once = rows, at_once

    def pieces(self):
        ends = [0]
        for n in split(7, self.at_once):
            ends.append(ends[-1] + n)
        return [(Fixed(slice(a, b)), (b - a) / 7) for a, b in pairwise(ends)]

    def __call__(self, flow_map, x, t, cond=None, generator=None):
        x1 = x * torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1) + NOISE[self.rows]
        return Guesses(x1, log_uniform(x1))


def full(value, query):
    return value.look(query, velocity=True, gradient=True, time_derivative=True)


def asked(t=0.4):
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Query(GaussianMixture([[0.0, 0.0]], 1.0), x, t)


@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
def test_pieces_add_up_to_the_whole(at_once):
    tilt = Tilt(REWARD, torch.tensor([1.0, 3.0, -1.0, 0.0, 40.0]))
    whole, pieces = (full(Value(tilt, Fixed(at_once=n)), asked()) for n in (None, at_once))
    for name in ("value", "reward", "gradient", "time_derivative", "velocity"):
        torch.testing.assert_close(
            getattr(pieces, name), getattr(whole, name), rtol=1e-12, atol=1e-12
        )
    seen = Value(tilt, Fixed(at_once=at_once)).look(asked())
    torch.testing.assert_close(seen.value, whole.value, rtol=1e-12, atol=1e-12)
    assert seen.gradient is None


def test_the_gradient_is_that_of_the_value():
    x, t = (
        asked().x.requires_grad_(),
        torch.full((5,), 0.4, dtype=torch.float64, requires_grad=True),
    )
    value = Value(Tilt(REWARD), Fixed())
    expected = torch.autograd.grad(value(asked().flow_map, x, t).sum(), [x, t])
    found = full(value, asked())
    torch.testing.assert_close((found.gradient, found.time_derivative), expected)


@pytest.mark.parametrize("lookahead", [Posterior(8), Glass(8, steps=2)], ids=["posterior", "glass"])
def test_pieces_of_draws_have_the_same_law(lookahead):
    """Of one Gaussian, log E exp is known: pieces come as near to it as draws at once, within their
    errors.
    """
    model, reward = GaussianMixture([[0.5, -0.5]], 0.8), Quadratic([1.0, 0.5], 0.5)
    x = asked().x[:1].expand(600, 2)
    exact = model.value(reward, x[:1], 0.4).exp()
    cls, rest = type(lookahead), {"steps": 4} if isinstance(lookahead, Glass) else {}
    for at_once in (None, 3):
        value = Value(Tilt(reward), cls(8, at_once=at_once, **rest))
        found = value.look(Query(model, x, 0.4, None, torch.Generator().manual_seed(2))).value.exp()
        assert abs(found.mean() - exact) < 4 * found.std() / 600**0.5 + 2e-3 * exact


@pytest.mark.parametrize("draws", [6, 60])
def test_the_network_never_sees_more_than_a_piece(draws):
    seen = []

    class Watched(GaussianMixture):
        def velocity(self, x, t, cond=None):
            seen.append(len(x))
            return super().velocity(x, t, cond)

    model = Watched([[0.0, 0.0]], 1.0)
    value = Value(Tilt(REWARD), Glass(draws, steps=1, at_once=2))
    full(value, asked()._replace(flow_map=model, generator=torch.Generator().manual_seed(0)))
    assert max(seen) == 2 * 5
    Guided(model, ValueGuidance(value)).velocity(asked().x, 0.4)
    value(model, asked().x, 0.4)
    assert max(seen) == 2 * 5


def test_pieces_are_positive():
    with pytest.raises(ValueError, match="at_once=0"):
        Posterior(4, at_once=0)
    with pytest.raises(ValueError, match="at_once=0"):
        Glass(4, at_once=0)
