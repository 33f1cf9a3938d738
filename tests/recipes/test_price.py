"""What rewards cost: calls, samples and seconds of each, and of what they are composed of."""

import torch

from recipes.evaluation.price import priced
from rewards import Brightness, Clipped, Sum, Symmetry


def test_what_two_rewards_share_is_counted_once_with_all_its_calls():
    """Brightness is called twice with 5 samples and once with 3: 13 samples in 3 calls."""
    shared = Brightness()
    reward = Sum({"bright": shared, "clipped": Clipped(shared, 0.0, 1.0)})
    heldout = Sum({"bright": shared, "symmetry": Symmetry()})
    with priced([reward, heldout, shared]) as prices:
        reward(torch.rand(5, 3, 4, 4))
        heldout(torch.rand(3, 3, 4, 4))
    counted = {name: (price.calls, price.samples) for name, price in prices.items()}
    assert counted == {
        "Sum": (1, 5),
        "Brightness": (3, 13),
        "Clipped": (1, 5),
        "Sum 2": (1, 3),
        "Symmetry": (1, 3),
    }


def test_two_rewards_of_one_class_have_a_price_each():
    first, second = Brightness(), Brightness()
    with priced([first, second]) as prices:
        first(torch.rand(5, 3, 4, 4))
    assert {name: price.samples for name, price in prices.items()} == {
        "Brightness": 5,
        "Brightness 2": 0,
    }
