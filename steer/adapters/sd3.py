"""Stable Diffusion 3 and 3.5: a velocity on the straight path.

Reference: Esser et al. 2024, arXiv 2403.03206.
"""

from collections.abc import Sequence

from torch import Tensor

from steer.adapters.network import Network
from steer.conditions import Condition

__all__ = ["StableDiffusion3"]


class StableDiffusion3(Network):
    """SD3 and SD3.5 (medium, large, turbo): `SD3Transformer2DModel`, time 1000 sigma."""

    name = "Stable Diffusion 3"
    transformers = ("SD3Transformer2DModel",)
    pipelines = ("StableDiffusion3Pipeline",)
    level = "velocity"
    fields = ("prompt_embeds", "pooled_prompt_embeds")
    lora_targets = (*Network.lora_targets, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")

    def predict(self, x: Tensor, s: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return -self.transformer(
            hidden_states=x.to(self.dtype),
            timestep=1000 * (1 - s),
            encoder_hidden_states=cond.prompt_embeds,
            pooled_projections=cond.pooled_prompt_embeds,
            return_dict=False,
        )[0]

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        return self.image_shape(height, width, self.transformer.config.patch_size)

    def to_decoder(self, latents: Tensor) -> Tensor:
        return self.rescaled(latents)

    def encode(self, texts: Sequence[str]) -> Condition:
        tokens, _, pooled, _ = self.pipeline().encode_prompt(
            list(texts), None, None, device=self.text_device, do_classifier_free_guidance=False
        )
        return Condition(prompt_embeds=tokens, pooled_prompt_embeds=pooled)
