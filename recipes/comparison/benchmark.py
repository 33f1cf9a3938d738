"""What the methods of a comparison are given alike: the map, the tilt, the prompts, and chance of
their own.

A method that returns as many samples as it draws gets a population for each prompt. One that
chooses, such as best of N, gets a group of candidates for each sample it is to return, and is
handed as many groups at once as memory allows.
"""

import inspect
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steer import counting
from steer.data.stream import keyed_generator
from steer.flow_map import Cond, FlowMap, pick
from steer.samplers import Result, Sampler
from steer.tilt import Tilt


@dataclass(frozen=True)
class Arena:
    """The common ground of all methods.

    Args:
        flow_map, tilt, cond: as samplers take them; cond has one entry per prompt.
        prompts, particles: how many, and the samples to return for each.
        blank: an empty tensor (0, *shape), of the noise's dtype and device.
        max_batch: the most noise particles a sampler is handed at once, if a group has no more.

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
        """Samples (prompts, groups x returned, *shape) of `groups` calls a prompt, on `drawn` noise
        particles each.

        All randomness comes from the key, whatever max_batch. Evaluations are counted here, per
        sample that is kept, and not taken from the sampler. Weights of several groups are
        normalised group by group, and have no log Z. Of more than `keep` samples, so many are drawn
        by their weights, and have none then.
        """
        rows = [p for p in range(self.prompts) for _ in range(groups)]
        noise = keyed_generator("noise", *key)
        at_once = max(self.max_batch // drawn, 1)
        with counting.count() as tally:
            parts = [
                self.call(sampler, drawn, rows[i : i + at_once], noise, i, *key)
                for i in range(0, len(rows), at_once)
            ]
        x, log_w = torch.cat([part.x for part in parts]), torch.cat([part.log_w for part in parts])
        log_w = torch.where(
            (log_w == -torch.inf).all(1, keepdim=True), 0.0, log_w
        )  # no particle is left: all alike
        log_w, log_z = (
            (log_w, [part.log_z for part in parts])
            if groups == 1
            else (log_w.log_softmax(1), [None])
        )
        whole = Result(
            x.unflatten(0, (self.prompts, groups)).flatten(1, 2),
            log_w.unflatten(0, (self.prompts, groups)).flatten(1, 2),
            None if any(z is None for z in log_z) else torch.cat(log_z),  # type: ignore[arg-type]
            evaluations=tally.per(log_w.numel()),
        )
        if keep is None or whole.x.shape[1] <= keep:
            return whole
        kept = whole.resampled(keep, keyed_generator("kept", *key))
        spent = tally.per(self.prompts * keep)
        return replace(
            whole, x=kept, log_w=whole.log_w.new_zeros(self.prompts, keep), evaluations=spent
        )

    def call(
        self,
        sampler: Sampler,
        drawn: int,
        rows: list[int],
        noise: torch.Generator,
        first: int,
        *key: int | str,
    ) -> Result:
        """One call of the sampler, with a group for each row; a row is the number of its prompt,
        `first` the place of the first one.

        All calls start from one generator, and the place of a row keys its randomness. A sampler
        that takes no prompt_keys has a generator for each call.
        """
        shape = (drawn, *self.blank.shape[1:])
        x0 = torch.stack(
            [torch.randn(shape, generator=noise, dtype=self.blank.dtype) for _ in rows]
        )
        tilt = (
            self.tilt if self.tilt.scale.ndim == 0 else self.tilt.with_scale(self.tilt.scale[rows])
        )
        inputs = (self.flow_map, x0.to(self.blank.device), tilt, pick(self.cond, rows))
        if "prompt_keys" not in inspect.signature(sampler.__call__).parameters:
            return sampler(
                *inputs, keyed_generator("sampler", *key, first, device=self.blank.device)
            )
        generator = keyed_generator("sampler", *key, device=self.blank.device)
        return sampler(*inputs, generator, range(first, first + len(rows)))
