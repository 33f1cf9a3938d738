"""The experiment of a run: flow map, prompts, noise, reward, and the measure of samples."""

import inspect
from dataclasses import dataclass, replace

import torch
from omegaconf import DictConfig
from torch import Tensor

from recipes.evaluation.metrics import Measure
from recipes.setup.builders import (
    Classifiers,
    Decode,
    Model,
    Prompts,
    apply_guidance,
    decode_of,
    heldout_of,
    judge_of,
    model_of,
    noise_of,
    prompts_of,
    reward_of,
    tilt_of,
)
from recipes.setup.dry_run import dry_run
from recipes.setup.noise import Noise
from steer.conditions import pick
from steer.data.stream import key as hashed
from steer.data.stream import keyed_generator
from steer.flow_map import FlowMap
from steer.guidance import Guided
from steer.samplers import Result, Sampler
from steer.tilt import NonFiniteReward, Tilt


@dataclass(frozen=True)
class Experiment:
    """What samples are drawn from, what they are tilted by, and how they are measured.

    Attributes:
        config: the whole config.
        model: the flow map as it was loaded, with the shape of a sample.
        flow_map: the same under the guidance of the config.
        prompts: P conditions and their titles.
        decode: samples -> images in [0, 1]; None where samples are looked at as they are.
        tilt: the reward at its scale; None without a reward.
        noise: (P, N, *shape), N particles for each prompt.
        measure: reward, held-out reward, judge's accuracy and diversity of a result.
    """

    config: DictConfig
    model: Model
    flow_map: FlowMap
    prompts: Prompts
    decode: Decode | None
    tilt: Tilt | None
    noise: Noise
    measure: Measure

    @property
    def device(self) -> torch.device:
        """Where samples are drawn."""
        return torch.device(self.noise.device)

    @property
    def all(self) -> range:
        """Every prompt, by its number."""
        return range(len(self.prompts))

    def draw(
        self,
        sampler: Sampler,
        tilt: Tilt | None,
        key: str,
        flow_map: FlowMap | None = None,
        prompts: range | None = None,
    ) -> Result:
        """Samples from the noise of each prompt; those of a part are those of the whole.

        Guidances that draw at random, and samplers without prompt_keys, do so for a part as a
        whole: their samples depend on which prompts are drawn together.

        Args:
            sampler: the method.
            tilt: what it steers by; None for unsteered samples.
            key: names the randomness of this draw, with the seed.
            flow_map: another map than the experiment's.
            prompts: consecutive ones, by their numbers; all if None.

        Raises:
            NonFiniteReward: names the sample by its number among those of all prompts.
        """
        part = self.all if prompts is None else prompts
        model = self.flow_map if flow_map is None else flow_map
        reseed(model, self.config.seed, key, part.start)
        x0 = self.noise.part(part)
        inputs = (model, x0, tilt_for(tilt, part), pick(self.prompts.cond, within(part)))
        source = (key, self.config.seed)
        try:
            if "prompt_keys" in inspect.signature(sampler.__call__).parameters:
                return sampler(*inputs, keyed_generator(*source, device=self.device), part)
            place = (part.start,) if part.start else ()
            return sampler(*inputs, keyed_generator(*source, *place, device=self.device))
        except NonFiniteReward as error:
            raise error.further(part.start * x0.shape[1]) from error

    def measured(self, result: Result, prompts: range) -> dict[str, Tensor]:
        """What is measured of each of these prompts, see `Measure.by_prompt`.

        Raises:
            ValueError: what cannot be measured; says in which part, unless it is the whole.
        """
        measure = replace(self.measure, cond=pick(self.prompts.cond, within(prompts)))
        try:
            return measure.by_prompt(result)
        except ValueError as error:
            if prompts == self.all:
                raise
            raise ValueError(
                f"of prompts {prompts.start} to {prompts.stop - 1}: {error}"
            ) from error

    def required_tilt(self) -> Tilt:
        """The tilt. Raises ValueError without a reward."""
        if self.tilt is None:
            raise ValueError(
                "reward is missing: this command needs one; "
                "set it with reward=rewards.Brightness or reward=my_file.py:my_function"
            )
        return self.tilt


def experiment_of(config: DictConfig, scale_by_condition: bool = False) -> Experiment:
    """Builds the experiment of a config, each classifier once, and takes one sample through it.

    Args:
        config: of sample, tune, compare or evaluate; keys a command does not have count as null.
        scale_by_condition: whether samples come in any order, so that a tilt.scale for each prompt
            is found by its condition.

    Raises:
        ValueError: a part that cannot be built, or that does not fit the others; names its key.
    """
    classifiers = Classifiers()
    model = model_of(config)
    prompts = prompts_of(config)
    decode = decode_of(config, model.flow_map)
    reward = reward_of(config, "reward", decode, classifiers)
    heldout = heldout_of(config, decode, classifiers)
    tilt = tilt_of(reward, config, scale_by_condition)
    judge = judge_of(config, classifiers)
    flow_map = apply_guidance(model.flow_map, config, classifiers)
    noise = noise_of(config, model.shape, len(prompts), model.dtype)
    reject_nan = "tilt" in config and config.tilt.on_nonfinite == "reject"
    measure = Measure(reward, tuple(heldout), judge, decode, prompts.cond, reject_nan)
    dry_run(flow_map, noise.part(range(min(len(prompts), 2))), measure)
    return Experiment(config, model, flow_map, prompts, decode, tilt, noise, measure)


def within(prompts: range) -> slice:
    """Where consecutive prompts are among all."""
    return slice(prompts.start, prompts.stop)


def tilt_for(tilt: Tilt | None, prompts: range) -> Tilt | None:
    """The tilt with the scales of these prompts, where each has its own by its place."""
    if tilt is None or tilt.scale.ndim == 0 or tilt.prompts is not None:
        return tilt
    return tilt.with_scale(tilt.scale[within(prompts)])


def reseed(flow_map: FlowMap, seed: int, draw: str, first: int) -> None:
    """Seeds the generators of guidances by the draw and its first prompt.

    So that nothing depends on what was drawn before.
    """
    drawing = [m for m in flow_map.modules() if isinstance(m, Guided) and m.generator is not None]
    for k, guided in enumerate(drawing):
        assert guided.generator is not None
        guided.generator.manual_seed(hashed("guidance", k, seed, draw, first))
