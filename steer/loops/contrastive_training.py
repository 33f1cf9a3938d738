"""The training loop of a CLIP: pictures and their captions embedded in one space."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from steer.annotations import Count, NotNegative
from steer.data.stream import key
from steer.loops.base import Loop
from steer.loops.classifier_training import Augmentation, crop
from steer.metrics.recall import recall_at
from steer.training import Loss

__all__ = ["ContrastiveTraining", "ShiftBlurNoise", "contrastive_loss"]

MOST_SCALE = 100.0
RECALLS = (1, 5)


class ContrastiveTraining(Loop):
    """The contrastive loss of CLIP on augmented pictures and their captions, by open_clip.

    Both ways in a batch, from pictures to captions and back, each is classified among all others;
    pictures with one and the same caption are no negatives of each other. The inverse temperature
    is learned, at most 100. In a distributed run the batch is that of all processes.

    Validation logs the loss and, per batch, the recall at 1 and 5 both ways, a hit being any with
    the same caption.

    Reference: Radford et al. 2021, arXiv:2103.00020.

    Args:
        network: with `encode_image(x)` and `encode_text(captions)`, unit vectors (B, E), and the
            parameter `logit_scale`, the logarithm of the inverse temperature.
        augmentation: (x, generator) -> x, such as `ShiftBlurNoise`.
        prepare: from the data set's x to the network's input, such as `to_unit` for images in [0,
            1].
        optimizer: lr, schedule, weight_decay, betas and seed of `Loop`.
    """

    def __init__(
        self,
        network: nn.Module,
        augmentation: Augmentation | None = None,
        prepare: Callable[[Tensor], Tensor] | None = None,
        **optimizer: Any,
    ):
        super().__init__(**optimizer)
        self.network: Any = network
        self.augmentation = augmentation
        self.prepare = prepare or nn.Identity()
        self.criterion: nn.Module | None = None

    def setup(self, stage: str) -> None:
        from open_clip import ClipLoss  # slow to import

        self.criterion = ClipLoss(
            gather_with_grad=True, rank=self.global_rank, world_size=self.trainer.world_size
        )

    def training_step(self, batch: tuple[Tensor, Sequence[str]], batch_idx: int) -> Tensor:
        x, captions = batch
        generator = self.step_generator(batch_idx)
        if self.augmentation is not None:
            x = self.augmentation(x, generator)
        images, texts = self.embeddings(x, captions)
        loss = self.loss(images, texts, self.same(captions))
        scale = self.network.logit_scale.detach().exp()
        return self.report(Loss(loss, {"inverse_temperature": scale}), len(x))

    def validation_step(self, batch: tuple[Tensor, Sequence[str]], batch_idx: int) -> None:
        images, texts = self.embeddings(*batch)
        ids = numbered(batch[1], self.device)
        same = ids[:, None] == ids
        similarity = texts @ images.T
        figures = {"val/loss": self.loss(images, texts, self.same(batch[1]))}
        for k in RECALLS:
            figures[f"val/text_to_image_{k}"] = recall_at(similarity, same, k)
            figures[f"val/image_to_text_{k}"] = recall_at(similarity.T, same, k)
        self.log_dict(figures, batch_size=len(images), sync_dist=True)

    def embeddings(self, x: Tensor, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Embeds pictures and captions."""
        return self.network.encode_image(self.prepare(x)), self.network.encode_text(captions)

    def loss(self, images: Tensor, texts: Tensor, same: Tensor) -> Tensor:
        """Computes the loss over the batches of all processes."""
        scale = self.network.logit_scale.exp()
        return contrastive_loss(images, texts, scale, same, self.criterion)

    def same(self, captions: Sequence[str]) -> Bool[Tensor, "n n"]:
        """Compares the captions of all processes."""
        gathered: Any = self.all_gather(numbered(captions, self.device))
        ids = gathered.flatten()
        return ids[:, None] == ids

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            self.network.logit_scale.clamp_(0, math.log(MOST_SCALE))


def contrastive_loss(
    images: Float[Tensor, "b e"],
    texts: Float[Tensor, "b e"],
    scale: Tensor,
    same: Bool[Tensor, "n n"],
    criterion: Any,
) -> Float[Tensor, ""]:
    """Compute the symmetric cross-entropy of pictures and captions, each of its own pair.

    Args:
        images, texts: unit vectors, the b pairs of this process.
        scale: the inverse temperature.
        same: which of the n pairs of all processes have the same caption.
        criterion: `open_clip.ClipLoss`, whose logits and labels these are.
    """
    others = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    logits = criterion.get_logits(images, texts, scale)
    per_image, per_text = (each.masked_fill(others, -math.inf) for each in logits)
    labels = criterion.get_ground_truth(per_image.device, len(per_image))
    return (F.cross_entropy(per_image, labels) + F.cross_entropy(per_text, labels)) / 2


def numbered(captions: Sequence[str], device: torch.device) -> Tensor:
    """Turns captions into numbers (b,), equal where they are."""
    return torch.tensor([key(caption) for caption in captions], device=device)


class ShiftBlurNoise:
    """Shifts, blurs and noise, each drawn for each picture by itself; what captions say stays true.

    Args:
        shift: pixels up, down, left and right at most; the edge is repeated.
        blur: the largest share of the picture blurred by the binomial kernel (1, 2, 1) / 4 both
            ways, from 0 to 1.
        noise: the largest standard deviation of Gaussian noise.

    Raises:
        ValueError: a blur above 1.
    """

    def __init__(self, shift: Count = 2, blur: NotNegative = 1.0, noise: NotNegative = 0.1):
        if blur > 1:
            raise ValueError(f"blur is a share of the picture, from 0 to 1; got {blur}")
        self.shift = shift
        self.blur = blur
        self.noise = noise

    def __call__(
        self, x: Float[Tensor, "b c h w"], generator: torch.Generator
    ) -> Float[Tensor, "b c h w"]:
        b, device = len(x), x.device
        corners = torch.randint(2 * self.shift + 1, (2, b), generator=generator, device=device)
        shares, noises = torch.rand((2, b, 1, 1, 1), generator=generator, device=device)
        noise = torch.randn(x.shape, generator=generator, device=device)
        padded = F.pad(x, (self.shift,) * 4, mode="replicate")
        x = crop(padded, *corners, *x.shape[-2:])
        x = x + self.blur * shares * (blurred(x) - x)
        return x + self.noise * noises * noise


def blurred(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Blurs by (1, 2, 1) / 4 along both sides; the edge is repeated."""
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = (x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]) / 4
    return (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4
