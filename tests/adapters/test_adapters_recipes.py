"""`steer sample` and `steer tune` by the shipped configs, on a tiny model saved to a folder."""

import json

import diffusers
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_adapters_texts import KINDS, PARTS
from tiny import FAMILIES, with_texts

from recipes.cli import main
from steer import adapters

SMALL = [
    *("model.dtype=float32", "model.height=16", "model.width=16", "particles=2"),
    *("prompt=[a cat,a dog]", "device=cpu", "sampler.sampler.steps=2"),
]


@pytest.fixture
def folder(tmp_path):
    """Of a model with text encoders."""
    with_texts(tmp_path / "model")
    return tmp_path / "model"


def newest(tmp_path):
    return json.loads((tmp_path / "run" / "metrics.json").read_text())


def test_sample(folder, tmp_path, capsys):
    more = ["base.sampler.steps=2", "tilt.scale=2000"]
    place = [f"model.name={folder}", f"run.dir={tmp_path / 'run'}"]
    assert main(["sample", "diffusers/steer", *SMALL, *more, *place]) == 0, capsys.readouterr()
    found = newest(tmp_path)
    assert found["claim"] == "exact for the chain"  # of guidance
    assert found["reward_mean"] > found["base_reward_mean"]
    x = load_file(tmp_path / "run" / "samples.safetensors")["x"]
    assert (x.shape, x.dtype) == ((2, 2, 4, 8, 8), torch.float32)
    assert list((tmp_path / "run").glob("*.png"))


def test_tune(folder, tmp_path, capsys):
    more = ["trainer.max_steps=4", "loop.lr=0.05", "loop.objective.rollout.steps=2", "lora.rank=2"]
    place = [f"model.name={folder}", f"run.dir={tmp_path / 'run'}", "trainer.accelerator=cpu"]
    assert main(["tune", "diffusers/tune", *SMALL, *more, *place]) == 0, capsys.readouterr()
    found = newest(tmp_path)
    assert found["tuned_parameters"] < found["parameters"]
    assert found["reward_mean"] > found["base_reward_mean"]
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None
    )
    pipeline.load_lora_weights(str(tmp_path / "run" / "lora"))
    ours = adapters.load_lora(adapters.from_pretrained(str(folder)), tmp_path / "run" / "lora")
    x = torch.randn(1, 4, 8, 8)
    cond = ours.encode_prompts(["a cat"])
    with torch.no_grad():
        theirs = -pipeline.transformer(
            hidden_states=x, timestep=torch.tensor([700.0]),
            encoder_hidden_states=cond.prompt_embeds, pooled_projections=cond.pooled_prompt_embeds,
        ).sample  # fmt: skip
        torch.testing.assert_close(ours.velocity(x, 0.3, cond), theirs, atol=1e-5, rtol=0)
        plain = adapters.from_pretrained(str(folder)).velocity(x, 0.3, cond)
    assert (plain - theirs).abs().max() > 1e-4


def test_what_could_not_be_saved_is_refused_before_the_work(folder, tmp_path, capsys):
    place = [f"model.name={folder}", f"run.dir={tmp_path / 'run'}", "trainer.accelerator=cpu"]
    other = "loop.objective={_target_: steer.tuning.HyperNoise}"
    assert main(["tune", "diffusers/tune", *SMALL, *place, other]) != 0
    said = capsys.readouterr().err
    assert "NoiseTilted, which the format of real models cannot hold" in said, said
    assert not (tmp_path / "run").exists()


def saved(name, place):
    """The folder of a tiny model with its text encoder."""
    modules = dict(FAMILIES[name]().modules)
    torch.manual_seed(0)
    if name == "lcm":
        modules["unet"] = modules.pop("transformer")
        modules |= {"safety_checker": None, "feature_extractor": None}
        modules["requires_safety_checker"] = False
    KINDS[name](**modules, **PARTS[name]()).save_pretrained(place)
    return place


JUMP = "_target_: steer.samplers.Jump"
LEVELS = {  # family, sampler, the sampler of unsteered and tuned samples, how to tune
    "consistency": (
        "lcm",
        f"{{_target_: steer.samplers.BestOfN, base_sampler: {{{JUMP}, steps: 3, renoise: true}}}}",
        f"{{{JUMP}, steps: 3, renoise: true}}",
        "{_target_: steer.tuning.rollouts.Jumps, from_noise: 1.0}",
    ),
    "two times": (
        "anyflow",
        "{_target_: steer.samplers.TrajectoryTilting, steps: 2,"
        " lookahead: {_target_: steer.lookahead.MapJump}}",
        f"{{{JUMP}, steps: 2}}",
        "{_target_: steer.tuning.rollouts.Jumps, last: 2}",
    ),
}


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_goes_from_a_file_of_prompts_to_report_images_and_adapters(level, tmp_path, capsys):
    name, steered, plain, rollout = LEVELS[level]
    place = saved(name, tmp_path / "model")
    (tmp_path / "p.csv").write_text("Prompt,Category\na cat,one\na dog on the roof,two\n")
    own = [f"model.name={place}", f"prompts={tmp_path / 'p.csv'}", "prompt=null", "device=cpu"]
    own += ["model.dtype=float32", "model.height=16", "model.width=16", "particles=2"]
    sample = [*own, "images=plain", "model.guidance=null", f"sampler={steered}", f"base={plain}"]
    run = tmp_path / "sample"
    assert main(["sample", "diffusers/steer", *sample, f"run.dir={run}"]) == 0, capsys.readouterr()
    assert (run / "report.html").is_file()
    lines = (run / "samples" / "metadata.jsonl").read_text().splitlines()
    kept = 1 if level == "consistency" else 2  # BestOfN returns the best of its particles
    found = [json.loads(line)["category"] for line in lines]
    assert found == ["one"] * kept + ["two"] * kept
    with Image.open(run / json.loads(lines[-1])["file"]) as picture:
        assert picture.size == (16, 16)
    tune = [*own, f"loop.objective.rollout={rollout}", f"sampler={plain}", "lora.rank=2"]
    tune += ["trainer.max_steps=1", "trainer.accelerator=cpu", "model.recompute=false"]
    run = tmp_path / "tune"
    assert main(["tune", "diffusers/tune", *tune, f"run.dir={run}"]) == 0, capsys.readouterr()
    assert (run / "report.html").is_file()
    adapters.load_lora(adapters.from_pretrained(str(place)), run / "lora")


def test_a_model_without_a_size_is_refused(folder, tmp_path, capsys):
    place = [f"model.name={folder}", "model.height=null", "model.width=null"]
    assert main(["sample", "diffusers/steer", *SMALL[:1], *place]) != 0
    assert "how large its images are; give model.height and model.width" in capsys.readouterr().err
