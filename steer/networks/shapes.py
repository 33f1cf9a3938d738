"""Checks of the shape of samples against that a network was built for."""

from torch import Tensor


class WrongShape(ValueError):
    """The error for samples of another shape than a network takes."""


def check_images(x: Tensor, channels: int, unit: int, network: str) -> None:
    """Raise WrongShape unless x is (B, channels, H, W), with H and W divisible by `unit`."""
    if x.ndim != 4 or x.shape[1] != channels:
        raise WrongShape(f"this {network} takes images (B, {channels}, H, W); got {tuple(x.shape)}")
    if x.shape[-1] % unit or x.shape[-2] % unit:
        raise WrongShape(
            f"this {network} takes images whose sides divide by {unit}; "
            f"got {tuple(x.shape[-2:])}: pad them"
        )


def check_vectors(x: Tensor, dim: int, network: str) -> None:
    """Raise WrongShape unless x is (B, dim)."""
    if x.shape[1:] != (dim,):
        raise WrongShape(f"this {network} takes samples (B, {dim}); got {tuple(x.shape)}")
