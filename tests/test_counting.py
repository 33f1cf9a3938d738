"""Counting: one forward per sample, one backward when its gradient arrives, nothing outside."""

import pytest
import torch

from steer import counting
from steer.counting import Evaluations, count
from steer.flow_map import OdeMap, ResidualMap
from steer.interpolant import Linear
from steer.networks import Mlp
from steer.tilt import Tilt
from steer.training import ForwardMode


def flow_map():
    return ResidualMap(Mlp(2, 8, 1), Linear())


def counts(tally):
    return (
        tally.network_forward,
        tally.network_backward,
        tally.reward_forward,
        tally.reward_backward,
    )


def test_forward_and_backward_of_map_and_reward():
    tilt = Tilt(lambda x: x.sum(1))
    x = torch.ones(5, 2, requires_grad=True)
    with count() as tally:
        loss = tilt(flow_map()(x, 0.0, 1.0)).sum()
        assert counts(tally) == (5, 0, 5, 0)
        loss.backward()
    assert counts(tally) == (5, 5, 5, 5)


def test_backwards_count_when_they_happen():
    model = flow_map()
    x = torch.ones(3, 2, requires_grad=True)
    with count() as tally:
        y = model(model(x, 0.0, 0.5), 0.5, 1.0)
        torch.autograd.grad(y.sum(), x, retain_graph=True)
        assert tally.network_backward == 6  # one gradient through each of two passes
        torch.autograd.grad(y.sum(), x)
    assert tally.network_backward == 12
    with count() as tally, torch.no_grad():
        model(x, 0.0, 1.0)
    assert counts(tally) == (3, 0, 0, 0)


def test_a_gradient_that_never_reaches_a_pass_is_not_counted():
    model = flow_map()
    x = torch.ones(3, 2, requires_grad=True)
    with count() as tally:
        (model(x, 0.0, 0.5).detach() + model(x, 0.5, 1.0)).sum().backward()
    assert counts(tally)[:2] == (6, 3)


def test_a_backward_after_the_with_still_belongs_to_its_tally():
    x = torch.ones(3, 2, requires_grad=True)
    with count() as tally:
        y = flow_map()(x, 0.0, 1.0)
    y.sum().backward()
    flow_map()(x, 0.0, 1.0)
    assert counts(tally)[:2] == (3, 3)


def test_tallies_nest():
    x = torch.ones(2, 2)
    with count() as outer:
        flow_map()(x, 0.0, 1.0)
        with count() as inner:
            flow_map()(x, 0.0, 1.0)
    assert (inner.network_forward, outer.network_forward) == (2, 4)


def test_an_error_closes_the_tally():
    with pytest.raises(ZeroDivisionError), count() as tally:
        raise ZeroDivisionError
    flow_map()(torch.ones(2, 2), 0.0, 1.0)
    assert tally == Evaluations()


def test_forward_mode_counts_as_one_forward():
    model = flow_map()
    x = torch.ones(2, 2)
    t = torch.ones(2)
    with count() as tally:
        torch.func.jvp(lambda t: model(x, 0.0, t), (t,), (t,))
    assert counts(tally) == (2, 0, 0, 0)


def test_counting_changes_nothing():
    y = torch.ones(3)
    assert counting.network(y) is y
    with count():
        assert counting.reward(y) is y


def test_an_ode_counts_every_stage_once():
    with count() as tally:
        OdeMap(flow_map(), Linear(), steps=5)(torch.ones(3, 2), 0.0, 1.0)
    assert tally.network_forward == 3 * 5 * 4


def test_evaluations_per_sample_and_in_forwards():
    tally = Evaluations(12, 6, 4, 2)
    assert tally.per(4) == Evaluations(3, 1.5, 1, 0.5)
    assert tally.forward_equivalents() == 12 + 2 * 6
    assert tally.forward_equivalents(backward=3) == 12 + 3 * 6


def test_a_derivative_in_forward_mode_counts_its_tangent_and_both_backward_passes():
    model = flow_map()
    x = torch.randn(5, 2)
    s = torch.rand(5)

    def derivative():
        return ForwardMode()(
            lambda s: model.average_velocity(x, s, 1.0), (s,), (torch.ones_like(s),)
        )

    with count() as tally:
        value, tangent = derivative()
        assert counts(tally)[:2] == (10, 0)
        value.sum().backward(retain_graph=True)
        assert counts(tally)[:2] == (10, 5)
        (value + tangent).sum().backward()
    assert counts(tally)[:2] == (10, 15)
    with torch.no_grad(), count() as tally:
        derivative()
    assert counts(tally)[:2] == (10, 0)
