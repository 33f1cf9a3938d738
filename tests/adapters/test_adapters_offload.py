"""Offload: parts that are not in use leave the device; which calls move them where."""

import copy

import pytest
import torch
from tiny import sd3, with_texts
from torch import nn

import rewards
import steer

REST = torch.device("cpu", 0)  # a stand-in for another device, told apart by its number


def recorded(module: nn.Module, name: str, log: list[str]) -> None:
    """Logs where a module is moved, by _apply or `to`, and its forward passes."""
    plain = module.to

    def to(*arguments, **keywords):
        log.append(f"{name} to {'rest' if REST in arguments else 'device'}")
        return plain(*arguments, **keywords)

    module.to = to
    module.register_forward_hook(lambda *_: log.append(f"{name} called"))


def test_text_encoders_and_decoder_are_on_the_device_while_they_work(tmp_path):
    with_texts(tmp_path)
    plain = steer.adapters.from_pretrained(str(tmp_path), height=16, width=16)
    flow_map = steer.adapters.from_pretrained(str(tmp_path), height=16, width=16, offload=True)
    shared = flow_map.network.shared
    assert shared.away == torch.device("cpu")
    shared.away = REST
    log: list[str] = []
    encoders = ["text_encoder", "text_encoder_2"]
    for name in encoders:
        recorded(shared.modules[name], name, log)
    recorded(shared.modules["vae"].decoder, "decoder", log)
    shared.modules["vae"].to = lambda device: log.append(f"vae to {'rest' * (device is REST)}")
    found = flow_map.encode_prompts(["abc", "de"])
    assert log[:2] == [f"{name} to device" for name in encoders]
    assert log[-2:] == [f"{name} to rest" for name in encoders]
    assert log.count("text_encoder called") == 2
    expected = plain.encode_prompts(["abc", "de"])
    torch.testing.assert_close(found.prompt_embeds, expected.prompt_embeds, atol=0, rtol=0)
    log.clear()
    flow_map.encode_prompts(["de", "abc"])  # known already
    assert log == []
    x = torch.randn(2, *flow_map.shape, generator=torch.Generator().manual_seed(0))
    images = flow_map.decode(x)
    assert log == ["vae to ", "decoder called", "vae to rest"]
    torch.testing.assert_close(images, plain.decode(x), atol=0, rtol=0)


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_pass_through_an_offloaded_decoder(recompute):
    """With recomputation the backward pass decodes again, and moves the decoder again."""
    flow_map = sd3().flow_map(offload=True, recompute=recompute)
    plain = sd3().flow_map()
    moves: list[torch.device] = []
    vae = flow_map.network.shared.modules["vae"]
    to = vae.to
    vae.to = lambda device: (moves.append(device), to(device))[1]
    x = torch.randn(2, *flow_map.latent_shape(16, 16)).requires_grad_()
    (found,) = torch.autograd.grad(flow_map.decode(x).square().sum(), x)
    (expected,) = torch.autograd.grad(plain.decode(x).square().sum(), x)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert len(moves) == (4 if recompute else 2)


def test_moving_the_map_leaves_offloaded_parts_where_they_wait():
    """The meta device stands for a GPU: what is moved there has no values left."""
    for offload, left in ((True, "cpu"), (False, "meta")):
        flow_map = copy.deepcopy(sd3()).flow_map(offload=offload)
        flow_map.to("meta")
        assert flow_map.network.device.type == "meta"
        vae = flow_map.network.shared.modules["vae"]
        assert {weight.device.type for weight in vae.parameters()} == {left}


def test_a_reward_rests_between_its_calls():
    classifier = rewards.load_classifier("fashion-residual")
    plain = rewards.ClassLogProbability(classifier, target=3)
    inner = rewards.ClassLogProbability(copy.deepcopy(classifier), target=3)
    log: list[str] = []
    reward = rewards.OnDevice(inner, "cpu", rest="cpu")
    reward.rest = REST
    recorded(inner, "reward", log)
    x = torch.rand(2, 1, 28, 28, requires_grad=True)
    value = reward(x)
    assert log == ["reward to device", "reward called", "reward to rest"]
    (found,) = torch.autograd.grad(value.sum(), x)
    (expected,) = torch.autograd.grad(plain(x).sum(), x)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    log.clear()
    reward.double()  # stays where it rests
    assert log == ["reward to rest"]
    assert repr(rewards.OnDevice(inner, "cpu", rest="meta")).startswith("OnDevice(")
    with pytest.raises(ValueError, match="OnDevice: rest 'nowhere' cannot be used"):
        rewards.OnDevice(inner, "cpu", rest="nowhere")
