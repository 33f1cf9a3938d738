"""What adapter and sampler cost over bare calls: python tests/adapters/overhead.py.

A Stable Diffusion 3 transformer of random weights, about 100 million parameters, takes a few Euler
steps on small latents: by calls of the transformer alone, by the adapter's map, and by the sampler
`Ode`. The three alternate in one process, in turned order; what is timed is the processor's time of
one thread, which other programs hardly change. The ratios are of neighbouring runs; their median
and quartiles are printed.
"""

import time
import warnings
from collections.abc import Callable

import diffusers
import torch

import steer

STEPS = 4
BATCH = 2
ROUNDS = 15


def transformer() -> torch.nn.Module:
    """About 100 million parameters."""
    torch.manual_seed(0)
    return diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=7,
        attention_head_dim=64,
        num_attention_heads=10,
        caption_projection_dim=640,
        joint_attention_dim=256,
        pooled_projection_dim=128,
        pos_embed_max_size=16,
    ).eval()


def seconds(run: Callable[[], torch.Tensor]) -> float:
    """The processor's time of one run."""
    start = time.process_time()
    run()
    return time.process_time() - start


@torch.no_grad()
def measured() -> None:
    """Prints the parameters, the median time of bare calls, and the ratios to it."""
    network = transformer()
    flow_map = steer.adapters.from_modules(network)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(BATCH, 4, 16, 16, generator=generator)
    tokens = torch.randn(BATCH, 32, 256, generator=generator)
    pooled = torch.randn(BATCH, 128, generator=generator)
    cond = steer.Condition(prompt_embeds=tokens, pooled_prompt_embeds=pooled)
    sampler = steer.samplers.Ode(STEPS)

    def bare() -> torch.Tensor:
        x = noise
        for k in range(STEPS):
            t = torch.full((BATCH,), 1000 * (1 - k / STEPS))
            v = network(x, tokens, pooled, t, return_dict=False)[0]
            x = x - v / STEPS
        return x

    def adapted() -> torch.Tensor:
        x = noise
        for k in range(STEPS):
            x = x + flow_map.velocity(x, k / STEPS, cond) / STEPS
        return x

    def sampled() -> torch.Tensor:
        return sampler(flow_map, noise[:, None], cond=cond).x[:, 0]

    ways = {"bare": bare, "adapter": adapted, "adapter and sampler": sampled}
    expected = bare()
    for way in ways.values():
        torch.testing.assert_close(way(), expected, atol=1e-4, rtol=1e-4)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for k in range(ROUNDS):
        order = [*ways][k % len(ways) :] + [*ways][: k % len(ways)]
        for name in order:
            times[name].append(seconds(ways[name]))
    millions = sum(weight.numel() for weight in network.parameters()) / 1e6
    base = torch.tensor(times["bare"])
    print(f"{millions:.0f} million parameters, {STEPS} steps, {BATCH} samples, {ROUNDS} rounds")
    print(f"bare: median {base.median():.3f} s")
    for name in [*ways][1:]:
        found = torch.tensor(times[name])
        low, middle, high = (found / base).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
        ratio = f"ratio {middle:.3f} ({low:.3f} to {high:.3f})"
        print(f"{name}: median {found.median():.3f} s, {ratio}; of medians"
              f" {found.median() / base.median():.3f}")  # fmt: skip


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    measured()
