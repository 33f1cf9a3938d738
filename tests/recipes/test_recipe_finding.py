"""Finding things: help for a config, names in place of nodes, completion, the way to another
command.
"""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from recipes.cli import KINDS, RUNS, main
from recipes.explain import comments, documented
from recipes.setup import config

COMMAND = {name: next(c for c in RUNS if config.takes(c, name)) for name in config.shipped()}


def help_of(capsys, *words):
    assert main([*words, "--help"]) == 0
    return capsys.readouterr().out


def test_a_config_belongs_to_one_command():
    for name in config.shipped():
        assert [command for command in RUNS if config.takes(command, name)] == [COMMAND[name]]


@pytest.mark.parametrize(
    "name", ["fashion/steer", "pictures/train", "fashion/tune", "ring/compare"]
)
def test_help_shows_every_key_that_can_be_set_with_value_and_meaning(capsys, name):
    out = help_of(capsys, COMMAND[name], name, "seed=17")
    assert "\nseed: 17                              of all that is random\n" in out
    for key in config.read(config.CONFIGS / f"{COMMAND[name]}.yaml"):
        assert re.search(rf"^{key}:", out, re.MULTILINE), key
    assert max(len(line) for line in out.splitlines() if "[" not in line) <= 100
    assert "steps:" in out
    assert "_target_'" not in out


def test_help_explains_the_arguments_of_objects(capsys):
    out = help_of(capsys, "sample", "ring/steer", "sampler=steer.samplers.BestOfN")
    assert re.search(r"^sampler: steer.samplers.BestOfN$", out, re.MULTILINE)
    assert "by default candidates" in out or re.search(r"^  by default .*=", out, re.MULTILINE)
    out = help_of(capsys, "train", "pictures/train")
    assert re.search(r"^  folder: \?\?\? +of the pictures\.$", out, re.MULTILINE)


def test_meanings_come_from_comments_and_docstrings():
    found = comments(config.CONFIGS / "sample.yaml")
    assert found["tilt.on_nonfinite"].startswith("a reward of NaN stops the run")
    assert found["run.dir"].startswith("runs/")
    doc = (
        "It.\n\n    Args:\n        a, b: the first\n            and second.\n        c: third: x.\n"
    )
    assert documented(doc) == {"a": "the first and second.", "b": "the first and second."} | {
        "c": "third: x."
    }


def test_a_dotted_name_stands_for_a_node():
    nodes = ["sampler._target_=steer.samplers.Sde", "sampler.steps=9"]
    names = ["sampler=steer.samplers.Sde", "sampler.steps=9"]
    assert config.load("sample", "ring/steer", names) == config.load("sample", "ring/steer", nodes)
    lookahead = "sampler.lookahead=steer.lookahead.Denoiser"
    loaded = config.load("sample", "ring/steer", [lookahead])
    assert loaded.sampler.lookahead == {"_target_": "steer.lookahead.Denoiser"}
    assert loaded.sampler.steps == config.load("sample", "ring/steer").sampler.steps
    loaded = config.load("compare", "ring/compare", ["methods.mine.sampler=steer.samplers.Sde"])
    assert loaded.methods.mine.sampler == {"_target_": "steer.samplers.Sde"}
    rewarded = config.load("sample", "ring/steer", ["reward=rewards.Brightness"])
    assert rewarded.reward == "rewards.Brightness"  # which may be a function: as it is


def test_a_file_of_ones_own_by_name(steer, tmp_path):
    code = "from steer.samplers import Ode\n\nclass Mine(Ode):\n    pass\n"
    (tmp_path / "mine.py").write_text(code)
    few = ["particles=4", "sampler.steps=2", "device=cpu"]
    assert steer.metrics("sample", "ring/steer", "sampler=mine.py:Mine", *few)["method"] == "Mine"


def test_a_name_that_does_not_exist_is_refused_with_the_nearest(steer):
    said = steer.fails("sample", "ring/steer", "sampler=steer.samplers.Sdee")
    assert "steer.samplers has no 'Sdee'; did you mean 'Sde'?" in said


@pytest.mark.parametrize(
    ("command", "name"), [("tune", "fashion/steer"), ("sample", "ring/compare")]
)
def test_a_config_of_another_command_says_so(steer, command, name):
    own = COMMAND[name]
    assert steer.fails(command, name) == (
        f"{name} is a config for {own}, not for {command}: steer {own} {name}"
    )


def test_a_config_that_no_command_takes_is_refused_by_its_own_fault(steer, tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: fashion/steer\nsamplr: 3\n")
    assert "did you mean 'sampler'?" in steer.fails("sample", "mine.yaml")


def test_dashes(steer):
    said = steer.fails("sample", "fashion/steer", "--tilt.scale=3")
    assert "write tilt.scale=3, not --tilt.scale=3" in said
    assert "steer sample needs a CONFIG" in steer.fails("sample")


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert end.value.code == 0
    assert capsys.readouterr().out == f"steer {project['project']['version']}\n"


def completions(capsys, *words):
    """What bash offers for the last of the words."""
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    given = " ".join(f"'{word}'" for word in ("steer", *words))
    asked = f"{script}\nCOMP_WORDS=({given}); COMP_CWORD={len(words)}; _steer 2>/dev/null\n"
    done = subprocess.run(
        ["bash", "-c", asked + 'printf "%s\\n" "${COMPREPLY[@]}"'], capture_output=True, text=True
    )
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_configs_kinds_and_keys(capsys):
    assert completions(capsys, "sa") == ["sample"]
    assert set(completions(capsys, "list", "")) >= {*KINDS}
    assert completions(capsys, "tune", "fashion/tune-d") == ["fashion/tune-direct"]
    assert completions(capsys, "sample", "fashion/steer", "sampl") == ["sampler="]
    assert completions(capsys, "train", "fashion/train", "identi") == ["identities="]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_are_offered_the_same_words(capsys, shell):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in (*RUNS, *KINDS, *config.shipped(), "identities="))
