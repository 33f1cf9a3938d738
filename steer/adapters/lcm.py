"""Latent consistency models and trajectory consistency distillation of Stable Diffusion.

LCM jumps to the data, f = c_skip x + c_out D; TCD to any later time by the same pair of data and
noise, x_t = alpha D + sigma n. The path is that of the discrete diffusion, `TablePath`.

References: Luo et al. 2023, arXiv 2310.04378 (LCM); Zheng et al. 2024, arXiv 2402.19159 (TCD).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steer.adapters.library import needed
from steer.adapters.network import GuidanceKind, Network, of_time
from steer.adapters.table_path import TablePath
from steer.conditions import Condition
from steer.interpolant import Endpoints, Schedule
from steer.maps.predictions import (
    CleanPrediction,
    NoisePrediction,
    Prediction,
    SalimansHoPrediction,
)

__all__ = ["Lcm", "Tcd"]

PREDICTIONS: dict[str, type[Prediction]] = {
    "epsilon": NoisePrediction,
    "sample": CleanPrediction,
    "v_prediction": SalimansHoPrediction,
}
SIGMA_DATA = 0.5  # of LCM's boundary scalings


class Diffused(Network):
    """A UNet of Stable Diffusion 1 or 2, whose times are discrete steps."""

    part = "unet"
    transformers = ("UNet2DConditionModel",)
    schedule: TablePath

    def check(self, transformer: Any) -> None:
        if transformer.config.addition_embed_type is not None:
            raise ValueError(
                f"{self.name} takes a UNet of Stable Diffusion 1 or 2; this one embeds"
                f" {transformer.config.addition_embed_type}, as that of SDXL does"
            )
        config = self.scheduler.config
        if config.get("clip_sample") or config.get("thresholding"):
            raise ValueError(
                f"the {type(self.scheduler).__name__} clips samples, which has no gradient; set its"
                " clip_sample and thresholding to false"
            )

    def path(self) -> Schedule:
        return TablePath(self.scheduler.alphas_cumprod)

    def endpoints(self, x: Tensor, s: Tensor, cond: Condition) -> Endpoints:
        """Predicts data and noise by one call."""
        step = self.schedule.step_at(s)
        found = self.transformer(
            x.to(self.dtype),
            step,
            timestep_cond=self.embedding(s),
            encoder_hidden_states=cond.prompt_embeds,
            return_dict=False,
        )[0]
        prediction = PREDICTIONS[self.scheduler.config.prediction_type]()
        return prediction.endpoints(found.to(x.dtype), x, s, self.schedule)

    def embedding(self, s: Tensor) -> Tensor | None:
        """The embedding of the weight of guidance, None where it has none."""
        size = self.transformer.config.time_cond_proj_dim
        if size is None:
            return None
        pipeline = needed("diffusers").LatentConsistencyModelPipeline
        weight = torch.full((len(s),), self.weight - 1, device=s.device)
        # a function of its arguments alone
        return pipeline.get_guidance_scale_embedding(None, weight, embedding_dim=size).to(
            self.dtype
        )

    def latest(self, s: Tensor) -> Tensor:
        """Clamps times to that of the first step, where the network was last trained."""
        return s.clamp(max=1 - 1 / self.schedule.steps)

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        halvings = len(self.transformer.config.block_out_channels) - 1
        return self.image_shape(height, width, 2**halvings)

    def to_decoder(self, latents: Tensor) -> Tensor:
        return latents / self.shared["vae"].config.scaling_factor

    def encode(self, texts: Sequence[str]) -> Condition:
        tokens, _ = self.pipeline().encode_prompt(list(texts), self.text_device, 1, False)
        return Condition(prompt_embeds=tokens)


class Lcm(Diffused):
    """LCM: a UNet with an LCMScheduler, whose guidance is embedded, 8.5 unless told.

    It was distilled at each 20th step of 1000 alone. `Jump` takes the same of these as the library,
    and a jump from any other time is refused.

    With LCM-LoRA weights nothing is embedded; guidance is then classifier-free, and off by default.
    """

    name = "LCM"
    schedulers = ("LCMScheduler",)
    pipelines = ("LatentConsistencyModelPipeline",)
    level = "consistency"

    def path(self) -> Schedule:
        config = self.scheduler.config
        every = config.num_train_timesteps // config.original_inference_steps
        return TablePath(self.scheduler.alphas_cumprod, every)

    def refuse_untrained(self, s: Tensor) -> None:
        """Raises ValueError at a time between those that the model was trained at."""
        path = self.schedule
        off = ~path.is_trained(s)
        if off.any():
            time = float(s[off][0].detach())
            before = path.trained_time(time)
            after = min(before + path.every / path.steps, 1.0)
            raise ValueError(
                f"{self.name} was trained at each {path.every}th of its {path.steps} steps; got t ="
                f" {time:.4g}, between {before:.4g} and {after:.4g}: take one of these, or sample"
                " by steer.samplers.Jump(renoise=True), which rounds as the library does"
            )

    @property
    def kind(self) -> GuidanceKind:  # type: ignore[override]
        embeds = self.transformer.config.time_cond_proj_dim is not None
        return "embedded" if embeds else "classifier-free"

    @property
    def default_guidance(self) -> float:  # type: ignore[override]
        return 8.5 if self.kind == "embedded" else 1.0

    def predict(self, x: Tensor, s: Tensor, t: Tensor, cond: Condition) -> Tensor:
        self.refuse_untrained(s)
        s = self.latest(s)
        clean = self.endpoints(x, s, cond).clean
        scaled = of_time(self.schedule.step_at(s), x) * self.scheduler.config.timestep_scaling
        skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
        out = scaled / (scaled**2 + SIGMA_DATA**2).sqrt()
        return out * clean + skip * x


class Tcd(Diffused):
    """TCD: a UNet with a TCDScheduler, deterministic (its eta = 0).

    The library's last step ends at its step 0, where a little noise is left; a jump to t = 1 here
    ends at the data.
    """

    name = "TCD"
    schedulers = ("TCDScheduler",)
    pipelines = ("StableDiffusionPipeline",)
    level = "trajectory"

    def predict(self, x: Tensor, s: Tensor, t: Tensor, cond: Condition) -> Tensor:
        pair = self.endpoints(x, self.latest(s), cond)
        return torch.cat((pair.clean, pair.noise), 1)

    def pipeline(self) -> Any:
        self.shared.modules.setdefault("requires_safety_checker", False)
        return super().pipeline()
