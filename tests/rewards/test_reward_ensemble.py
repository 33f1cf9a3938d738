"""The ensemble of preferences as a shipped config, run as a user would, on tiny weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import rewards
from recipes.cli import main
from recipes.reporting import image_folders

PROMPTS = ["a red boot", "a heart on a boot"]
MAP = """
import torch
from steer.flow_map import ResidualMap
from steer.interpolant import Linear

class Towards(torch.nn.Module):
    def forward(self, x, s, t, cond=None):
        return 0.5 - 0.85 * x

def make():
    return ResidualMap(Towards(), Linear())
"""
FREE = ["condition.model=false", "shape=[3,32,32]", "model._target_=my.py:make"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my.py").write_text(MAP)
    Path("p.txt").write_text("\n".join(PROMPTS))
    return tmp_path


def run(capsys, *words):
    code = main([*words, "--quiet"])
    out, err = capsys.readouterr()
    assert code == 0, err
    folder = Path(out.strip())
    return folder, json.loads((folder / "metrics.json").read_text())


def test_as_shipped_it_says_what_is_missing(here, capsys):
    assert main(["sample", "preference/steer"]) == 2
    assert "no map is called 'my-text-to-image-map'" in capsys.readouterr().err
    assert main(["sample", "preference/steer", *FREE, "reward=rewards.Brightness"]) == 2
    assert "prompts=my-prompts.txt: there is no such file" in capsys.readouterr().err


def test_the_four_rewards_are_weighted_as_published(
    here, capsys, tiny_clip, hugging_clip, small_blip
):
    _, blip, vocabulary = small_blip
    tiny = [
        f"reward.rewards.hps.weights={tiny_clip[1]}",
        "reward.rewards.hps.model=tiny-clip",
        f"reward.rewards.pick_score.weights={hugging_clip[1]}",
        "reward.rewards.pick_score.model=tiny-clip",
        f"reward.rewards.image_reward.weights={blip}",
        f"reward.rewards.image_reward.tokenizer={vocabulary}",
        "reward.rewards.clip.model=tiny-clip",
        f"reward.rewards.clip.pretrained={tiny_clip[1]}",
    ]
    small = ["prompts=p.txt", "particles=3", "sampler.steps=3"]
    folder, metrics = run(capsys, "sample", "preference/steer", *FREE, *small, *tiny)
    x = load_file(folder / "samples.safetensors")["x"].flatten(0, 1)
    cond = [prompt for prompt in PROMPTS for _ in range(3)]
    expected = (
        5 * rewards.HpsV2(tiny_clip[1], "tiny-clip")(x, cond)
        + rewards.ImageReward(blip, vocabulary)(x, cond)
        + 0.05 * rewards.PickScore(hugging_clip[1], "tiny-clip")(x, cond)
        + 0.01 * 100 * rewards.ClipScore(*tiny_clip)(x, cond)
    )
    assert metrics["reward_mean"] == pytest.approx(float(expected.mean()), rel=1e-4)
    assert metrics["reward_mean"] > metrics["base_reward_mean"]
    assert list(metrics["price"]) == ["Sum", "HpsV2", "ImageReward", "PickScore", "ClipScore"]
    samples = {each["samples"] for each in metrics["price"].values()}
    assert samples == {6 * (3 + 1) + 2 * 6}  # four ends of six particles, and two measurements
    parts = {name: s for name, s in metrics["price_seconds"].items() if name != "Sum"}
    assert 0 < sum(parts.values()) < metrics["price_seconds"]["Sum"]
    assert "PickScore" in (folder / "report.html").read_text()


# --- folders of pictures ------------------------------------------------------------------------
SAMPLE = ["sample", "preference/steer", *FREE, "particles=3", "reward=rewards.Brightness"]


def test_a_plain_folder_has_each_picture_and_a_line_for_it(here, capsys):
    line = '{"prompt": "a boot", "tag": "x", "weight": 2, "include": [{"class": "boot"}]}\n'
    Path("p.jsonl").write_text(line + line.replace("a boot", "a hat"))
    words = [*SAMPLE, "prompts=p.jsonl", "sampler._target_=steer.samplers.Jump"]
    folder, _ = run(capsys, *words)
    lines = [json.loads(each) for each in (folder / "samples/metadata.jsonl").open()]
    assert len(lines) == 6
    assert lines[4] == {
        "file": "samples/00001/00001.png",
        "tag": "x",
        "weight": 2,
        "include": [{"class": "boot"}],
        "prompt": "a hat",
        "index": 1,
        "seed": 0,
    }
    x = load_file(folder / "samples.safetensors")["x"]
    shown = (x.clamp(0, 1) * 255).round().byte()
    for k in range(2):
        found = [picture(folder / each["file"]) for each in lines[3 * k : 3 * k + 3]]
        assert sorted(map(tuple, found)) == sorted(tuple(p.flatten().tolist()) for p in shown[k])


def picture(path):
    """The pixels of a picture, channels first."""
    with Image.open(path) as image:
        return np.asarray(image).transpose(2, 0, 1).flatten().tolist()


def test_genevals_evaluation_finds_its_folders(here, capsys):
    lines = [
        {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a bench"},
        {"tag": "two_object", "include": [{"class": "cup", "count": 1}], "prompt": "a cup"},
    ]
    Path("p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = [*SAMPLE, "prompts=p.jsonl", "sampler._target_=steer.samplers.Jump", "images=geneval"]
    folder, _ = run(capsys, *words)
    places = sorted((folder / "samples").iterdir())
    assert [place.name for place in places] == ["00000", "00001"]
    for place, line in zip(places, lines, strict=True):
        assert json.loads((place / "metadata.jsonl").read_text()) == line
        names = sorted(path.name for path in (place / "samples").iterdir())
        assert names == ["00000.png", "00001.png", "00002.png"]


def test_pictures_are_drawn_by_their_weights(tmp_path):
    from recipes.reporting.figures import Gallery
    from steer.samplers import Result

    x = torch.linspace(0, 1, 4).view(1, 4, 1, 1, 1).expand(1, 4, 1, 5, 5)
    result = Result(x, torch.tensor([[0.25, 0.75, 1e-9, 1e-9]]).log().double(), None)
    gallery = Gallery(tmp_path, (1, 5, 5), None, ["a"])
    image_folders.write(gallery, result, [{"prompt": "a"}], 0, "plain", range(1))
    values = sorted(np.asarray(Image.open(p)).mean() for p in tmp_path.glob("samples/00000/*.png"))
    assert values == [0, 85, 85, 85]


def test_points_are_refused_before_the_work(here, capsys):
    assert main(["sample", "ring/steer", "images=plain"]) == 2
    assert "images=plain: samples of shape (2,) are no pictures" in capsys.readouterr().err
    assert not Path("runs").exists()
