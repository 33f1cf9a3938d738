"""FLUX.3 Image: Klein, distilled into a flow map of two times, and the model it comes from.

Reference: Black Forest Labs 2026, as in diffusers' `Flux3DistilledModularPipeline`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from steer.adapters.flux2 import from_normalised
from steer.adapters.library import needed
from steer.adapters.network import GuidanceKind, Level, Network
from steer.adapters.packing import image, places, text_places, tokens
from steer.conditions import Condition

__all__ = ["Flux3"]

ROPE = 0.5  # the scale of rows and columns that the model was trained with
SHIFT = 6.93


class Flux3(Network):
    """FLUX.3 Image: `Flux3Transformer2DModel`, times sigma_s and sigma_t.

    With flow_map=True, as Klein, it has two times and guidance baked in; without, it is a velocity.
    It attends to all tokens of a prompt, padding too, so that prompts of different lengths are
    evaluated one length after the other; `prompt_mask` says which tokens there are.
    """

    name = "FLUX.3"
    transformers = ("Flux3Transformer2DModel",)
    pipelines = ("Flux3DistilledModularPipeline", "Flux3ModularPipeline")
    optional = ("prompt_mask",)

    @property
    def level(self) -> Level:  # type: ignore[override]
        return "two times" if self.transformer.config.flow_map else "velocity"

    @property
    def kind(self) -> GuidanceKind:  # type: ignore[override]
        return "baked in" if self.transformer.config.flow_map else "classifier-free"

    @property
    def shift(self) -> float:
        return super().shift if self.scheduler is not None else SHIFT

    def predict(self, x: Tensor, s: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return by_length(cond, (x, s, t), self.predict_alike)

    def predict_alike(self, embeds: Tensor, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """Calls the transformer for prompts of one length (B, L, E)."""
        rows, columns = x.shape[-2:]
        two = self.level == "two times"
        found = self.transformer(
            hidden_states=tokens(x).to(self.dtype),
            encoder_hidden_states=embeds,
            timestep=1 - s,
            target_timestep=1 - t if two else None,
            img_ids=places(rows, columns, x.device, ROPE),
            txt_ids=text_places(embeds.shape[1], x.device),
            return_dict=False,
        )[0]
        return -image(found, rows, columns)

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        channels, rows, columns = self.image_shape(height, width, 2)
        return channels, rows // 2, columns // 2

    def to_decoder(self, latents: Tensor) -> Tensor:
        return from_normalised(self.shared["vae"], latents)

    def encode(self, texts: Sequence[str]) -> Condition:
        module = needed("diffusers.modular_pipelines.flux3.encoders")
        (text,) = texts
        tokens = module.Flux3TextEncoderStep._get_qwen3_vl_prompt_embeds(
            self.shared["text_encoder"], self.shared["tokenizer"], text, device=self.text_device
        )
        mask = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)
        return Condition(prompt_embeds=tokens, prompt_mask=mask)


def by_length(cond: Condition, tensors: tuple[Tensor, ...], call: Callable[..., Tensor]) -> Tensor:
    """Calls call(embeddings, *tensors) for the samples of each length of prompt, in their order."""
    embeds = cond.prompt_embeds
    if "prompt_mask" not in cond.fields:
        return call(embeds, *tensors)
    lengths = cond.prompt_mask.sum(1)
    several = lengths.unique()
    if len(several) == 1:
        return call(embeds[:, : int(several)], *tensors)
    places, parts = [], []
    for length in several.tolist():
        at = (lengths == length).nonzero()[:, 0]
        places.append(at)
        parts.append(call(embeds[at, :length], *(tensor[at] for tensor in tensors)))
    return torch.cat(parts)[torch.cat(places).argsort()]
