"""One call of a sampler: inputs on the flattened batch, generators per prompt, batched evaluations.

Everything that is asked of the model or the reward passes through a `Run`, which calls them on at
most `max_batch` samples at a time, with the scale and the generator of each sample's prompt.
"""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from steer.conditions import Cond, check, for_particles, pick
from steer.flow_map import FlowMap
from steer.lookahead import Lookahead
from steer.networks.shapes import WrongShape
from steer.randomness import PromptKeys, prompt_generators
from steer.tilt import NonFiniteReward, Tilt
from steer.value import Landed, LookaheadValue, Query, Value, ascent

__all__ = ["Run"]


class Run:
    """The state that one call of a sampler shares over its steps.

    Args:
        flow_map: the model.
        x0: noise, (prompts, particles, *shape).
        tilt: the reward and its scale, or None.
        cond: one entry per prompt, or None.
        generator: source of randomness beyond x0.
        prompt_keys: one integer per prompt that keys its randomness; 0 .. P - 1 if None.
        max_batch: most samples that model and reward see at once; None for all.

    Raises:
        ValueError: shapes that do not fit, or noise that is not finite.
    """

    def __init__(
        self,
        flow_map: FlowMap,
        x0: Tensor,
        tilt: Tilt | None,
        cond: Cond,
        generator: torch.Generator | None,
        prompt_keys: PromptKeys = None,
        max_batch: int | None = None,
    ):
        _check_noise(x0)
        self.prompts, self.particles = x0.shape[:2]
        check(cond, self.prompts, "prompt")
        self._tilt = _in_order(tilt, cond, self.prompts)
        self.flow_map = flow_map
        self.device = x0.device
        self.max_batch = max_batch
        self.cond = for_particles(cond, self.particles)
        self.prompt = torch.arange(self.prompts).repeat_interleave(self.particles)  # of each sample
        self.generators = prompt_generators(self.prompts, prompt_keys, generator, x0.device)
        self.steps = 0  # that have been taken
        self.degenerate = False  # whether a warning of degenerate weights has been given
        self.records: list[dict[str, Tensor]] = []

    @property
    def steered(self) -> bool:
        """Whether there is a reward."""
        return self._tilt is not None

    @property
    def tilt(self) -> Tilt:
        """The reward and its scale. Raises ValueError without one."""
        if self._tilt is None:
            raise ValueError("a reward is needed; pass tilt=steer.Tilt(reward)")
        return self._tilt

    def require_tilt(self, sampler: object, instead: str) -> Tilt:
        """Returns the tilt. Raises ValueError without one, naming what samples without."""
        if self._tilt is None:
            name = type(sampler).__name__
            raise ValueError(
                f"{name} follows a reward; pass tilt=steer.Tilt(reward), or sample with {instead}"
            )
        return self._tilt

    # --- the batch ------------------------------------------------------------------------------
    def by_prompt(self, x: Shaped[Tensor, "b *shape"]) -> Shaped[Tensor, "p n *shape"]:
        """Unflattens the batch to (prompts, particles, ...)."""
        return x.unflatten(0, (self.prompts, self.particles))

    def of_particles(
        self, x: Float[Tensor, "p n *shape"], indices: Int[Tensor, "p m"]
    ) -> Float[Tensor, "p m *shape"]:
        """Selects particles within each prompt."""
        return x[torch.arange(self.prompts, device=self.device)[:, None], indices]

    def descendants(
        self, x: Float[Tensor, "b *shape"], ancestors: Int[Tensor, "p n"]
    ) -> Float[Tensor, "b *shape"]:
        """Re-indexes the batch by ancestors within each prompt."""
        first = torch.arange(self.prompts, device=self.device)[:, None] * self.particles
        return x[(ancestors + first).flatten()]

    def counts(self, indices: Int[Tensor, "m"] | None = None) -> list[int]:
        """How many samples of the batch, or of these indices, each prompt has."""
        prompt = self.prompt if indices is None else self.prompt[indices.cpu()]
        return prompt.bincount(minlength=self.prompts).tolist()

    # --- randomness -----------------------------------------------------------------------------
    def normal(
        self, like: Float[Tensor, "b *shape"], indices: Int[Tensor, "b"] | None = None
    ) -> Float[Tensor, "b *shape"]:
        """Draws standard normal noise for the batch or these indices, each prompt's by itself."""
        draws = []
        for n, generator in zip(self.counts(indices), self.generators, strict=True):
            if n:
                shape = (n, *like.shape[1:])
                draws.append(
                    torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
                )
        return torch.cat(draws)

    def ancestors(
        self, scheme: Callable, log_w: Float[Tensor, "p n"], chosen: Bool[Tensor, "p"]
    ) -> Int[Tensor, "p n"]:
        """Applies a resampling scheme to each chosen prompt; the others stay as they are."""
        stay = torch.arange(self.particles, device=self.device)[None]
        prompts = zip(log_w, self.generators, chosen.tolist(), strict=True)
        return torch.cat([scheme(row[None], g) if due else stay for row, g, due in prompts])

    # --- evaluations ----------------------------------------------------------------------------
    def value(
        self,
        lookahead: Lookahead,
        x: Float[Tensor, "b *shape"],
        t: float,
        *,
        velocity: bool | None = None,
        gradient: bool = False,
        time_derivative: bool = False,
        indices: Int[Tensor, "b"] | None = None,
        instead: str = "a gradient-free sampler",
    ) -> LookaheadValue:
        """Evaluates each sample's value under a look-ahead; at t = 1 that of the sample itself.

        Args:
            lookahead: where x_t will land.
            x: the batch at time t, or those of `indices`.
            t: the time.
            velocity: whether to return b_t(x); if None, where the look-ahead shares it anyway.
            gradient: whether to differentiate in x.
            time_derivative: whether to differentiate in t too.
            indices: which samples of the batch x are, ascending; all if None.
            instead: what needs no gradient, for the error message.
        """
        tilt = self.tilt
        ahead = Landed() if t == 1.0 and not time_derivative else lookahead
        landed = isinstance(ahead, Landed)
        asked: dict[str, Any] = {
            "velocity": ahead.shares_velocity if velocity is None else velocity and not landed,
            "gradient": gradient and not landed,
            "time_derivative": time_derivative,
            "instead": instead,
        }
        scale = tilt.scale_for(len(self.prompt))
        prompt = self.prompt
        if indices is not None:
            scale = scale[indices.to(scale.device)]
            prompt = prompt[indices.cpu()]

        def part(x: Tensor, scale: Tensor, prompt: Tensor, cond: Cond) -> LookaheadValue:
            query = Query(self.flow_map, x, t, cond, self.generators[int(prompt[0])])
            return Value(tilt.with_scale(scale), ahead).look(query, **asked)

        return self.in_batches(part, x, scale, prompt, apart=ahead.random, indices=indices)

    def velocity(self, x: Float[Tensor, "b *shape"], t: float) -> Float[Tensor, "b *shape"]:
        """Evaluates b_t(x)."""
        return self.in_batches(lambda x, cond: self.flow_map.velocity(x, t, cond), x)

    def jump(self, x: Float[Tensor, "b *shape"], s: float, t: float) -> Float[Tensor, "b *shape"]:
        """Evaluates X_{s,t}(x)."""
        return self.in_batches(lambda x, cond: self.flow_map(x, s, t, cond), x)

    def from_noise(self, x0: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *shape"]:
        """Evaluates the sample at time 0 of each noise."""
        return self.in_batches(self.flow_map.from_noise, x0)

    def tilt_of(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "p n"]:
        """Evaluates scale * r at clean samples."""
        tilt = self.tilt

        def part(x: Tensor, scale: Tensor, cond: Cond) -> Tensor:
            return tilt.with_scale(scale)(x, cond, 1.0)

        return self.by_prompt(self.in_batches(part, x, tilt.scale_for(len(x))))

    def reward_gradient(
        self, x: Float[Tensor, "b *shape"], t: float, instead: str
    ) -> tuple[Float[Tensor, "b *shape"], Float[Tensor, "b"]]:
        """Evaluates grad r and r, unscaled, at the samples themselves."""
        return self.in_batches(lambda x, cond: ascent(self.tilt, x, t, cond, instead), x)

    def in_batches(
        self,
        function: Callable,
        *tensors: Tensor,
        apart: bool = False,
        indices: Int[Tensor, "b"] | None = None,
    ) -> Any:
        """Calls function(*parts, cond part) on at most max_batch samples at a time.

        Args:
            function: returns a tensor, or a tuple of tensors and None; the results are joined.
            tensors: one row per sample of the batch, or of `indices`.
            apart: whether samples of different prompts never share a part, so that a part may draw
                from its prompt's generator.
            indices: which samples of the batch the tensors are, ascending; all if None.
        """
        parts = []
        cond = self.cond if indices is None else pick(self.cond, indices)
        for piece in self._batches(apart, indices):
            try:
                inputs = [x[piece] for x in tensors]
                parts.append(function(*inputs, pick(cond, piece)))
            except NonFiniteReward as error:
                at = piece.start + error.sample
                sample = at if indices is None else int(indices[at])
                raise error.further(sample - error.sample) from None
            except WrongShape as error:
                if self.steps:
                    raise
                shape = (self.prompts, self.particles, *tensors[0].shape[1:])
                raise WrongShape(
                    f"{error}: x0 is (prompts, particles, *shape), here {shape};"
                    " use x0[None] for one prompt, x0[:, None] for one particle of each"
                ) from error
            except RuntimeError as error:
                if "type" in str(error) and (said := _precision(self.flow_map, tensors[0])):
                    raise ValueError(said) from error
                raise
        return _joined(parts)

    # --- the trace ------------------------------------------------------------------------------
    def record(self, **row: Tensor | float) -> None:
        """Adds a row to the trace."""
        self.records.append({k: torch.as_tensor(v).detach().cpu() for k, v in row.items()})

    def trace(self) -> dict[str, Tensor]:
        """Stacks each quantity over the steps that recorded it."""
        names = dict.fromkeys(name for row in self.records for name in row)
        return {
            name: torch.stack([row[name] for row in self.records if name in row]) for name in names
        }

    def _batches(self, apart: bool, indices: Int[Tensor, "m"] | None) -> list[slice]:
        """Cuts the batch, or these indices, into pieces of at most max_batch."""
        counts = self.counts(indices)
        wholes = counts if apart else [sum(counts)]
        pieces = []
        for n, end in zip(wholes, accumulate(wholes), strict=True):
            size = self.max_batch or n
            pieces += [slice(i, min(i + size, end)) for i in range(end - n, end, size or 1)]
        return pieces


def _joined(parts: list) -> Any:
    """Concatenates tensors, or tuples of tensors and None column by column."""
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    columns = [
        None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)
    ]
    kind = type(parts[0])
    return tuple(columns) if kind is tuple else kind(*columns)


def _precision(flow_map: object, x: Tensor) -> str:
    """What is wrong with the precision of the samples, where it is not that of the weights."""
    weights = flow_map.parameters() if isinstance(flow_map, nn.Module) else ()
    known = {str(w.dtype).removeprefix("torch.") for w in weights if w.is_floating_point()}
    given = str(x.dtype).removeprefix("torch.")
    if len(known) != 1 or given in known:
        return ""
    return (
        f"x0 is {given} and the map's weights are {min(known)}; draw x0 with"
        f" dtype=torch.{min(known)}, or convert the map with flow_map.to(torch.{given})"
    )


def _check_noise(x0: Tensor) -> None:
    if x0.ndim < 3:
        raise ValueError(
            f"x0 has shape (prompts, particles, *shape); got {tuple(x0.shape)}."
            " Use x0[None] for one prompt"
        )
    if x0.numel() == 0:
        raise ValueError(
            f"x0 needs at least one prompt and one particle; got shape {tuple(x0.shape)}"
        )
    if not x0.isfinite().all():
        raise ValueError("x0 has entries that are NaN or infinite; draw it with torch.randn")


def _in_order(tilt: Tilt | None, cond: Cond, prompts: int) -> Tilt | None:
    """The tilt with its scales in the order of the prompts."""
    if tilt is None:
        return None
    if not isinstance(tilt, Tilt):
        raise ValueError(
            f"tilt is a reward at a scale; got a {type(tilt).__name__}:"
            " pass tilt=steer.Tilt(reward)"
        )
    tilt = tilt.in_order(cond)
    if tilt.scale.ndim and len(tilt.scale) != prompts:
        raise ValueError(
            f"a tilt has one scale, or one per prompt, {prompts} of them; got {len(tilt.scale)}"
        )
    return tilt
