"""Captions as conditions: words in their order, absent ones, and what is refused."""

import pytest
import torch
from shaking import shaken

from steer.interpolant import Linear
from steer.lookahead.glass_flow import Context
from steer.networks import CaptionCondition, ContextCondition, UNet, WithContext

WORDS = ["a", "red", "blue", "star", "above", "fish"]
CAPTIONS = ["a red star above a blue fish", "a blue fish above a red star", "", "a fish"]


def network(**settings):
    torch.manual_seed(0)
    condition = CaptionCondition(WORDS, 32, width=16)
    return shaken(UNet(3, (8, 8), blocks=1, patch=1, condition=condition, **settings))


def run(network, captions, n=4):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 3, 4, 4, generator=generator, dtype=torch.float64).expand(n, 3, 4, 4)
    t = torch.full((n,), 0.6, dtype=torch.float64)
    return network(x, t / 2, t, captions).detach()


def test_captions_of_other_lengths_in_the_batch_change_nothing():
    told = network()
    together = run(told, CAPTIONS)
    for k, caption in enumerate(CAPTIONS):
        torch.testing.assert_close(run(told, [caption], 1)[0], together[k], rtol=0, atol=1e-12)


def test_the_order_of_words_counts_and_case_and_points_do_not():
    told = network()
    u = run(told, CAPTIONS)
    assert (u[0] - u[1]).norm() > 1e-3 * u[0].norm()
    same = run(told, ["A Red star above a blue fish.", CAPTIONS[1], "", "a fish!"])
    assert torch.equal(same, u)


def test_no_condition_is_the_empty_caption():
    told = network()
    assert torch.equal(run(told, None), run(told, [""] * 4))


def test_tokens_reach_pixels_beyond_the_vector():
    """With the vector cut off, captions still differ."""
    told = network()
    torch.nn.init.zeros_(told.condition.project.weight)
    u = run(told, CAPTIONS)
    assert (u[0] - u[3]).norm() > 1e-3 * u[0].norm()


def test_a_posterior_maps_context_passes_the_tokens_on():
    torch.manual_seed(0)
    inner = ContextCondition(32, CaptionCondition(WORDS, 32, width=16))
    told = shaken(WithContext(UNet(3, (8, 8), blocks=1, patch=1, condition=inner, beside=3)))
    x = torch.randn(4, 3, 4, 4, dtype=torch.float64)
    t = torch.full((4,), 0.5, dtype=torch.float64)

    def at(captions):
        return told(
            x[:1].expand_as(x), t / 2, t, Context(x[1:2].expand_as(x), t, Linear(), captions)
        )

    u = at(CAPTIONS)
    assert (u[0] - u[1]).norm() > 1e-3 * u[0].norm()
    assert torch.equal(at(None), at([""] * 4))


@pytest.mark.parametrize(
    ("captions", "says"),
    [
        (["a red start"] * 4, r"knows no word 'start'; did you mean 'star'\?"),
        (["a " * 17] * 4, "at most 16 words; got 17"),
        (torch.zeros(4), "told captions, a list of 4 texts, '' for none; got a Tensor"),
        (["a"] * 3, "one per sample, 4 of them; got 3"),
        ([1, 2, 3, 4], "told captions"),
    ],
)
def test_what_is_no_caption_of_known_words_is_refused(captions, says):
    with pytest.raises(ValueError, match=says):
        run(network(), captions)
