"""Shipped configs with one wrong value: each ends well, or in one line that names the key, and
never in a traceback.
"""

import pytest
from clothing import leave
from mutants import KINDS, NOT_FINITE, Laboratory, Mutant


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("laboratory")
    leave(folder / "clothes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield Laboratory(folder, "clothes", patch.setattr)


def faults(laboratory, mutants):
    outcomes = [laboratory.run(mutant) for mutant in mutants]
    return [
        f"{one.mutant}: {one.fault}: {one.said[-300:]}{one.where[-600:]}"
        for one in outcomes
        if one.fault
    ]


def test_a_hundred_mutants(laboratory):
    assert faults(laboratory, laboratory.drawn(100, seed=0)) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_a_thousand_mutants(laboratory, seed):
    assert faults(laboratory, laboratory.drawn(100, seed)) == []


def test_the_configs_themselves_are_sound(laboratory):
    """What is run is not refused for another reason than the wrong value."""
    for name in ("ring/steer", "checkerboard/train", "fashion/tune"):
        outcome = laboratory.run(Mutant(name, "seed", "three"))
        assert outcome.code == 0, outcome.said


@pytest.mark.parametrize(
    ("name", "key", "kind", "says"),
    [  # of the issue
        (
            "checkerboard/train",
            "data.batch_size",
            "zero",
            "data.batch_size: batch_size must be at least 1; got 0",
        ),
        (
            "checkerboard/train",
            "shape",
            "one and a half",
            "shape is a list whose items are each a whole number",
        ),
        ("worlds/verify", "worlds", "true", "worlds is a string or a list"),
        (
            "fashion/steer",
            "condition.names",
            "true",
            "condition.names is a list, a string or null; got True",
        ),
        (
            "checkerboard/train",
            "loop.schedule",
            "a word",
            "loop.schedule is a function of 1 argument or null; got 'abc'",
        ),
        (
            "ring/steer",
            "sampler.lookahead",
            "a word",
            "sampler.lookahead=abc has no package; write package.Name or file.py:Name; `steer",
        ),
        (
            "ring/steer",
            "sampler.lookahead",
            "a sampler",
            "sampler.lookahead is a Lookahead (a _target_ that builds one",
        ),
        (
            "ring/steer",
            "run.dir",
            "one and a half",
            "run.dir is a string or null; got 1.5; set it with run.dir=...",
        ),
        ("ring/steer", "tilt.scale", "nan", "tilt.scale is a number or a list"),
        (
            "checkerboard/train",
            "model.network.width",
            "a word",
            "model.network.width is a whole number; got 'abc'",
        ),
        ("checkerboard/train", "loop.lr", "a word", "loop.lr is a number; got 'abc'"),
        (
            "checkerboard/train",
            "trainer.max_steps",
            "minus one",
            "trainer.max_steps is a whole number, at least 1",
        ),
    ],
)
def test_the_key_what_was_expected_and_what_came(laboratory, name, key, kind, says):
    outcome = laboratory.run(Mutant(name, key, kind))
    assert outcome.code == 2
    assert outcome.said.startswith(f"steer: error: {says}")
    assert not outcome.fault


def test_nothing_that_is_not_finite_is_let_in(laboratory):
    """At every key of a config; a default that is infinite, and an annotation that says so, let
    infinity in.
    """
    own = [
        m for m in laboratory.mutants() if m.name == "ring/steer" and m.kind in ("nan", "infinity")
    ]
    assert len(own) > 60
    assert [str(m) for m in own if laboratory.run(m).code != 2] == []
    assert set(KINDS) > NOT_FINITE
    assert len(KINDS) >= 30
