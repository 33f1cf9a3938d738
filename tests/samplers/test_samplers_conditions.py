"""Every sampler, whose prompts are conditions of named fields."""

import pytest
import torch
from ball import Ball
from prompts import meaning, prompts
from zoo import BUILD, DRAWING, noise, seeded

from steer.tilt import Tilt

every = pytest.mark.parametrize("name", BUILD)


class ToldBall(Ball):
    """The ball, whose velocity and jumps drift by the meaning of the condition."""

    def forward(self, x, s, t, cond=None):
        gap = torch.as_tensor(t - s, dtype=x.dtype).reshape(-1, 1)
        return super().forward(x, s, t) + gap * meaning(cond) / 8

    def velocity(self, x, t, cond=None):
        return super().velocity(x, t) + meaning(cond) / 8


def liking(x, cond):
    """Some prompts are liked on one side, some on the other."""
    return (meaning(cond)[:, 0].to(x) / 4) * x.sum(1)


def drawn(name, cond, x0, keys=None, **more):
    return BUILD[name](**more)(ToldBall(), x0, Tilt(liking), cond, seeded(), prompt_keys=keys)


@every
def test_named_fields_are_the_embedding_they_mean(name):
    """Bit for bit; and the same with one prompt left out, the others the other way round, in pieces
    that have samples of both, unless a look-ahead draws for each piece.
    """
    cond, x0, keys, order = prompts(3), noise(3, 4, 2), [7, -3, 2**40], [2, 0]
    plain, named = (drawn(name, each, x0, keys) for each in (meaning(cond), cond))
    assert torch.equal(plain.x, named.x)
    assert torch.equal(plain.log_w, named.log_w)
    assert plain.evaluations == named.evaluations

    most = None if name in DRAWING else 3
    some = drawn(name, cond[order], x0[order], [keys[i] for i in order], max_batch=most)
    assert torch.allclose(plain.x[order], some.x, rtol=1e-12, atol=1e-14)
    assert torch.allclose(plain.log_w[order], some.log_w, rtol=1e-12, atol=1e-14)


def test_the_prompts_matter():
    cond, x0 = prompts(3), noise(3, 4, 2)
    mine, other = (drawn("Jump", each, x0).x for each in (cond, cond[[1, 2, 0]]))
    assert not torch.isclose(mine, other).any()


NONSENSE = {
    "dict": ({"pooled": torch.ones(2, 2)}, "cond is a dict.*pass steer.Condition"),
    "mixed": (["a hat", 3], "cond is a list of texts or of labels; got 'a hat' and 3 together"),
    "nested": ((torch.ones(2, 2), torch.ones(2, 2)), "got a Tensor: give one tensor, or name"),
    "few": (prompts(3), "cond has one entry per prompt, 2 of them; got 3"),
    "scalar": (torch.tensor(1), "cond has one entry per prompt, 2 of them; got 0"),
}


@pytest.mark.parametrize(("cond", "message"), NONSENSE.values(), ids=NONSENSE)
def test_conditions_of_no_kind_are_refused_in_one_line(cond, message):
    with pytest.raises(ValueError, match=message) as refused:
        drawn("Jump", cond, noise(2, 4, 2))
    assert "\n" not in str(refused.value)
