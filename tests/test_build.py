"""build: nested targets, files, one-line errors with the nearest name, and trusted classes."""

import re
import sys
from functools import partial

import pytest
import torch

from steer.build import build, resolve
from steer.flow_map import ResidualMap
from steer.networks import ClassCondition, Mlp

TRUSTED = ("steer", "rewards")


def refusal(node, trusted=None):
    """The one short line with which a config is refused."""
    with pytest.raises(ValueError, match=r".") as error:
        build(node, trusted)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    return str(error.value)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "def bright(x):\n    return x.mean(1)\n\n\n"
        "class Scaled:\n    def __init__(self, by):\n        self.by = by\n"
    )
    return path


# What is built


def test_targets_are_built_inside_out():
    recipe = {
        "_target_": "steer.flow_map.ResidualMap",
        "network": {
            "_target_": "steer.networks.Mlp",
            "width": 8,
            "depth": 2,
            "condition": condition(8),
        },
        "schedule": {"_target_": "steer.interpolant.VariancePreserving", "beta_max": 5.0},
    }
    flow_map = build(recipe, TRUSTED)
    assert isinstance(flow_map, ResidualMap)
    assert isinstance(flow_map.network.condition, ClassCondition)
    assert flow_map.schedule.beta_max == 5.0
    assert recipe["network"]["width"] == 8  # the recipe is left as it was


def condition(dim):
    return {"_target_": "steer.networks.ClassCondition", "classes": 3, "dim": dim}


def test_plain_values_lists_and_dictionaries_stay():
    node = {"a": [1, 2.5, None, "steer.networks.Mlp"], "b": {"c": (True,)}}
    assert build(node) == {"a": [1, 2.5, None, "steer.networks.Mlp"], "b": {"c": [True]}}
    assert [type(module) for module in build([condition(2), condition(4)])] == [ClassCondition] * 2


def test_any_callable_can_be_a_target():
    assert build({"_target_": "math.hypot"}) == 0.0  # a built-in that says nothing of its arguments
    assert build({"_target_": "fractions.Fraction", "numerator": 6, "denominator": 4}) == 1.5
    assert build({"_target_": "steer.analytic.ring", "components": 3}).means.shape == (3, 2)
    assert build({"_target_": "builtins.dict", "key": 1}) == {"key": 1}


def test_names_reach_into_modules_classes_and_files(file):
    assert resolve("steer.networks.Mlp") is resolve("steer.networks.mlp.Mlp") is Mlp
    assert resolve("torch.nn.Linear.forward") is torch.nn.Linear.forward
    assert resolve(f"{file}:bright")(torch.ones(2, 3)).tolist() == [1, 1]
    assert build({"_target_": f"{file}:Scaled", "by": 3}).by == 3


def test_a_file_is_read_anew_so_that_edits_count(file):
    assert resolve(f"{file}:Scaled").__module__ in sys.modules
    file.write_text("bright = 7\n")
    assert resolve(f"{file}:bright") == 7


# What is refused, in one line


def test_unknown_names_bring_the_nearest():
    assert "steer.networks has no 'MLP'; did you mean 'Mlp'?" in refusal(
        {"_target_": "steer.networks.MLP"}
    )
    assert "steer has no 'netwroks'; did you mean 'networks'?" in refusal(
        {"_target_": "steer.netwroks.Mlp"}
    )
    assert "no Python object is called 'nowhere.Mlp'" in refusal({"_target_": "nowhere.Mlp"})
    assert re.search(
        "torch has no 'Zyxwvu'; there are: .*, ...$", refusal({"_target_": "torch.Zyxwvu"})
    )
    assert "lightning.pytorch has no 'Trainr'; did you mean 'Trainer'?" in refusal(
        {"_target_": "lightning.pytorch.Trainr"}
    )
    for name in (
        "",
        "Mlp",
        ".",
        ".steer.Mlp",
        "steer..Mlp",
        "steer.networks.",
        "steer/networks.Mlp",
        "os; import os",
    ):
        assert "write package.module.Name or path/to/file.py:Name" in refusal({"_target_": name})
    assert "a _target_ is a dotted path or file.py:Name; got 3" in refusal({"_target_": 3})


def test_a_slip_in_the_key_is_no_silent_dictionary():
    assert "no key '_traget_'; did you mean '_target_'" in refusal(
        {"_traget_": "steer.networks.Mlp"}
    )


def test_arguments_are_checked():
    assert "steer.networks.Mlp takes no argument 'widht'; did you mean 'width'?" in refusal(
        {"_target_": "steer.networks.Mlp", "widht": 8}
    )
    assert "steer.interpolant.Linear takes no argument 'beta'" in refusal(
        {"_target_": "steer.interpolant.Linear", "beta": 8}
    )
    assert "needs network, schedule, which" in refusal({"_target_": "steer.flow_map.ResidualMap"})
    wide = {"_target_": "torch.nn.Linear", "in_features": "wide", "out_features": 1}
    assert "torch.nn.Linear: in_features is a whole number; got 'wide'" in refusal(wide)
    assert "Linear could not be built: TypeError" in refusal(
        {**wide, "in_features": 1, "dtype": "wide"}
    )
    assert "VariancePreserving needs 0 < beta_min" in refusal(
        {"_target_": "steer.interpolant.VariancePreserving", "beta_min": -1.0}
    )
    assert "steer.checkpoint.TRUSTED is not a class or function" in refusal(
        {"_target_": "steer.checkpoint.TRUSTED"}
    )


def test_keyword_only_arguments_are_needed_too(file):
    file.write_text("def f(*, gain):\n    return gain\n")
    assert "needs gain, which the config does not give" in refusal({"_target_": f"{file}:f"})


def test_files_fail_in_one_line(file):
    assert "there is no file nowhere.py" in refusal({"_target_": "nowhere.py:f"})
    assert "has no 'brihgt'; did you mean 'bright'?" in refusal({"_target_": f"{file}:brihgt"})
    file.write_text(
        "import math\nfrom math import sqrt\nshout = str.upper\n"
        "def bright(x):\n    return x\nscaled = bright\n"
    )
    assert re.search(
        "has no 'sqrtt'; there are: bright, scaled$", refusal({"_target_": f"{file}:sqrtt"})
    )
    file.write_text("import torch\n1 / 0\n")
    assert "mine.py could not be run: ZeroDivisionError: division by zero" in refusal(
        {"_target_": f"{file}:f"}
    )
    file.write_text("def f(:\n")
    assert "mine.py could not be run: SyntaxError" in refusal({"_target_": f"{file}:f"})


@pytest.mark.parametrize(
    "text", ["import not_installed_anywhere\n", "raise RuntimeError('two\\nlines')\n", "def f(:\n"]
)
def test_a_module_that_fails_to_import_is_not_called_missing(tmp_path, monkeypatch, text):
    (tmp_path / "not_installed_anywhere_else.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert re.search(
        "importing not_installed_anywhere_else for .* failed",
        refusal({"_target_": "not_installed_anywhere_else.f"}),
    )


# Trust


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "steering.Mlp",
        "steer.checkpoint.os.system",  # a module that one of ours imports
        "steer.checkpoint.Path",  # a class that is not ours
        "steer.build.resolve",  # ours, but a function that would fetch anything
        "steer.build._call",
        "steer.resampling.torch.load",
    ],
)
def test_a_checkpoint_names_no_code_but_ours(name):
    """The target is refused before it is called: neither unknown argument nor command runs."""
    assert re.search(
        f"a checkpoint may only build classes of steer, rewards; this one names '{name}'",
        refusal({"_target_": name}, TRUSTED),
    )
    hidden = {
        "_target_": "steer.networks.Mlp",
        "condition": [{"_target_": name, "command": "true"}],
    }
    assert "may only build classes" in refusal(hidden, TRUSTED)


def test_a_checkpoint_names_no_files(file):
    assert "may only build classes" in refusal({"_target_": f"{file}:Scaled", "by": 1}, TRUSTED)
    assert "may only build classes" in refusal(
        {"_target_": f"steer.{file}:Scaled", "by": 1}, TRUSTED
    )


def test_untrusted_code_is_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('sprung')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "may only build classes" in refusal({"_target_": "trap.f"}, TRUSTED)
    with pytest.raises(SystemExit, match="sprung"):
        partial(build, {"_target_": "trap.f"})()
