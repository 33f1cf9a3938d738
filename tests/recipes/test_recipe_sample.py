"""steer sample: what a run folder holds, and that it holds the same again."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import rewards
from recipes.setup.config import load
from recipes.setup.experiment import experiment_of

RING = [
    "sample",
    "ring/steer",
    "particles=64",
    "sampler.steps=12",
    "sampler.film=16",
    "base.steps=8",
    "model.steps=8",
]
FILES = {
    "rewards.png",
    "config.yaml",
    "metrics.json",
    "samples.safetensors",
    "grid.png",
    "filmstrip.png",
    "curves.png",
    "report.html",
}
PROMISED = {
    "method",
    "claim",
    "reward_mean",
    "reward_std_error",
    "base_reward_mean",
    "heldout_reward_mean",
    "diversity",
    "log_z",
    "ess_min",
    "resamples",
    "evaluations",
    "seconds",
    "seed",
    "versions",
}


def test_a_run_folder_holds_what_is_promised(steer):
    folder = Path(steer(*RING))
    assert {path.name for path in folder.iterdir()} == FILES
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics.keys() >= PROMISED
    assert metrics["claim"] == "exact"
    assert metrics["heldout_reward_mean"] is None
    assert metrics["reward_mean"] > metrics["base_reward_mean"]
    assert metrics["evaluations"]["network_forward"] == 2 * 12  # a velocity and a jump each step
    samples = load_file(folder / "samples.safetensors")
    assert samples["x"].shape == (1, 64, 2)
    assert samples["log_w"].shape == (1, 64)
    page = (folder / "report.html").read_text()
    assert "log Z, closed form" in page
    assert "thermodynamic length" in page
    assert metrics["path_length"] > 0
    assert "http" not in page.replace("http://www.w3.org", "")


def test_log_z_comes_near_the_closed_form(steer):
    metrics = steer.metrics(*RING, "particles=512", "sampler.steps=40")
    assert metrics["log_z"] == pytest.approx(metrics["log_z_exact"], abs=0.3)
    linear = [
        "reward._target_=rewards.Linear",
        "reward.direction=[0.5,0]",
        "reward.offset=1",
        "tilt.scale=0.5",
    ]
    metrics = steer.metrics(*RING, *linear, "particles=512", "sampler.steps=40")
    assert metrics["log_z"] == pytest.approx(metrics["log_z_exact"], abs=0.1)


def test_the_same_command_gives_the_same_figures(steer):
    def figures(*words):
        metrics = steer.metrics(*RING, *words)
        return {name: value for name, value in metrics.items() if "seconds" not in name}

    first = figures()
    assert figures() == first
    assert figures("seed=1") != first
    assert {path.name for path in Path("runs").iterdir()} == {
        "ring-steer",
        "ring-steer-2",
        "ring-steer-3",
        "index.html",
    }


@pytest.mark.parametrize("target", ["BestOfN", "Jump", "Sde"])
def test_other_samplers_by_their_name(steer, target):
    sampler = [f"sampler._target_=steer.samplers.{target}"]
    if target == "BestOfN":
        sampler += ["sampler.base_sampler._target_=steer.samplers.Jump"]
    metrics = steer.metrics(*RING[:3], *sampler)
    assert metrics["method"] == target
    assert metrics["reward_mean"] > metrics["base_reward_mean"]
    assert (metrics["diversity"] is None) == (target == "BestOfN")


@pytest.mark.slow
def test_guidances_come_before_the_sampler(steer):
    """A push to the right moves samples right, and the law is then not the model's any more: no
    closed form is claimed.
    """
    Path("push.py").write_text(
        "import torch\nfrom steer.guidance import Guidance\n"
        "class Push(Guidance):\n    def __init__(self, by):\n        self.by = by\n"
        "    def __call__(self, flow_map, x, t, cond=None, generator=None):\n"
        "        return self.by * torch.tensor([1.0, 0.0], dtype=x.dtype) + 0 * x\n"
    )
    pushes = "guidances=[{_target_: push.py:Push, by: 2.0}, {_target_: push.py:Push, by: -0.5}]"
    few = [*RING[:3], "sampler._target_=steer.samplers.Ode", "reward=null"]
    plain, pushed = (
        load_file(Path(steer(*few, *more)) / "samples.safetensors") for more in ([], [pushes])
    )
    assert (pushed["x"] - plain["x"]).mean(1)[0, 0] > 0.5
    metrics = steer.metrics(*RING, pushes)
    assert metrics["log_z_exact"] is None
    guided = [
        "guidances=[{_target_: steer.guidance.ClassifierFree, weight: 3.0}]",
        "condition.labels=[2]",
    ]
    assert steer.metrics(*RING, *guided)["evaluations"]["network_forward"] == 2 * (2 * 12)
    draws = (
        "guidances=[{_target_: steer.guidance.ValueGuidance, value: {_target_: steer.Value, tilt:"
        " {_target_: steer.Tilt,"
        " reward: {_target_: rewards.Linear, direction: [1.0, 0.0]}}, lookahead: {_target_:"
        " steer.lookahead.Glass, draws: 2}}}]"
    )
    first, again = (
        load_file(Path(steer(*few, draws)) / "samples.safetensors")["x"] for _ in range(2)
    )
    assert (first == again).all()
    assert "guidances[0] is a Guidance" in steer.fails(
        *RING, "guidances=[{_target_: steer.samplers.Ode}]"
    )


def test_a_refused_run_leaves_no_folder(steer):
    Path("box.py").write_text("def box(x):\n    return x.detach()[:, 0]\n")
    assert "has no gradient" in steer.fails(*RING, "reward=box.py:box")
    assert not list(Path("runs").glob("*"))


def test_without_a_reward(steer):
    metrics = steer.metrics("sample", "ring/base", "particles=32", "sampler.steps=4")
    assert metrics["reward_mean"] is None
    assert metrics["diversity"] > 0


def test_a_reward_of_ones_own(steer):
    Path("mine.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def up(x):\n    return x[:, 1]\n"
        "def alike(x, cond):\n    return x[:, 1]\n"
        "class Up(nn.Module):\n    def forward(self, x):\n        return x[:, 1]\n"
        "ready = Up()\n"
    )
    means = {
        steer.metrics(*RING, f"reward=mine.py:{name}")["reward_mean"]
        for name in ("up", "alike", "ready")
    }
    assert len(means) == 1
    metrics = steer.metrics(
        "sample", "ring/base", "particles=32", "sampler.steps=4", "heldout=mine.py:up"
    )
    assert metrics["heldout_reward_mean"] is not None


def test_a_scale_for_each_prompt(steer):
    steer(*RING, "prompts=2", "tilt.scale=[0,2]")
    x = load_file("runs/ring-steer/samples.safetensors")
    w = torch.softmax(x["log_w"], 1)[..., None]
    reach = ((w * x["x"]).sum(1) - torch.tensor([3.0, 2.0])).norm(dim=1)
    assert reach[0] > 2 * reach[1]


def test_images(steer, fashion):
    folder = Path(
        steer("sample", "fashion/steer", *fashion, "particles=2", "sampler.steps=2", "base.steps=1")
    )
    assert {path.name for path in folder.iterdir()} == FILES
    metrics = json.loads((folder / "metrics.json").read_text())
    assert 0 <= metrics["judge_accuracy"] <= 1
    assert metrics["heldout_reward_mean"] < 0
    assert len(metrics["log_z_of_prompts"]) == 10
    assert load_file(folder / "samples.safetensors")["x"].shape == (10, 2, 1, 28, 28)


def test_labels_by_name_and_a_model_that_is_told(steer, fashion):
    words = [*fashion, "particles=2", "sampler.steps=2", "base.steps=1", "condition.model=true"]
    steer("sample", "fashion/steer", *words, "condition.labels=[bag, 3]")
    assert load_file("runs/fashion-steer/samples.safetensors")["x"].shape == (2, 2, 1, 28, 28)
    says = steer.fails("sample", "fashion/steer", *words, "condition.labels=[bags]")
    assert "did you mean 'bag'" in says


def test_a_reward_without_a_gradient(steer, fashion):
    words = [
        "sample",
        "fashion/steer",
        *fashion[:1],
        *fashion[2:],
        "particles=2",
        "reward=rewards.JpegSize",
    ]
    says = steer.fails(*words, "sampler.steps=2")
    assert "JpegSize has no gradient" in says
    assert "BestOfN" in says
    best = [
        "sampler._target_=steer.samplers.BestOfN",
        "sampler.base_sampler._target_=steer.samplers.Jump",
    ]
    assert steer.metrics(*words, *best)["claim"] == "maximiser"


def test_steering_that_blows_up_without_an_infinity_is_told_of(steer):
    """Steps along the gradient of a bowl, at a scale that throws every step past where it came
    from.
    """
    wild = ["sampler._target_=steer.samplers.ValueGuided", "sampler.steps=4", "tilt.scale=1e4"]
    with pytest.warns(UserWarning, match=r"steered samples reach .*.*lower tilt\.scale"):
        folder = steer(
            "sample", "ring/steer", "particles=8", "base.steps=2", "model.steps=4", *wild
        )
    assert (Path(folder) / "report.html").is_file()


@pytest.mark.parametrize(
    ("broken", "on_nonfinite"), [("-math.inf", "raise"), ("math.nan", "reject")]
)
def test_hard_constraints_reach_the_report(steer, broken, on_nonfinite):
    """A wall at x_0 = 1: samples behind it have weight zero, and the unsteered mean, which is -inf,
    is null.
    """
    Path("wall.py").write_text(
        "import math\nimport torch\n\ndef wall(x):\n    return torch.where(x[:, 0] > 1, x[:, 1],"
        f" {broken})\n"
    )
    words = [
        *RING,
        "reward=wall.py:wall",
        "sampler._target_=steer.samplers.UnguidedTilting",
        f"tilt.on_nonfinite={on_nonfinite}",
    ]
    metrics = steer.metrics(*words)
    assert metrics["reward_mean"] is not None
    assert metrics["base_reward_mean"] is None
    assert metrics["log_z"] is not None
    if on_nonfinite == "reject":
        assert "wall is nan for sample" in steer.fails(*words[:-1])


def test_equal_classifiers_are_loaded_once(steer, fashion, monkeypatch):
    loaded = []
    original = rewards.load_classifier

    def counted(name_or_path):
        loaded.append(name_or_path)
        return original(name_or_path)

    monkeypatch.setattr(rewards, "load_classifier", counted)
    experiment = experiment_of(load("sample", "fashion/steer", [*fashion, "particles=2"]))
    assert loaded == ["steer.safetensors", "judge.safetensors"]
    measure = experiment.measure
    assert measure.heldout[0].reward.classifier is measure.judge
    assert measure.reward.reward.classifier is not measure.judge
    assert not any(weight.requires_grad for weight in measure.judge.parameters())
    assert measure.reward.__name__ == measure.heldout[0].__name__ == "ClassLogProbability"


def test_a_missing_classifier_is_named_by_its_key(steer, fashion):
    missing = "heldout.classifier.name_or_path=nowhere.safetensors"
    assert "heldout.classifier" in steer.fails("sample", "fashion/steer", *fashion, missing)
