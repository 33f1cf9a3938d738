"""The experiment of a run: flow map, prompts, noise, reward, and the measure of samples."""

from dataclasses import dataclass

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
    noise,
    prompts_of,
    reward_of,
    tilt_of,
)
from recipes.setup.dry_run import dry_run
from steer.data.stream import keyed_generator
from steer.flow_map import FlowMap
from steer.samplers import Result, Sampler
from steer.tilt import Tilt


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
        x0: noise (P, N, *shape), N particles for each prompt.
        measure: reward, held-out reward, judge's accuracy and diversity of a result.
    """

    config: DictConfig
    model: Model
    flow_map: FlowMap
    prompts: Prompts
    decode: Decode | None
    tilt: Tilt | None
    x0: Tensor
    measure: Measure

    def draw(
        self, sampler: Sampler, tilt: Tilt | None, key: str, flow_map: FlowMap | None = None
    ) -> Result:
        """Samples from x0, for each prompt.

        Args:
            sampler: the method.
            tilt: what it steers by; None for unsteered samples.
            key: names the randomness of this draw, with the seed.
            flow_map: another map than the experiment's.
        """
        generator = keyed_generator(key, self.config.seed, device=self.x0.device)
        model = self.flow_map if flow_map is None else flow_map
        return sampler(model, self.x0, tilt, self.prompts.cond, generator)

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
    x0 = noise(config, model.shape, len(prompts), model.dtype)
    reject_nan = "tilt" in config and config.tilt.on_nonfinite == "reject"
    measure = Measure(reward, tuple(heldout), judge, decode, prompts.cond, reject_nan)
    dry_run(flow_map, x0, measure)
    return Experiment(config, model, flow_map, prompts, decode, tilt, x0, measure)
