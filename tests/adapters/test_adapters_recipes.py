"""`steer sample` and `steer tune` by the shipped configs, on a tiny model saved to a folder."""

import json

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from tiny import with_texts

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


def test_a_model_without_a_size_is_refused(folder, tmp_path, capsys):
    place = [f"model.name={folder}", "model.height=null", "model.width=null"]
    assert main(["sample", "diffusers/steer", *SMALL[:1], *place]) != 0
    assert "how large its images are; give model.height and model.width" in capsys.readouterr().err
