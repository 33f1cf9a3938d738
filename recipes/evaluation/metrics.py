"""Metrics of samples."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from rewards import Decoded, Reward
from rewards.networks import Classifier, ImageEncoder
from steer.conditions import name_of
from steer.counting import Evaluations
from steer.flow_map import Cond
from steer.metrics import (
    ClassAgreement,
    Estimate,
    HeldoutReward,
    PairwiseDiversity,
    cosine_diversity,
    euclidean_diversity,
)
from steer.metrics.estimate import PromptMean, over_prompts
from steer.pixels import as_saved
from steer.resampling import effective_sample_size
from steer.samplers import Result

PATH = {"path_length": "thermodynamic_length", "path_discrepancy": "total_discrepancy"}
EXACT = ("exact", "exact for the chain")  # claims whose log Z is an estimate of something
Figures = dict[str, Any]
NOTHING = Estimate(*torch.full((3,), torch.nan, dtype=torch.float64))
# All samples of a Result are in this process: a gather would wait for processes without samples, or
# count them twice.
LOCAL = {"sync_on_compute": False}


def rejecting(reward: Reward) -> Callable[..., Tensor]:
    """The reward with -inf in place of NaN."""

    def asked(x: Tensor, cond: Cond = None) -> Tensor:
        r = reward(x, cond)
        return torch.where(r.isnan(), -torch.inf, r)

    return asked


@dataclass(frozen=True)
class Measure:
    """measure(result) -> weighted means of reward, held-out reward, judge's accuracy and diversity.

    Decoded images are measured as 8-bit files keep them, clamped to [0, 1] and rounded: a reward
    that is earned beyond that range is lost in the picture.

    Nothing is gathered over processes, so that one of them alone can measure.

    Args:
        reward: the reward that is steered by, unscaled.
        heldout: rewards that are not; the second and further ones are numbered.
        judge: whose features diversity is measured in, and whose classes accuracy by, if it has
            some; without one, diversity is the Euclidean distance of the samples themselves.
        decode: samples -> what the judge looks at; the samples as they are if None.
        cond: one condition per prompt.
        reject_nan: whether a reward of NaN counts as -inf, as in a Tilt with on_nonfinite="reject".
    """

    reward: Reward | None
    heldout: tuple[Reward, ...]
    judge: ImageEncoder | None
    decode: Callable[[Tensor], Tensor] | None
    cond: Cond
    reject_nan: bool = False

    def __call__(self, result: Result) -> Figures:
        return self.figures(self.by_prompt(result))

    def by_prompt(self, result: Result) -> dict[str, Tensor]:
        """What is measured of each prompt, (P,) each, so that parts of the prompts can be joined.

        Means over its particles and their variances, NAME_mean and NAME_variance, and `diversity`;
        of rewards, NAME_values (P, N) of its particles as well. Without what is not there to
        measure.
        """
        x = result.x
        log_w = result.log_w
        dead = (log_w == -torch.inf).all(dim=1, keepdim=True)  # measured unweighted
        log_w = torch.where(dead, 0.0, log_w)
        metrics = {name: self.mean(reward, x, log_w) for name, reward in self.rewards.items()}
        if (accuracy := self.accuracy(x, log_w)) is not None:
            metrics["judge_accuracy"] = accuracy
        found = {}
        for name, metric in metrics.items():
            found[f"{name}_mean"] = torch.cat(metric.means)
            found[f"{name}_variance"] = torch.cat(metric.variances)
            if name in self.rewards and metric.latest is not None:
                found[f"{name}_values"] = metric.latest
        if x.shape[1] > 1:
            found["diversity"] = self.diversity(x, log_w)
        return found

    def figures(self, by_prompt: Mapping[str, Tensor]) -> Figures:
        """The figures of all prompts from what `by_prompt` found of them; NaN where it did not."""
        names = ["reward", "heldout_reward", *self.rewards, "judge_accuracy"]
        figures: Figures = {}
        for name in dict.fromkeys(names):
            estimate = NOTHING
            if f"{name}_mean" in by_prompt:
                estimate = over_prompts(by_prompt[f"{name}_mean"], by_prompt[f"{name}_variance"])
            mean = name if name == "judge_accuracy" else f"{name}_mean"
            figures[mean] = float(estimate.mean)
            figures[f"{name}_std_error"] = float(estimate.std_error)
        diversity = by_prompt.get("diversity")
        figures["diversity"] = torch.nan if diversity is None else float(diversity.mean())
        return figures

    @property
    def rewards(self) -> dict[str, Reward]:
        """The rewards that there are, by the names of their figures."""
        known = {} if self.reward is None else {"reward": self.reward}
        for k, reward in enumerate(self.heldout, start=1):
            known["heldout_reward" if k == 1 else f"heldout_reward_{k}"] = reward
        return known

    @property
    def heldout_names(self) -> list[str]:
        """The held-out rewards by name, in order."""
        return [name_of(reward) for reward in self.heldout]

    def decoded(self, x: Tensor) -> Tensor:
        """The input of the judge."""
        return x if self.decode is None else as_saved(self.decode(x))

    def mean(self, reward: Reward, x: Tensor, log_w: Tensor) -> PromptMean:
        """The mean of a reward."""
        reward = reward.as_saved() if isinstance(reward, Decoded) else reward
        metric = HeldoutReward(rejecting(reward) if self.reject_nan else reward, **LOCAL)
        metric.update(x, self.cond, log_w)
        return metric

    def accuracy(self, x: Tensor, log_w: Tensor) -> PromptMean | None:
        """How often the judge assigns the label asked for; None without classifier or labels."""
        judge = self.judge
        labelled = isinstance(self.cond, Tensor) and not self.cond.is_floating_point()
        if not isinstance(judge, Classifier) or not labelled:
            return None
        metric = ClassAgreement(lambda x: judge(self.decoded(x)), **LOCAL)
        metric.update(x, self.cond, log_w)
        return metric

    def diversity(self, x: Tensor, log_w: Tensor) -> Tensor:
        """Mean distance between particles of each prompt."""
        judge = self.judge
        if judge is None:
            plain = PairwiseDiversity(lambda x: x.flatten(1), euclidean_diversity, **LOCAL)
            return plain.of_prompts(x, log_w)
        metric = PairwiseDiversity(
            lambda x: judge.features(self.decoded(x)), cosine_diversity, **LOCAL
        )
        return metric.of_prompts(x, log_w)


def of_population(result: Result) -> Figures:
    """The sampler's own statistics.

    log Z of exact claims (mean over prompts, and of each), smallest ESS, number of resamplings,
    thermodynamic length and total discrepancy of the path (means over prompts), and evaluations.
    """
    ess = [effective_sample_size(result.log_w).min().item()]
    if "ess" in result.trace:
        ess.append(result.trace["ess"].min().item())
    resampled = result.trace.get("resampled", torch.zeros(0))
    log_z = result.log_z if result.claim in EXACT else None
    return {
        "log_z": None if log_z is None else float(log_z.double().mean()),
        "log_z_of_prompts": None if log_z is None else log_z.double().tolist(),
        "ess_min": min(ess),
        "resamples": int(resampled.sum()),
        **{
            key: float(result.trace[name].sum(0).mean())
            for key, name in PATH.items()
            if name in result.trace
        },
        "evaluations": asdict(result.evaluations),
    }


def whole(evaluations: Evaluations) -> Figures:
    """Evaluations as whole numbers."""
    return {name: int(value) for name, value in asdict(evaluations).items()}
