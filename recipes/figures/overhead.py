"""What does steering cost beyond the evaluations it counts? Wall time of a guided run over the bare network and reward.

    make bench        # a minute

A guided run of the shipped map is timed against the same forwards and backwards of network and classifier, same batches,
in the same process, the two in turn. Printed are the medians and their ratio.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

import steer
from rewards import ClassLogProbability, Decoded, from_signed, load_classifier
from steer.flow_map import FlowMap
from steer.guidance import Unconditional
from steer.lookahead import Denoiser, MapJump
from steer.samplers import TrajectoryTilting
from steer.tilt import Tilt

ROUNDS, STEPS, PROMPTS, PARTICLES = 7, 8, 4, 16


def bare_map(flow_map: FlowMap, tilt: Tilt, x: torch.Tensor, labels: torch.Tensor) -> None:
    """Per step: one velocity, one jump to data, its reward, and the gradient back to x; at the end, the reward."""
    for k in range(STEPS):
        z = x.detach().requires_grad_()
        torch.autograd.grad(tilt.reward(flow_map(z, k / STEPS, 1.0), labels).sum(), z)
        with torch.no_grad():
            flow_map.velocity(x, k / STEPS)
    z = x.detach().requires_grad_()
    torch.autograd.grad(tilt.reward(z, labels).sum(), z)
    with torch.no_grad():
        flow_map.velocity(x, 1.0)


def bare_denoiser(flow_map: FlowMap, tilt: Tilt, x: torch.Tensor, labels: torch.Tensor) -> None:
    """Per state: one denoising, its reward, and the gradient back to x."""
    for k in range(STEPS + 1):
        z = x.detach().requires_grad_()
        torch.autograd.grad(tilt.reward(flow_map.denoise(z, k / STEPS), labels).sum(), z)


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    flow_map = Unconditional(steer.load("fashion"))
    tilt = Tilt(Decoded(ClassLogProbability(load_classifier("fashion-patch")), from_signed))
    generator, labels = torch.Generator().manual_seed(0), torch.arange(PROMPTS)
    x0 = torch.randn(PROMPTS, PARTICLES, 1, 28, 28, generator=generator)
    flat, repeated = x0.flatten(0, 1), labels.repeat_interleave(PARTICLES)
    for name, lookahead, bare in (("map", MapJump(), bare_map), ("denoiser", Denoiser(), bare_denoiser)):
        sampler, pairs = TrajectoryTilting(STEPS, lookahead), []
        for _ in range(ROUNDS + 1):
            guided = seconds(partial(sampler, flow_map, x0, tilt, labels, generator))
            alone = seconds(partial(bare, flow_map, tilt, flat, repeated))
            pairs.append((guided, alone))
        ratios = [guided / alone for guided, alone in pairs[1:]]
        middle = [statistics.median(column) for column in zip(*pairs[1:], strict=True)]
        print(
            f"{name:9s} guided {middle[0]:.3f} s, bare {middle[1]:.3f} s, ratio {statistics.median(ratios):.3f}"
            f" (from {min(ratios):.3f} to {max(ratios):.3f} over {ROUNDS} pairs)"
        )


if __name__ == "__main__":
    main()
