"""HunyuanImage 2.1 Distilled: a flow map of two times, by MeanFlow.

Reference: Tencent Hunyuan 2025, github.com/Tencent-Hunyuan/HunyuanImage-2.1; MeanFlow: Geng et al.
2025, arXiv 2505.13447.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steer.adapters.network import GuidanceKind, Network
from steer.conditions import Condition

__all__ = ["HunyuanImage"]


class HunyuanImage(Network):
    """HunyuanImage 2.1 Distilled: `HunyuanImageTransformer2DModel` with use_meanflow, time 1000
    sigma.

    It embeds the weight of guidance, 3.25 unless told.

    Raises:
        ValueError: a model without a second time, whose guidance is the library's own.
    """

    name = "HunyuanImage"
    transformers = ("HunyuanImageTransformer2DModel",)
    pipelines = ("HunyuanImagePipeline",)
    level = "two times"
    fields = ("prompt_embeds", "prompt_embeds_mask", "prompt_embeds_2", "prompt_embeds_2_mask")
    default_guidance = 3.25

    def check(self, transformer: Any) -> None:
        if not transformer.config.use_meanflow:
            raise ValueError(
                "this HunyuanImage is no flow map (its use_meanflow is false), and the guidance of"
                " its pipeline is none that steer has; take HunyuanImage-2.1-Distilled"
            )

    @property
    def kind(self) -> GuidanceKind:  # type: ignore[override]
        return "embedded" if self.transformer.config.guidance_embeds else "baked in"

    def predict(self, x: Tensor, s: Tensor, t: Tensor, cond: Condition) -> Tensor:
        weight = self.embedded(s)
        return -self.transformer(
            hidden_states=x.to(self.dtype),
            timestep=1000 * (1 - s),
            timestep_r=1000 * (1 - t),
            guidance=None if weight is None else 1000 * weight.to(self.dtype),
            encoder_hidden_states=cond.prompt_embeds,
            encoder_attention_mask=cond.prompt_embeds_mask,
            encoder_hidden_states_2=cond.prompt_embeds_2,
            encoder_attention_mask_2=cond.prompt_embeds_2_mask,
            return_dict=False,
        )[0]

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        return self.image_shape(height, width, self.transformer.config.patch_size[0])

    def decoder_scale(self) -> int:
        vae = self.shared["vae"]
        return 32 if vae is None else vae.config.spatial_compression_ratio

    def to_decoder(self, latents: Tensor) -> Tensor:
        return latents / self.shared["vae"].config.scaling_factor

    def encode(self, texts: Sequence[str]) -> Condition:
        first, mask, second, second_mask = self.pipeline().encode_prompt(
            list(texts), device=self.text_device
        )
        return Condition(
            prompt_embeds=first,
            prompt_embeds_mask=mask.to(torch.long),
            prompt_embeds_2=second,
            prompt_embeds_2_mask=second_mask.to(torch.long),
        )
