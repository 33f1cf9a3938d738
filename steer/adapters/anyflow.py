"""AnyFlow: flow maps of films, distilled from Wan 2.1 on policy.

Reference: Gu, Fang et al. 2026, arXiv 2605.13724.
"""

from collections.abc import Sequence

from torch import Tensor

from steer.adapters.network import Network
from steer.adapters.wan import film_shape, from_statistics
from steer.conditions import Condition

__all__ = ["AnyFlow"]


class AnyFlow(Network):
    """AnyFlow, bidirectional: `AnyFlowTransformer3DModel`, times 1000 sigma of each frame.

    Samples are (C, F, H, W); guidance is baked in.
    """

    name = "AnyFlow"
    transformers = ("AnyFlowTransformer3DModel",)
    pipelines = ("AnyFlowPipeline",)
    level = "two times"
    kind = "baked in"

    def predict(self, x: Tensor, s: Tensor, t: Tensor, cond: Condition) -> Tensor:
        frames = x.shape[2]
        start, end = (1000 * (1 - time)[:, None].expand(-1, frames) for time in (s, t))
        found = self.transformer(
            hidden_states=x.transpose(1, 2).to(self.dtype),
            timestep=start,
            r_timestep=end,
            encoder_hidden_states=cond.prompt_embeds,
            return_dict=False,
        )[0]
        return -found.transpose(1, 2)

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
