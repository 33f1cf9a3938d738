"""Networks with a context: their inputs, the properties of every network, and warm starts."""

import pytest
import torch
from shaking import shaken

from steer.flow_map import ResidualMap
from steer.interpolant import Linear, Trigonometric
from steer.lookahead.glass_flow import Context
from steer.networks import ClassCondition, ContextCondition, Mlp, UNet, WithContext, warm_start

B = 4
LABELS = torch.tensor([0, 2, 1, -1])
PLAIN = {
    "mlp": (lambda **more: Mlp(2, 16, 3, data_std=2.0, **more), 16, 2, (2,), None),
    "mlp-classes": (lambda **more: Mlp(3, 16, 2, **more), 16, 3, (3,), LABELS),
    "unet": (lambda **more: UNet(1, (8, 16), blocks=1, **more), 32, 1, (1, 8, 8), None),
    "unet-classes": (
        lambda **more: UNet(3, (8,), blocks=1, patch=1, **more),
        32,
        3,
        (3, 4, 4),
        LABELS,
    ),
}


@pytest.fixture(params=PLAIN)
def case(request):
    """A plain network and one told of a context, x, s, t, and a context."""
    build, dim, beside, shape, cond = PLAIN[request.param]
    own = {} if cond is None else {"condition": ClassCondition(3, dim)}
    told = WithContext(build(beside=beside, condition=ContextCondition(dim, own.get("condition"))))
    generator = torch.Generator().manual_seed(1)
    x, x_t = torch.randn(2, B, *shape, generator=generator, dtype=torch.float64)
    s, t, outer = torch.rand(3, B, generator=generator, dtype=torch.float64).sort(dim=0).values
    return shaken(build(**own)), shaken(told), x, s, t, Context(x_t, outer, Trigonometric(), cond)


def test_forward_mode_is_the_finite_difference(case):
    _, network, x, s, t, context = case
    dx, ds, dt = (torch.randn_like(v) for v in (x, s, t))
    _, tangent = torch.func.jvp(lambda x, s, t: network(x, s, t, context), (x, s, t), (dx, ds, dt))
    h = 1e-6
    with torch.no_grad():
        ahead, behind = (network(x + k * dx, s + k * ds, t + k * dt, context) for k in (h, -h))
    assert ((ahead - behind) / (2 * h) - tangent).norm() < 1e-6 * tangent.norm()


def test_forward_mode_through_the_context_too(case):
    """In x_t and its time, as a reward's gradient needs it."""
    _, network, x, s, t, context = case

    def of(x_t, outer):
        return network(x, s, t, Context(x_t, outer, context.schedule, context.cond))

    d = torch.randn_like(context.x_t), torch.ones(B, dtype=torch.float64)
    _, tangent = torch.func.jvp(of, (context.x_t, context.t), d)
    h = 1e-6
    numeric = (
        of(context.x_t + h * d[0], context.t + h) - of(context.x_t - h * d[0], context.t - h)
    ) / (2 * h)
    assert (numeric - tangent).norm() < 1e-6 * tangent.norm()


def test_every_parameter_receives_a_gradient(case):
    _, network, x, s, t, context = case
    network(x, s, t, context).square().sum().backward()
    idle = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert not idle


def test_batch_mates_do_not_matter(case):
    _, network, x, s, t, context = case
    one = [slice(i, i + 1) for i in range(B)]
    alone = [network(x[i], s[i], t[i], context[i]) for i in one]
    torch.testing.assert_close(network(x, s, t, context), torch.cat(alone), rtol=1e-9, atol=1e-10)


def test_single_precision_and_autocast_agree_with_double(case):
    _, network, x, s, t, context = case
    double = network(x, s, t, context)
    single = Context(context.x_t.float(), context.t.float(), context.schedule, context.cond)
    network = network.float()
    found = network(x.float(), s.float(), t.float(), single)
    torch.testing.assert_close(
        found.double(), double, rtol=1e-3, atol=1e-3 * double.abs().max().item()
    )
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(x.float(), s.float(), t.float(), single)
    assert (rough.double() - double).norm() < 0.1 * double.norm()


# The start from a plain network


def test_without_room_beside_nothing_changes(case):
    """Names and shapes of a plain network are what they were, so that old checkpoints fit."""
    plain = case[0]
    inputs = plain.first.in_features if isinstance(plain, Mlp) else plain.enter.in_channels
    assert inputs == (
        plain.last.out_features + 2 if isinstance(plain, Mlp) else plain.leave[2].out_channels
    )
    assert not any("beside" in name or "context" in name for name in plain.state_dict())


def test_a_warm_start_is_the_plain_network_whatever_the_context(case):
    plain, _, x, s, t, context = case
    fresh = WithContext(_like(case[1].network)).double()
    warm_start(fresh, plain)
    torch.testing.assert_close(
        fresh(x, s, t, context), plain(x, s, t, context.cond), rtol=1e-12, atol=1e-12
    )


def test_the_inputs_it_adds_can_be_learned(case):
    plain, _, x, s, t, context = case
    fresh = WithContext(_like(case[1].network)).double()
    warm_start(fresh, plain)
    fresh(x, s, t, context).square().sum().backward()
    first = fresh.network.first if isinstance(plain, Mlp) else fresh.network.enter
    assert first.weight.grad[:, -1].abs().sum() > 0
    assert fresh.network.condition.times.perceptron[-1].weight.grad.abs().sum() > 0


def _like(network):
    """A freshly initialised network built as this one, since shaken ones do not start at zero."""
    for build, dim, beside, _, cond in PLAIN.values():
        own = None if cond is None else ClassCondition(3, dim)
        fresh = build(beside=beside, condition=ContextCondition(dim, own))
        if {k: v.shape for k, v in fresh.state_dict().items()} == {
            k: v.shape for k, v in network.state_dict().items()
        }:
            return fresh
    raise AssertionError


def test_at_the_noise_the_context_shows_nothing():
    network = shaken(WithContext(Mlp(2, 16, 2, ContextCondition(16), beside=2)))
    x, a, b = torch.randn(3, B, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flow_map = ResidualMap(network, Linear())
    first, second = (flow_map(x, 0.0, 1.0, Context(x_t, 0.0, Linear())) for x_t in (a, b))
    assert torch.equal(first, second)


def test_what_does_not_fit_is_refused_in_one_line():
    told = WithContext(Mlp(2, 16, 2, ContextCondition(16), beside=2))
    for plain in (
        Mlp(2, 8, 2),
        Mlp(2, 16, 3),
        Mlp(2, 16, 2, ClassCondition(3, 16)),
        UNet(1, (8,), blocks=1),
    ):
        with pytest.raises(
            ValueError, match=r"warm_start cannot copy .* of shape .*; build both alike"
        ):
            warm_start(told, plain)
    with pytest.raises(ValueError, match=r"takes cond=Context\(x_t, t, schedule\); got Tensor"):
        told(torch.zeros(2, 2), torch.zeros(2), torch.ones(2), torch.tensor([0, 1]))
