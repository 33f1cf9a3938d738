"""steer verify with an objective: what passes, what fails, and what makes no claim."""

import json
from pathlib import Path

import pytest

from recipes.cli import main
from recipes.verification.tuned import Training, held, verdict
from steer.analytic.benchmarks import TUNING_WORLDS
from steer.tuning import Direct, RewardWeighted

WORDS = [
    "verify",
    "worlds/tune",
    "worlds=[line-linear]",
    "training.steps=4",
    "training.batch_size=32",
    "training.width=8",
]


def test_four_steps_do_not_reach_the_tilted_law(tmp_path, monkeypatch, capsys):
    """An objective that claims to be exact and is not given the time fails, with its figures."""
    monkeypatch.chdir(tmp_path)
    assert main([*WORDS, "run.dir=out", "--quiet"]) == 1
    assert "The claim fails in: line-linear" in capsys.readouterr().err
    metrics = json.loads(Path("out/metrics.json").read_text())
    world = metrics["worlds"]["line-linear"]
    assert metrics["verdict"] == world["verdict"] == "fail"
    assert world["base"]["40 steps"]["kl"] == pytest.approx(0.4859, abs=0.03)
    assert "| line-linear |" in Path("out/verify.md").read_text()


def test_what_makes_no_claim_is_measured_and_passes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objective = "objective._target_=steer.tuning.Direct"
    assert main([*WORDS, objective, "run.dir=out", "--quiet"]) == 0
    assert json.loads(Path("out/metrics.json").read_text())["verdict"] == "no claim"


def test_bad_input_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*WORDS[:2], "worlds=[line]"]) == 2
    assert "no world is called 'line'" in capsys.readouterr().err
    assert main([*WORDS, "objective._target_=steer.networks.Mlp"]) == 2
    assert "objective is a _target_ that builds a TuningObjective" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kl", "error", "expected"),
    [(0.019, 0.001, "pass"), (0.049, 0.0, "pass"), (0.06, 0.002, "fail"), (0.06, 0.004, "pass")],
)
def test_the_verdict_is_by_a_share_of_the_bases_divergence(kl, error, expected):
    figures = {
        "claim": "exact",
        "base": {"40 steps": {"kl": 1.0}},
        "tuned": {"40 steps": {"kl": kl, "kl_std_error": error, "folded": 0.0}},
    }
    assert verdict(figures) == expected
    figures["tuned"]["40 steps"]["folded"] = 0.01  # then the figure is below the divergence
    assert verdict(figures) == "fail"
    assert verdict({**figures, "claim": "near"}) == "no claim"


@pytest.mark.slow
def test_weighted_regression_reaches_the_tilted_law():
    """And a maximiser, as long, does not."""
    world = TUNING_WORLDS["line-quadratic"]()
    found, _ = held(RewardWeighted(), world, Training())
    assert found["verdict"] == "pass"
    assert found["tuned"]["40 steps"]["w1"] < 3 * found["w1_floor"]
    other, _ = held(Direct(), world, Training(steps=300))
    assert other["tuned"]["40 steps"]["kl"] > 0.2
