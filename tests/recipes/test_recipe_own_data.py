"""From a folder of pictures to a sampled map, by one command each."""

import json

import pytest
from PIL import Image
from safetensors.torch import load_file

from recipes.setup.config import load
from steer import checkpoint

TINY = [
    "shape=[3,8,8]",
    "model.network.channels=[8]",
    "data.batch_size=4",
    "particles=2",
    "trainer.max_steps=2",
    "trainer.accelerator=cpu",
    "loop.objective.diag_only_steps=1",
    "identities=null",
    "pictures.every=2",
]
NAMES = ["cat/1.png", "dog/2.png"]


@pytest.fixture
def pets(tmp_path):
    for k, name in enumerate(NAMES):
        path = tmp_path / "pets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), (200 * k, 9, 9)).save(path)
    return "data.folder=pets"


def test_a_folder_is_trained_on_and_its_map_steered(steer, pets):
    assert steer("train", "pictures/train", pets, *TINY) == "runs/pictures-train"
    folder = steer("sample", "pictures/steer", "particles=2", "sampler.steps=2", "device=cpu")
    assert load_file(f"{folder}/samples.safetensors")["x"].shape == (1, 2, 3, 8, 8)


def test_classes_are_counted_and_named_by_their_folders(steer, pets):
    dim = "model.network.condition.dim=32"
    folder = steer("train", "pictures/train-labels", pets, dim, *TINY)
    flow_map = checkpoint.load(f"{folder}/map.safetensors")
    assert flow_map.network.condition.classes == 2
    assert load("train", f"{folder}/config.yaml").condition.labels == ["cat", "dog"]


def test_captions_bring_their_words(steer, pets, tmp_path):
    texts = ["a cat", "a dog"]
    lines = [json.dumps({"file_name": n, "text": t}) for n, t in zip(NAMES, texts, strict=True)]
    (tmp_path / "pets" / "metadata.jsonl").write_text("\n".join(lines))
    dim = "model.network.condition.dim=32"
    folder = steer("train", "pictures/train-captions", pets, dim, *TINY)
    flow_map = checkpoint.load(f"{folder}/map.safetensors")
    assert flow_map.network.condition.words == ["<start>", "a", "cat", "dog"]


def test_what_is_missing_is_said_before_anything_is_built(steer, pets, tmp_path):
    assert "gives no 'data.folder'" in steer.fails("train", "pictures/train")
    line = steer.fails("train", "pictures/train-labels", "data.folder=elsewhere")
    assert "there is no folder elsewhere" in line
    assert "there is no " in steer.fails("train", "pictures/train-captions", pets)
    line = steer.fails("train", "pictures/train-labels", pets, "model.network.condition.dim=100")
    assert line == (
        "model.network: condition: this UNet takes an embedding of dim=192 (4 channels[0], of"
        " channels[0]=48); the ClassCondition has dim=100: set it to 192"
    )
    line = steer.fails("train", "pictures/train", pets, "shape=[3,9,9]", "trainer.accelerator=cpu")
    assert "takes images whose sides divide by 8; got (9, 9)" in line
    assert not (tmp_path / "runs").exists()
