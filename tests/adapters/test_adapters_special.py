"""What is special of real models: guidance, precision, batches, prompts, and what is refused."""

import copy
import re
import sys
import warnings

import diffusers
import pytest
import torch
from tiny import (
    BETAS,
    FAMILIES,
    flux,
    flux2,
    flux3,
    hunyuan,
    kl_decoder,
    lcm,
    sd3,
    tcd,
    unet,
    wan,
    with_texts,
)

import rewards
import steer
from steer import adapters
from steer.adapters import library
from steer.adapters.backbone import JumpOfSteps
from steer.adapters.table_path import TablePath
from steer.samplers.run import Run


def noise_for(flow_map, size: int = 16, count: int = 2, **film) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, *flow_map.latent_shape(size, size, **film), generator=generator)


# --- guidance -----------------------------------------------------------------------------------
def test_classifier_free_guidance_is_that_of_the_library_at_two_evaluations():
    tiny = sd3()
    flow_map = tiny.flow_map(guidance=4.0, negative=tiny.negative)
    x = noise_for(flow_map)
    theirs, times = tiny.sample(x, guidance=4.0)
    plain, _ = tiny.sample(x)
    assert (theirs - plain).abs().max() > 0.1
    with torch.no_grad(), warnings.catch_warnings(), steer.counting.count() as spent:
        warnings.simplefilter("ignore")
        for s, t in zip(times, times[1:], strict=False):  # noqa: RUF007
            x = flow_map(x, s, t, tiny.cond)
    torch.testing.assert_close(x, theirs, atol=1e-5, rtol=0)
    assert spent.network_forward == 2 * 2 * 4  # evaluations, samples, steps
    assert not flow_map.score_matches_flow
    assert tiny.flow_map().score_matches_flow


def test_guidance_around_a_model_is_guidance_inside_it():
    tiny = sd3()
    inside = tiny.flow_map(guidance=3.0, negative=tiny.negative)
    around = steer.guidance.ClassifierFree(tiny.flow_map(), 3.0, tiny.negative)
    x = noise_for(inside)
    with torch.no_grad():
        found, expected = (m.velocity(x, 0.4, tiny.cond) for m in (inside, around))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("make", [flux, hunyuan, lcm])
def test_embedded_guidance_counts(make):
    tiny = make()
    x = noise_for(tiny.flow_map())
    with torch.no_grad():
        weak, strong = (
            tiny.flow_map(guidance=w).evaluate(x, 0.4, 1.0, tiny.cond) for w in (1.5, 6.0)
        )
    assert (weak - strong).abs().max() > 1e-4


def test_guidance_is_refused_where_it_is_baked_in():
    baked = {
        "FLUX.1": (lambda: flux(guidance_embeds=False)),
        "FLUX.2": flux2,
        "FLUX.3": flux3,
        "AnyFlow": FAMILIES["anyflow"],
    }
    for name, make in baked.items():
        line = f"{re.escape(name)} has its guidance baked in .*got guidance=2.0: leave it out"
        with pytest.raises(ValueError, match=line):
            make().flow_map(guidance=2.0)
        with pytest.raises(ValueError, match=r"guidance .*from its training"):
            steer.guidance.ClassifierFree(make().flow_map(), 2.0)
    with pytest.raises(ValueError, match="guidance is a finite weight; got inf"):
        sd3().flow_map(guidance=float("inf"))


def test_a_flux2_that_is_not_distilled_is_guided():
    tiny = flux2()
    tiny.modules["distilled"] = False
    assert tiny.flow_map(guidance=3.0, negative=tiny.cond[0]).guidance == 3.0


# --- levels -------------------------------------------------------------------------------------
def test_a_velocity_model_says_what_a_jump_is_and_costs():
    tiny = sd3()
    one, three = tiny.flow_map(), tiny.flow_map(jump_steps=3)
    x = noise_for(one)
    with torch.no_grad(), steer.counting.count() as spent:
        with pytest.warns(JumpOfSteps, match="one Euler step for each instead, 1 evaluation; to t"):
            ahead = one.lookahead(x, 0.3, tiny.cond)
        with pytest.warns(JumpOfSteps, match="3 Euler steps for each instead, 3 evaluations; for"):
            three(x, 0.3, 0.9, tiny.cond)
    assert spent.network_forward == 2 * (1 + 3)
    with torch.no_grad():
        torch.testing.assert_close(ahead, one.denoise(x, 0.3, tiny.cond), atol=1e-5, rtol=0)
    assert not one.jumps_follow_velocity
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one.velocity(x, 0.3, tiny.cond)


@pytest.mark.parametrize("name", ["flux3", "anyflow", "hunyuan"])
def test_a_flow_map_has_its_velocity_as_tangent_and_jumps_in_one_evaluation(name):
    tiny = FAMILIES[name]()
    flow_map = tiny.flow_map()
    x = noise_for(flow_map)
    with torch.no_grad(), steer.counting.count() as spent:
        jump = flow_map(x, 0.2, 0.8, tiny.cond)
    assert spent.network_forward == 2
    with torch.no_grad():
        u = flow_map.average_velocity(x, 0.2, 0.8, tiny.cond)
        torch.testing.assert_close(jump, x + 0.6 * u, atol=1e-5, rtol=0)
        v = flow_map.velocity(x, 0.2, tiny.cond)
        torch.testing.assert_close(
            flow_map.average_velocity(x, 0.2, 0.2, tiny.cond), v, atol=0, rtol=0
        )
    assert (u - v).abs().max() > 1e-3  # the second time counts
    with pytest.raises(ValueError, match=r"jumps in one evaluation; got jump_steps=2: leave it"):
        tiny.flow_map(jump_steps=2)


@pytest.mark.parametrize("name", ["sana_sprint", "lcm"])
def test_a_consistency_model_refuses_other_jumps_and_velocities(name):
    tiny = FAMILIES[name]()
    flow_map = tiny.flow_map()
    x = noise_for(flow_map)
    with pytest.raises(ValueError, match=r"t = 1, only; got t = 0.5: sample by .*renoise=True"):
        flow_map(x, 0.0, 0.5, tiny.cond)
    with pytest.raises(ValueError, match="is a consistency model: it has no velocity"):
        flow_map.denoise(x, 0.5, tiny.cond)
    with torch.no_grad():
        torch.testing.assert_close(flow_map(x, 1.0, 1.0, tiny.cond), x, atol=0, rtol=0)
        u = flow_map.average_velocity(x, 0.26, 1.0, tiny.cond)
        ahead = flow_map.lookahead(x, 0.26, tiny.cond)
    torch.testing.assert_close(x + 0.74 * u, ahead, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
def test_jumps_of_lcm_are_at_the_steps_that_the_library_takes(steps, monkeypatch):
    """The pipeline draws its noise from one generator, and so does the sampler here."""
    tiny = FAMILIES["lcm"]()
    flow_map = tiny.flow_map()
    noise = noise_for(flow_map)
    theirs, times = tiny.sample(noise, steps=steps)
    generator = torch.Generator().manual_seed(5)
    draw = lambda run, x: torch.randn(x.shape, generator=generator)  # noqa: E731
    monkeypatch.setattr(Run, "normal", draw)
    result = steer.samplers.Jump(steps, renoise=True)(flow_map, noise[:, None], cond=tiny.cond)
    torch.testing.assert_close(result.x[:, 0], theirs, atol=1e-5, rtol=0)
    assert result.trace["t"].tolist() == pytest.approx([*times[1:], 1.0])
    if steps == 3:
        assert times == pytest.approx([0.0, 0.32, 0.66])  # not 1/3 and 2/3


def test_a_jump_of_lcm_from_a_time_between_its_steps_is_refused():
    tiny = FAMILIES["lcm"]()
    flow_map = tiny.flow_map()
    x = noise_for(flow_map)
    line = r"each 20th of its 1000 steps; got t = 0.3333, between 0.32 and 0.34: take one of these"
    with torch.no_grad():
        flow_map.lookahead(x, torch.tensor([0.32, 0.98]), tiny.cond)
        with pytest.raises(ValueError, match=line) as error:
            flow_map.lookahead(x, torch.tensor([0.32, 1 / 3]), tiny.cond)
        assert "\n" not in str(error.value)
        FAMILIES["tcd"]().flow_map().lookahead(x, 1 / 3, tiny.cond)


def test_the_model_that_klein_comes_from_is_a_velocity():
    tiny = flux3()
    config = {**tiny.modules["transformer"].config, "flow_map": False}
    transformer = diffusers.Flux3Transformer2DModel.from_config(config)
    flow_map = adapters.from_modules(transformer, guidance=2.0, negative=tiny.cond[0])
    assert (flow_map.level, flow_map.guidance, flow_map.shift) == ("velocity", 2.0, 6.93)


# --- batches, lengths and precision ---------------------------------------------------------------
@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_in_parts_is_the_batch(name):
    tiny = FAMILIES[name]()
    whole, parts = tiny.flow_map(), tiny.flow_map(max_batch=1, decode_batch=1)
    x = noise_for(whole, tiny.size)
    with torch.no_grad():
        found, expected = (m.evaluate(x, 0.4, 1.0, tiny.cond) for m in (parts, whole))
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
        torch.testing.assert_close(parts.decode(x), whole.decode(x), atol=1e-5, rtol=0)


def test_prompts_of_several_lengths_are_as_each_by_itself():
    tiny = flux3()
    flow_map = tiny.flow_map()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    both = steer.Condition(prompt_embeds=tiny.cond.prompt_embeds, prompt_mask=mask)
    short = steer.Condition(prompt_embeds=tiny.cond.prompt_embeds[:1, :3])
    x = noise_for(flow_map)
    with torch.no_grad():
        found = flow_map(x, 0.2, 0.6, both)
        alone = flow_map(x[:1], 0.2, 0.6, short)
        full = flow_map(x[1:], 0.2, 0.6, tiny.cond[1])
    torch.testing.assert_close(found, torch.cat((alone, full)), atol=1e-5, rtol=0)


def test_times_and_results_are_in_float32_around_half_precision():
    tiny = sd3()
    exact = tiny.flow_map()
    x = noise_for(exact)
    with torch.no_grad():
        expected = exact.velocity(x, 0.3, tiny.cond)
    half = copy.deepcopy(tiny)
    half.modules["transformer"].to(torch.bfloat16)
    half.modules["vae"].to(torch.bfloat16)
    flow_map = half.flow_map()
    seen = {}
    flow_map.network.transformer.register_forward_pre_hook(
        lambda module, inputs, known: seen.update(known), with_kwargs=True
    )
    with torch.no_grad():
        found = flow_map.velocity(x, 0.3, tiny.cond)
        images = flow_map.decode(x)
    assert (found.dtype, images.dtype) == (torch.float32, torch.float32)
    assert seen["timestep"].dtype == torch.float32
    assert seen["hidden_states"].dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0.1)
    assert not torch.equal(found, expected)


def test_films():
    tiny = wan()
    flow_map = tiny.flow_map(height=16, width=16, frames=3)
    assert flow_map.shape == (4, 2, 8, 8)
    x = noise_for(flow_map, frames=3)
    with torch.no_grad():
        film = flow_map.decode(flow_map.denoise(x, 0.5, tiny.cond))
    assert film.shape == (2, 3, 3, 16, 16)
    with pytest.raises(ValueError, match=r"Wan makes films of 1 \+ 2 n frames; got 4: try 5|3"):
        flow_map.latent_shape(16, 16, frames=4)


def test_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="sides divide by 4; got 18 by 16"):
        sd3().flow_map().latent_shape(18, 16)
    with pytest.raises(ValueError, match="a height and a width; got 16 and None"):
        sd3().flow_map(height=16)


# --- samplers and rewards -------------------------------------------------------------------------
def test_a_shifted_grid_is_that_of_the_library():
    tiny = flux2()
    flow_map = tiny.flow_map()
    assert flow_map.shift == 3.0
    x = noise_for(flow_map)
    theirs, _ = tiny.sample(x)
    sampler = steer.samplers.shifted(steer.samplers.Jump(4), flow_map.shift)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = sampler(flow_map, x[:, None], None, tiny.cond)
    sigmas = torch.linspace(1, 0.25, 4)
    tiny.modules["scheduler"].set_timesteps(sigmas=sigmas.tolist())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for s, t in zip(sampler.times(), sampler.times()[1:], strict=False):
            x = flow_map(x, s, t, tiny.cond)
    shifted = [1 - float(sigma) for sigma in tiny.modules["scheduler"].sigmas]
    assert sampler.times() == pytest.approx(shifted, abs=1e-6)
    torch.testing.assert_close(found.x[:, 0], x, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.x[:, 0], theirs, atol=1e-5, rtol=0)
    assert steer.samplers.Jump(4).times() == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    with pytest.raises(ValueError, match="a shift is a positive number, 1 for none; got 0"):
        steer.samplers.shifted(steer.samplers.Jump(4), 0.0)


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        (
            "sd3",
            steer.samplers.TrajectoryTilting(8, lookahead=steer.lookahead.Denoiser()),
        ),
        ("flux3", steer.samplers.TrajectoryTilting(8, lookahead=steer.lookahead.MapJump())),
        ("sana_sprint", steer.samplers.NoiseOptimisation(6)),
    ],
)
def test_a_reward_of_decoded_images_is_raised_on_each_level(name, sampler):
    tiny = FAMILIES[name]()
    flow_map = tiny.flow_map(height=tiny.size, width=tiny.size)
    generator = torch.Generator().manual_seed(1)
    x0 = torch.randn(2, 4, *flow_map.shape, generator=generator)
    tilt = steer.Tilt(rewards.Decoded(rewards.Brightness(), flow_map.decode), 3000.0)
    consistent = flow_map.level == "consistency"
    base = steer.samplers.Jump(1) if consistent else steer.samplers.Ode(8)
    plain = base(flow_map, x0, tilt, tiny.cond, generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steered = sampler(flow_map, x0, tilt, tiny.cond, generator)
    assert steered.tilt.mean() > plain.tilt.mean() + plain.tilt.std() / 2


# --- prompts and folders --------------------------------------------------------------------------
def test_a_folder_is_loaded_and_its_prompts_are_encoded_as_the_library_does(tmp_path):
    pipeline = with_texts(tmp_path)
    flow_map = adapters.from_pretrained(str(tmp_path), height=16, width=16)
    assert (flow_map.shape, flow_map.shift, flow_map.level) == ((4, 8, 8), 3.0, "velocity")
    texts = ["a cat", "a dog", "a cat"]
    cond = flow_map.encode_prompts(texts)
    tokens, _, pooled, _ = pipeline.encode_prompt(
        texts, None, None, do_classifier_free_guidance=False
    )
    torch.testing.assert_close(cond.prompt_embeds, tokens, atol=1e-6, rtol=0)
    torch.testing.assert_close(cond.pooled_prompt_embeds, pooled, atol=1e-6, rtol=0)
    assert cond.texts == texts
    assert len(flow_map.network.encoded) == 2  # each text once
    x = noise_for(flow_map, count=3)
    with torch.no_grad():
        by_text, by_embedding = (flow_map.velocity(x, 0.5, c) for c in (texts, cond))
        torch.testing.assert_close(by_text, by_embedding, atol=0, rtol=0)
        guided = adapters.from_pretrained(str(tmp_path), guidance=5.0).velocity(x, 0.5, texts)
        without = flow_map.velocity(x, 0.5, None)
    torch.testing.assert_close(guided, torch.lerp(without, by_text, 5.0), atol=1e-5, rtol=0)
    images = pipeline(
        "a cat", latents=x[:1], guidance_scale=1.0, height=16, width=16, num_inference_steps=3,
        output_type="pt",
    ).images  # fmt: skip
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        z = x[:1]
        times = [1 - float(sigma) for sigma in pipeline.scheduler.sigmas]
        for s, t in zip(times, times[1:], strict=False):  # noqa: RUF007
            z = flow_map(z, s, t, ["a cat"])
        found = flow_map.decode(z).clamp(0, 1)
    torch.testing.assert_close(found, images, atol=1e-5, rtol=0)

    bare = adapters.from_pretrained(str(tmp_path), text_encoders=False, dtype="bfloat16")
    assert bare.network.dtype == torch.bfloat16
    line = "was given texts and has no text encoders; load them with it, or pass cond=steer.Condit"
    with pytest.raises(ValueError, match=line):
        bare.velocity(x, 0.5, texts)
    alone = adapters.from_pretrained(str(tmp_path / "transformer"))
    with torch.no_grad():
        torch.testing.assert_close(alone.velocity(x, 0.5, cond), by_text, atol=0, rtol=0)


def test_a_modular_pipeline_is_loaded(tmp_path):
    from diffusers.modular_pipelines.flux3 import modular_blocks_flux3_distilled as blocks

    tiny = flux3()
    pipeline = blocks.Flux3DistilledAutoBlocks().init_pipeline()
    pipeline.update_components(**tiny.modules)
    pipeline.save_pretrained(str(tmp_path))
    found = adapters.from_pretrained(str(tmp_path), height=16, width=16)
    expected = tiny.flow_map()
    assert (found.level, found.shift, found.shape) == ("two times", 6.93, (16, 4, 4))
    x = noise_for(expected)
    with torch.no_grad():
        jumps = [m.decode(m(x, 0.2, 0.7, tiny.cond)) for m in (found, expected)]
    torch.testing.assert_close(*jumps, atol=1e-6, rtol=0)


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(ValueError, match=r"holds no model_index.json, modular_model_index.json or"):
        adapters.from_pretrained(str(tmp_path))
    diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    ).save_pretrained(tmp_path / "other")  # fmt: skip
    line = r"is a UNet2DModel, which no adapter takes; did you mean 'UNet2DConditionModel'\?"
    with pytest.raises(ValueError, match=line):
        adapters.from_pretrained(str(tmp_path / "other"))
    folder = tmp_path / "broken"
    sd3().modules["transformer"].save_pretrained(folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    line = (
        r"/diffusion_pytorch_model.safetensors is missing; put it there, as by `hf download OWNER/"
    )
    with pytest.raises(ValueError, match=line):
        adapters.from_pretrained(str(folder))
    with_texts(tmp_path / "whole")
    (tmp_path / "whole" / "text_encoder" / "model.safetensors").unlink()
    line = (
        r"/text_encoder/model.safetensors is missing; .* text_encoder/model.safetensors --local-dir"
    )
    with pytest.raises(ValueError, match=line):
        adapters.from_pretrained(str(tmp_path / "whole"))
    with pytest.raises(ValueError, match=r"dtype is a precision; got 'bf16': did you mean 'bfloat"):
        adapters.from_pretrained(str(folder), dtype="bf16")


def test_a_hub_that_cannot_be_reached_is_no_model_without_files(monkeypatch):
    import huggingface_hub as hub

    def unreachable(name, file):
        raise hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(hub, "hf_hub_download", unreachable)
    line = r"owner/name cannot be loaded \(there is no such folder, and the hub cannot be reached\)"
    with pytest.raises(ValueError, match=line):
        adapters.from_pretrained("owner/name")


def test_what_cannot_be_wrapped():
    transformer = diffusers.PriorTransformer(
        num_attention_heads=1, attention_head_dim=4, num_layers=1, embedding_dim=4
    )
    with pytest.raises(ValueError, match="no adapter takes a PriorTransformer"):
        adapters.from_modules(transformer)
    with pytest.raises(ValueError, match=r"without its scheduler, a LCMScheduler or .*; got none"):
        adapters.from_modules(unet())
    with pytest.raises(ValueError, match="clips samples, which has no gradient"):
        adapters.from_modules(unet(), scheduler=diffusers.LCMScheduler(**BETAS, clip_sample=True))
    tiny = hunyuan()
    tiny.modules["transformer"].register_to_config(use_meanflow=False)
    with pytest.raises(ValueError, match=r"is no flow map .*take HunyuanImage-2.1-Distilled"):
        tiny.flow_map()
    with pytest.raises(ValueError, match=r"what encodes texts; got image_encoder"):
        adapters.from_modules(**sd3().modules, image_encoder=None)
    with pytest.raises(ValueError, match="has no decoder; pass vae="):
        adapters.from_modules(sd3().modules["transformer"]).decode(torch.zeros(1, 4, 8, 8))


def test_conditions_that_do_not_fit():
    tiny = sd3()
    flow_map = tiny.flow_map()
    x = noise_for(flow_map)
    line = r"needs pooled_prompt_embeds in its Condition of prompt_embeds; pass cond=steer.Conditio"
    with pytest.raises(ValueError, match=line):
        flow_map.velocity(x, 0.5, steer.Condition(prompt_embeds=tiny.cond.prompt_embeds))
    with pytest.raises(ValueError, match="is told texts or a Condition; got a Tensor"):
        flow_map.velocity(x, 0.5, torch.zeros(2, dtype=torch.long))


def test_an_absent_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    line = (
        r'need diffusers, which is not installed; install it with pip install "flowmap-steer\[dif'
    )
    with pytest.raises(ValueError, match=line):
        library.needed("diffusers")


def test_a_condition_of_texts_and_columns_is_encoded_by_its_texts(tmp_path):
    with_texts(tmp_path)
    flow_map = adapters.from_pretrained(str(tmp_path), height=16, width=16)
    x = noise_for(flow_map)
    cond = steer.Condition(texts=["abc", "de"], category=["one", "two"], seed=torch.tensor([3, 4]))
    with torch.no_grad():
        found, expected = (flow_map.velocity(x, 0.5, c) for c in (cond, ["abc", "de"]))
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


# --- the path of discrete steps -------------------------------------------------------------------
def test_the_path_of_a_table_goes_through_its_steps():
    abar = diffusers.LCMScheduler(**BETAS).alphas_cumprod.double()
    path = TablePath(abar)
    steps = torch.tensor([0, 1, 500, 999])
    t = 1 - (steps + 1).double() / 1000
    alpha, sigma = path(t)[:2]
    torch.testing.assert_close(alpha, abar[steps].sqrt(), atol=1e-12, rtol=0)
    torch.testing.assert_close(sigma, (1 - abar[steps]).sqrt(), atol=1e-12, rtol=0)
    torch.testing.assert_close(path.time_at(alpha, sigma), t, atol=1e-9, rtol=0)
    inside = torch.tensor([0.1234, 0.5678, 0.9], dtype=torch.float64) + 4e-4
    h = 1e-7
    up, down = path(inside + h), path(inside - h)
    at = path(inside)
    torch.testing.assert_close(at.d_alpha, (up.alpha - down.alpha) / (2 * h), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(at.d_sigma, (up.sigma - down.sigma) / (2 * h), rtol=1e-6, atol=1e-8)
    end = path(torch.ones((), dtype=torch.float64))
    assert (float(end.alpha), float(end.sigma)) == (1.0, 0.0)
    with pytest.raises(ValueError, match="alphas_cumprod is a decreasing list"):
        TablePath(abar.flip(0))


def test_kl_decoders_without_a_shift():
    tiny = tcd()
    tiny.modules["vae"] = kl_decoder(shift_factor=None)
    x = noise_for(tiny.flow_map())
    vae = tiny.modules["vae"]
    with torch.no_grad():
        expected = (vae.decode(x / 1.53).sample + 1) / 2
        torch.testing.assert_close(tiny.flow_map().decode(x), expected, atol=1e-6, rtol=0)
