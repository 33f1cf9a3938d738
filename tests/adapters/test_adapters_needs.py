"""What docs/scaling.md says of memory and time, held to runs of tiny models."""

import re
from pathlib import Path

import pytest
import torch
from live import Live
from measure import noise_for
from needs import UNETS, call, row
from selection import slow_but
from tiny import FAMILIES
from torch.utils.flop_counter import FlopCounterMode

import rewards
import steer
from steer.samplers import BestOfN, Ode, TrajectoryTilting

pytestmark = pytest.mark.filterwarnings("ignore:.*predicts velocities alone")
PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
NAMES = {
    "sd3": "Stable Diffusion 3.5",
    "flux": "FLUX.1",
    "flux2": "FLUX.2",
    "flux3": "FLUX.3",
    "z_image": "Z-Image",
    "wan": "Wan",
    "anyflow": "AnyFlow",
    "hunyuan": "HunyuanImage",
    "sana_sprint": "SANA-Sprint",
}
NUMBER = 4  # bytes
COPIES = {"Ode": 4, "BestOfN": 4, "TrajectoryTilting": 12}


def sampler_of(name, steps, max_batch):
    ode = Ode(steps, max_batch=max_batch)
    if name == "Ode":
        return ode
    if name == "BestOfN":
        return BestOfN(ode)
    return TrajectoryTilting(steps, lookahead=steer.lookahead.Denoiser(), max_batch=max_batch)


def peak(name, prompts, particles, steps=3, max_batch=2, recompute=False):
    """The most bytes alive in a sampler, beside weights and noise; and its evaluations."""
    tiny = FAMILIES["sd3"]()
    flow_map = tiny.flow_map(max_batch=max_batch, decode_batch=1, recompute=recompute)
    tilt = steer.Tilt(rewards.Decoded(rewards.Brightness(), flow_map.decode), 1.0)
    x0 = torch.randn(prompts, particles, *flow_map.latent_shape(tiny.size, tiny.size))
    with Live() as live:
        sampler = sampler_of(name, steps, max_batch)
        found = sampler(flow_map, x0, tilt, tiny.cond[[0] * prompts])
    return live.peak, x0[0, 0].numel(), found.evaluations


@pytest.mark.parametrize("name", COPIES)
def test_memory_grows_with_the_samples_by_so_many_copies_of_their_latents(name):
    """And not with the steps; prompts and particles count alike."""
    assert re.search(r"4 for `Ode` and for `BestOfN` over it, 12 for `TrajectoryTilting`", PAGE)
    four, latents, _ = peak(name, 1, 4)
    eight, *_ = peak(name, 1, 8)
    copies = (eight - four) / 4 / NUMBER / latents
    assert COPIES[name] - 1.5 < copies <= COPIES[name]
    assert peak(name, 2, 4)[0] == pytest.approx(eight, rel=0.03)
    assert peak(name, 1, 8, steps=6)[0] == pytest.approx(eight, rel=0.03)
    sixteen, *_ = peak(name, 2, 8)
    assert sixteen <= eight + COPIES[name] * 8 * NUMBER * latents


def test_memory_of_a_call_grows_with_max_batch_and_falls_by_recomputing():
    two, *_ = peak("TrajectoryTilting", 1, 8)
    four, *_ = peak("TrajectoryTilting", 1, 8, max_batch=4)
    eight, *_ = peak("TrajectoryTilting", 1, 8, max_batch=8)
    assert eight - four == pytest.approx(2 * (four - two), rel=0.02)
    recomputed, *_ = peak("TrajectoryTilting", 1, 8, max_batch=8, recompute=True)
    assert recomputed < eight - 0.4 * (eight - four)


@pytest.mark.parametrize("family", slow_but(["sd3"], NAMES, NAMES))
def test_a_call_takes_the_hidden_states_of_the_table(family):
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| {NAMES[family]}"))
    whole, kept = (float(cell) for cell in line.split("|")[2:4])
    forward, layer, recomputed = row(family)
    assert forward == pytest.approx(whole, rel=0.05)
    assert layer == pytest.approx(kept, rel=0.05)
    assert recomputed <= 1.1  # with recomputation, the hidden state of each layer alone


@pytest.mark.parametrize("family", slow_but(["flux"], FAMILIES, FAMILIES))
def test_memory_of_a_call_is_in_proportion_to_its_samples(family):
    tiny = FAMILIES[family]()
    two, four, eight = (call(tiny, samples) for samples in (2, 4, 8))
    assert eight - four == pytest.approx(2 * (four - two), rel=0.01)


# --- time -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [("Ode", 3, 0), ("BestOfN", 3 * 4, 0), ("TrajectoryTilting", 3, 3)],
)
def test_evaluations_are_known_beforehand(name, forward, backward):
    *_, evaluations = peak(name, 1, 4)
    assert (evaluations.network_forward, evaluations.network_backward) == (forward, backward)


def operations(tiny, gradient=False, recompute=False):
    """Floating-point operations of one sample, from the library's formulas for its kernels."""
    flow_map = tiny.flow_map(recompute=recompute)
    x = noise_for(flow_map, tiny).requires_grad_(gradient)
    with torch.set_grad_enabled(gradient), FlopCounterMode(display=False) as counter:
        found = flow_map.lookahead(x, 0.3, tiny.cond)
        if gradient:
            found.sum().backward()
    return counter.get_total_flops() / len(x)


@pytest.mark.parametrize("family", slow_but(["sd3"], NAMES, NAMES))
def test_operations_of_a_forward_and_of_gradients(family):
    from needs import tokens_of

    tiny = FAMILIES[family]()
    transformer = tiny.modules["transformer"]
    shape = tiny.flow_map().latent_shape(tiny.size, tiny.size)
    tokens = tokens_of(family, shape, transformer)
    parameters = sum(weight.numel() for weight in transformer.parameters())
    forward = operations(tiny)
    assert forward < 2 * parameters * tokens
    assert 1.1 * forward < operations(tiny, gradient=True) < 2.2 * forward  # less for the text's
    recomputed = operations(tiny, gradient=True, recompute=True)
    assert recomputed <= 3.1 * forward


def test_unets_have_no_width():
    assert set(FAMILIES) - set(NAMES) == set(UNETS)
