"""FLUX.2 dev and Klein: a velocity on tokens of the patchified latents of a normalised decoder.

Reference: Black Forest Labs 2025, github.com/black-forest-labs/flux2.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from steer.adapters.network import GuidanceKind, Network
from steer.adapters.packing import image, places, text_places, tokens
from steer.conditions import Condition

__all__ = ["Flux2"]


class Flux2(Network):
    """FLUX.2: `Flux2Transformer2DModel`, time sigma; samples are patchified, normalised latents.

    dev embeds the weight of guidance, 4 unless told; Klein has it baked in where it is distilled
    (`distilled`), and is guided without a classifier where it is not.
    """

    name = "FLUX.2"
    transformers = ("Flux2Transformer2DModel",)
    pipelines = ("Flux2KleinPipeline", "Flux2Pipeline")
    level = "velocity"
    lora_targets = (
        *Network.lora_targets,
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "to_qkv_mlp_proj"),
    )

    @property
    def kind(self) -> GuidanceKind:  # type: ignore[override]
        if self.transformer.config.guidance_embeds:
            return "embedded"
        return "baked in" if self.distilled else "classifier-free"

    @property
    def default_guidance(self) -> float:  # type: ignore[override]
        return 4.0 if self.kind == "embedded" else 1.0

    def predict(self, x: Tensor, s: Tensor, t: Tensor, cond: Condition) -> Tensor:
        rows, columns = x.shape[-2:]
        found = self.transformer(
            hidden_states=tokens(x).to(self.dtype),
            timestep=1 - s,
            guidance=self.embedded(s),
            encoder_hidden_states=cond.prompt_embeds,
            txt_ids=text_places(cond.prompt_embeds.shape[1], x.device),
            img_ids=places(rows, columns, x.device),
            return_dict=False,
        )[0]
        return -image(found, rows, columns)

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        channels, rows, columns = self.image_shape(height, width, 2)
        return channels, rows // 2, columns // 2

    def to_decoder(self, latents: Tensor) -> Tensor:
        return from_normalised(self.shared["vae"], latents)

    def encode(self, texts: Sequence[str]) -> Condition:
        tokens, _ = self.pipeline().encode_prompt(list(texts), device=self.text_device)
        return Condition(prompt_embeds=tokens)

    def pipeline_name(self) -> str:
        return self.pipelines[1 if self.kind == "embedded" else 0]


def from_normalised(vae: Any, latents: Tensor) -> Tensor:
    """Undoes the batch norm of a decoder's latents, and their patches of 2 by 2."""
    norm, eps = vae.bn, vae.config.batch_norm_eps
    mean, var = (v.to(latents)[:, None, None] for v in (norm.running_mean, norm.running_var))
    return F.pixel_shuffle(latents * torch.sqrt(var + eps) + mean, 2)
