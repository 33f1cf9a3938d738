"""What a config may say, and what is said of one that may not."""

import json

import pytest
from omegaconf import OmegaConf
from PIL import Image

from recipes.setup import config
from recipes.setup.schema import Section, hints, options, schema_of

COMMANDS = ("sample", "train", "tune", "evaluate", "compare", "verify")


# of a folder of one's own, whose classes and captions they read
OF_A_FOLDER = ("pictures/train", "pictures/train-labels", "pictures/train-captions")


def command_of(name, *words):
    """The command a shipped config is for: the one that takes its keys."""
    takers = []
    for command in COMMANDS:
        try:
            config.load(command, name, words)
        except ValueError:
            continue
        takers.append(command)
    return takers


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A folder of two pictures with classes and captions."""
    folder = tmp_path_factory.mktemp("pets")
    for name in ("cat/1.png", "dog/2.png"):
        (folder / name).parent.mkdir()
        Image.new("RGB", (8, 8)).save(folder / name)
    lines = (json.dumps({"file_name": n, "text": "a pet"}) for n in ("cat/1.png", "dog/2.png"))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return f"data.folder={folder}"


@pytest.mark.parametrize("name", config.shipped())
def test_every_shipped_config_is_one_commands(name, pets):
    words = [pets] if name in OF_A_FOLDER else []
    assert len(command_of(name, *words)) == 1
    assert config.find(name).read_text().startswith("# ")


def test_later_words_win_and_defaults_fill_in():
    loaded = config.load("sample", "ring/steer", ["seed=3", "sampler.steps=7", "seed=4"])
    assert (loaded.seed, loaded.sampler.steps, loaded.sampler.resample_below) == (4, 7, 0.5)
    assert loaded.heldout is None
    assert loaded.run.dir == "runs/ring-steer"


def test_a_new_target_takes_no_keys_of_the_old():
    loaded = config.load(
        "sample", "ring/steer", ["sampler._target_=steer.samplers.Ode", "sampler.steps=5"]
    )
    assert OmegaConf.to_container(loaded.sampler) == {"_target_": "steer.samplers.Ode", "steps": 5}
    same = config.load(
        "sample", "ring/steer", ["sampler._target_=steer.samplers.TrajectoryTilting"]
    )
    assert same.sampler.steps == 100


def test_a_name_can_take_the_place_of_a_node_and_back():
    assert (
        config.load("sample", "ring/steer", ["reward=rewards.Brightness"]).reward
        == "rewards.Brightness"
    )
    assert config.load("sample", "ring/steer", ["heldout=null"]).heldout is None


def test_a_seed_reaches_everything_that_asks_for_it():
    loaded = config.load("train", "checkerboard/train", ["seed=5"])
    assert (loaded.data.seed, loaded.loop.seed) == (5, 5)


def test_a_file_of_ones_own_is_named_after_itself(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model: fashion\nsampler: {_target_: steer.samplers.Ode}\n")
    assert config.load("sample", str(path)).run.dir == "runs/mine"


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("sed=1", "knows no key 'sed'; did you mean 'seed'"),
        ("tilt.scal=1", "knows no key 'tilt.scal'; did you mean 'tilt.scale'"),
        ("tilt=1", "tilt is a section with the keys scale, on_nonfinite; got 1"),
        ("seed=one", "seed is a whole number; got 'one'; set it with seed=..."),
        ("particles=2.5", "particles is a whole number"),
        ("particles=null", "particles is a whole number"),
        ("sampler.steps=many", "sampler.steps is a whole number; got 'many'"),
        (
            "sampler.resample_below=often",
            "sampler.resample_below is a number; got 'often'; left out, it is 0.5",
        ),
        ("condition.model=1", "condition.model is true or false"),
        ("seed", "expected key=value, got 'seed'"),
        ("=1", "expected key=value"),
        ("reward.center=[1", "cannot read 'reward.center=[1'"),
        ("seed=${nothing}", "Interpolation key 'nothing' not found"),
    ],
)
def test_mistakes_are_named(word, says):
    with pytest.raises(ValueError, match=r".") as error:
        config.load("sample", "ring/steer", [word])
    assert says in str(error.value)


def test_other_mistakes_are_named(tmp_path):
    with pytest.raises(
        ValueError, match="no config is called 'ring/ster'; did you mean 'ring/steer'"
    ):
        config.load("sample", "ring/ster")
    with pytest.raises(
        ValueError, match="fashion/train is a config for train, not for sample: steer train"
    ):
        config.load("sample", "fashion/train")
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    with pytest.raises(ValueError, match="not valid YAML"):
        config.load("sample", str(tmp_path / "bad.yaml"))
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="should hold keys and values"):
        config.load("sample", str(tmp_path / "list.yaml"))
    (tmp_path / "short.yaml").write_text("seed: 1\n")
    with pytest.raises(ValueError, match="gives no 'model', which steer sample needs"):
        config.load("sample", str(tmp_path / "short.yaml"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_of_a_command_has_a_kind(command):
    """A new key of a command's defaults is a line in recipes/setup/schema.py too."""

    def untyped(tree, section, path=""):
        known = hints(section)
        for key, value in tree.items():
            if key not in known:
                yield path + key
            below = next((one for one in options(known.get(key)) if is_section_type(one)), None)
            if below is not None and isinstance(value, dict):
                yield from untyped(value, below, f"{path}{key}.")

    defaults = config.read(config.CONFIGS / f"{command}.yaml")
    assert list(untyped(defaults, schema_of(command))) == []


def is_section_type(one):
    return isinstance(one, type) and issubclass(one, Section)


# One config on top of another


def test_a_config_that_extends_another_says_only_what_it_changes(tmp_path):
    (tmp_path / "base.yaml").write_text("extends: ring/steer\nseed: 7\nsampler: {steps: 9}\n")
    (tmp_path / "mine.yaml").write_text(f"extends: {tmp_path}/base.yaml\nsampler: {{steps: 11}}\n")
    loaded = config.load("sample", str(tmp_path / "mine.yaml"))
    ring = config.load("sample", "ring/steer")
    assert (loaded.seed, loaded.sampler.steps, loaded.run.dir) == (7, 11, "runs/mine")
    assert loaded.model == ring.model
    assert loaded.sampler._target_ == ring.sampler._target_
    assert "extends" not in loaded


def test_what_is_extended_must_exist_and_not_go_round(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: ring/stere\n")
    with pytest.raises(
        ValueError, match=r"no config is called 'ring/stere'; did you mean 'ring/steer'\?"
    ):
        config.load("sample", str(mine))
    mine.write_text(f"extends: {mine}\n")
    with pytest.raises(
        ValueError, match=r"mine.yaml extends .*mine.yaml: configs cannot go round in a circle"
    ):
        config.load("sample", str(mine))
