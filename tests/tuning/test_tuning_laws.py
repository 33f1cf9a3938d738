"""Laws that every tuning objective obeys: constants of the reward, resumption, what is saved."""

import copy
import signal

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from selection import slow_but
from test_tuning_objectives import OBJECTIVES, every_objective
from toys import ball_map, noise, seeded

from steer.loops import (
    Cosine,
    Ema,
    LastCheckpoint,
    RewardTuning,
    SaveWhenStopped,
    Terminated,
    quiet,
)
from steer.tilt import NonFiniteReward, Tilt
from steer.tuning import RolloutObjective
from steer.tuning.objective import TuningObjective

REPEATS, BATCH = 20, 64
NAMES = [c.__name__ for c in OBJECTIVES]
QUICK = {*NAMES} - {"AdjointMatching", "MetaFlowMap", "ReFL", "VggFlow"}


def chosen(*names):
    """The objectives of these names."""
    return [next(c for c in OBJECTIVES if c.__name__ == name) for name in names]


def gradients(make, reward, repeats=REPEATS, frozen=True):
    """The gradients of the loss in the gain of the exact map of normal data, at the base."""
    found = []
    for seed in range(repeats):
        flow_map, base = ball_map(), ball_map().requires_grad_(False)
        objective = make()
        tilt = Tilt(reward)
        objective.prepare(flow_map, base, tilt)
        objective.begin(flow_map, 0)
        loss = objective(flow_map, base, tilt, noise(BATCH, seed=seed), None, seeded(seed), 0)
        gain = flow_map.network.gain
        found.append(torch.autograd.grad(loss.total, gain, allow_unused=True)[0])
    return torch.stack([torch.zeros(()) if g is None else g for g in found]).double()


@pytest.mark.parametrize("make", slow_but(QUICK, OBJECTIVES, NAMES))
def test_a_constant_reward_moves_nothing(make):
    """The mean gradient at the base is noise."""
    flat = gradients(make, lambda x: 0 * x.sum(1) + 5.0)
    error = flat.std() / REPEATS**0.5
    assert abs(flat.mean()) <= 4.5 * error + 1e-9


@every_objective
def test_a_constant_added_to_the_reward_changes_nothing(make):
    """The same gradients, from the same draws."""
    reward = lambda x: 0.7 * x[:, 0] - 0.2 * x.square().sum(1)  # noqa: E731
    plain = gradients(make, reward, 3)
    shifted = gradients(make, lambda x: reward(x) + 40.0, 3)
    torch.testing.assert_close(shifted, plain, rtol=1e-6, atol=1e-9)


def good(x):
    """A reward."""
    return x[:, 0] - 0.1 * x.square().sum(1)


class Plane(torch.nn.Module):
    """A small network of x, s and t."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = torch.nn.Parameter(torch.randn(4, 8, generator=generator) / 2)
        self.second = torch.nn.Parameter(torch.randn(8, 2, generator=generator) / 4)

    def forward(self, x, s, t, cond=None):
        inputs = torch.cat((x, s[:, None].to(x), t[:, None].to(x)), 1)
        return torch.tanh(inputs @ self.first.to(x)) @ self.second.to(x)


def run(make, folder, steps, reward=None, callbacks=(), every=1):
    """Starts a tuning, or goes on with it, up to so many steps; returns the loop."""
    from steer.flow_map import ResidualMap
    from steer.interpolant import Linear

    quiet()
    flow_map = ResidualMap(Plane(), Linear())
    base = copy.deepcopy(flow_map).eval().requires_grad_(False)
    tilt = Tilt(reward or good)
    keeps = isinstance(make, type) and issubclass(make, RolloutObjective)
    objective = make(reuse=2) if keeps else make()
    loop = RewardTuning(
        flow_map, base, tilt, objective, (2,), 16, lr=0.02, schedule=Cosine(9), seed=3
    )
    last = LastCheckpoint(folder, every=every)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[Ema(0.9), *callbacks, SaveWhenStopped(last), last],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    resumed = last.path if last.path.exists() else None
    trainer.fit(loop, ckpt_path=resumed, weights_only=True)
    return loop


@every_objective
def test_a_run_resumed_between_collections_is_the_uninterrupted_run(make, tmp_path):
    """Weights of map and objective, bit for bit, from a checkpoint after three of five steps."""
    whole = run(make, tmp_path / "whole", 5)
    run(make, tmp_path / "parts", 3)
    parts = run(make, tmp_path / "parts", 5)
    same(whole, parts)
    assert whole.spent == parts.spent
    moved = [
        (a - b).abs().max()
        for a, b in zip(whole.flow_map.parameters(), Plane().parameters(), strict=True)
    ]
    assert max(moved) > 0


class Bad:
    """The same reward, not a number at its call of that number."""

    def __init__(self, call):
        self.calls = 0
        self.call = call

    def __call__(self, x):
        self.calls += 1
        return good(x) * (torch.nan if self.calls == self.call else 1.0)


class Stop(Callback):
    """A signal in the middle of a step."""

    def __init__(self, number):
        self.number = number

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 2:
            signal.raise_signal(self.number)


STOPPED = ("Direct", "RewardWeighted", "DiffusionNft", "TiltMatching", "MetaFlowMap")


@pytest.mark.parametrize("make", chosen(*STOPPED), ids=lambda c: c.__name__)
@pytest.mark.parametrize("how", ["not finite", "interrupted", "terminated"])
def test_a_stopped_run_goes_on_from_its_last_whole_step(make, how, tmp_path):
    """Weights as of a run that was not stopped, though no checkpoint was due."""
    whole = run(make, tmp_path / "whole", 6, every=100)
    if how == "not finite":
        with pytest.raises(NonFiniteReward) as raised:
            run(make, tmp_path / "parts", 6, Bad(3), every=100)
        assert raised.value.x.shape == (2,)
    else:
        number = signal.SIGINT if how == "interrupted" else signal.SIGTERM
        before = signal.getsignal(number)
        with pytest.raises(SystemExit) as stopped:
            run(make, tmp_path / "parts", 6, callbacks=[Stop(number)], every=100)
        assert isinstance(stopped.value.__context__, KeyboardInterrupt)
        assert isinstance(stopped.value.__context__, Terminated) == (how == "terminated")
        assert signal.getsignal(number) is before
    assert (tmp_path / "parts" / "last.ckpt").exists()
    parts = run(make, tmp_path / "parts", 6, every=100)
    same(whole, parts)


def same(whole, parts):
    """Asserts that two runs ended with the same weights and kept the same, to the last bit."""
    for name, weight in whole.state_dict().items():
        other = parts.state_dict()[name]
        if isinstance(weight, torch.Tensor):
            assert torch.equal(weight, other), name
        else:
            assert str(weight) == str(other), name


def rounds(name):
    """An objective whose old copy moves at step 3, where the reward fails."""
    make = chosen(name)[0]
    settings = {"TiltMatching": {"round_steps": 3, "ess": 0.9}, "DiffusionNft": {"old_decay": 0.5}}
    return lambda **more: make(**settings[name])


@pytest.mark.parametrize("name", ["TiltMatching", "DiffusionNft"])
def test_a_reward_that_fails_where_a_round_begins(name, tmp_path):
    """The old copy has moved when the reward fails, and does not move again."""
    whole = run(rounds(name), tmp_path / "whole", 6, every=100)
    with pytest.raises(NonFiniteReward):
        run(rounds(name), tmp_path / "parts", 6, Bad(4), every=100)
    same(whole, run(rounds(name), tmp_path / "parts", 6, every=100))


def test_bases_that_do_not_fit_are_refused():
    """Another path; guidance, under a claim about the base's own law."""
    from steer.guidance import ClassifierFree
    from steer.interpolant import Trigonometric

    flow_map, tilt = ball_map(), Tilt(good)
    other = ball_map()
    other.schedule = Trigonometric()
    adjoint, weighted = (c() for c in chosen("AdjointMatching", "RewardWeighted"))
    with pytest.raises(ValueError, match=r"the map is on the path steer\.Linear"):
        RewardTuning(flow_map, other, tilt, weighted, (2,), 4, lr=0.1)
    guided = ClassifierFree(ball_map(), 3.0)
    with pytest.raises(ValueError, match=r"AdjointMatching is exact for a base.*RewardWeighted"):
        RewardTuning(flow_map, guided, tilt, adjoint, (2,), 4, lr=0.1)
    RewardTuning(flow_map, guided, tilt, weighted, (2,), 4, lr=0.1)


def test_another_objective_does_not_go_on_with_a_checkpoint(tmp_path):
    """The key is named."""
    first, second = chosen("RewardWeighted", "Direct")
    run(first, tmp_path, 2)
    with pytest.raises(ValueError, match=r"loop\.objective: the checkpoint was tuned by"):
        run(second, tmp_path, 3)


@every_objective
def test_the_product_is_a_map_for_every_sampler(make):
    """At the start it draws what the base draws."""
    from steer.samplers import Jump, Ode

    flow_map, base = ball_map(), ball_map().requires_grad_(False)
    objective: TuningObjective = make()
    objective.prepare(flow_map, base, Tilt(lambda x: x[:, 0]))
    product = objective.product(flow_map, base)
    x0 = noise(6)[None]
    for sampler in (Jump(2), Ode(3)):
        torch.testing.assert_close(sampler(product, x0).x, sampler(base, x0).x)
