"""Adapters on real models: trained here, loaded by the library's own loaders, and back."""

import copy
import json
import re
import warnings

import diffusers
import pytest
import torch
from safetensors import safe_open
from tiny import FAMILIES, sd3

import rewards
import steer
from steer.adapters import add_lora, load_lora, save_lora

FILE = "pytorch_lora_weights.safetensors"
BY_TRANSFORMER = {"flux3", "hunyuan"}  # no pipeline of theirs loads adapters by itself


@pytest.fixture(autouse=True)
def jumps_allowed():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def outputs(flow_map, tiny):
    x = torch.randn(2, *flow_map.latent_shape(tiny.size, tiny.size)).mul(0.5)
    with torch.no_grad():
        return flow_map.lookahead(x, 0.3, tiny.cond)


def trained(flow_map):
    """Adapters whose second factor is no longer zero."""
    generator = torch.Generator().manual_seed(7)
    add_lora(flow_map, rank=2, alpha=3.0)
    for weight in flow_map.parameters():
        if weight.requires_grad:
            weight.data = 0.3 * torch.randn(weight.shape, generator=generator)
    return flow_map


@pytest.mark.parametrize("name", FAMILIES)
def test_the_library_loads_what_was_saved(name, tmp_path):
    tiny = FAMILIES[name]()
    plain = copy.deepcopy(tiny)
    torch.manual_seed(1)
    base = outputs(plain.flow_map(), plain)
    flow_map = trained(tiny.flow_map())
    torch.manual_seed(1)
    tuned = outputs(flow_map, tiny)
    assert (tuned - base).abs().max() > 1e-2
    save_lora(flow_map, tmp_path)

    theirs = copy.deepcopy(plain).flow_map()
    if name in BY_TRANSFORMER:
        prefix = None if name == "hunyuan" else "transformer"
        theirs.network.transformer.load_lora_adapter(str(tmp_path), prefix=prefix, weight_name=FILE)
    else:
        theirs.network.pipeline().load_lora_weights(str(tmp_path))
    for found in (theirs, load_lora(plain.flow_map(), tmp_path)):
        torch.manual_seed(1)
        torch.testing.assert_close(outputs(found, tiny), tuned, atol=1e-6, rtol=0)


def metadata(path):
    with safe_open(str(path), "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("name", ["sd3", "lcm", "flux3"])
def test_the_header_says_what_the_adapters_belong_to(name, tmp_path):
    tiny = FAMILIES[name]()
    flow_map = trained(tiny.flow_map())
    flow_map.network.source = "owner/name"
    found = metadata(save_lora(flow_map, tmp_path))
    assert found["format"] == "pt"
    part = {"sd3": "transformer.", "lcm": "unet.", "flux3": "transformer."}[name]
    assert json.loads(found["lora_adapter_metadata"])[f"{part}r"] == 2  # of the library
    assert json.loads(found["steer"]) == {
        "kind": "adapters",
        "family": {"sd3": "Stable Diffusion 3", "lcm": "LCM", "flux3": "FLUX.3"}[name],
        "level": flow_map.level,
        "class": type(flow_map.network.transformer).__name__,
        "base": "owner/name",
        "rank": 2,
        "alpha": 3.0,
    }
    other = FAMILIES["tcd" if name == "lcm" else "flux"]().flow_map()
    line = rf"holds adapters of {re.escape(flow_map.network.name)}, owner/name; this model is "
    with pytest.raises(ValueError, match=line) as error:
        load_lora(other, tmp_path)
    assert "\n" not in str(error.value)


def test_a_loaded_model_knows_where_it_came_from(tmp_path):
    sd3().modules["transformer"].save_pretrained(tmp_path)
    flow_map = steer.adapters.from_pretrained(str(tmp_path))
    assert flow_map.network.source == str(tmp_path)
    assert copy.deepcopy(flow_map).network.source == str(tmp_path)


def test_tuned_adapters_raise_the_reward_of_decoded_images():
    tiny = sd3()
    base = tiny.flow_map(height=16, width=16)
    learner = add_lora(copy.deepcopy(base), rank=4)
    assert learner.network.shared is base.network.shared  # one decoder for both
    tilt = steer.Tilt(rewards.Decoded(rewards.Brightness(), base.decode), 30.0)
    loop = steer.loops.RewardTuning(
        learner,
        base,
        tilt,
        steer.tuning.Direct(steer.tuning.rollouts.EulerSteps(2, last=2), consistency=0.0),
        base.shape,
        batch_size=4,
        prompts=lambda n, generator: tiny.cond[torch.arange(n) % 2],
        lr=5e-2,
    )
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([w for w in learner.parameters() if w.requires_grad], lr=5e-2)
    x0 = torch.randn(1, 2, *base.shape, generator=generator).expand(2, -1, -1, -1, -1)

    def brightness(flow_map) -> float:
        sampler = steer.samplers.Ode(2)
        return float(sampler(flow_map, x0, tilt.with_scale(1.0), tiny.cond).tilt.mean())

    before = brightness(learner)
    assert before == pytest.approx(brightness(base), abs=1e-6)
    for _ in range(12):
        (cond,) = loop.draw(generator)
        noise = torch.randn(4, *base.shape, generator=generator)
        loss = loop.objective(learner, base, tilt, noise, cond, generator, 0)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    assert brightness(learner) > before + 0.009  # three standard deviations of the base's samples
    assert brightness(base) == pytest.approx(before, abs=1e-6)


def test_adapters_are_in_float32_on_a_transformer_in_half_precision():
    flow_map = sd3().flow_map()
    flow_map.network.transformer.to(torch.bfloat16)
    add_lora(flow_map, rank=2)
    assert {w.dtype for w in flow_map.parameters() if w.requires_grad} == {torch.float32}
    assert flow_map.network.dtype == torch.bfloat16


def test_refusals(tmp_path):
    tiny = sd3()
    flow_map = tiny.flow_map()
    with pytest.raises(ValueError, match=r"no adapters to save; put some on by add_lora"):
        save_lora(flow_map, "nowhere")
    with pytest.raises(ValueError, match="no layer of the SD3Transformer2DModel whose name ends"):
        add_lora(flow_map, targets=["nothing"])
    with pytest.raises(ValueError, match=r"go on a real model.*use steer.tuning.add_lora"):
        add_lora(steer.load("fashion"))
    with pytest.raises(ValueError, match=r"holds no adapters of this model"):
        load_lora(flow_map, tmp_path)
    trained(flow_map)
    with pytest.raises(ValueError, match=r"adapters already"):
        add_lora(flow_map)


def test_a_pipeline_of_the_library_samples_with_the_adapters(tmp_path):
    tiny = sd3()
    fresh = sd3()
    flow_map = trained(tiny.flow_map())
    save_lora(flow_map, tmp_path)
    noise = torch.randn(2, *flow_map.latent_shape(16, 16))
    none = dict.fromkeys(
        f"{kind}{k}" for kind in ("text_encoder", "tokenizer") for k in ("", "_2", "_3")
    )
    pipeline = diffusers.StableDiffusion3Pipeline(**fresh.modules, **none)
    pipeline.load_lora_weights(str(tmp_path))
    theirs, times = fresh.sample(noise)
    with torch.no_grad():
        x = noise
        for s, t in zip(times, times[1:], strict=False):  # noqa: RUF007
            x = flow_map(x, s, t, tiny.cond)
    torch.testing.assert_close(x, theirs, atol=1e-5, rtol=0)
