"""Low-rank adapters on a flow map's network, by peft: a hundredth of the weights to tune, and to store.

Reference: Hu et al. 2022, arXiv 2106.09685.
"""

from typing import Any

from torch import nn

from steer.flow_map import ResidualMap


def add_lora(flow_map: ResidualMap, rank: int = 8, alpha: int | None = None) -> ResidualMap:
    """Freezes the map's network and puts a trainable rank-r update beside every linear and convolution layer, in place.

    Args:
        flow_map: the map to tune; its law is unchanged until the adapters learn.
        rank: r.
        alpha: the update is scaled by alpha / r; alpha = r by default.
    """
    from peft import LoraConfig, get_peft_model

    if rank < 1:
        raise ValueError(f"LoRA needs a rank of at least 1; got {rank}. For full weights, leave it out")
    layers = [name for name, layer in flow_map.network.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    config = LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=layers)
    network: Any = flow_map.network
    flow_map.network = get_peft_model(network, config)
    return flow_map


def without_lora(flow_map: ResidualMap) -> ResidualMap:
    """The map with its adapters merged into plain weights, in place; ready to save."""
    network: Any = flow_map.network
    flow_map.network = network.merge_and_unload()
    return flow_map
