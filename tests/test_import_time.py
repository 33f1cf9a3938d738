"""What is slow to import is imported when it is needed, and not before."""

import subprocess
import sys

import pytest

# each takes longer than the whole of steer; the last two come with torch._dynamo
SLOW = {"lightning", "matplotlib", "open_clip", "torchmetrics", "torchvision", "diffusers"}
SLOW |= {"transformers", "peft", "scipy", "torch._dynamo", "sympy"}


def imported(code):
    """The slow modules that a new process has imported after the code."""
    asked = f"{code}\nimport sys\nprint('loaded', *{SLOW!r} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_slow_modules_are_left_alone():
    imports = "import steer, rewards, steer.data\nsteer.adapters.families()\n"
    assert imported(imports + "import sys\nassert 'recipes' not in sys.modules") == set()
    commands = "main(['list'])\nmain(['list', 'tuning'])"
    assert imported(f"from recipes.cli import main\n{commands}") == set()


def test_the_test_would_see_them():
    assert imported("import steer.data\nsteer.data.Checkerboard") >= {"lightning"}


@pytest.mark.parametrize("words", [["--version"], ["completion", "bash"], ["sample", "--help"]])
def test_some_commands_do_without_torch(words):
    code = f"from recipes.cli import main\ntry: main({words!r})\nexcept SystemExit: pass\n"
    asked = code + "import sys\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
