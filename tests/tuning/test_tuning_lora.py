"""LoRA: a frozen network, a trainable update of low rank, and the two merged into plain weights."""

import copy
import subprocess
import sys

import pytest
import torch
from toys import noise, seeded

from rewards import Quadratic
from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.networks import Mlp
from steer.networks.conditioning import ClassCondition
from steer.tilt import Tilt
from steer.tuning import Direct, add_lora, without_lora

LABELS = torch.tensor([0, 1, -1, 1])


def small_map():
    torch.manual_seed(0)
    return ResidualMap(Mlp(2, 16, 2, ClassCondition(2, 16)).double(), Linear())


def train(flow_map, steps=5):
    base, weights = small_map(), [p for p in flow_map.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, 1e-2)
    for step in range(steps):
        loss = Direct()(
            flow_map, base, Tilt(Quadratic([2.0, 0.0], 1.0)), noise(4, seed=step), LABELS, seeded(step), step
        )
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    return flow_map


def law(flow_map):
    return flow_map(noise(4), 0.2, 0.9, LABELS).detach()


def test_adapters_change_nothing_until_they_learn():
    assert torch.equal(law(add_lora(small_map(), rank=2)), law(small_map()))


def test_only_the_adapters_learn():
    flow_map = add_lora(small_map(), rank=2)
    before = {name: value.clone() for name, value in flow_map.state_dict().items()}
    train(flow_map)
    changed = {name for name, value in flow_map.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert all(("lora_" in name) == value.requires_grad for name, value in flow_map.named_parameters())


def test_the_update_has_its_rank():
    """Merged minus base is B A alpha / r, so its rank is at most r, layer by layer."""
    merged, base = without_lora(train(add_lora(small_map(), rank=2, alpha=6))), small_map()
    difference = merged.network.hidden[0].weight - base.network.hidden[0].weight
    assert torch.linalg.matrix_rank(difference, atol=1e-10) == 2


def test_the_merged_map_is_the_adapted_map_in_plain_weights():
    adapted = train(add_lora(small_map(), rank=2))
    merged = without_lora(copy.deepcopy(adapted))
    assert torch.allclose(law(merged), law(adapted), rtol=1e-10)
    assert not torch.allclose(law(merged), law(small_map()))
    assert merged.state_dict().keys() == small_map().state_dict().keys()


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_is_at_least_one(rank):
    with pytest.raises(ValueError, match=f"rank of at least 1; got {rank}"):
        add_lora(small_map(), rank=rank)


def test_peft_is_imported_only_when_asked_for():
    code = "import sys, steer.tuning; sys.exit('peft' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
