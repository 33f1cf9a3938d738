"""FLUX.1 dev and schnell: a velocity on packed tokens, with guidance embedded or baked in.

Reference: Black Forest Labs 2024, github.com/black-forest-labs/flux.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from steer.adapters.network import GuidanceKind, Network
from steer.adapters.packing import packed, unpacked
from steer.conditions import Condition

__all__ = ["Flux"]


class Flux(Network):
    """FLUX.1: `FluxTransformer2DModel`, time sigma, tokens of 2 by 2 latents.

    dev embeds the weight of guidance, 3.5 unless told; schnell has guidance baked in.
    """

    name = "FLUX.1"
    transformers = ("FluxTransformer2DModel",)
    pipelines = ("FluxPipeline",)
    level = "velocity"
    fields = ("prompt_embeds", "pooled_prompt_embeds")
    default_guidance = 3.5
    lora_targets = (*Network.lora_targets, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")

    @property
    def kind(self) -> GuidanceKind:  # type: ignore[override]
        return "embedded" if self.transformer.config.guidance_embeds else "baked in"

    def predict(self, x: Tensor, s: Tensor, t: Tensor, cond: Condition) -> Tensor:
        rows, columns = x.shape[-2] // 2, x.shape[-1] // 2
        places = torch.zeros(rows, columns, 3, device=x.device)
        places[..., 1] = torch.arange(rows, device=x.device)[:, None]
        places[..., 2] = torch.arange(columns, device=x.device)
        found = self.transformer(
            hidden_states=packed(x).to(self.dtype),
            timestep=1 - s,
            guidance=self.embedded(s),
            pooled_projections=cond.pooled_prompt_embeds,
            encoder_hidden_states=cond.prompt_embeds,
            txt_ids=torch.zeros(cond.prompt_embeds.shape[1], 3, device=x.device),
            img_ids=places.flatten(0, 1),
            return_dict=False,
        )[0]
        return -unpacked(found, rows, columns)

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        channels, rows, columns = self.image_shape(height, width, 2)
        return channels // 4, rows, columns

    def to_decoder(self, latents: Tensor) -> Tensor:
        return self.rescaled(latents)

    def encode(self, texts: Sequence[str]) -> Condition:
        tokens, pooled, _ = self.pipeline().encode_prompt(
            list(texts), None, device=self.text_device
        )
        return Condition(prompt_embeds=tokens, pooled_prompt_embeds=pooled)
