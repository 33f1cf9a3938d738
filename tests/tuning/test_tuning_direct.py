"""Direct reward gradients: gradients by hand, closed-form penalties, and a small tuning run."""

import copy

import pytest
import torch
from toys import Matrix, Shifted, ball_map, linear_map, noise, seeded

from rewards import Linear as LinearReward
from rewards import Quadratic
from steer import counting
from steer.flow_map import OdeMap, ResidualMap
from steer.interpolant import Linear
from steer.networks import Mlp
from steer.tilt import NonFiniteReward, Tilt
from steer.training import FlowMatching, Joint, Lagrangian, Semigroup
from steer.tuning import Direct
from steer.tuning.rollouts import EulerSteps, Jumps, drift_energy

WEIGHT = [[0.3, -0.5], [0.2, 0.1]]
A = torch.tensor([1.0, -2.0], dtype=torch.float64)


def reward_only(rollout):
    return Direct(rollout, consistency=0.0)


def gradient(objective, flow_map, x0, tilt, base=None):
    """d loss / d every weight, flattened."""
    loss = objective(flow_map, base or flow_map, tilt, x0, None, seeded(), 0)
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss.total, list(flow_map.parameters()))]
    )


def counts(rollout, n=4):
    with counting.count() as tally:
        rollout(linear_map(WEIGHT), noise(n), None, seeded()).z.sum().backward()
    return tally.network_forward / n, tally.network_backward / n


# --- gradients by hand --------------------------------------------------------------------------
def test_one_jump_from_noise():
    """z = x0 + W x0, so that d(-scale a . z)/dW = -scale mean a x0^T."""
    x0 = noise(5)
    found = gradient(
        reward_only(Jumps(1, from_noise=1.0)), linear_map(WEIGHT), x0, Tilt(LinearReward(A), 3.0)
    )
    assert torch.allclose(found.view(2, 2), -3 * torch.outer(A, x0.mean(0)))


def test_one_jump_from_a_later_time_carries_no_gradient_of_how_it_got_there():
    """x_s = (1 + s W) x0 is a constant and z = x_s + (1 - s) W x_s.

    The gradient is -mean (1 - s) a x_s^T.
    """
    x0 = noise(5)
    w = torch.tensor(WEIGHT, dtype=torch.float64)
    found = gradient(
        reward_only(Jumps(1, from_noise=0.0)), linear_map(WEIGHT), x0, Tilt(LinearReward(A))
    )
    s = torch.rand(5, generator=seeded()).double()[:, None]
    x_s = x0 + s * x0 @ w.T
    assert torch.allclose(found.view(2, 2), -torch.outer(A, ((1 - s) * x_s).mean(0)), rtol=1e-6)


@pytest.mark.parametrize("last", [1, 2, 6])
def test_euler_steps_carry_gradients_through_the_last_alone(last):
    """d a.z/dW is the sum over the last K steps k of h P^{N-1-k T} a x_k^T.

    Here P = 1 + W/N and x_k = P^k x0.
    """
    steps = 6
    x0 = noise(5)
    w = torch.tensor(WEIGHT, dtype=torch.float64)
    found = gradient(
        reward_only(EulerSteps(steps, last)), linear_map(WEIGHT), x0, Tilt(LinearReward(A))
    )
    p = torch.eye(2, dtype=torch.float64) + w / steps
    power = [torch.linalg.matrix_power(p, k) for k in range(steps)]
    by_hand = sum(
        torch.outer(power[steps - 1 - k].T @ A, power[k] @ x0.mean(0))
        for k in range(steps - last, steps)
    )
    assert torch.allclose(found.view(2, 2), -by_hand / steps)


def test_several_jumps_carry_gradients_through_all_of_them():
    """From noise, with K sorted times: autograd through the same jumps written out."""
    x0 = noise(5)
    flow_map = linear_map(WEIGHT)
    found = gradient(reward_only(Jumps(3, from_noise=1.0)), flow_map, x0, Tilt(Quadratic(A, 1.0)))
    times = torch.rand(3, 5, generator=seeded()).sort(dim=0).values.double()
    times[0] = 0.0
    w = flow_map.network.weight
    x = x0
    for s, t in zip(times, [*times[1:], torch.ones(5)], strict=True):
        x = x + (t - s)[:, None] * (x @ w.T)
    (by_hand,) = torch.autograd.grad((x - A).square().sum(1).mean() / 2, w)
    assert torch.allclose(found, by_hand.flatten(), rtol=1e-6)


# --- costs --------------------------------------------------------------------------------------
def test_rollouts_cost_what_they_say():
    assert counts(Jumps(1, from_noise=1.0)) == (1, 1)
    assert counts(Jumps(1, from_noise=0.0)) == (2, 1)
    assert counts(Jumps(1)) == (1.5, 1)
    assert counts(Jumps(3, from_noise=1.0)) == (3, 3)
    assert counts(EulerSteps(6, last=2)) == (6, 2)


def test_the_share_saves_evaluations_of_the_regularisers():
    forward = []
    for share in (1.0, 0.25):
        with counting.count() as tally:
            objective = Direct(Jumps(1, 1.0), penalty=1.0, consistency=0.0, share=share)
            objective(
                linear_map(WEIGHT),
                linear_map(WEIGHT),
                Tilt(LinearReward(A)),
                noise(8),
                None,
                seeded(),
                0,
            )
        forward.append(tally.network_forward)
    assert forward == [8 + 8, 8 + 2]  # the base at the jump that was made


# --- the penalty and the consistency term -------------------------------------------------------
def test_the_energy_of_a_constant_change_of_drift_is_its_square():
    shift = [0.6, -0.8]
    tuned = ResidualMap(Shifted(Matrix(WEIGHT), shift), Linear())
    base = linear_map(WEIGHT)
    energy = drift_energy(tuned, base, noise(7), None, seeded())
    assert torch.allclose(energy, torch.ones(7, dtype=torch.float64))
    assert drift_energy(base, linear_map(WEIGHT), noise(7), None, seeded()).abs().max() == 0


def test_the_penalty_is_weighed_into_the_loss_and_moves_only_the_tuned_map():
    tuned = ResidualMap(Shifted(Matrix(WEIGHT), [0.6, -0.8]), Linear())
    base = linear_map(WEIGHT)
    for rollout in (Jumps(1, 1.0), EulerSteps(4)):
        loss = Direct(rollout, penalty=2.5, consistency=0.0)(
            tuned, base, Tilt(LinearReward(A)), noise(7), None, seeded(), 0
        )
        assert torch.isclose(loss.total, -loss.terms["tilt"] + 2.5 * loss.terms["energy"])
        loss.total.backward()
        assert base.network.weight.grad is None
        assert tuned.network.shift.grad.abs().min() > 0


def test_the_energy_of_jumps_is_that_of_the_velocity_they_move_by():
    """A change of u by 1 over [s, 1] has energy 1 - s, in any number of jumps.

    From noise it is |dX|^2.
    """
    tuned = ResidualMap(Shifted(Matrix(WEIGHT), [0.6, -0.8]), Linear())
    base = linear_map(WEIGHT)
    for rollout in (Jumps(1, 1.0), Jumps(3, 1.0), Jumps(2, 0.0)):
        rolled = rollout(tuned, noise(7), None, seeded())
        energy = rollout.energy(tuned, base, rolled, slice(5), None, seeded())
        assert torch.allclose(energy, (1 - rolled.moves[0].s[:5]).to(energy))
    rolled = Jumps(1, 1.0)(tuned, noise(7), None, seeded())
    carried = (rolled.z - base(noise(7), 0.0, 1.0)).square().sum(1)
    assert torch.allclose(
        Jumps(1, 1.0).energy(tuned, base, rolled, slice(None), None, seeded()), carried
    )


def test_an_exact_map_is_stationary_under_its_consistency_term():
    """At the exact map, whose samples are its data, flow matching and semigroup are stationary.

    Elsewhere they have a mean gradient.
    """

    def mean_and_error(gain):
        flow_map = ball_map()
        flow_map.network.gain.data.fill_(gain)
        objective = Joint(FlowMatching(), Semigroup(), diag_fraction=0.5)
        found = torch.stack(
            [
                torch.autograd.grad(
                    objective(
                        flow_map,
                        noise(256, seed=2 * i),
                        own(flow_map, 2 * i + 1),
                        None,
                        seeded(i),
                        0,
                    ).total,
                    flow_map.network.gain,
                )[0]
                for i in range(64)
            ]
        )
        return found.mean(), found.std() / 8

    def own(flow_map, seed):
        return flow_map(noise(256, seed=seed), 0.0, 1.0).detach()

    mean, error = mean_and_error(1.0)
    assert abs(mean) < 4 * error
    mean, error = mean_and_error(1.3)
    assert mean > 6 * error


def test_the_gradient_of_the_energy_is_that_of_finite_differences():
    """Through two jumps: the base is asked where the first one, which also learns, has put x."""
    base = ResidualMap(Shifted(Matrix([[0.5, 0.1], [0.0, -0.3]]), [0.2, 0.1]), Linear())
    rollout = Jumps(2, 1.0)
    tuned = linear_map(WEIGHT)
    h = 1e-6

    def energy():
        rolled = rollout(tuned, noise(7), None, seeded())
        return rollout.energy(tuned, base, rolled, slice(None), None, seeded()).double().mean()

    weight = tuned.network.weight
    (found,) = torch.autograd.grad(energy(), weight)
    for entry in ((0, 0), (1, 0)):
        values = []
        for sign in (1, -1):
            weight.data[entry] += sign * h
            values.append(energy().detach())
            weight.data[entry] -= sign * h
        torch.testing.assert_close(
            found[entry], (values[0] - values[1]) / (2 * h), rtol=1e-4, atol=1e-6
        )


def test_a_share_sees_jumps_from_noise_and_from_later():
    rolled = Jumps()(linear_map(WEIGHT), noise(32), None, seeded())
    starts = rolled.moves[0].s[:: round(1 / 0.25)]
    assert len(starts) == 8
    assert (starts == 0).sum() == 4


# --- a small run --------------------------------------------------------------------------------
def tuned(steps=120, **settings):
    """Standard normal data in the plane, tuned toward a point, from a correction of zero."""
    torch.manual_seed(0)
    more = Mlp(2, 32, 2).double()
    torch.nn.init.zeros_(more.last.weight)
    torch.nn.init.zeros_(more.last.bias)
    flow_map = ball_map(more)
    base = copy.deepcopy(flow_map)
    optimizer = torch.optim.Adam(flow_map.parameters(), 3e-3)
    objective = Direct(objective=Joint(FlowMatching(), Lagrangian(), diag_fraction=0.5), **settings)
    for step in range(steps):
        loss = objective(
            flow_map,
            base,
            Tilt(Quadratic([2.0, 0.0], 1.0)),
            noise(64, seed=step),
            None,
            seeded(step),
            step,
        )
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    return figures(flow_map, base)


@torch.no_grad()
def figures(flow_map, base):
    """Mean of one-jump samples, distance to two jumps and to small steps, energy of the change."""
    x0 = noise(512, seed=10_000)
    z = flow_map(x0, 0.0, 1.0)
    halves = flow_map(flow_map(x0, 0.0, 0.5), 0.5, 1.0)
    walked = OdeMap(flow_map, flow_map.schedule, 16)(x0, 0.0, 1.0)
    energy = drift_energy(flow_map, base, z, None, seeded()).mean()
    return [
        float(f)
        for f in (
            z[:, 0].mean(),
            (halves - z).square().mean(),
            (walked - z).square().mean(),
            energy,
        )
    ]


@pytest.mark.slow
def test_tuning_climbs_and_its_regularisers_do_their_work():
    free_place, free_halves, free_walked, _ = tuned(consistency=0.0)
    place, halves, walked, energy = tuned(consistency=4.0)
    held_place, *_, held_energy = tuned(consistency=4.0, penalty=2.0)
    assert 1.5 < free_place < 2.5  # from 0 to the point
    assert 1.5 < place < 2.5
    assert halves < free_halves / 2 + 0.005  # the map stays a map:
    assert walked < free_walked / 3  # many steps and one jump go on agreeing
    assert 0.3 < held_place < place  # the penalty stops the model on its way,
    assert held_energy < energy / 3  # nearer to its base


# --- faults -------------------------------------------------------------------------------------
def test_rewards_without_gradient_are_refused():
    declared = Quadratic(A, 1.0)
    declared.differentiable = False
    declared.why_not_differentiable = "It rounds."
    for reward, why in (
        (declared, "It rounds"),
        (lambda x: x.detach().sum(1), "torch cannot follow"),
    ):
        with pytest.raises(ValueError, match=rf"no gradient \({why}.*RewardWeighted.*TiltMatching"):
            Direct()(
                linear_map(WEIGHT), linear_map(WEIGHT), Tilt(reward), noise(4), None, seeded(), 0
            )


def test_what_is_not_finite_stops_with_sample_and_time():
    x0 = noise(4)
    still = linear_map([[0.0, 0.0], [0.0, 0.0]])
    x0[2] = 0.0
    with pytest.raises(NonFiniteReward, match="sample 2 at t = 1"):
        Direct()(still, still, Tilt(lambda x: 1 / x.square().sum(1)), x0, None, seeded(), 0)
    loss = reward_only(Jumps())(
        still, still, Tilt(lambda x: x.square().sum(1).sqrt()), x0, None, seeded(), 0
    )
    with pytest.raises(
        NonFiniteReward, match="gradient of <lambda> is not finite for sample 2 at t = 1"
    ):
        loss.total.backward()


@pytest.mark.parametrize(
    "build",
    [
        lambda: Jumps(0),
        lambda: Jumps(1, from_noise=1.5),
        lambda: EulerSteps(4, last=5),
        lambda: EulerSteps(4, last=0),
        lambda: Direct(penalty=-1.0),
        lambda: Direct(share=0.0),
    ],
)
def test_settings_out_of_range_are_refused(build):
    with pytest.raises(ValueError, match="needs"):
        build()
