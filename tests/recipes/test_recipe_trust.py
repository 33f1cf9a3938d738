"""trust: packages of one's own whose classes weights may build, in every load of a run."""

import pytest
import torch
from safetensors.torch import load_file

import steer as library
from rewards import load_classifier
from steer import checkpoint
from steer.build import build

NETS = """
import torch
from rewards.networks import PatchClassifier


class Own(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inside = torch.nn.Linear(4, width)
        self.out = torch.nn.Linear(width, 2)

    def forward(self, x, s, t, cond=None):
        return self.out(torch.tanh(self.inside(torch.cat((x, s[:, None], t[:, None]), 1))))


class Judge(PatchClassifier):
    pass
"""
MAP = {
    "_target_": "steer.flow_map.ResidualMap",
    "network": {"_target_": "mydata.nets.Own", "width": 4},
    "schedule": {"_target_": "steer.interpolant.Linear"},
}
TRUST = "trust=[mydata]"
TRAIN = ["train", "checkerboard/train", "model.network._target_=mydata.nets.Own"]
TRAIN += ["model.network.width=4", "trainer.max_steps=2", "trainer.accelerator=cpu"]
TRAIN += ["data.batch_size=8", "particles=2", "identities=null", "pictures=null"]
SAMPLE = ["sample", "ring/steer", "particles=4", "sampler.steps=2", "base.steps=2", "device=cpu"]
CLASSIFIER = ["train", "fashion/classifier", "trainer.max_steps=1", "trainer.accelerator=cpu"]
CLASSIFIER += ["data.batch_size=8", "model.width=8", "model.depth=1"]


@pytest.fixture
def mine(steer, tmp_path, monkeypatch):
    """The command, beside a package mydata and a map of its network."""
    (tmp_path / "mydata").mkdir()
    (tmp_path / "mydata" / "__init__.py").write_text("")
    (tmp_path / "mydata" / "nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.manual_seed(0)
    checkpoint.save(build(MAP), tmp_path / "mine.safetensors", MAP, shape=[2])
    return steer


def test_a_model_of_ones_own_is_loaded_where_its_package_is_trusted(mine):
    said = mine.fails(*SAMPLE, "model=mine.safetensors")
    assert said.startswith("model: mine.safetensors cannot be built from its header: ")
    assert said.endswith("load it with trust=['mydata']")
    folder = mine(*SAMPLE, "model=mine.safetensors", TRUST)
    assert load_file(f"{folder}/samples.safetensors")["x"].shape == (1, 4, 2)
    assert "mydata" in mine.fails(*SAMPLE, "model=mine.safetensors")  # it ends with its run


def test_training_refuses_before_the_work_what_could_not_be_loaded(mine, tmp_path):
    said = mine.fails(*TRAIN)
    assert said == (
        "model.network._target_: weights of mydata.nets.Own could be saved and not be loaded again:"
        " add trust=[mydata], to this run and to those that load it"
    )
    said = mine.fails(*TRAIN, "model.network._target_=mydata/nets.py:Own", TRUST)
    assert said.startswith("model.network._target_: weights of mydata/nets.py:Own could be saved")
    assert said.endswith("name it as nets.Own, importable, and add trust=[nets]")
    assert not (tmp_path / "runs").exists()


def test_trained_weights_start_teach_and_resume_a_run(mine):
    folder = mine(*TRAIN, TRUST)
    assert "trust=['mydata']" in mine.fails(*TRAIN[:2], *TRAIN[4:], f"start={folder}")
    again = mine(*TRAIN, TRUST, f"start={folder}", "run.dir=runs/again")
    mine(*TRAIN, TRUST, f"start={folder}", "run.dir=runs/again", "run.resume=true")
    loaded = library.load(again, trust=["mydata"])
    assert type(loaded.network).__name__ == "Own"
    taught = ["train", "checkerboard/distill", f"teacher={folder}", *TRAIN[3:], "start=null"]
    assert "load it with trust=['mydata']" in mine.fails(*taught)
    mine(*taught, TRUST)


@pytest.mark.usefixtures("clothes")
def test_a_classifier_of_ones_own_is_refused_saved_and_loaded(mine):
    own = [*CLASSIFIER, "data.folder=clothes", "model._target_=mydata.nets.Judge"]
    assert mine.fails(*own).startswith("model._target_: weights of mydata.nets.Judge could be save")
    by_file = mine.fails(*own, "model._target_=mydata/nets.py:Judge")
    assert by_file.startswith("model._target_: weights of nets.py:Judge could be saved and not")
    folder = mine(*own, TRUST)
    with pytest.raises(ValueError, match=r"trust=\['mydata'\]"):
        load_classifier(f"{folder}/classifier.safetensors")
    found = load_classifier(f"{folder}/classifier.safetensors", trust=["mydata"])
    assert type(found).__name__ == "Judge"
    with checkpoint.trusting(["mydata"]):
        assert type(load_classifier(f"{folder}/classifier.safetensors")).__name__ == "Judge"
