"""Networks u_{s,t}(x): network(x, s, t, cond) -> like x. All are differentiable in forward mode."""

from steer.networks.conditioning import ClassCondition, EmbeddingCondition, NoCondition
from steer.networks.context import ContextCondition, WithContext, warm_start
from steer.networks.mlp import Mlp
from steer.networks.normalisation import LayerNorm
from steer.networks.transformer import Transformer
from steer.networks.unet import UNet

__all__ = [
    "ClassCondition",
    "ContextCondition",
    "EmbeddingCondition",
    "LayerNorm",
    "Mlp",
    "NoCondition",
    "Transformer",
    "UNet",
    "WithContext",
    "warm_start",
]
