"""Maps pushed to the hub and pulled again, with a local folder in the hub's place."""

import shutil

import huggingface_hub
import huggingface_hub.constants
import pytest
import torch

import steer
from steer import checkpoint
from steer.build import build
from steer.tuning import add_lora

PLANE = {
    "_target_": "steer.flow_map.ResidualMap",
    "network": {"_target_": "steer.networks.Mlp", "width": 8, "depth": 1},
    "schedule": {"_target_": "steer.interpolant.Linear"},
}
X = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def plane(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "run" / "map.safetensors"
    checkpoint.save(build(PLANE), path, PLANE, shape=[2], data="a | ring", steps=7)
    return path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder in which repositories are folders; calls are those of huggingface_hub's classes."""
    place = tmp_path / "hub"
    made = {}

    class Api:
        def create_repo(self, repo_id, *, private, exist_ok):
            assert exist_ok
            made[repo_id] = private
            (place / repo_id).mkdir(parents=True, exist_ok=True)

        def upload_folder(self, *, repo_id, folder_path, delete_patterns):
            for old in (o for p in delete_patterns for o in (place / repo_id).glob(p)):
                old.unlink()
            shutil.copytree(folder_path, place / repo_id, dirs_exist_ok=True)
            return f"https://hub/{repo_id}/commit/1"

    def snapshot_download(repo_id, *, revision, allow_patterns):
        assert set(allow_patterns) == {"*.safetensors", "README.md"}
        if not (place / repo_id).is_dir():
            raise OSError(f"404\nno {repo_id} at {revision}")
        return str(place / repo_id)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return place, made


def jump(flow_map):
    with torch.no_grad():
        return flow_map(X, torch.zeros(5), torch.ones(5))


def test_a_map_is_pushed_with_a_card_and_pulled_by_name(plane, hub):
    place, made = hub
    address = steer.hub.push_to_hub(plane.parent, "me/ring", private=True, licence="apache-2.0")
    assert address == "https://hub/me/ring/commit/1"
    assert made == {"me/ring": True}
    assert {path.name for path in (place / "me/ring").iterdir()} == {"map.safetensors", "README.md"}
    expected = jump(steer.load(plane))
    assert expected.std() > 0.1
    for pulled in ("hub:me/ring", "me/ring", place / "me" / "ring"):
        torch.testing.assert_close(
            jump(steer.hub.from_pretrained(pulled)), expected, rtol=0, atol=0
        )
    torch.testing.assert_close(jump(steer.load("hub:me/ring")), expected, rtol=0, atol=0)
    assert checkpoint.read_header(checkpoint.find("hub:me/ring"))["steps"] == 7


def test_the_card_says_what_the_header_says(plane, hub):
    place, _ = hub
    steer.hub.push_to_hub(plane, "me/ring", licence="apache-2.0")
    text = (place / "me/ring/README.md").read_text()
    loaded = huggingface_hub.ModelCard(text)
    assert loaded.data.to_dict() == {
        "library_name": "steer",
        "tags": ["flow-map", "steer"],
        "license": "apache-2.0",
    }
    assert 'steer.load("hub:me/ring")' in text
    assert "| data | a \\| ring |" in text
    assert "| steps | 7 |" in text
    assert '"_target_": "steer.networks.Mlp"' in text


def test_adapters_go_with_their_base_and_alone_where_it_is_shipped(plane, hub, tmp_path):
    place, _ = hub
    adapted = add_lora(steer.load(plane), rank=2)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    file = tmp_path / "tuned" / "adapters.safetensors"
    checkpoint.save_adapters(adapted, file, plane, steps=9)
    expected = jump(steer.load(file))
    assert (expected - jump(steer.load(plane))).abs().max() > 0.05
    steer.hub.push_to_hub(plane, "me/tuned")  # a map was there before
    steer.hub.push_to_hub(file, "me/tuned")
    names = {path.name for path in (place / "me/tuned").iterdir()}
    assert names == {"adapters.safetensors", "base.safetensors", "README.md"}
    shutil.rmtree(tmp_path / "run")
    torch.testing.assert_close(jump(steer.load("hub:me/tuned")), expected, rtol=0, atol=0)
    assert "Low-rank adapters" in (place / "me/tuned/README.md").read_text()
    with pytest.raises(ValueError, match=r"adapters of the map .*map.safetensors, which is missin"):
        steer.hub.push_to_hub(file, "me/again")

    file = tmp_path / "fashion" / "adapters.safetensors"
    checkpoint.save_adapters(add_lora(steer.load("fashion"), rank=1), file, "fashion")
    steer.hub.push_to_hub(file, "me/fashion")
    names = {path.name for path in (place / "me/fashion").iterdir()}
    assert names == {"adapters.safetensors", "README.md"}


def test_what_cannot_be_reached_is_told_on_one_line(plane, hub, monkeypatch):
    def refused(call, match):
        with pytest.raises(ValueError, match=match) as error:
            call()
        assert "\n" not in str(error.value)

    refused(lambda: steer.load("hub:me/none"), r"me/none is not here and cannot be fetched \(OSErr")
    refused(lambda: steer.load("hub:none"), r"expected a repository as owner/name, got 'none'")
    refused(lambda: steer.hub.push_to_hub("nothing", "me/x"), "no map is called 'nothing'")
    refused(lambda: steer.hub.push_to_hub(plane, "a/b/c"), "expected a repository as owner/name")
    monkeypatch.setattr(
        huggingface_hub.HfApi, "create_repo", lambda *_, **__: (_ for _ in ()).throw(OSError("401"))
    )
    refused(lambda: steer.hub.push_to_hub(plane, "me/x"), r"cannot be pushed to \(OSError: 401\)")
