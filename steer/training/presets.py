"""Methods of the literature by name, each a setting of this package's objectives.

A name is a way to put together a `Joint`: a diagonal, an off-diagonal residual, a law of pairs, and
target networks. What a paper does beside that, to the network, to the image or by adversaries, is
in `leaves_out`; where what is built differs from the paper, in `departs`.

In a config, under `loop.objective`:

    {_target_: steer.training.named, name: lsd, steps: "${trainer.max_steps}"}
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from steer.flow_map import FlowMap
from steer.nearest import suggestion
from steer.training.alpha_flow import AlphaFlow, SigmoidAlpha
from steer.training.base import Objective
from steer.training.consistency import AlongFlow, AnnealedStride, Consistency, GridStride
from steer.training.ctm import TwoLegs
from steer.training.derivatives import FiniteDifference
from steer.training.eulerian import AverageEulerian, Eulerian, ImprovedMeanFlow, MeanFlow
from steer.training.flow_map_matching import FlowMapMatching
from steer.training.flow_matching import FlowMatching
from steer.training.imm import MomentMatching
from steer.training.joint import Joint
from steer.training.lagrangian import AverageLagrangian, Lagrangian
from steer.training.semigroup import Semigroup
from steer.training.target_networks import EmaTarget, TeacherTarget
from steer.training.times import (
    AnyPair,
    Dyadic,
    Grouped,
    LogitNormal,
    OnGrid,
    SortedPair,
    TimeLaw,
    ToData,
)
from steer.training.trajectory import Trajectory
from steer.training.weightings import Adaptive, Weighting

__all__ = ["METHODS", "named"]


class Setting(NamedTuple):
    """What a method may need to be built.

    Attributes:
        steps: of the training.
        student: the map to be trained, to average.
        teacher: a finished map, to distil.
        grid: jumps of a sampler on a fixed grid.
    """

    steps: int
    student: FlowMap | None = None
    teacher: FlowMap | None = None
    grid: int = 32

    @property
    def warm_up(self) -> int:
        """Steps on the diagonal alone: a sixth."""
        return self.steps // 6

    def average(self, decay: float) -> EmaTarget:
        """Averages the student, over a twentieth of the training at most."""
        if self.student is None:
            raise ValueError(
                "this method's target is a moving average of its student; pass student=, the map"
                " it trains"
            )
        return EmaTarget(self.student, min(decay, max(1 - 20 / self.steps, 0.0)))

    def frozen(self) -> TeacherTarget:
        """Freezes the teacher."""
        if self.teacher is None:
            raise ValueError(
                "this method distils a teacher; pass teacher=, a flow map, such as"
                " steer.load('fashion')"
            )
        return TeacherTarget(self.teacher)


class Method(NamedTuple):
    """A method of the literature.

    Attributes:
        name: its name.
        build: builds it.
        source: where its jumps come from, "data" or "teacher".
        paper: authors, year, arXiv.
        leaves_out: what of the paper is left out.
        departs: where what is built differs from the paper.
    """

    name: str
    build: Callable[[Setting], Joint]
    source: str
    paper: str
    leaves_out: str = ""
    departs: str = ""


def _mean_flow_times() -> LogitNormal:
    return LogitNormal(0.4, 1.0)  # the paper's law, whose time runs the other way


_DIAGONAL_TIMES = "on the diagonal one time of the law, where the paper keeps the noisier of two"
_MEAN_SQUARE = "weights by the mean square of the entries, where the paper's has their sum"


def _adaptive(off: MeanFlow | ImprovedMeanFlow | AlphaFlow) -> Joint:
    law = _mean_flow_times()
    return Joint(
        FlowMatching(law, Adaptive()),
        off,
        0.75,
        pairs=SortedPair(law),
        weighting=Adaptive(),
        off_weight=1 / 3,  # one mean over the batch
    )


_BOFFI = "Boffi, Albergo & Vanden-Eijnden 2025, arXiv 2505.18825"
_FMM = "Boffi, Albergo & Vanden-Eijnden 2024, arXiv 2406.07507"
_AYF = "Sabour, Fidler & Kreis 2025, arXiv 2506.14603"
_CM = "Song et al. 2023, arXiv 2303.01469"
_SCM = "Lu & Song 2024, arXiv 2410.11081"

METHODS = (
    Method(
        "flow-matching",
        lambda c: Joint(FlowMatching()),
        "data",
        "Lipman et al. 2023, arXiv 2210.02747",
    ),
    # Lagrangian
    Method("lsd", lambda c: Joint(FlowMatching(), Lagrangian(), 0.75, c.warm_up), "data", _BOFFI),
    Method(
        "lsd-avg",
        lambda c: Joint(FlowMatching(), AverageLagrangian(), 0.75, c.warm_up),
        "data",
        _BOFFI,
    ),
    Method(
        "tvm",
        lambda c: Joint(FlowMatching(), Lagrangian(), 0.75, velocity=c.average(0.99)),
        "data",
        "Zhou et al. 2025, arXiv 2511.19797",
        "its network's Lipschitz control and its law of gaps",
    ),
    Method("fmm", lambda c: Joint(None, FlowMapMatching(), pairs=AnyPair()), "data", _FMM),
    Method(
        "lmd",
        lambda c: Joint(None, Lagrangian(), velocity=c.frozen()),
        "teacher",
        _FMM,
        departs="stops the gradient at b(X), as the authors do in 2025; the paper lets it through",
    ),
    Method(
        "ayf-lmd", lambda c: Joint(None, AverageLagrangian(), velocity=c.frozen()), "teacher", _AYF
    ),
    # Eulerian
    Method("esd", lambda c: Joint(FlowMatching(), Eulerian(), 0.75, c.warm_up), "data", _BOFFI),
    Method(
        "esd-avg",
        lambda c: Joint(FlowMatching(), AverageEulerian(), 0.75, c.warm_up),
        "data",
        _BOFFI,
    ),
    Method(
        "meanflow",
        lambda c: _adaptive(MeanFlow()),
        "data",
        "Geng et al. 2025, arXiv 2505.13447",
        "guidance in its target",
        f"{_DIAGONAL_TIMES}; {_MEAN_SQUARE}, so norm_eps is 1e-3 an entry",
    ),
    Method(
        "imf",
        lambda c: _adaptive(ImprovedMeanFlow()),
        "data",
        "Geng et al. 2025, arXiv 2512.02012",
        "its network's second head, guidance in its target and in-context conditions",
        "three quarters of the batch on the diagonal, where its code has a half"
        f" (diag_fraction=.5, off_weight=1); {_DIAGONAL_TIMES}; {_MEAN_SQUARE}, with norm_eps 1e-3"
        " an entry, where its code has .01 for all",
    ),
    Method(
        "tim",
        lambda c: Joint(FlowMatching(), MeanFlow(FiniteDifference(0.005)), 0.75, off_weight=1 / 3),
        "data",
        "Wang et al. 2025, arXiv 2509.04394",
        "its weights, and its shares of the batch",
    ),
    Method(
        "alpha-flow",
        lambda c: _adaptive(AlphaFlow(SigmoidAlpha(c.steps // 8, 7 * c.steps // 8))),
        "data",
        "Zhang et al. 2025, arXiv 2510.20771",
        "the last phase by MeanFlow itself, at alpha = 0",
        "three quarters of the batch on the diagonal, where its code has a half or a quarter;"
        " alpha moves from an eighth to seven eighths of the steps; divides by alpha;"
        f" {_DIAGONAL_TIMES}; {_MEAN_SQUARE}",
    ),
    Method(
        "emd",
        lambda c: Joint(None, Eulerian(), velocity=c.frozen()),
        "teacher",
        _FMM,
        departs="stops the gradient at grad X b, as the authors do in 2025;"
        " the paper lets it through",
    ),
    Method(
        "ayf-emd",
        lambda c: Joint(
            None, AverageEulerian(normalise=0.1, warmup=c.steps // 4), velocity=c.frozen()
        ),
        "teacher",
        _AYF,
        "autoguidance and the adversarial finish",
    ),
    # Eulerian, to data alone: consistency models
    Method(
        "ct",
        lambda c: Joint(None, Consistency(stride=GridStride(c.grid)), pairs=ToData()),
        "data",
        _CM,
        "the LPIPS metric, the averaged target, the growing grid",
    ),
    Method(
        "ecm",
        lambda c: Joint(
            None, Consistency(stride=AnnealedStride(max(c.steps // 8, 1))), pairs=ToData()
        ),
        "data",
        "Geng et al. 2024, arXiv 2406.14548",
        "its law of times, its adaptive weights, the start from a diffusion model",
    ),
    Method(
        "sct",
        lambda c: Joint(
            None, MeanFlow(normalise=0.1, warmup=c.steps // 4), pairs=ToData(LogitNormal(1.0, 1.6))
        ),
        "data",
        _SCM,
        "the TrigFlow path and the learned weight (Joint(weighting=Learned()))",
    ),
    Method(
        "cd",
        lambda c: Joint(
            None,
            Consistency(AlongFlow(), GridStride(c.grid)),
            pairs=ToData(),
            velocity=c.frozen(),
            jumps=c.average(0.95),
        ),
        "teacher",
        _CM,
        "the LPIPS metric",
    ),
    Method(
        "scd",
        lambda c: Joint(
            None,
            AverageEulerian(normalise=0.1, warmup=c.steps // 4),
            pairs=ToData(LogitNormal(1.0, 1.6)),
            velocity=c.frozen(),
        ),
        "teacher",
        _SCM,
        "the TrigFlow path and the learned weight",
    ),
    # Semigroup
    Method("psd-m", lambda c: Joint(FlowMatching(), Semigroup(), 0.75, c.warm_up), "data", _BOFFI),
    Method(
        "psd-u",
        lambda c: Joint(FlowMatching(), Semigroup(uniform=True), 0.75, c.warm_up),
        "data",
        _BOFFI,
    ),
    Method(
        "shortcut",
        lambda c: Joint(
            FlowMatching(),
            Semigroup(finest=1 / 128),
            0.875,
            pairs=Dyadic(7),
            jumps=c.average(0.999),
            off_weight=1 / 7,
        ),
        "data",
        "Frans et al. 2024, arXiv 2410.12557",
    ),
    Method(
        "splitmeanflow",
        lambda c: Joint(FlowMatching(), Semigroup(uniform=True), 0.75),
        "data",
        "Guo et al. 2025, arXiv 2507.16884",
    ),
    Method(
        "imm",
        lambda c: Joint(None, MomentMatching(4), pairs=Grouped(4)),
        "data",
        "Zhou, Ermon & Song 2025, arXiv 2503.07565",
        "its law of times and its weights of them",
        "compares different samples alone, where the paper compares a sample's two jumps too"
        " (MomentMatching(paired=True)), which is not stationary at the flow map; r half of the way"
        " to t, where the paper has it near s",
    ),
    Method(
        "progressive",
        lambda c: Joint(None, Semigroup(), pairs=OnGrid(c.grid), jumps=c.frozen()),
        "teacher",
        "Salimans & Ho 2022, arXiv 2202.00512",
        "the rounds: this is one, from 2 grid jumps to grid; the first from"
        " OdeMap(velocity, steps=1, solver=Euler())",
    ),
    Method(
        "ctm",
        lambda c: Joint(
            FlowMatching(), TwoLegs(), 0.5, velocity=c.frozen(), jumps=c.average(0.999)
        ),
        "teacher",
        "Kim et al. 2024, arXiv 2310.02279",
        "the adversarial term and the LPIPS metric",
    ),
    # Simulated paths
    Method(
        "knowledge-distillation",
        lambda c: Joint(None, Trajectory(c.grid, shared=1), pairs=OnGrid(1), velocity=c.frozen()),
        "teacher",
        "Luhman & Luhman 2021, arXiv 2101.02388",
        "its sampler (DDIM), for which Heun's method of grid steps stands; the start from the"
        " teacher's weights",
    ),
)


def named(
    name: str,
    steps: int,
    student: FlowMap | None = None,
    teacher: FlowMap | None = None,
    grid: int = 32,
    times: TimeLaw | None = None,
    weighting: Weighting | None = None,
    **settings: Any,
) -> Objective:
    """Builds the objective of a method, with its paper's settings or others.

    Args:
        name: one of METHODS, such as "lsd", "meanflow", "cd".
        steps: how long it will be trained, which sets warm-ups.
        student: the map to be trained, for methods whose target is its moving average.
        teacher: a finished map, for methods that distil one.
        grid: jumps of the sampler that is learned, for methods tied to a grid of times.
        times: law of the times, on the diagonal and of both ends off it; the method's own by
            default.
        weighting: of the residuals, on the diagonal and off it; the method's own by default.
        settings: arguments of `Joint` instead of the method's, such as diag_fraction or off_weight.

    Raises:
        ValueError: an unknown name, with the nearest; a student or teacher that is needed and
            missing; times for a method that is tied to a grid of them; a setting that Joint does
            not have.
    """
    methods = {method.name: method for method in METHODS}
    if name not in methods:
        hint = suggestion(name, methods) or f"; there are: {', '.join(methods)}"
        raise ValueError(f"no training method is called {name!r}{hint}")
    joint = methods[name].build(Setting(steps, student, teacher, grid))
    if times is None and weighting is None and not settings:
        return joint
    return changed(joint, times, weighting, **settings)


def changed(
    joint: Joint, times: TimeLaw | None, weighting: Weighting | None, **settings: Any
) -> Joint:
    """Rebuilds an objective with other settings. Raises ValueError for an unknown one."""
    arguments: dict[str, Any] = {name: getattr(joint, name) for name in Joint.SETTINGS}
    if unknown := sorted(settings.keys() - arguments.keys()):
        hint = suggestion(unknown[0], arguments) or f"; there are: {', '.join(arguments)}"
        raise ValueError(f"Joint has no setting {unknown[0]!r}{hint}")
    if times is not None:
        arguments["pairs"] = joint.pairs.of(times)
    if weighting is not None:
        arguments["weighting"] = weighting
    if isinstance(joint.diagonal, FlowMatching):
        own = joint.diagonal
        arguments["diagonal"] = FlowMatching(times or own.times, weighting or own.weighting)
    return Joint(**(arguments | settings))
