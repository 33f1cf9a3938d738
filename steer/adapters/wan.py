"""Wan 2.1: a velocity of films, and of images as films of one frame.

Reference: Wan team 2025, arXiv 2503.20314.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steer.adapters.network import Network
from steer.conditions import Condition

__all__ = ["Wan"]


class Film(Network):
    """A family of films: the latents, decoder and text encoder of Wan."""

    def latent_shape(self, height: int, width: int, frames: int = 1) -> tuple[int, ...]:
        return film_shape(self, height, width, frames)

    def to_decoder(self, latents: Tensor) -> Tensor:
        return from_statistics(self.shared["vae"], latents)

    def decoder_scale(self) -> int:
        vae = self.shared["vae"]
        return 8 if vae is None else vae.config.scale_factor_spatial

    def encode(self, texts: Sequence[str]) -> Condition:
        tokens, _ = self.pipeline().encode_prompt(
            list(texts),
            do_classifier_free_guidance=False,
            max_sequence_length=512,
            device=self.text_device,
        )
        return Condition(prompt_embeds=tokens)


class Wan(Film):
    """Wan 2.1 from texts: `WanTransformer3DModel`, time 1000 sigma, samples (C, F, H, W)."""

    name = "Wan"
    transformers = ("WanTransformer3DModel",)
    pipelines = ("WanPipeline",)
    level = "velocity"

    def predict(self, x: Tensor, s: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return -self.transformer(
            hidden_states=x.to(self.dtype),
            timestep=1000 * (1 - s),
            encoder_hidden_states=cond.prompt_embeds,
            return_dict=False,
        )[0]


def film_shape(network: Network, height: int, width: int, frames: int) -> tuple[int, ...]:
    """Computes (channels, frames, rows, columns) of film latents.

    Raises:
        ValueError: a number of frames that the decoder does not make.
    """
    vae = network.shared["vae"]
    scale = 4 if vae is None else vae.config.scale_factor_temporal
    if frames < 1 or (frames - 1) % scale:
        raise ValueError(
            f"{network.name} makes films of 1 + {scale} n frames; got {frames}: try"
            f" {1 + scale * max(round((frames - 1) / scale), 0)}"
        )
    patch = network.transformer.config.patch_size[1]
    channels, rows, columns = network.image_shape(height, width, patch)
    return channels, (frames - 1) // scale + 1, rows, columns


def from_statistics(vae: Any, latents: Tensor) -> Tensor:
    """Undoes the normalisation of a decoder's latents by its mean and standard deviation."""
    mean, std = (
        torch.tensor(statistic, dtype=latents.dtype, device=latents.device)[:, None, None, None]
        for statistic in (vae.config.latents_mean, vae.config.latents_std)
    )
    return latents * std + mean
