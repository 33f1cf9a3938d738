"""Seeded results of samplers, look-ahead, guidance, objectives and loops, to the last bit."""

import copy

import pytest
import torch
from ball import Ball
from digest import unchanged
from exact_map import exact_map
from lightning.pytorch import Trainer
from toys import linear_map
from zoo import BUILD, noise, seeded

from rewards import Quadratic
from rewards.networks import PatchClassifier
from steer import lookahead
from steer.analytic import ring
from steer.data import Checkerboard
from steer.flow_map import OdeMap, ResidualMap
from steer.guidance import ClassifierFree, Guided, ValueGuidance
from steer.interpolant import Linear, Trigonometric
from steer.loops import ClassifierTraining, MapTraining, RewardTuning, quiet
from steer.networks import ClassCondition, Mlp, UNet
from steer.tilt import Tilt
from steer.training import METHODS, FlowMatching, Joint, Lagrangian, named
from steer.tuning import Direct
from steer.tuning.rollouts import EulerSteps, Jumps
from steer.value import Value

quiet()
NEW = {"TrajectorySearch", "UnguidedTilting"}  # recorded as "search" and "unguided"
OLD = {"thermodynamic_length": "length", "total_discrepancy": "discrepancy"}
WITH_BALL = {
    "posterior",
    "fk, sum, posterior",
    "ValueGuided",
    "ValueSmc",
    "beams, posterior",
    "svdd, posterior",
    "rollover, posterior",
}


def learned(schedule=None):
    torch.manual_seed(0)
    network = (
        Mlp(2, 16, 2, condition=ClassCondition(2, 16))
        if "condition" in Mlp.__init__.__annotations__
        else Mlp(2, 16, 2)
    )
    return ResidualMap(network, schedule or Linear())


def told_of(result):
    evaluations = result.evaluations
    counts = [
        float(getattr(evaluations, n))
        for n in ("network_forward", "network_backward", "reward_forward", "reward_backward")
    ]
    return {"x": result.x, "log_w": result.log_w, "log_z": result.log_z, "tilt": result.tilt, "claim": result.claim,
            "trace": {OLD.get(k, k): v for k, v in result.trace.items()}, "evaluations": counts}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(BUILD) - NEW))
def test_samplers_on_the_ball(name):
    tilt = Tilt(
        Quadratic(torch.tensor([1.0, -0.5], dtype=torch.float64), 0.7), torch.tensor([1.0, 2.0])
    )
    unchanged(
        f"sampler, ball: {name}",
        told_of(BUILD[name]()(Ball(), noise(2, 6, 2), tilt, None, seeded())),
    )


@pytest.mark.parametrize("name", sorted(set(BUILD) - WITH_BALL - NEW))
def test_samplers_on_a_network(name):
    sampler = BUILD[name]()
    inner = getattr(sampler, "base_sampler", sampler)
    inner.max_batch = 4
    tilt = Tilt(Quadratic(torch.tensor([1.0, -0.5]), 0.7), 1.5)
    x0 = noise(2, 6, 2).float()
    unchanged(
        f"sampler, network: {name}",
        told_of(sampler(learned(Trigonometric()), x0, tilt, None, seeded(3), [7, 2])),
    )


@pytest.mark.parametrize(
    "name",
    [
        "Denoiser",
        "FlowMapDenoiser",
        "Glass",
        "Identity",
        "MapJump",
        "Posterior",
        "Renoise",
        "ShortOde",
    ],
)
def test_lookaheads(name):
    ahead, x = getattr(lookahead, name)(), noise(5, 2).requires_grad_()
    world, t = ring(steps=4), torch.linspace(0.1, 0.9, 5, dtype=torch.float64).requires_grad_()
    guesses = ahead(world, x, t, None, seeded())
    value = Value(Tilt(Quadratic([1.0, 0.0], 0.5)), ahead)(world, x, t, None, seeded())
    unchanged(
        f"lookahead: {name}",
        [
            guesses.x1,
            guesses.log_w,
            value,
            *torch.autograd.grad(value.sum(), (x, t), allow_unused=True, materialize_grads=True),
        ],
    )


def test_guidance():
    flow_map, x, cond = learned(), noise(5, 2).float(), torch.tensor([0, 1, 0, 1, 1])
    guide = Guided(
        flow_map, ValueGuidance(Value(Tilt(Quadratic([1.0, 0.0], 0.5)), lookahead.Denoiser()))
    )
    free = ClassifierFree(flow_map, 2.0)
    unchanged(
        "guidance",
        [m.velocity(x, 0.4, cond) for m in (guide, free)]
        + [m(x, 0.2, 0.9, cond) for m in (guide, free)],
    )


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_objectives(method):
    student, teacher = exact_map(bend=0.1), exact_map(mean=(0.5, 0.8), std=0.8)
    if method.name == "progressive":
        teacher = OdeMap(teacher, teacher.schedule, steps=4)
    objective = named(method.name, 20, student, teacher, 4)
    x0, x1 = noise(8, 2), noise(8, 2, seed=1)
    loss = objective(student, x0, x1, None, seeded(), 5)
    parameters = [*student.parameters(), *objective.parameters()]
    gradient = torch.autograd.grad(
        loss.total,
        [p for p in parameters if p.requires_grad],
        allow_unused=True,
        materialize_grads=True,
    )
    unchanged(
        f"objective: {method.name}",
        [loss.total, sorted(map(repr, map(float, loss.terms.values()))), gradient],
    )


def trained(loop, data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trainer = Trainer(
            max_steps=3,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(loop, data)
    return [p.detach() for p in loop.parameters()]


def test_map_training():
    loop = MapTraining(
        learned(), Joint(FlowMatching(), Lagrangian(), diag_only_steps=1), lr=0.01, seed=1
    )
    unchanged("loop: MapTraining", trained(loop, Checkerboard(16, seed=1)))


def test_classifier_training():
    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, i):
            return noise(1, 28, 28, seed=i).float(), torch.tensor(i % 3)

    torch.manual_seed(0)
    loop = ClassifierTraining(PatchClassifier(width=8, depth=1), 10, lr=0.01)
    unchanged("loop: ClassifierTraining", trained(loop, torch.utils.data.DataLoader(Images(), 4)))


@pytest.mark.parametrize("name", ["jumps", "euler"])
def test_reward_tuning(name):
    rollout = {"jumps": Jumps(2, from_noise=0.5), "euler": EulerSteps(4, 2)}[name]
    flow_map = linear_map([[0.3, -0.5], [0.2, 0.1]]).float()
    base = copy.deepcopy(flow_map).requires_grad_(False)
    loop = RewardTuning(
        flow_map, base, Tilt(Quadratic([1.0, 0.0], 0.5)), Direct(rollout), (2,), 8, lr=0.01, seed=1
    )
    unchanged(f"loop: RewardTuning, {name}", trained(loop, None))


def test_networks():
    torch.manual_seed(0)
    network = UNet(1, [8], 1, condition=ClassCondition(3, 32))
    x, s, t = noise(4, 1, 8, 8).float(), torch.full((4,), 0.2), torch.full((4,), 0.7)
    unchanged("network: UNet", network(x, s, t, torch.tensor([0, 1, 2, -1])))
