"""steer tune: held-out lists, early stop, pictures on the way, warnings, maps in noise space."""

import csv
import json
from pathlib import Path

import pytest
import torch
from test_recipe_train import TUNE, equal, weights

from recipes.evaluation import collapse
from steer import load
from steer.maps import NoiseTilted
from steer.samplers import Jump, Ode, Sde

SAMPLE = """
model: runs/tune
particles: 500
reward: {_target_: rewards.Linear, direction: [1.0, 1.0]}
sampler: {_target_: steer.samplers.Jump, steps: 2}
base: {_target_: steer.samplers.Jump, steps: 2}
"""
MINE = """
def fading(x):
    return -(x[:, 0] - 0.3).abs()
"""


def test_held_out_rewards_are_a_list(steer, plane):
    config = TUNE.replace(
        "heldout: {_target_: rewards.Linear, direction: [1.0, 0.0]}",
        "heldout:\n- {_target_: rewards.Linear, direction: [1.0, 0.0]}\n"
        "- {_target_: rewards.Linear, direction: [0.0, 2.0]}",
    )
    Path("tune.yaml").write_text(config)
    folder = Path(steer("tune", "tune.yaml"))
    metrics = json.loads((folder / "metrics.json").read_text())
    first, second = metrics["heldout_reward_mean"], metrics["heldout_reward_2_mean"]
    assert metrics["reward_mean"] == pytest.approx(first + second / 2, rel=1e-5)
    assert "watch/heldout_reward_2_mean" in (folder / "log.csv").read_text()
    assert "held-out reward 2" in (folder / "report.html").read_text()
    assert (folder / "watch" / "step_000020" / "grid.png").is_file()
    wrong = steer.fails("tune", "tune.yaml", "heldout=[rewards.Linear]")
    assert "heldout" in wrong


def test_an_early_stop_keeps_the_best_weights(steer, plane):
    """A held-out reward that peaks and falls: the run ends early, warns without the stop, and the
    weights are those of the peak.
    """
    Path("mine.py").write_text(MINE)
    Path("tune.yaml").write_text(TUNE)
    words = ["tune", "tune.yaml", "heldout=mine.py:fading", "particles=200", "watch_every=1"]
    words += ["trainer.max_steps=15", "loop.lr=0.1"]
    whole = Path(steer(*words))
    metrics = json.loads((whole / "metrics.json").read_text())
    assert "the held-out reward fell from" in metrics["warnings"][0]
    assert "Warning:" in (whole / "report.html").read_text()
    course = watched(whole, "heldout_reward_mean")
    peak = 1 + max(range(len(course)), key=course.__getitem__)
    assert peak < 15 - 3

    stop = ["stop.by=heldout_reward_mean", "stop.patience=3"]
    stopped = Path(steer(*words, *stop))
    metrics = json.loads((stopped / "metrics.json").read_text())
    assert metrics["steps"] < 15
    assert metrics["kept_step"] <= peak
    assert metrics["warnings"] == []
    again = Path(steer(*words[:-2], "loop.lr=0.1", f"trainer.max_steps={metrics['kept_step']}"))
    assert equal(weights(stopped), weights(again))
    over = steer.metrics(*words, *stop, "run.resume=true", f"run.dir={stopped}")
    assert over["steps"] == metrics["steps"]
    assert over["evaluations"] == metrics["evaluations"]
    assert equal(weights(stopped), weights(again))
    problem = steer.fails(*words, "stop.by=heldout")
    assert (
        "stop.by is a figure of the samples, one of reward_mean, diversity, heldout_reward_mean;"
        in problem
    )


def watched(folder, name):
    """The course of a figure."""
    with (folder / "log.csv").open() as file:
        return [float(row[2]) for row in csv.reader(file) if row[1] == f"watch/{name}"]


@pytest.mark.parametrize("lora", [False, True])
def test_a_map_tuned_by_transport_knows_that_noise_changes_its_law(steer, plane, lora):
    """Its velocity is no interpolant's: a noisy sampler is not exact with it, saved or not."""
    Path("tune.yaml").write_text(TUNE)
    words = ["lora._target_=steer.tuning.add_lora", "lora.rank=2"] if lora else []
    steer("tune", "tune.yaml", "loop.objective._target_=steer.tuning.WassersteinTilt", *words)
    steer("tune", "tune.yaml", *words)
    transported, ascended = load("runs/tune"), load("runs/tune-2")
    assert Sde(4).claim_on(transported) == "exact for the chain"
    assert Sde(4).claim_on(ascended) == "exact"
    assert Ode(4).claim_on(transported) == "exact"


def test_what_counts_as_a_collapse():
    def look(step, reward, heldout, frechet):
        return {
            "step": step,
            "reward_mean": reward,
            "heldout_reward_mean": heldout,
            "heldout_reward_std_error": 0.1,
            "frechet_distance": frechet,
        }

    fine = [look(0, 0.0, 0.0, 9.0), look(10, 1.0, 1.0, 1.0), look(20, 1.5, 0.8, 1.4)]
    assert collapse.signs(fine) == []
    hacked = [*fine[:2], look(20, 3.0, 0.4, 1.6)]
    fell, away = collapse.signs(hacked)
    assert "fell from 1 at step 10 to 0.4" in fell
    assert "rose from 1 at step 10 to 1.6" in away
    assert collapse.signs(fine, 0.3) == []
    assert "that of real ones 0.2" in collapse.signs(fine, 0.2)[0]
    given_up = [*fine[:2], look(20, 0.5, 0.4, 1.0)]  # the tuned reward fell too
    assert collapse.signs(given_up) == []
    assert collapse.signs([{**look(0, 0, 0, 0), "heldout_reward_mean": float("nan")}]) == []


@pytest.mark.parametrize("name", ["NoiseTilt", "HyperNoise"])
def test_a_map_tuned_in_noise_space_is_drawn_by_every_sampler(steer, plane, name):
    Path("tune.yaml").write_text(TUNE)
    objective = f"loop.objective._target_=steer.tuning.{name}"
    metrics = steer.metrics("tune", "tune.yaml", objective)
    assert metrics["reward_mean"] > metrics["base_reward_mean"] + 0.1
    tuned, base = load("runs/tune"), load(plane)
    assert isinstance(tuned, NoiseTilted)
    x0 = torch.randn(1, 64, 2, generator=torch.Generator().manual_seed(0))
    for sampler in (Jump(1), Jump(3), Ode(4)):
        change = sampler(tuned, x0).x.sum(2) - sampler(base, x0).x.sum(2)
        assert change.mean() > 0.05
    Path("sample.yaml").write_text(SAMPLE)
    drawn = steer.metrics("sample", "sample.yaml")
    assert drawn["base_reward_mean"] == pytest.approx(metrics["reward_mean"], abs=0.3)


def test_where_tuning_only_harms_the_base_is_kept(steer, plane):
    """The figures before the first step count too."""
    Path("tune.yaml").write_text(TUNE)
    against = ["heldout._target_=rewards.Linear", "heldout.direction=[-1.0,-1.0]"]
    stop = ["stop.by=heldout_reward_mean", "stop.patience=2", "watch_every=2"]
    metrics = steer.metrics("tune", "tune.yaml", *against, *stop)
    assert metrics["kept_step"] == 0
    assert metrics["steps"] == 4
    assert metrics["reward_mean"] == pytest.approx(metrics["base_reward_mean"], abs=1e-6)
