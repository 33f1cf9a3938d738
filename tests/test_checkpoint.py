"""Checkpoints: what is saved comes back, and whatever cannot come back says why in one line."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from steer import checkpoint
from steer.analytic import GaussianMixture, ring
from steer.build import build
from steer.checkpoint import load, load_module, read_header, save
from steer.flow_map import ResidualMap
from steer.interpolant import VariancePreserving
from steer.networks import ClassCondition, Mlp, UNet

RECIPE = {
    "_target_": "steer.flow_map.ResidualMap",
    "network": {
        "_target_": "steer.networks.Mlp",
        "width": 8,
        "condition": {"_target_": "steer.networks.ClassCondition", "classes": 3, "dim": 8},
    },
    "schedule": {"_target_": "steer.interpolant.VariancePreserving", "beta_max": 9.0},
}


def plane_map():
    torch.manual_seed(0)
    return ResidualMap(
        Mlp(width=8, condition=ClassCondition(3, 8)), VariancePreserving(beta_max=9.0)
    )


@pytest.fixture
def path(tmp_path):
    save(plane_map(), tmp_path / "run" / "map.safetensors", RECIPE, steps=7, data="checkerboard")
    return tmp_path / "run" / "map.safetensors"


def rewrite(path, tensors=None, header=None, text=None):
    """The file with other tensors, other header entries, or another text where the header was."""
    entries = {**read_header(path), **(header or {})}
    save_file(tensors or load_file(path), path, {"steer": text or json.dumps(entries)})


def refused(match, path, ask=load):
    with pytest.raises(ValueError, match=match) as error:
        ask(path)
    assert "\n" not in str(error.value)


# What comes back


def test_the_same_map_comes_back_frozen(path):
    saved = plane_map()
    loaded = load(path)
    assert isinstance(loaded, ResidualMap)
    assert loaded.schedule == saved.schedule
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    cond = torch.tensor([0, 1, 2, -1])
    torch.testing.assert_close(loaded(x, 0.1, 0.8, cond), saved(x, 0.1, 0.8, cond), rtol=0, atol=0)


def test_the_header_remembers(path):
    header = read_header(path)
    assert header["build"] == RECIPE
    assert (header["format"], header["version"], header["steps"], header["data"]) == (
        "steer",
        1,
        7,
        "checkerboard",
    )


def test_by_folder_file_string_or_path(path):
    for name in (path, str(path), path.parent, str(path.parent)):
        assert isinstance(load(name), ResidualMap)


def test_a_shipped_name_is_not_hidden_by_a_folder_without_a_map(path, monkeypatch):
    monkeypatch.setattr(checkpoint, "WEIGHTS", path.parent)
    monkeypatch.chdir(path.parent)
    os.mkdir("map")
    assert checkpoint.shipped() == ["map"]
    assert isinstance(load("map"), ResidualMap)


def test_images_in_any_memory_format(tmp_path):
    torch.manual_seed(0)
    settings = {"channels": [8, 16], "blocks": 1}
    network = UNet(**settings)
    recipe = {"_target_": "steer.networks.UNet", **settings}
    save(network, tmp_path / "net.safetensors", recipe)
    x = torch.ones(2, 1, 8, 8)
    t = torch.ones(2)
    torch.testing.assert_close(
        load_module(tmp_path / "net.safetensors")(x, t, t), network(x, t, t), rtol=0, atol=0
    )


def test_an_analytic_map_keeps_double_precision(tmp_path):
    law = ring(3)
    recipe = {"_target_": "steer.analytic.GaussianMixture", "means": [[0.0, 0.0]] * 3, "std": 1.0}
    save(law, tmp_path / "ring.safetensors", recipe)
    loaded = load(tmp_path / "ring.safetensors")
    assert isinstance(loaded, GaussianMixture)
    assert torch.equal(loaded.means, law.means)
    assert torch.equal(loaded.std, law.std)


# Written whole or not at all


def test_a_failed_write_leaves_the_old_file_and_no_litter(path, monkeypatch):
    before = path.read_bytes()

    def half(tensors, scratch, metadata):
        with open(scratch, "wb") as file:
            file.write(before[:100])
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", half)
    with pytest.raises(OSError, match="disk full"):
        save(plane_map(), path, RECIPE)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_saving_twice_replaces_and_leaves_one_file(path):
    other = plane_map()
    nn.init.ones_(other.network.last.bias)
    save(other, path, RECIPE)
    assert (load(path).network.last.bias == 1).all()
    assert list(path.parent.iterdir()) == [path]


def test_the_old_file_is_never_written_over(path):
    """A second name of it keeps its bytes: the new file took its place whole, by renaming."""
    before = path.read_bytes()
    os.link(path, path.with_name("old"))
    save(plane_map(), path, RECIPE, steps=8)
    assert path.with_name("old").read_bytes() == before
    assert read_header(path)["steps"] == 8


def test_what_was_saved_no_longer_follows_the_module(path):
    flow_map = plane_map()
    save(flow_map, path, RECIPE)
    before = load(path).network.last.bias.clone()
    nn.init.ones_(flow_map.network.last.bias)
    assert torch.equal(load(path).network.last.bias, before)


# What is refused, in one line


def test_missing(path):
    refused(
        "there is no checkpoint .*other.safetensors; shipped maps:",
        path.with_name("other.safetensors"),
    )
    refused("no map is called 'fashoin': shipped are", "fashoin")
    refused("holds no map.safetensors", path.parents[1])


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"PK\x03\x04" + b, lambda b: b[9:]],
)
def test_corrupt(path, damage):
    path.write_bytes(damage(path.read_bytes()))
    refused("is not a readable safetensors file", path)


def test_not_one_of_ours(path):
    save_file(load_file(path), path)
    refused("not how to build", path)
    save_file(load_file(path), path, {"steer": "[1, 2]"})
    refused("not how to build", path)
    save_file(load_file(path), path, {"steer": "{half"})
    refused("has a header that is no JSON", path)


def test_of_a_later_version(path):
    rewrite(path, header={"version": 2})
    refused("has version 2 of the format, this steer reads 1; update steer", path)


def test_of_another_shape(path):
    tensors = load_file(path)
    rewrite(path, {**tensors, "network.last.bias": torch.zeros(3)})
    refused(r"network.last.bias should be \(2,\) and is \(3,\)", path)
    rewrite(path, {name: t for name, t in tensors.items() if name != "network.last.bias"})
    refused(r"network.last.bias should be \(2,\) and is nothing", path)
    rewrite(path, {**tensors, "extra": torch.zeros(1)})
    refused(r"extra should be nothing and is \(1,\)", path)


def test_of_another_kind(path):
    rewrite(path, header={"build": RECIPE["network"]})
    refused("should be", path)
    rewrite(path, header={"build": RECIPE["schedule"]})
    refused("describes a VariancePreserving, which holds no weights", path)
    save(nn.Linear(2, 2), path, {"_target_": "torch.nn.Linear"})
    refused("steer.tuning; this one names 'torch.nn.Linear'", path)
    save(plane_map().network, path, RECIPE["network"])
    refused("holds a Mlp, not a flow map", path)


def test_that_names_other_code(path, tmp_path):
    for target in ("os.system", "steer.checkpoint.os.system"):
        rewrite(
            path, header={"build": {"_target_": target, "command": f"touch {tmp_path / 'owned'}"}}
        )
        refused("a checkpoint may only build classes of steer.flow_map", path)
    assert not (tmp_path / "owned").exists()


def test_an_average_is_that_of_the_weights_by_their_shares(tmp_path):
    paths = [str(tmp_path / f"{k}.safetensors") for k in range(2)]
    for k, path in enumerate(paths):
        torch.manual_seed(k)
        checkpoint.save(build(RECIPE), path, RECIPE, shape=[2], seed=k)
    checkpoint.average({paths[0]: 3.0, paths[1]: 1.0}, tmp_path / "both.safetensors")
    first, second, both = (
        checkpoint.load(path).state_dict() for path in (*paths, tmp_path / "both.safetensors")
    )
    for name, weight in both.items():
        torch.testing.assert_close(weight, 0.75 * first[name] + 0.25 * second[name])
    header = checkpoint.read_header(tmp_path / "both.safetensors")
    assert header["average"] == {paths[0]: 0.75, paths[1]: 0.25}
    assert (header["shape"], header["seed"]) == ([2], 0)
    with pytest.raises(ValueError, match="a positive share of each checkpoint; got"):
        checkpoint.average({paths[0]: 1.0, paths[1]: 0.0}, tmp_path / "none.safetensors")


def test_checkpoints_of_another_build_are_not_averaged(tmp_path):
    checkpoint.save(build(RECIPE), tmp_path / "one.safetensors", RECIPE)
    condition = {**RECIPE["network"]["condition"], "dim": 16}
    wider = {**RECIPE, "network": {**RECIPE["network"], "width": 16, "condition": condition}}
    checkpoint.save(build(wider), tmp_path / "wide.safetensors", wider)
    with pytest.raises(
        ValueError,
        match=r"wide\.safetensors is of another build than .*one\.safetensors: .* should be",
    ):
        checkpoint.average(
            {str(tmp_path / f"{n}.safetensors"): 1.0 for n in ("one", "wide")},
            tmp_path / "x.safetensors",
        )


@pytest.mark.parametrize(
    "recipe",
    [
        {"_target_": "rewards.DetectedObjects", "detector": "evil.py:f"},
        {"_target_": "rewards.ClipScore", "model": "local-dir:evil"},
        {"_target_": "rewards.Cached", "reward": None, "folder": "evil"},
        {"_target_": "steer.build.build", "node": {}},
        {"_target_": "steer.data.Tensors", "samples": "evil.pt", "batch_size": 1},
    ],
    ids=lambda recipe: recipe["_target_"],
)
def test_a_checkpoint_builds_maps_and_networks_and_nothing_that_reads_or_imports(
    tmp_path, monkeypatch, recipe
):
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text("open('ran', 'w')\ndef f(x): return x\n")
    checkpoint.write({"w": torch.zeros(1)}, Path("map.safetensors"), {"build": recipe})
    with pytest.raises(ValueError, match=r"may only build classes of steer\.flow_map"):
        checkpoint.load("map.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.py", "map.safetensors"]


def test_a_network_of_ones_own_is_built_where_its_package_is_trusted(tmp_path, monkeypatch):
    package = tmp_path / "mydata"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(
        "import torch\n\n\nclass Own(torch.nn.Module):\n    def __init__(self, width):\n"
        "        super().__init__()\n        self.inside = torch.nn.Linear(2, width)\n\n"
        "    def forward(self, x, s, t, cond=None):\n        return self.inside(x)[:, :2]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = {
        "_target_": "steer.flow_map.ResidualMap",
        "network": {"_target_": "mydata.nets.Own", "width": 4},
        "schedule": {"_target_": "steer.interpolant.Linear"},
    }
    own = build(recipe)
    file = tmp_path / "map.safetensors"
    save(own, file, recipe)
    with pytest.raises(ValueError, match=r"names 'mydata.nets.Own': .* trust=\['mydata'\]"):
        load(file)
    with pytest.raises(ValueError, match=r"trust is a list of packages; got 'mydata': write"):
        load(file, trust="mydata")
    x = torch.randn(3, 2)
    found = load(file, trust=["mydata"])
    torch.testing.assert_close(found(x, 0.0, 1.0), own(x, 0.0, 1.0), atol=0, rtol=0)


def test_files_say_that_their_tensors_are_of_torch(tmp_path):
    """Loaders of other libraries refuse a file whose metadata has no format."""
    recipe = {"_target_": "steer.networks.Mlp", "dim": 2, "width": 4, "depth": 1}
    save(build(recipe), tmp_path / "map.safetensors", recipe)
    with safe_open(str(tmp_path / "map.safetensors"), "pt") as file:
        assert file.metadata()["format"] == "pt"
