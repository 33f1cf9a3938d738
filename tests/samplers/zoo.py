"""Every sampler there is: each concrete class of the package as it comes, and the settings that
change its ways.
"""

import inspect
from functools import partial

import torch

import steer.samplers
from steer.lookahead import (
    Denoiser,
    FlowMapDenoiser,
    Glass,
    Identity,
    MapJump,
    Posterior,
    Renoise,
    ShortOde,
)
from steer.samplers import (
    BeamSearch,
    FkSteering,
    FlowMapRewardGuidance,
    Jump,
    Ode,
    PlugAndPlay,
    ReversalWeights,
    RolloverBudgetForcing,
    Sampler,
    Sde,
    Svdd,
    Tempering,
    TrajectorySearch,
    TrajectoryTilting,
    TransitionWeights,
    UnguidedTilting,
    ValueGuided,
    ValueSmc,
    das,
    tds,
)
from steer.samplers.training_free import mpgd, tfg, ugd
from steer.solvers import Heun

STEPS = 4


def concrete():
    """The concrete Sampler classes of steer.samplers, whoever adds one."""
    found = [getattr(steer.samplers, name) for name in steer.samplers.__all__]
    return [
        c
        for c in found
        if inspect.isclass(c) and issubclass(c, Sampler) and not inspect.isabstract(c)
    ]


def plain(cls, **more):
    """An instance with few steps; a sampler around a sampler gets a stochastic one."""
    if "base_sampler" in inspect.signature(cls).parameters:
        return cls(Sde(STEPS, **more))
    return cls(steps=STEPS, **more)


ALWAYS = {"resample_below": 1.0}
BUILD = {cls.__name__: partial(plain, cls) for cls in concrete()} | {
    "heun": partial(Ode, STEPS, Heun()),
    "jump, renoise": partial(Jump, STEPS, renoise=True),
    "noiseless": partial(Sde, STEPS, lambda t: 0.0),
    "map, always": partial(TrajectoryTilting, STEPS, MapJump(), **ALWAYS),
    "untrusted map": partial(TrajectoryTilting, STEPS, MapJump(assume_consistent=False)),
    "denoiser, extra drift": partial(
        TrajectoryTilting, STEPS, Denoiser(), chi=lambda t: 0.5 * (1 - t)
    ),
    "denoiser, transitions": partial(
        TrajectoryTilting, STEPS, Denoiser(), weighting=TransitionWeights(), **ALWAYS
    ),
    "identity": partial(TrajectoryTilting, STEPS, Identity()),
    "short ode": partial(TrajectoryTilting, STEPS, ShortOde(2)),
    "posterior": partial(TrajectoryTilting, STEPS, Posterior(3), **ALWAYS),
    "glass": partial(TrajectoryTilting, STEPS, Glass(2, steps=1), **ALWAYS),
    "renoise": partial(TrajectoryTilting, STEPS, Renoise(3, nodes=1), **ALWAYS),
    "unguided": partial(UnguidedTilting, STEPS, Denoiser()),
    "fk, max": partial(FkSteering, STEPS, potential="max", every=1),
    "fk, sum, posterior": partial(FkSteering, STEPS, Posterior(3), "sum", 2),
    "tds": partial(tds, STEPS),
    "das": partial(das, STEPS, annealing=Tempering(0.7)),
    "reversal": partial(
        TrajectoryTilting, STEPS, Denoiser(), weighting=ReversalWeights(), chi=0.5, **ALWAYS
    ),
    "all of the tilt": partial(
        TrajectoryTilting, STEPS, Denoiser(), annealing=1.0, chi=-0.5, **ALWAYS
    ),
    "value-guided ode": partial(ValueGuided, STEPS, Denoiser(), 0.0),
    "glass, in pieces": partial(ValueSmc, STEPS, Glass(3, steps=1, at_once=2)),
    "tfg": partial(tfg, STEPS, n_iter=2, n_mc=2, n_recur=2),
    "mpgd": partial(mpgd, STEPS),
    "ugd, map": partial(ugd, STEPS, n_iter=2, n_recur=1, lookahead=MapJump(), norm=0.1),
    "fmrg, endpoint": partial(FlowMapRewardGuidance, STEPS, "endpoint", n_opt=2),
    "plug and play, map": partial(PlugAndPlay, STEPS, MapJump()),
    "plug and play, half way": partial(PlugAndPlay, STEPS, FlowMapDenoiser(0.5), draws=2),
    "search": partial(TrajectorySearch, STEPS, every=2),
    "beams, posterior": partial(BeamSearch, STEPS, 1, Posterior(3), 1),
    "svdd, less noise": partial(Svdd, STEPS, 3, MapJump(), eps=1.0),
    "svdd, posterior": partial(Svdd, STEPS, 3, Posterior(3)),
    "rollover, posterior": partial(RolloverBudgetForcing, STEPS, 3, Posterior(3)),
}
DETERMINISTIC = {name for name, build in BUILD.items() if build().deterministic}
FOLLOWS_GRADIENT = {name for name, build in BUILD.items() if build().needs_gradient}
# which draws of a random look-ahead fall to whom depends on the pieces of max_batch
DRAWING = {
    name
    for name, build in BUILD.items()
    if getattr(getattr(build(), "lookahead", None), "random", False)
}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)
