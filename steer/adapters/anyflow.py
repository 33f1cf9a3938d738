"""AnyFlow: flow maps of films, distilled from Wan 2.1 on policy.

Reference: Gu, Fang et al. 2026, arXiv 2605.13724.
"""

from torch import Tensor

from steer.adapters.wan import Film
from steer.conditions import Condition

__all__ = ["AnyFlow"]


class AnyFlow(Film):
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
