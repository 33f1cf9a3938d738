"""The common ground of all methods of a comparison: map, tilt, prompts and keyed randomness.

A method that returns as many samples as it draws gets a population for each prompt. One that
chooses, such as best of N, gets a group of candidates for each sample it is to return; as many
groups are batched as memory allows.
"""

import inspect
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from recipes.evaluation.metrics import EXACT
from steer import counting
from steer.conditions import Cond, pick
from steer.data.stream import keyed_generator
from steer.flow_map import FlowMap
from steer.samplers import Result, Sampler
from steer.tilt import Tilt


@dataclass(frozen=True)
class Benchmark:
    """What every method of a comparison is given.

    Args:
        flow_map, tilt, cond: as samplers take them; cond has one entry per prompt.
        prompts: P, how many prompts.
        particles: samples to return for each prompt.
        blank: an empty tensor (0, *shape), of the noise's dtype and device.
        max_batch: the most noise particles given to a sampler at once, unless one group has more.

    Raises:
        ValueError: a max_batch below 1.
    """

    flow_map: FlowMap
    tilt: Tilt
    cond: Cond
    prompts: int
    particles: int
    blank: Tensor
    max_batch: int

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ValueError(f"max_batch is at least 1; got {self.max_batch}")

    def draw(
        self, sampler: Sampler, drawn: int, groups: int, *key: int | str, keep: int | None = None
    ) -> Result:
        """Samples of each prompt, in groups of `drawn` noise particles.

        All randomness is keyed, so that results do not depend on max_batch. Evaluations are counted
        here per kept sample, not taken from the sampler. Weights of several groups are normalised
        group by group, and have no log Z.

        Args:
            sampler: the method.
            drawn: noise particles of a group.
            groups: how many groups for each prompt.
            key: of all randomness.
            keep: the most samples kept of a prompt, drawn by their weights and then unweighted;
                None keeps all.

        Returns:
            x (prompts, groups x returned, *shape) with log_w, or `keep` samples of each prompt.
        """
        indices = [p for p in range(self.prompts) for _ in range(groups)]
        noise = keyed_generator("noise", *key)
        at_once = max(self.max_batch // drawn, 1)
        with counting.count() as tally:
            batches = [
                self.call(sampler, drawn, indices[i : i + at_once], noise, i, *key)
                for i in range(0, len(indices), at_once)
            ]
        result = self.joined(batches, groups, tally)
        if keep is None or result.x.shape[1] <= keep:
            return result
        return replace(
            result,
            x=result.resampled(keep, keyed_generator("kept", *key)),
            log_w=result.log_w.new_zeros(self.prompts, keep),
            evaluations=tally.per(self.prompts * keep),
        )

    def joined(self, batches: list[Result], groups: int, tally: counting.Evaluations) -> Result:
        """The groups of all batches as one result, by prompt."""
        x = torch.cat([batch.x for batch in batches])
        log_w = torch.cat([batch.log_w for batch in batches])
        dead = (log_w == -torch.inf).all(1, keepdim=True)  # no particle is left: equal weights
        log_w = torch.where(dead, 0.0, log_w)
        log_z: list[Tensor | None] = [None]
        if groups == 1:
            log_z = [b.log_z if b.claim in (*EXACT, None) else None for b in batches]
        else:
            log_w = log_w.log_softmax(1)
        known = [each for each in log_z if each is not None]
        return Result(
            x.unflatten(0, (self.prompts, groups)).flatten(1, 2),
            log_w.unflatten(0, (self.prompts, groups)).flatten(1, 2),
            torch.cat(known) if len(known) == len(log_z) else None,
            evaluations=tally.per(log_w.numel()),
        )

    def call(
        self,
        sampler: Sampler,
        drawn: int,
        indices: list[int],
        noise: Generator,
        first: int,
        *key: int | str,
    ) -> Result:
        """One call of the sampler.

        A sampler that takes prompt_keys has its randomness keyed by the place of each group; any
        other has a generator for each call.

        Args:
            sampler: the method.
            drawn: noise particles of a group.
            indices: the prompt of each group.
            noise: source of x0, shared by all calls.
            first: the place of the first group among all.
            key: of the sampler's randomness.
        """
        shape = (drawn, *self.blank.shape[1:])
        dtype = self.blank.dtype
        x0 = torch.stack([torch.randn(shape, generator=noise, dtype=dtype) for _ in indices])
        tilt = self.tilt
        if tilt.scale.ndim:
            tilt = tilt.with_scale(tilt.scale[indices])
        device = self.blank.device
        inputs = (self.flow_map, x0.to(device), tilt, pick(self.cond, indices))
        if "prompt_keys" not in inspect.signature(sampler.__call__).parameters:
            return sampler(*inputs, keyed_generator("sampler", *key, first, device=device))
        prompt_keys = range(first, first + len(indices))
        return sampler(*inputs, keyed_generator("sampler", *key, device=device), prompt_keys)
