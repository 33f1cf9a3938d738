"""steer sample in parts of the prompts: the numbers of all at once, and what is kept of a run that
was stopped.
"""

import json
from pathlib import Path

import pytest
import torch
from run_folders import contents, differing
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from recipes.cli import main
from recipes.reporting import image_folders
from recipes.setup.config import load
from recipes.setup.experiment import Experiment, experiment_of
from recipes.setup.noise import Noise
from recipes.setup.parts import Parts
from steer.data.stream import keyed_generator
from steer.tilt import NonFiniteReward

RING = [
    "sample",
    "ring/steer",
    "prompts=5",
    "particles=6",
    "sampler.steps=4",
    "sampler.film=2",
    "base.steps=2",
    "model.steps=2",
    "tilt.scale=[0,1,2,3,4]",
]
PICTURES = ["particles=3", "sampler.steps=2", "base.steps=1", "images=plain"]


@pytest.fixture
def clothed(fashion):
    """Ten prompts of pictures, sampled on tiny networks."""
    return ["sample", "fashion/steer", *fashion, *PICTURES]


def stop_after(monkeypatch, place, name, calls):
    """Makes the call after so many of them be interrupted."""
    original = getattr(place, name)
    done = []

    def counted(*arguments, **named):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(arguments)
        return original(*arguments, **named)

    monkeypatch.setattr(place, name, counted)


def close(one, other):
    """Equal but for the rounding of other batch sizes."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            close(one[key], other[key])
    elif isinstance(one, list):
        for first, second in zip(one, other, strict=True):
            close(first, second)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    else:
        assert one == other


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_parts_have_the_numbers_of_the_whole(steer, at_once):
    """Log weights, log Z, metrics and evaluations, with a scale for each prompt; only the calls of
    the reward are other ones.
    """
    whole = Path(steer(*RING))
    parts = Path(steer(*RING, f"prompts_at_once={at_once}"))
    one, other = (load_file(each / "samples.safetensors") for each in (whole, parts))
    for name in ("x", "log_w"):
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)
    first, second = (contents(each)["metrics.json"] for each in (whole, parts))
    calls = [metrics["price"].pop("Quadratic") for metrics in (first, second)]
    assert calls[0]["samples"] == calls[1]["samples"]
    assert calls[0]["calls"] * (5 // at_once) <= calls[1]["calls"]
    close(first, second)
    assert len(first["log_z_of_prompts"]) == 5
    assert not (parts / "parts").exists()
    assert (whole / "grid.png").read_bytes() != b""


def test_pictures_of_parts_are_those_of_the_whole(steer, clothed):
    whole, parts = Path(steer(*clothed)), Path(steer(*clothed, "prompts_at_once=4"))
    assert contents(whole).keys() == contents(parts).keys()
    index = "samples/metadata.jsonl"
    lines = [json.loads(line) for line in (parts / index).read_text().splitlines()]
    assert (whole / index).read_text() == (parts / index).read_text()
    assert [line["file"] for line in lines] == [
        f"samples/{k:05}/{n:05}.png" for k in range(10) for n in range(3)
    ]
    assert all((parts / line["file"]).is_file() for line in lines)


def test_more_prompts_than_there_are_rows_of_pictures(steer, clothed):
    """The page shows twelve; metrics and samples have all."""
    folder = Path(steer(*clothed, f"condition.labels={[0] * 14}", "prompts_at_once=5"))
    assert "a row for each of the first 12 prompts" in (folder / "report.html").read_text()
    assert load_file(folder / "samples.safetensors")["x"].shape[:2] == (14, 3)
    assert len(contents(folder)["metrics.json"]["log_z_of_prompts"]) == 14
    assert (folder / "samples" / "00013" / "00002.png").is_file()


@pytest.mark.parametrize(
    ("place", "name", "calls"),
    [
        (Experiment, "draw", 0),
        (Experiment, "draw", 4),  # in the third part
        (Experiment, "measured", 5),
        (image_folders, "save", 17),  # with half of the pictures of the second part written
        (Parts, "keep", 2),
        (Parts, "join", 0),
        (image_folders, "write_index", 0),
        (Parts, "drop", 0),
    ],
)
def test_a_run_that_was_stopped_anywhere_goes_on_to_the_same_folder(
    steer, clothed, monkeypatch, place, name, calls
):
    words = [*clothed, "prompts_at_once=4"]
    whole = steer(*words, "run.dir=whole")
    words.append("run.dir=stopped")
    with monkeypatch.context() as patch:
        stop_after(patch, place, name, calls)
        assert main([*words, "--quiet"]) == 130
        steer.capsys.readouterr()
    drawn = []
    original = Experiment.draw

    def noted(self, sampler, tilt, key, flow_map=None, prompts=None):
        drawn.append((key, prompts.start))
        return original(self, sampler, tilt, key, flow_map, prompts)

    monkeypatch.setattr(Experiment, "draw", noted)
    kept = {int(path.stem) for path in Path("stopped/parts").glob("*.safetensors")}
    assert steer(*words, "run.resume=true") == "stopped"
    assert {start for _, start in drawn} == {0, 4, 8} - kept
    assert differing(whole, "stopped") == []


def test_guidances_that_draw_go_on_to_the_same_samples(steer, monkeypatch):
    draws = (
        "guidances=[{_target_: steer.guidance.ValueGuidance, value: {_target_: steer.Value, tilt:"
        " {_target_: steer.Tilt,"
        " reward: {_target_: rewards.Linear, direction: [1.0, 0.0]}}, lookahead: {_target_:"
        " steer.lookahead.Glass, draws: 2}}}]"
    )
    words = ["sample", "ring/steer", "prompts=3", "particles=4", "reward=null", draws]
    words += ["sampler._target_=steer.samplers.Ode", "sampler.steps=3", "prompts_at_once=1"]
    whole = steer(*words, "run.dir=whole")
    with monkeypatch.context() as patch:
        stop_after(patch, Parts, "keep", 2)
        assert main([*words, "run.dir=stopped", "--quiet"]) == 130
        steer.capsys.readouterr()
    steer(*words, "run.dir=stopped", "run.resume=true")
    assert differing(whole, "stopped") == []


def test_a_finished_run_is_left_as_it_is(steer, monkeypatch):
    folder = steer(*RING)
    before = contents(folder), (Path(folder) / "report.html").read_bytes()
    monkeypatch.setattr(Experiment, "draw", None)
    assert steer(*RING, "run.resume=true") == folder
    assert (contents(folder), (Path(folder) / "report.html").read_bytes()) == before


def test_other_parts_are_refused_on_resuming(steer, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, Parts, "keep", 1)
        assert main([*RING, "prompts_at_once=2"]) == 130
    err = steer.capsys.readouterr().err
    assert "to resume from its last finished part" in err
    assert "run.resume=true" in err
    says = steer.fails(*RING, "prompts_at_once=3", "run.resume=true")
    assert "prompts_at_once (2 before, 3 now)" in says


def test_a_broken_reward_names_the_sample_among_all(steer):
    experiment = experiment_of(load("sample", "ring/steer", RING[2:]))

    def broken(*inputs):
        raise NonFiniteReward("it is nan", 1, 0.5)

    with pytest.raises(NonFiniteReward, match=r"it is nan for sample 19 at t = 0\.5"):
        experiment.draw(broken, None, "steered", prompts=range(3, 5))  # of six particles each


# --- noise and files ----------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(5, 2, 8), (5, 4, 4, 8, 8), (5, 3, 2), (5, 1, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_in_parts_is_that_of_the_whole(shape, dtype):
    whole = torch.randn(shape, generator=keyed_generator("x0", 3), dtype=dtype)
    noise = Noise(3, shape, dtype, "cpu")
    for part in (range(2, 4), range(4, 5), range(0, 2), range(0, 5), range(3, 5)):
        assert torch.equal(noise.part(part), whole[part.start : part.stop])


def test_joined_parts_are_the_file_of_the_whole(tmp_path):
    """To the byte, as the library writes it; and each part is there whole or not at all."""
    whole = {
        "x": torch.randn(5, 2, 3, dtype=torch.float32),
        "log_w": torch.randn(5, 2, dtype=torch.float64),
    }
    save_file(whole, tmp_path / "whole.safetensors")
    parts = Parts(tmp_path, 5, 2)
    assert parts.all == parts.left("metrics.json") == [range(0, 2), range(2, 4), range(4, 5)]
    for part in parts.all:
        rows = {name: value[part.start : part.stop] for name, value in whole.items()}
        parts.keep(part, rows, {"first": part.start})
    assert parts.left("metrics.json") == []
    parts.join({"log_w": "log_w", "x": "x"}, tmp_path / "joined.safetensors")
    assert (tmp_path / "joined.safetensors").read_bytes() == (
        tmp_path / "whole.safetensors"
    ).read_bytes()
    assert [part["first"] for part in parts.figures()] == [0, 2, 4]
    assert torch.equal(parts.first("x", 3), whole["x"][:3])
    with safe_open(parts.path(range(4, 5)), "pt") as file:
        assert file.get_slice("x").get_shape() == [1, 2, 3]
