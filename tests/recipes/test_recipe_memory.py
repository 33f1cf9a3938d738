"""Memory that runs out ends in one line that names the keys that would need less."""

import pytest
import torch
from test_recipe_parts import RING

from recipes.setup.config import load
from recipes.setup.memory import advice, ran_out

GPU = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of"
    " which 1.12 GiB is free."
)


def full(*_, **__):
    raise torch.OutOfMemoryError(GPU)


@pytest.mark.parametrize(
    ("place", "doing"),
    [
        ("steer.samplers.TrajectoryTilting.step", "drawing steered, prompts 3 to 4 of 5"),
        ("recipes.evaluation.metrics.Measure.mean", "measuring steered, prompts 3 to 4 of 5"),
    ],
)
def test_sampling(steer, monkeypatch, place, doing):
    """In the second part, of which nothing is kept; the first is, and said to be."""
    from recipes.setup.experiment import Experiment

    original = Experiment.draw

    def draw(self, *arguments, prompts):
        if prompts.start == 2:
            monkeypatch.setattr(place, full)
        return original(self, *arguments, prompts=prompts)

    monkeypatch.setattr(Experiment, "draw", draw)
    says = steer.fails(*RING, "prompts_at_once=2", "sampler.max_batch=4", "--quiet")
    assert says.startswith(f"not enough memory (of 2.00 GiB asked for) while {doing}: lower ")
    assert "sampler.max_batch (4), prompts_at_once (2), particles (6)" in says
    assert says.endswith("run.resume=true goes on from the prompts that are finished")


def test_a_first_part_has_nothing_to_go_on_from(steer, monkeypatch):
    monkeypatch.setattr("steer.samplers.TrajectoryTilting.step", full)
    says = steer.fails(*RING)
    assert says.startswith("not enough memory (of 2.00 GiB asked for) while drawing steered: lower")
    assert "resume" not in says


def test_a_model_that_is_too_large_for_one_sample_is_no_misfit(steer, monkeypatch):
    monkeypatch.setattr("steer.analytic.GaussianMixture.lookahead", full)
    assert steer.fails(*RING).startswith("not enough memory (lower particles, prompts, max_batch")


def test_the_keys_of_a_real_model_are_named():
    settings = ["model.dtype=float32", "model.recompute=false", "model.decode_batch=2"]
    said = advice(load("sample", "diffusers/steer", settings))
    assert said == (
        "lower sampler.sampler.max_batch (4), base.sampler.max_batch (4), model.max_batch (4),"
        " model.decode_batch (2), prompts_at_once (16), particles (4), or set model.dtype=bfloat16,"
        " model.recompute=true"
    )
    least = ["model.max_batch=1", "sampler.sampler.max_batch=1", "base.sampler.max_batch=1"]
    said = advice(load("sample", "diffusers/steer", [*least, "prompts_at_once=1"]))
    assert said == "lower particles (4)"


def test_errors_of_memory_are_told_from_others():
    assert ran_out(torch.OutOfMemoryError(GPU))
    assert ran_out(MemoryError())
    assert ran_out(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not ran_out(ValueError("out of memory"))
