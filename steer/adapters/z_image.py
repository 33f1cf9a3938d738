"""Z-Image: a velocity whose time runs as ours.

Reference: Tongyi-MAI 2025, arXiv 2511.22699.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from steer.adapters.network import GuidanceKind, Network
from steer.conditions import Condition

__all__ = ["ZImage"]


class ZImage(Network):
    """Z-Image: `ZImageTransformer2DModel`, time 1 - sigma, lists of samples and of prompts.

    Guidance of weight w is what the library calls guidance_scale = w - 1, without its
    normalisation and truncation. Turbo (`distilled`) has it baked in.
    """

    name = "Z-Image"
    transformers = ("ZImageTransformer2DModel",)
    pipelines = ("ZImagePipeline",)
    level = "velocity"
    optional = ("prompt_mask",)

    @property
    def kind(self) -> GuidanceKind:  # type: ignore[override]
        return "baked in" if self.distilled else "classifier-free"

    def predict(self, x: Tensor, s: Tensor, t: Tensor, cond: Condition) -> Tensor:
        prompts = list(cond.prompt_embeds)
        if "prompt_mask" in cond.fields:
            masks = cond.prompt_mask.bool()
            prompts = [prompt[mask] for prompt, mask in zip(prompts, masks, strict=True)]
        found = self.transformer(
            list(x[:, :, None].to(self.dtype).unbind()), s, prompts, return_dict=False
        )[0]
        return torch.stack(found)[:, :, 0]

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        return self.image_shape(height, width, 2)

    def to_decoder(self, latents: Tensor) -> Tensor:
        return self.rescaled(latents)

    def encode(self, texts: Sequence[str]) -> Condition:
        (tokens,), _ = self.pipeline().encode_prompt(
            list(texts), self.text_device, do_classifier_free_guidance=False
        )
        mask = torch.ones(1, len(tokens), dtype=torch.long, device=tokens.device)
        return Condition(prompt_embeds=tokens[None], prompt_mask=mask)
