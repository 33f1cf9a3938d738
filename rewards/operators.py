"""What a camera does to an image, y = A x + noise, for linear A: hide pixels, blur, shrink, project
at random.

Each operator knows A, its transpose and the proximal step of the misfit, all exactly,

    argmin_z |z - x|^2 / 2 + step |A z - y|^2 / 2  =  x + A^T W (y - A x),      W = step (I + step A A^T)^-1,

which needs no more than W, a small matter where A A^T is a multiple of the identity (Mask,
Downsample), diagonal to the Fourier transform (Blur), or an ordinary matrix (CompressedSensing). A
further linear operator is one class with `forward`, `adjoint` and `weighted`; one that is not
linear, such as `JpegLike`, has `forward` alone.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Step = float | Tensor  # one for all samples, or one per sample (b,)


class Operator(nn.Module, ABC):
    """y = A(x), sample by sample."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b *measured"]:
        """A(x)."""

    def observe(
        self, x: Float[Tensor, "b *shape"], noise: float, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b *measured"]:
        """A measurement of each sample, A(x) + noise e with e ~ N(0, I)."""
        y = self(x)
        e = torch.randn(
            y.shape,
            generator=generator,
            dtype=y.dtype,
            device=generator.device if generator else None,
        )
        return y + noise * e.to(y)


class LinearOperator(Operator):
    """A with its transpose and W."""

    @abstractmethod
    def adjoint(self, y: Float[Tensor, "b *measured"]) -> Float[Tensor, "b *shape"]:
        """A^T y."""

    @abstractmethod
    def weighted(self, y: Float[Tensor, "b *measured"], step: Step) -> Float[Tensor, "b *measured"]:
        """W y = step (I + step A A^T)^-1 y."""

    def prox(
        self, x: Float[Tensor, "b *shape"], y: Float[Tensor, "#b *m"], step: Step
    ) -> Float[Tensor, "b *shape"]:
        """argmin_z |z - x|^2 / 2 + step |A z - y|^2 / 2, step >= 0."""
        return x + self.adjoint(self.weighted(y - self(x), step))


class Mask(LinearOperator):
    """The seen pixels of each sample, in order: inpainting. A A^T = I; `adjoint` puts them back,
    zeros where nothing was seen.

    Args:
        seen: of the shape of one sample, true where a pixel is seen. See also `box` and `random`.

    Raises:
        ValueError: if nothing is seen; when called, for samples of another shape.
    """

    seen: Tensor

    def __init__(self, seen: Bool[Tensor, "*shape"]) -> None:
        super().__init__()
        if not seen.any():
            raise ValueError(
                "Mask: expected at least one pixel to be seen, got none: mend the mask"
            )
        self.register_buffer("seen", seen.bool())

    @classmethod
    def box(cls, shape: Sequence[int], top: int, left: int, height: int, width: int) -> "Mask":
        """Images of this shape (c, h, w) with a box hidden from row `top` and column `left` on."""
        seen = torch.ones(tuple(shape), dtype=torch.bool)
        seen[..., top : top + height, left : left + width] = False
        return cls(seen)

    @classmethod
    def random(
        cls, shape: Sequence[int], hidden: float, generator: torch.Generator | None = None
    ) -> "Mask":
        """Images of this shape (c, h, w) with that share of their pixels hidden, in all channels
        together.
        """
        if not 0 <= hidden < 1:
            raise ValueError(
                f"Mask.random: expected a share 0 <= hidden < 1, got {hidden}: give a fraction"
            )
        pixels = math.prod(shape[-2:])
        order = torch.randperm(pixels, generator=generator)
        seen = (order >= round(hidden * pixels)).view(tuple(shape[-2:]))
        return cls(seen.expand(tuple(shape)))

    def forward(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b m"]:
        if x.shape[1:] != self.seen.shape:
            raise ValueError(
                f"Mask: expected samples of shape {tuple(self.seen.shape)}, got {tuple(x.shape[1:])}: mend it"
            )
        return x[:, self.seen]

    def adjoint(self, y: Float[Tensor, "b m"]) -> Float[Tensor, "b *shape"]:
        x = y.new_zeros(len(y), *self.seen.shape)
        x[:, self.seen] = y
        return x

    def weighted(self, y: Float[Tensor, "b m"], step: Step) -> Float[Tensor, "b m"]:
        return y * over(step, y) / (1 + over(step, y))


class Downsample(LinearOperator):
    """The mean over each block of factor x factor pixels: super-resolution. A A^T = I / factor^2.

    Args:
        factor: the side of a block.

    Raises:
        ValueError: when called, if the blocks do not fill the image.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        if factor < 1:
            raise ValueError(
                f"Downsample: expected a factor of at least 1, got {factor}: 4 makes 28 pixels 7"
            )
        self.factor = factor

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        if x.shape[-2] % self.factor or x.shape[-1] % self.factor:
            raise ValueError(
                f"Downsample: expected sides that {self.factor} divides, got {tuple(x.shape[-2:])}: crop"
            )
        return nn.functional.avg_pool2d(x, self.factor)

    def adjoint(self, y: Float[Tensor, "b c i j"]) -> Float[Tensor, "b c h w"]:
        return (
            y.repeat_interleave(self.factor, dim=-2).repeat_interleave(self.factor, dim=-1)
            / self.factor**2
        )

    def weighted(self, y: Float[Tensor, "b c i j"], step: Step) -> Float[Tensor, "b c i j"]:
        return y * over(step, y) / (1 + over(step, y) / self.factor**2)


class Blur(LinearOperator):
    """Convolution of every channel with one kernel, on a torus: what leaves the image at one edge
    enters at the other.

    That makes A diagonal to the Fourier transform, and its transpose and W exact. An image whose
    edges differ is padded first.

    Args:
        kernel: (k, k) with k odd, its middle the place of the pixel itself. See also `gaussian`.

    Raises:
        ValueError: for another kernel; when called, if the image is smaller.
    """

    kernel: Tensor

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        kernel = 1.0 * torch.as_tensor(kernel)
        if kernel.ndim != 2 or not all(side % 2 for side in kernel.shape):
            raise ValueError(
                f"Blur: expected a kernel with odd sides, got {tuple(kernel.shape)}: pad it with zeros"
            )
        self.register_buffer("kernel", kernel)

    @classmethod
    def gaussian(cls, std: float, size: int | None = None) -> "Blur":
        """A Gaussian of this standard deviation in pixels, cut off at `size` pixels (three of them
        by default), of sum 1.
        """
        if std <= 0:
            raise ValueError(
                f"Blur.gaussian: expected a positive standard deviation, got {std}: 1.5 is a mild blur"
            )
        size = size or 2 * math.ceil(3 * std) + 1
        line = torch.exp(
            -0.5 * ((torch.arange(size, dtype=torch.float64) - (size - 1) / 2) / std) ** 2
        )
        return cls(torch.outer(line, line) / line.sum() ** 2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.filtered(x, self.transfer(x))

    def adjoint(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.filtered(y, self.transfer(y).conj())

    def weighted(self, y: Float[Tensor, "b c h w"], step: Step) -> Float[Tensor, "b c h w"]:
        step = over(step, y)
        return self.filtered(y, step / (1 + step * self.transfer(y).abs().square()))

    def filtered(self, x: Tensor, transfer: Tensor) -> Tensor:
        """x with its Fourier coefficients multiplied."""
        return torch.fft.irfft2(torch.fft.rfft2(x) * transfer, s=x.shape[-2:])

    def transfer(self, x: Tensor) -> Tensor:
        """The Fourier transform of the kernel on the grid of x, its middle moved to the corner."""
        k = self.kernel.to(x)
        h, w = x.shape[-2:]
        if k.shape[0] > h or k.shape[1] > w:
            raise ValueError(
                f"Blur: expected images of at least {tuple(k.shape)} pixels, got {(h, w)}: cut the kernel"
            )
        padded = nn.functional.pad(k, (0, w - k.shape[1], 0, h - k.shape[0]))
        return torch.fft.rfft2(padded.roll((-(k.shape[0] // 2), -(k.shape[1] // 2)), (0, 1)))


class CompressedSensing(LinearOperator):
    """A few numbers (b, m), each a weighted sum of all pixels; any matrix will do.

    Args:
        matrix: (m, d). See also `orthonormal` and `gaussian`, the random ones.
        shape: of one sample, of d pixels in all; (d,) by default.
    """

    matrix: Tensor
    axes: Tensor
    gains: Tensor

    def __init__(self, matrix: Float[Tensor, "m d"], shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.shape = tuple(shape or matrix.shape[1:])
        if math.prod(self.shape) != matrix.shape[1]:
            raise ValueError(
                f"CompressedSensing: expected a shape of {matrix.shape[1]} pixels, got {self.shape}: mend it"
            )
        gains, axes = torch.linalg.eigh(matrix @ matrix.T)
        for name, value in (("matrix", matrix), ("axes", axes), ("gains", gains)):
            self.register_buffer(name, value)

    @classmethod
    def orthonormal(
        cls, measurements: int, shape: Sequence[int], generator: torch.Generator | None = None
    ) -> "CompressedSensing":
        """Random orthonormal rows, all directions alike: A A^T = I."""
        d = math.prod(shape)
        if not 1 <= measurements <= d:
            raise ValueError(
                f"CompressedSensing: expected 1 to {d} measurements, got {measurements}: take fewer"
            )
        q, r = torch.linalg.qr(
            torch.randn(d, measurements, generator=generator, dtype=torch.float64)
        )
        return cls((q * r.diagonal().sign()).T.contiguous(), shape)

    @classmethod
    def gaussian(
        cls, measurements: int, shape: Sequence[int], generator: torch.Generator | None = None
    ) -> "CompressedSensing":
        """Independent entries of variance 1 / m, so that lengths are kept on average."""
        e = torch.randn(measurements, math.prod(shape), generator=generator, dtype=torch.float64)
        return cls(e / measurements**0.5, shape)

    def forward(self, x: Float[Tensor, "b *shape"]) -> Float[Tensor, "b m"]:
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"CompressedSensing: expected samples {self.shape}, got {tuple(x.shape[1:])}: give shape="
            )
        return x.flatten(1) @ self.matrix.to(x).T

    def adjoint(self, y: Float[Tensor, "b m"]) -> Float[Tensor, "b *shape"]:
        return (y @ self.matrix.to(y)).unflatten(1, self.shape)

    def weighted(self, y: Float[Tensor, "b m"], step: Step) -> Float[Tensor, "b m"]:
        step = over(step, y)
        axes = self.axes.to(y)
        return (y @ axes) * (step / (1 + step * self.gains.to(y))) @ axes.T


def over(step: Step, x: Float[Tensor, "b *shape"]) -> Tensor:
    """A number, or one per sample, shaped to multiply x by."""
    step = torch.as_tensor(step, dtype=x.dtype, device=x.device)
    return step if step.ndim == 0 else step.view(-1, *[1] * (x.ndim - 1))
