"""SANA-Sprint: a consistency model on the trigonometric path.

The library has z = cos(theta) x1 + sin(theta) sigma_d x0 and the network's own time s = sin / (cos
+ sin). Samples here are z / sigma_d, on `Trigonometric`, theta = (1 - t) pi / 2.

Reference: Chen et al. 2025, arXiv 2503.09641.
"""

import inspect
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from steer.adapters.network import Network, of_time
from steer.conditions import Condition
from steer.interpolant import Schedule, Trigonometric

__all__ = ["SanaSprint"]


class SanaSprint(Network):
    """SANA-Sprint: `SanaTransformer2DModel` with guidance embedded, of weight 4.5 unless told."""

    name = "SANA-Sprint"
    transformers = ("SanaTransformer2DModel",)
    schedulers = ("SCMScheduler",)
    pipelines = ("SanaSprintPipeline",)
    level = "consistency"
    kind = "embedded"
    fields = ("prompt_embeds", "prompt_attention_mask")
    default_guidance = 4.5

    def path(self) -> Schedule:
        return Trigonometric()

    def predict(self, x: Tensor, s: Tensor, t: Tensor, cond: Condition) -> Tensor:
        theta = (1 - s) * (math.pi / 2)
        cos, sin = torch.cos(theta), torch.sin(theta)
        time = sin / (cos + sin)
        weight = torch.full_like(s, self.weight)
        r = of_time(time, x)
        size = torch.sqrt(r**2 + (1 - r) ** 2)
        inside = x * size
        found = self.transformer(
            inside.to(self.dtype),
            encoder_hidden_states=cond.prompt_embeds,
            encoder_attention_mask=cond.prompt_attention_mask,
            guidance=weight.to(self.dtype) * self.transformer.config.guidance_embeds_scale,
            timestep=time,
            return_dict=False,
        )[0]
        turning = ((1 - 2 * r) * inside + (1 - 2 * r + 2 * r**2) * found) / size
        return of_time(cos, x) * x - of_time(sin, x) * turning

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        return self.image_shape(height, width, self.transformer.config.patch_size)

    def decoder_scale(self) -> int:
        vae = self.shared["vae"]
        return 32 if vae is None else 2 ** (len(vae.config.encoder_block_out_channels) - 1)

    def to_decoder(self, latents: Tensor) -> Tensor:
        return latents / self.shared["vae"].config.scaling_factor

    def encode(self, texts: Sequence[str]) -> Condition:
        pipeline = self.pipeline()
        call = inspect.signature(pipeline.__call__).parameters
        tokens, mask = pipeline.encode_prompt(
            list(texts),
            device=self.text_device,
            complex_human_instruction=call["complex_human_instruction"].default,
        )
        return Condition(prompt_embeds=tokens, prompt_attention_mask=mask)
