"""Random generators keyed by prompt: results are independent of the other prompts of a batch."""

import hashlib
from collections.abc import Sequence
from operator import index
from typing import SupportsIndex

import torch
from torch import Tensor

PromptKeys = Sequence[int] | Tensor | None


def prompt_generators(
    prompts: int,
    keys: PromptKeys = None,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> list[torch.Generator]:
    """Make a generator for each prompt, seeded by one draw from `generator` and the prompt's key.

    Args:
        prompts: P, the number of prompts.
        keys: one integer for each; 0 ... P-1 if None. Equal keys give equal randomness.
        generator: source of the draw; the default generator if None.
        device: of the generators.

    Raises:
        ValueError: another number of keys, or keys that are no integers.
    """
    given: Sequence = (
        range(prompts) if keys is None else keys.tolist() if isinstance(keys, Tensor) else keys
    )
    if len(given) != prompts:
        raise ValueError(
            f"prompt_keys has one integer per prompt, {prompts} of them; got {len(given)}"
        )
    if not all(isinstance(key, SupportsIndex) and not isinstance(key, bool) for key in given):
        raise ValueError(f"prompt_keys are integers; got {list(given)}")
    where = generator.device if generator else "cpu"
    base = int(torch.randint(2**62, (1,), generator=generator, device=where))
    return [torch.Generator(device).manual_seed(mixed(base, index(key))) for key in given]


def mixed(base: int, key: int) -> int:
    """A 63-bit seed, well mixed from a base and a key."""
    digest = hashlib.blake2b(repr((base, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
