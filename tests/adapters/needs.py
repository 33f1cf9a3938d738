"""Prints the table of docs/scaling.md: python tests/adapters/needs.py.

The bytes of one sample in one call of each family's tiny random transformer, in units of its hidden
state (tokens x width x bytes of a number): the most at once without a gradient, and what every
layer more keeps for one, without recomputation and with it.
"""

import sys
import warnings

import torch
from live import Live
from measure import noise_for
from tiny import FAMILIES, Tiny

TEXT = 5  # tokens of the tiny prompts
PADDED = 32  # tokens of Z-Image's image and text are a multiple of it
LAYERS = {"z_image": "n_layers"}  # what the config calls them, where it is not num_layers
UNETS = ("lcm", "tcd")  # whose width changes from layer to layer


def width_of(transformer) -> int:
    """The width of the hidden state."""
    config = transformer.config
    return config.get("dim") or config.num_attention_heads * config.attention_head_dim


def tokens_of(name: str, shape: tuple[int, ...], transformer) -> int:
    """Tokens of the image, and of the text where both are in one sequence."""
    patch = transformer.config.get("patch_size", transformer.config.get("all_patch_size", 1))
    side = patch[-1] if isinstance(patch, list | tuple) else patch
    side = 2 if name == "flux" else side  # its latents are packed two by two
    image = shape[-1] * shape[-2] // side**2
    if name == "z_image":
        return -(-image // PADDED) * PADDED + PADDED
    return image + (0 if name in ("wan", "anyflow", "sana_sprint") else TEXT)


def call(tiny: Tiny, samples: int, gradient: bool = False, recompute: bool = False) -> int:
    """The most bytes that are alive in a look-ahead of so many samples."""
    flow_map = tiny.flow_map(recompute=recompute)
    x = noise_for(flow_map, tiny)[[0] * samples].requires_grad_(gradient)
    cond = tiny.cond[[0] * samples]
    with torch.set_grad_enabled(gradient):
        flow_map.lookahead(x, 0.3, cond)  # what is made once is not counted
        with Live() as live:
            found = flow_map.lookahead(x, 0.3, cond)
            if gradient:
                found.sum().backward()
    return live.peak


def per_sample(tiny: Tiny, **how: bool) -> float:
    """The bytes of one sample more in a call."""
    return (call(tiny, 4, **how) - call(tiny, 2, **how)) / 2


def deeper(name: str, layers: int) -> Tiny:
    """The model with so many layers."""
    tiny = FAMILIES[name]()
    transformer = tiny.modules["transformer"]
    config = {**transformer.config, LAYERS.get(name, "num_layers"): layers}
    tiny.modules["transformer"] = type(transformer).from_config(config).eval()
    return tiny


def row(name: str) -> tuple[float, float, float]:
    """Hidden states of a call without a gradient, and per layer with one, kept and recomputed."""
    tiny = FAMILIES[name]()
    transformer = tiny.modules["transformer"]
    shape = tiny.flow_map().latent_shape(tiny.size, tiny.size)
    unit = 4 * width_of(transformer) * tokens_of(name, shape, transformer)

    def per_layer(recompute: bool) -> float:
        few, many = (
            per_sample(deeper(name, layers), gradient=True, recompute=recompute)
            for layers in (2, 6)
        )
        return (many - few) / 4 / unit

    return per_sample(tiny) / unit, per_layer(False), per_layer(True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name in sys.argv[1:] or [name for name in FAMILIES if name not in UNETS]:
        print(f"{name:12s}", *(f"{figure:6.1f}" for figure in row(name)), flush=True)
