"""Guards: rewards that look at batch mates, log Z of exact claims alone, judges of another reward,
held-out rewards that fall while the reward rises.
"""

import json
from pathlib import Path

import pytest
import torch

import rewards
from recipes.cli import main
from recipes.evaluation.collapse import signs_of_steering
from recipes.evaluation.metrics import of_population
from recipes.setup import config
from recipes.setup.dry_run import refuse_batch_mates
from steer.samplers import Result

RING = ["sample", "ring/steer", "particles=16", "sampler.steps=2", "base.steps=2", "model.steps=2"]
REWARDS = """
import torch

def centred(x): return x[:, 0] - x[:, 0].mean()
def ranked(x): return x[:, 0].argsort().argsort().double()
def shared(x): return x[:, 0] / len(x)
def own(x): return 100 + x[:, 0]
def rounded(x): return 100 + x[:, 0] + 1e-4 * len(x)
def random(x): return torch.randn(len(x))
def walled(x): return torch.where(x[:, 0] > x[:, 0].mean() - 1e-9, 1.0, -torch.inf)
"""


@pytest.fixture
def mine(steer, tmp_path):
    (tmp_path / "mine.py").write_text(REWARDS)
    return steer


@pytest.mark.parametrize("name", ["centred", "ranked", "shared", "walled"])
@pytest.mark.parametrize("key", ["reward", "heldout"])
def test_a_reward_that_looks_at_batch_mates_is_named(mine, name, key, tmp_path):
    said = mine.fails(*RING, f"{key}=mine.py:{name}")
    assert said.startswith(f"{key}: the reward {name} looks at batch mates: ")
    assert " in a batch of 2; let each depend on its own sample alone" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["own", "rounded", "random"])
def test_other_rewards_pass(mine, name):
    folder = Path(mine(*RING, f"heldout=mine.py:{name}"))
    assert json.loads((folder / "metrics.json").read_text())["heldout_rewards"] == [name]


def pictures(seed):
    """A bright one and a dark one."""
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    return x * torch.tensor([1.0, 0.4]).reshape(2, 1, 1, 1)


@torch.no_grad()
def is_refused(reward, x):
    try:
        refuse_batch_mates("it", reward, x, None)
    except ValueError as error:
        return "looks at batch mates" in str(error)
    return False


def brightness(x):
    return x.flatten(1).mean(1)


@pytest.mark.parametrize("share", [0.5, 1e-2, 1e-3, 3e-4])
def test_a_reward_that_mixes_in_its_mates_is_refused_however_little(share):
    """In float32, whose rounding is about 1e-7."""

    def mixing(x):
        return (1 - share) * brightness(x) + share * brightness(x).mean()

    assert all(is_refused(mixing, pictures(seed)) for seed in range(20))


def test_batch_statistics_are_refused_and_running_ones_are_not():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(1)
    )
    reward = torch.nn.Sequential(network, torch.nn.Linear(4 * 26 * 26, 1), torch.nn.Flatten(0))
    assert all(is_refused(reward.train(), pictures(seed)) for seed in range(10))
    assert not any(is_refused(reward.eval(), pictures(seed)) for seed in range(10))
    half = reward.to(torch.bfloat16)
    assert not any(is_refused(half, pictures(seed).bfloat16()) for seed in range(10))


JUDGES = {
    "normal": lambda x: torch.randn(len(x)),
    "near": lambda x: 7 + 1e-3 * torch.randn(len(x)),
    "coin": lambda x: torch.randint(2, (len(x),)).float(),
    "seldom": lambda x: torch.where(torch.rand(len(x)) < 0.05, 8.0, 7.0),
    "rating": lambda x: torch.randint(6, 10, (len(x),)).double(),
    "noisy": lambda x: brightness(x) + 0.01 * torch.randn(len(x)),
    "walled": lambda x: torch.where(torch.rand(len(x)) < 0.2, -torch.inf, 1.0),
}


@pytest.mark.parametrize("name", JUDGES)
def test_a_random_judge_is_never_refused(name):
    torch.manual_seed(0)
    x = pictures(0)
    assert not any(is_refused(JUDGES[name], x) for _ in range(300))


def test_shipped_classifiers_and_functions_of_a_sample_alone_pass():
    reward = rewards.ClassLogProbability(rewards.load_classifier("fashion-residual"), target=3)
    assert not any(is_refused(reward, pictures(seed)) for seed in range(5))
    assert not any(is_refused(rewards.JpegSize(), pictures(seed)) for seed in range(5))
    assert not is_refused(brightness, pictures(0)[:1])


@pytest.mark.parametrize(
    ("claim", "known"),
    [("exact", True), ("exact for the chain", True), ("biased", False), ("maximiser", False)],
)
def test_only_exact_claims_have_a_log_z(claim, known):
    log_w = torch.zeros(1, 4, dtype=torch.float64)
    result = Result(torch.zeros(1, 4, 2), log_w, torch.tensor([1.5]), claim=claim)
    assert (of_population(result)["log_z"] == 1.5) == known
    assert ("log Z" in repr(result)) == known


def test_a_biased_method_of_ones_own_prints_no_log_z(steer, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from steer.samplers import Ode\n\nclass Mine(Ode):\n    claim = 'biased'\n"
    )
    few = ["particles=16", "base.steps=2", "model.steps=2"]
    folder = Path(steer(*RING[:2], *few, "sampler=mine.py:Mine", "sampler.steps=2"))
    assert json.loads((folder / "metrics.json").read_text())["log_z"] is None
    assert "log Z" not in (folder / "report.html").read_text()


@pytest.mark.parametrize("command", ["sample", "tune"])
def test_another_reward_drops_the_judges_of_the_old_one_and_says_so(command):
    name = {"sample": "fashion/steer", "tune": "fashion/tune"}[command]
    with pytest.warns(UserWarning, match=f"another reward than that of {name}: heldout, judge"):
        found = config.load(command, name, ["reward=rewards.Brightness"])
    assert found.heldout is None
    assert found.judge is None
    if command == "tune":  # the reference keeps the judge that it refers to
        assert found.reference.judge == config.load(command, name).judge


def test_a_judge_that_is_given_stays(recwarn):
    given = ["reward=rewards.Brightness", "heldout=rewards.Symmetry", "judge.name_or_path=mine"]
    found = config.load("sample", "fashion/steer", given)
    assert found.heldout == "rewards.Symmetry"
    assert found.judge.name_or_path == "mine"
    same = ["reward.classifier.name_or_path=other", "tilt.scale=3"]
    assert config.load("sample", "fashion/steer", same).judge is not None
    assert not [w for w in recwarn if "another reward" in str(w.message)]


def test_a_stop_by_a_dropped_figure_is_dropped(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: fashion/tune\nstop: {by: heldout_reward_mean}\n")
    with pytest.warns(UserWarning, match=r"judge, stop\.by=heldout_reward_mean of it left out"):
        loaded = config.load("tune", str(mine), ["reward=rewards.Brightness"])
    assert loaded.stop.by is None
    assert loaded.stop.patience == 3


def test_a_heldout_reward_that_falls_is_a_warning_everywhere(mine, tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def up(x): return x[:, 0]\ndef down(x): return -x[:, 0]\n")
    pair = ["reward=mine.py:up", "heldout=mine.py:down", "tilt.scale=2", "particles=256"]
    assert main([*RING[:2], *RING[3:], *pair, "--quiet"]) == 0
    out, err = capsys.readouterr()
    folder = Path(out.strip())
    assert "warning: the held-out reward fell from " in err
    assert len(json.loads((folder / "metrics.json").read_text())["warnings"]) == 1
    report = (folder / "report.html").read_text()
    assert 0 < report.index("the held-out reward fell") < report.index("<figure")


def figures(reward, heldout, error=0.1):
    return {
        "reward_mean": reward,
        "heldout_reward_mean": heldout,
        "heldout_reward_std_error": error,
    }


def test_chance_and_agreement_are_no_warning():
    even = torch.zeros(3, 4)
    assert signs_of_steering(figures(0, 0), figures(1, -1), even)
    assert not signs_of_steering(figures(0, 0), figures(1, -0.4), even)  # three errors are .42
    assert not signs_of_steering(figures(0, 0), figures(-1, -1), even)
    one_particle = {**figures(1, 2), "heldout_reward_std_error": torch.nan}
    assert not signs_of_steering(figures(0, 0), one_particle, even)
    assert not signs_of_steering(figures(0, torch.nan), figures(1, torch.nan), even)


def test_weights_on_one_particle_are_told():
    alone = torch.zeros(3, 4)
    alone[1, 0] = 20.0
    (sign,) = signs_of_steering(figures(0, 0), figures(0, 0), alone)
    assert sign.startswith("in 1 of 3 prompts one particle bears nearly all the weight")
    assert "below 1.5 of 4" in sign
    assert not signs_of_steering(figures(0, 0), figures(0, 0), torch.zeros(3, 1))
