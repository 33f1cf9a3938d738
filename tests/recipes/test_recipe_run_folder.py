"""A run writes where no run wrote before, and is resumed where it left off."""

import json
import math
import os

import pytest
from omegaconf import OmegaConf

from recipes.setup import run_directory


def config_of(folder, **more):
    return OmegaConf.create(
        {"run": {"dir": str(folder), "resume": False}, "trainer": {"max_steps": 1}, **more}
    )


def test_no_run_overwrites_another(tmp_path):
    config = config_of(tmp_path / "a" / "run")
    made = [run_directory.create(config) for _ in range(3)]
    assert [folder.name for folder in made] == ["run", "run-2", "run-3"]
    assert all((folder / "config.yaml").exists() for folder in made)


def test_resume_takes_the_newest_of_that_name(tmp_path):
    config = config_of(tmp_path / "run")
    with pytest.raises(ValueError, match=r"no run .* to resume"):
        run_directory.resume(config)
    for _ in range(10):
        run_directory.create(config)
    run_directory.create(config_of(tmp_path / "run-other"))
    assert run_directory.resume(config).name == "run-10"


def test_resume_wants_the_same_settings(tmp_path):
    run_directory.create(config_of(tmp_path / "run", seed=0))
    longer = config_of(tmp_path / "run", seed=0)
    longer.trainer.max_steps = 2
    assert OmegaConf.load(run_directory.resume(longer) / "config.yaml").trainer.max_steps == 2
    with pytest.raises(ValueError, match="started with other settings, of seed"):
        run_directory.resume(config_of(tmp_path / "run", seed=1))


def test_what_the_disk_refuses_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write the run folder") as error:
        run_directory.create(config_of(tmp_path / "file" / "run"))
    assert "\n" not in str(error.value)


def test_workers_write_where_the_first_process_does(tmp_path):
    first = run_directory.create(config_of(tmp_path / "run"))
    with run_directory.shared(first):
        assert run_directory.create(config_of(tmp_path / "run")) == first
    assert run_directory.WORKER not in os.environ


def test_what_is_not_a_number_is_null(tmp_path):
    run_directory.write_metrics(tmp_path, {"a": math.nan, "b": [1.0, math.nan], "c": {"d": 2}})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "a": None,
        "b": [1.0, None],
        "c": {"d": 2},
    }
