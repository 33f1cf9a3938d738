"""Networks u_{s,t}(x): network(x, s, t, cond) -> like x. All are differentiable in forward mode."""

from steer.networks.conditioning import ClassCondition, EmbeddingCondition, NoCondition
from steer.networks.context import ContextCondition, WithContext, warm_start
from steer.networks.inferred import ByCondition, InferredClass, NoisyClassifier
from steer.networks.mlp import Mlp
from steer.networks.normalisation import LayerNorm
from steer.networks.transformer import Transformer
from steer.networks.unet import UNet

__all__ = [
    "ByCondition",
    "ClassCondition",
    "ContextCondition",
    "EmbeddingCondition",
    "InferredClass",
    "LayerNorm",
    "Mlp",
    "NoCondition",
    "NoisyClassifier",
    "Transformer",
    "UNet",
    "WithContext",
    "warm_start",
]
