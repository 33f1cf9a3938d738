import json

import pytest
import torch
from safetensors.torch import save_file

import steer.checkpoint
from rewards import checkpoint, load_classifier, save_classifier
from rewards.networks import PatchClassifier, Perceptron, ResidualClassifier
from steer.checkpoint import FORMAT, read_header

NETWORKS = [ResidualClassifier, PatchClassifier]


@pytest.fixture(params=NETWORKS, ids=lambda c: c.__name__)
def network(request):
    torch.manual_seed(0)
    return request.param().eval()


def images(n, dtype=torch.float32):
    return torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_logits_read_the_features(network):
    x = images(3)
    assert network(x).shape == (3, 10)
    torch.testing.assert_close(
        network(x), network.features(x) @ network.head.weight.T + network.head.bias
    )
    assert sum(p.numel() for p in network.parameters()) < 400_000


def test_training_mode_and_batch_mates_do_not_matter(network):
    network.double()
    x = images(3, torch.float64)
    torch.testing.assert_close(
        network.train()(x)[:1], network.eval()(x[:1]), rtol=1e-10, atol=1e-12
    )


def test_forward_mode_agrees_with_backward(network):
    network.double()
    x = images(2, torch.float64)
    direction = torch.ones_like(x)
    _, forward = torch.func.jvp(network, (x,), (direction,))
    backward = torch.autograd.functional.jvp(network, x, direction)[1]
    torch.testing.assert_close(forward, backward)


def test_networks_are_of_different_make():
    kinds = [{type(m).__name__ for m in network().modules()} for network in NETWORKS]
    assert "GroupNorm" in kinds[0]
    assert "GroupNorm" not in kinds[1]
    assert "LayerNorm" in kinds[1]


def test_images_of_another_shape_are_refused(network):
    with pytest.raises(ValueError, match="expected images of 1 channels, got 3"):
        network(torch.rand(2, 3, 28, 28))
    with pytest.raises(ValueError, match="28 x 28 pixels, got"):
        PatchClassifier()(torch.rand(2, 1, 32, 32))


def test_save_and_load(network, tmp_path):
    path = tmp_path / "new" / "judge.safetensors"
    save_classifier(path, network, notes={"accuracy": 0.92, "seed": 3})
    loaded = load_classifier(path)
    assert type(loaded) is type(network)
    assert torch.equal(loaded(images(2)), network(images(2)))
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    header = read_header(path)
    assert header["format"] == "steer"
    assert header["kind"] == "classifier"
    assert header["accuracy"] == 0.92
    assert header["build"]["_target_"] == f"rewards.networks.{type(network).__name__}"


def test_settings_build_the_same_network(tmp_path):
    save_classifier(tmp_path / "a.safetensors", ResidualClassifier(classes=3, channels=3, width=8))
    assert load_classifier(tmp_path / "a.safetensors")(torch.rand(1, 3, 16, 16)).shape == (1, 3)
    save_classifier(tmp_path / "b.safetensors", PatchClassifier(size=16, width=8, depth=1))
    assert load_classifier(tmp_path / "b.safetensors")(torch.rand(1, 1, 16, 16)).shape == (1, 10)


def test_shipped_names(network, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "WEIGHTS", tmp_path)
    save_classifier(tmp_path / "fashion-patch.safetensors", network)
    assert checkpoint.shipped() == ["fashion-patch"]
    assert torch.equal(load_classifier("fashion-patch")(images(1)), network(images(1)))
    with pytest.raises(
        ValueError, match=r"no classifier 'fashion-pach'.*did you mean 'fashion-patch'\?"
    ):
        load_classifier("fashion-pach")


def write(path, tensors, **header):
    metadata = {"steer": json.dumps({**FORMAT, "kind": "classifier", **header})}
    save_file(tensors, path, metadata=metadata)


def test_bad_files_are_told_on_one_line(tmp_path):
    good = ResidualClassifier(width=8)
    build = {"_target_": "rewards.networks.ResidualClassifier", "width": 8}
    file = tmp_path / "x.safetensors"

    def refused(complaint):
        with pytest.raises(ValueError, match=complaint) as error:
            load_classifier(file)
        assert str(file) in str(error.value)
        assert "\n" not in str(error.value)

    refused("no classifier")
    file.write_bytes(b"no safetensors at all")
    refused("safetensors file")
    save_classifier(file, good)
    file.write_bytes(file.read_bytes()[:-100])
    refused("safetensors file")
    save_file(good.state_dict(), file)
    refused("how to build")
    save_file(good.state_dict(), file, metadata={"steer": "{"})
    refused("JSON")
    write(file, good.state_dict(), build=build, kind="flow_map")
    refused("kind.*flow_map")
    write(file, good.state_dict(), build=build, version=2)
    refused("version 2")
    write(file, good.state_dict(), build={"_target_": "os.system", "command": "true"})
    refused("rewards.networks.*os.system")
    perceptron = {"_target_": "rewards.networks.Perceptron", "width": 8, "hidden": 8}
    write(file, Perceptron(8, 8).state_dict(), build=perceptron)
    refused("Perceptron")
    write(file, good.state_dict(), build={"_target_": "rewards.Brightness"})
    refused("rewards.networks.*rewards.Brightness")
    write(file, good.state_dict(), build="rewards.networks.ResidualClassifier")
    refused("describes a str")
    write(file, good.state_dict(), build={**build, "wdith": 8})
    refused("wdith.*width")
    write(file, good.state_dict(), build={**build, "width": 12})
    refused("cannot be built from its header.*divisible")
    write(file, good.state_dict(), build={**build, "width": 16})
    refused(r"blocks.*\(16,\).*\(8,\)")
    write(file, {"stem.weight": torch.zeros(8, 1, 4, 4)}, build=build)
    refused("is nothing")


def test_notes_never_change_the_format(tmp_path):
    notes = {"version": 7, "kind": "map", "format": "mine", "build": {}}
    save_classifier(tmp_path / "a.safetensors", ResidualClassifier(width=8), notes)
    assert isinstance(load_classifier(tmp_path / "a.safetensors"), ResidualClassifier)


def test_a_failed_write_leaves_the_old_file(network, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_classifier(path, network)
    before = path.read_bytes()

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(steer.checkpoint, "save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        save_classifier(path, network, {"seed": 1})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", checkpoint.shipped())
def test_every_shipped_classifier_loads(name):
    assert load_classifier(name)(images(2)).isfinite().all()
    assert (checkpoint.WEIGHTS / f"{name}.safetensors").stat().st_size < 16e6
