"""The loop of a CLIP: the loss in closed form, repeated captions, recall, augmentation, a run."""

import math

import pytest
import torch
from lightning.pytorch import Trainer
from open_clip import ClipLoss
from torch import nn

from steer.data import StreamData
from steer.loops import ContrastiveTraining, ShiftBlurNoise, contrastive_loss, quiet, to_unit
from steer.metrics import recall_at

quiet()
torch.set_num_threads(1)


def units(n, seed, dim=6):
    x = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return nn.functional.normalize(x, dim=1)


def closed_form(images, texts, scale, same):
    """-1/2n sum_i log p(text i | image i) + log p(image i | text i), over pairs that differ."""
    total = 0.0
    n = len(images)
    for i in range(n):
        others = [j for j in range(n) if j == i or not same[i][j]]
        own = math.exp(scale * float(images[i] @ texts[i]))
        to_texts = sum(math.exp(scale * float(images[i] @ texts[j])) for j in others)
        to_images = sum(math.exp(scale * float(images[j] @ texts[i])) for j in others)
        total -= math.log(own / to_texts) + math.log(own / to_images)
    return total / (2 * n)


@pytest.mark.parametrize("groups", [[0, 1, 2, 3, 4], [0, 1, 0, 3, 0], [0, 0, 0, 0, 0]])
def test_the_loss_is_the_symmetric_cross_entropy_among_other_captions(groups):
    ids = torch.tensor(groups)
    same = ids[:, None] == ids
    images, texts = units(5, 0), units(5, 1)
    loss = contrastive_loss(images, texts, torch.tensor(7.0).double(), same, ClipLoss())
    assert loss.item() == pytest.approx(closed_form(images, texts, 7.0, same), rel=1e-12, abs=1e-12)
    if len(set(groups)) == 5:
        theirs = ClipLoss()(images, texts, 7.0)
        torch.testing.assert_close(loss, theirs)


def half_of_a_batch(rank, folder):
    """One of two processes: the gradients, averaged over both as DDP does, go into a file."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    leaves = [units(6, 0), units(6, 1), torch.tensor(7.0, dtype=torch.float64)]
    images, texts, scale = (leaf.requires_grad_() for leaf in leaves)
    own = slice(3 * rank, 3 * rank + 3)
    criterion = ClipLoss(gather_with_grad=True, rank=rank, world_size=2)
    loss = contrastive_loss(images[own], texts[own], scale, SAME, criterion)
    loss.backward()
    for leaf in leaves:
        torch.distributed.all_reduce(leaf.grad)
    torch.save((loss.detach(), [leaf.grad / 2 for leaf in leaves]), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


SAME = torch.eye(6, dtype=torch.bool)
SAME[0, 4] = SAME[4, 0] = True  # a caption that both processes have


@pytest.mark.slow
def test_two_processes_have_the_loss_and_gradient_of_the_joined_batch(tmp_path):
    torch.multiprocessing.spawn(half_of_a_batch, (str(tmp_path),), nprocs=2)
    leaves = [units(6, 0), units(6, 1), torch.tensor(7.0, dtype=torch.float64)]
    images, texts, scale = (leaf.requires_grad_() for leaf in leaves)
    loss = contrastive_loss(images, texts, scale, SAME, ClipLoss())
    loss.backward()
    for rank in range(2):
        theirs, gradients = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(theirs, loss.detach())
        torch.testing.assert_close(gradients, [leaf.grad for leaf in leaves])


def test_recall_counts_any_hit_among_the_nearest():
    similarity = torch.tensor([[0.9, 0.5, 0.1], [0.8, 0.7, 0.3], [0.2, 0.9, 0.1], [0.3, 0.2, 0.1]])
    belongs = torch.eye(4, 3, dtype=torch.bool)
    belongs[3, 0] = True
    assert recall_at(similarity, belongs, 1).item() == pytest.approx(2 / 4)
    assert recall_at(similarity, belongs, 2).item() == pytest.approx(3 / 4)
    assert recall_at(similarity, belongs, 5).item() == 1.0


# --- augmentation -------------------------------------------------------------------------------
def test_shifts_move_a_picture_within_bounds_and_never_mirror_it():
    x = torch.zeros(400, 1, 9, 9)
    x[:, 0, 4, 4] = 1.0
    y = ShiftBlurNoise(shift=2, blur=0.0, noise=0.0)(x, torch.Generator().manual_seed(0))
    rows, columns = y.flatten(1).argmax(1) // 9 - 4, y.flatten(1).argmax(1) % 9 - 4
    assert (y.sum((1, 2, 3)) == 1).all()
    assert set(rows.tolist()) == set(columns.tolist()) == {-2, -1, 0, 1, 2}
    ramp = torch.arange(9.0).expand(50, 1, 9, 9)
    moved = ShiftBlurNoise(2, 1.0, 0.0)(ramp, torch.Generator().manual_seed(0))
    assert (moved.diff(dim=-1) >= 0).all()  # left stays left


def test_blur_keeps_the_mean_and_noise_has_its_deviation():
    x = torch.zeros(500, 1, 15, 15)
    x[:, :, 7, 7] = 1.0
    y = ShiftBlurNoise(1, 1.0, 0.0)(x, torch.Generator().manual_seed(0))
    torch.testing.assert_close(y.sum((1, 2, 3)), torch.ones(500))
    peak = y.flatten(1).amax(1)  # 1 - 3/4 share, uniform from 1/4 to 1
    assert 0.25 <= peak.min() < 0.28
    assert 0.97 < peak.max() <= 1
    noisy = ShiftBlurNoise(1, 0.0, 0.3)(torch.zeros(500, 1, 15, 15), torch.Generator())
    deviations = noisy.flatten(1).std(1)
    assert deviations.max() < 0.33
    assert noisy.square().mean().item() == pytest.approx(0.3**2 / 3, rel=0.12)


def test_a_blur_above_one_is_refused():
    with pytest.raises(ValueError, match="from 0 to 1; got 2"):
        ShiftBlurNoise(blur=2.0)


# --- a run --------------------------------------------------------------------------------------
NAMES = [f"{r}{g}{b}" for r in (0, 1) for g in (0, 1) for b in (0, 1)]


class Colours(StreamData):
    """Pictures of one colour out of eight, with captions; validates on each colour twice."""

    def pictures(self, chosen):
        rgb = torch.tensor([[float(c) for c in NAMES[k]] for k in chosen])
        return 2 * rgb[:, :, None, None].expand(-1, 3, 4, 4) - 1, [NAMES[k] for k in chosen]

    def draw(self, generator):
        return self.pictures(torch.randint(8, (self.batch_size,), generator=generator).tolist())

    def val_dataloader(self):
        return torch.utils.data.DataLoader([self.pictures([*range(8)] * 2)], batch_size=None)


class Pair(nn.Module):
    """Linear embeddings of colours, and a table of captions."""

    def __init__(self, scale=2.3):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.images = nn.Parameter(torch.randn(4, 8, generator=generator))
        self.texts = nn.Parameter(torch.randn(8, 8, generator=generator))
        self.logit_scale = nn.Parameter(torch.tensor(scale))

    def encode_image(self, x):
        rgb = torch.cat((x.mean((2, 3)), torch.ones(len(x), 1)), 1)
        return nn.functional.normalize(rgb @ self.images, dim=1)

    def encode_text(self, captions):
        rows = [NAMES.index(caption) for caption in captions]
        return nn.functional.normalize(self.texts[rows], dim=1)


def fit(loop, steps):
    trainer = Trainer(
        max_steps=steps,
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        val_check_interval=steps,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
    )
    trainer.fit(loop, Colours(16))
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def test_a_run_learns_which_caption_is_whose():
    before = fit(ContrastiveTraining(Pair(), prepare=to_unit, lr=1e-9), 1)
    after = fit(ContrastiveTraining(Pair(), prepare=to_unit, lr=0.03), 200)
    recalls = [f"val/{way}_{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5)]
    assert before["val/text_to_image_1"] < 0.6
    assert [after[name] for name in recalls] == [1.0] * 4
    assert after["val/loss"] < 0.1 < before["val/loss"]  # repeated captions are no negatives


def test_the_inverse_temperature_stays_between_one_and_a_hundred():
    high = Pair(math.log(99.9))
    fit(ContrastiveTraining(high, prepare=to_unit, lr=0.1), 60)
    assert 1 <= high.logit_scale.exp().item() <= 100.001
    low = Pair(-0.5)
    fit(ContrastiveTraining(low, prepare=to_unit, lr=1e-6), 1)
    assert low.logit_scale.item() == 0
