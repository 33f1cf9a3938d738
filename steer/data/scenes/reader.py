"""A reader of scenes: it finds the objects of a picture by matching the drawings of all objects.

No network, and no gradient: the outside judge of a generative model. The background is fitted as
a plane of colour; then, greedily, the object whose drawing explains most of what is left is found,
placed to a quarter of a pixel and taken out of the picture, until nothing is left that some object
explains well.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steer.data.scenes.draw import WIDTH
from steer.data.scenes.scene import COLOURS, SIDE, SIZES, STEPS
from steer.data.scenes.shapes import SHAPES
from steer.data.scenes.templates import KINDS, PAD, Templates, blurred, maps, templates

__all__ = ["Reading", "Seen", "read"]

CHUNK = 64  # pictures at a time
MOST = 6  # objects in a picture
PEAKS = 5  # places looked at more closely at once
NOISE = 0.0035  # squared error of a pixel that is put down to noise, at most
SOFTEN = 0.5  # standard deviation in pixels of the blur of pictures, against noise
LEAST_GAIN = 0.5  # of squared error that an object must explain
LEAST_FIT = 0.85  # share of the squared error in its place that an object must explain
LOOSE_FIT = 0.5  # the same while its neighbours are not yet found
COARSE_FIT = 0.4  # the same before it is placed between pixels
CLEAR_FIT = 0.92  # the same of an object that needs no second look
SLACK = 1.0  # pixels by which an object may lie outside
APART = 5  # pixels between the centres of two objects, at least
ALONE = 12  # the same of objects that do not touch
NEAR = 2  # pixels by which an object may move when it is looked at again
HIDE = 4.0  # over 1, so that the rim of an object that was found hides too
CANDIDATES = 6
RETRIES = 3  # places at which nothing fits, before a picture is left
GROUND_SCALE = 0.06  # deviation from the background at which a pixel counts as an object


@dataclass(frozen=True)
class Seen:
    """An object found in a picture.

    Attributes:
        shape, colour, size, x, y: as in `Item`.
        fit: the share of the squared error in its place that its drawing explains, at most 1.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float
    fit: float


@dataclass(frozen=True)
class Reading:
    """The objects found in a picture, the clearest first."""

    items: tuple[Seen, ...]


def read(pictures: Float[Tensor, "b 3 32 32"]) -> list[Reading]:
    """Find the objects of pictures in [0, 1]; values outside are clamped.

    Raises:
        ValueError: pictures of another shape, or with values that are not finite.
    """
    if pictures.ndim != 4 or pictures.shape[1:] != (3, SIDE, SIDE):
        raise ValueError(
            f"expected pictures of shape (b, 3, {SIDE}, {SIDE}) in [0, 1],"
            f" got {tuple(pictures.shape)}"
        )
    finite = pictures.isfinite().flatten(1).all(1)
    if not finite.all():
        raise ValueError(f"picture {int((~finite).nonzero()[0])} is not finite: fix the sampler")
    found: list[Reading] = []
    with torch.no_grad():
        for chunk in pictures.detach().float().cpu().clamp(0, 1).split(CHUNK):
            found.extend(_Canvas(blurred(chunk, SOFTEN)).readings())
    return found


class Found(NamedTuple):
    """An object found: its number in KINDS, its place in quarters of a pixel, fit and gain."""

    kind: int
    y: int
    x: int
    fit: float
    gain: float

    def order(self) -> tuple[bool, float]:
        """Rank it: first those that fit clearly, then by what they explain."""
        return self.fit > CLEAR_FIT, self.gain * self.fit

    def seen(self) -> Seen:
        """Return the record of it."""
        shape, size, colour = KINDS[self.kind]
        return Seen(shape, colour, size, self.x / STEPS, self.y / STEPS, self.fit)

    def near(self, other: "Found", pixels: float) -> bool:
        """Whether another one lies within so many pixels, along both sides."""
        return max(abs(self.y - other.y), abs(self.x - other.x)) < STEPS * pixels


class _Canvas:
    """Pictures being read.

    Attributes:
        ground: the fitted background (b, 3, 32, 32).
        left: the pictures without it.
        noise: the mean squared error of a pixel of the background (b,).
        found: the objects found so far in each picture.
        barred: places at which nothing fits.
    """

    def __init__(self, pictures: Float[Tensor, "b 3 32 32"]) -> None:
        self.ground = fitted_ground(pictures)
        self.left = pictures - self.ground
        self.noise = noise_of(self.left)
        self.found: list[list[Found]] = [[] for _ in pictures]
        self.barred: list[list[Found]] = [[] for _ in pictures]
        self.bank = templates()

    def readings(self) -> Iterator[Reading]:
        """Find the objects of each picture."""
        active = list(range(len(self.found)))
        while active:
            active = self.add(active)
        for k in range(MOST):
            self.look_again(k)
        for found in self.found:
            clear = sorted((one for one in found if one.fit > LEAST_FIT), key=lambda one: -one.fit)
            yield Reading(tuple(one.seen() for one in clear))

    def add(self, rows: list[int]) -> list[int]:
        """Find more objects in these pictures; return the pictures in which there may be others."""
        view = _View(self, rows, [self.found[b] for b in rows])
        for row, b in enumerate(rows):
            view.bar(row, self.barred[b], NEAR)
        places = view.peaks(PEAKS)
        nearby: list[list[Found]] = [[] for _ in rows]
        for row, one in zip(places[:, 0].tolist(), view.place(places), strict=True):
            nearby[row].append(one)
        return [b for b, ones in zip(rows, nearby, strict=True) if ones and self.take(b, ones)]

    def take(self, b: int, ones: list[Found]) -> bool:
        """Take the best of these objects, and clear ones apart from it; whether to go on."""
        best, *rest = sorted(ones, key=Found.order, reverse=True)
        if best.fit <= LOOSE_FIT:
            self.barred[b].append(best)
            return len(self.barred[b]) < RETRIES
        taken = [best]
        for one in rest:
            if one.fit > CLEAR_FIT and not any(one.near(other, ALONE) for other in taken):
                taken.append(one)
        self.found[b].extend(taken[: MOST - len(self.found[b])])
        return len(self.found[b]) < MOST

    def look_again(self, k: int) -> None:
        """Find object k of every picture anew, where it touches others or fits badly."""
        rows = [
            b for b, found in enumerate(self.found) if len(found) > k and crowded(found, found[k])
        ]
        if not rows:
            return
        known = [self.found[b][k] for b in rows]
        view = _View(
            self,
            rows,
            [[o for o in self.found[b] if o is not self.found[b][k] and o.fit > 0] for b in rows],
        )
        view.keep_near(known)
        for b, one in zip(rows, known, strict=True):
            self.found[b][k] = one._replace(fit=0.0)
        places = view.peaks(1)
        for row, one in zip(places[:, 0].tolist(), view.place(places), strict=True):
            self.found[rows[row]][k] = one


def crowded(found: list[Found], one: Found) -> bool:
    """Whether an object touches others, or fits badly."""
    others = (other for other in found if other is not one)
    return one.fit < CLEAR_FIT or any(one.near(other, ALONE) for other in others)


class _View:
    """What is left of some pictures without the objects found, and how well each kind fits.

    Attributes:
        inputs, energy: as the templates take them, (b, 9, 32, 32) and (b, 32, 32).
        score: gain times fit of each kind at each pixel's corner (b, kinds, 32, 32), 0 where it
            cannot be.
    """

    def __init__(self, canvas: _Canvas, rows: list[int], found: list[list[Found]]) -> None:
        self.bank = canvas.bank
        left, ground = canvas.left[rows], canvas.ground[rows]
        weight = free(found, self.bank)
        self.inputs = maps(left, ground, weight)
        self.energy = weight * (left.square().sum(1) - canvas.noise[rows, None, None])
        gains = correlate(self.inputs, self.bank).unflatten(1, (-1, len(COLOURS)))
        energies = correlate_reach(self.energy, self.bank).clamp_min(1e-3)
        fits = gains / energies[:, :, None]
        good = (fits > coarse_limit()) & (gains > LEAST_GAIN / 2)
        self.score = torch.where(good, gains * fits, 0.0).flatten(1, 2)
        self.best = self.score.amax(1)
        self.best[:, [0, -1]] = 0
        self.best[:, :, [0, -1]] = 0
        for row, others in enumerate(found):
            self.bar(row, others, APART)

    def bar(self, row: int, places: list[Found], pixels: int) -> None:
        """Look for nothing within so many pixels of these places of a picture."""
        for one in places:
            self.best[row][around_place(one, pixels)] = 0

    def keep_near(self, known: list[Found]) -> None:
        """Look near these objects only, one in each picture."""
        there = torch.zeros_like(self.best, dtype=torch.bool)
        for row, one in zip(there, known, strict=True):
            row[around_place(one, NEAR + 1)] = True
        self.best = self.best * there

    def peaks(self, most: int) -> Tensor:
        """List row, y and x of up to `most` best places of each picture, (n, 3)."""
        best = self.best.clone()
        rows = torch.arange(len(best))
        spots = torch.arange(SIDE)
        listed = []
        for _ in range(most):
            value, place = best.flatten(1).max(1)
            y, x = place // SIDE, place % SIDE
            listed.append(torch.stack((rows, y, x), 1)[value > 0])
            far_y, far_x = ((spots - each[:, None]).abs() >= APART for each in (y, x))
            best *= far_y[:, :, None] | far_x[:, None, :]
        return torch.cat(listed)

    def place(self, places: Tensor) -> list[Found]:
        """Find the best kind at these places, and where it lies to a quarter of a pixel."""
        if len(places) == 0:
            return []
        rows, row, column = places.unbind(1)
        shifts = torch.tensor([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])
        y, x = row[:, None] + shifts[:, 0], column[:, None] + shifts[:, 1]
        value, which = self.score[rows[:, None], :, y, x].max(1)  # over the shifts
        kinds = value.topk(CANDIDATES, dim=1).indices
        shift = shifts[which.gather(1, kinds)]
        y, x = STEPS * (row[:, None] + shift[..., 0]), STEPS * (column[:, None] + shift[..., 1])
        view = windows(self.inputs), windows(self.energy[:, None])
        for step in (2, 1):
            kinds, y, x = self.refined(view, rows, kinds, y, x, step)
        gain, fit = self.judged(view, rows, kinds[:, :1], y[:, :1], x[:, :1])
        fit = torch.where(gain > LEAST_GAIN, fit, 0.0)
        numbers = (each[:, 0].tolist() for each in (kinds, y, x, fit, gain))
        return [Found(*found) for found in zip(*numbers, strict=True)]

    def refined(
        self,
        view: tuple[Tensor, Tensor],
        rows: Tensor,
        kinds: Tensor,
        y: Tensor,
        x: Tensor,
        step: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Move candidates (n, k) by -step, 0 or step quarters to their best; the better half."""
        moves = torch.tensor([(i, j) for i in (-step, 0, step) for j in (-step, 0, step)])
        n, k = kinds.shape
        ys, xs = ((spot[:, :, None] + moves[:, i]).flatten(1) for i, spot in ((0, y), (1, x)))
        gain, fit = self.judged(view, rows, kinds.repeat_interleave(len(moves), 1), ys, xs)
        value, move = (gain * fit).view(n, k, len(moves)).max(2)
        keep = value.topk(max(k // 2, 1), dim=1).indices
        moved = moves[move.gather(1, keep)]
        return (
            kinds.gather(1, keep),
            y.gather(1, keep) + moved[..., 0],
            x.gather(1, keep) + moved[..., 1],
        )

    def judged(
        self, view: tuple[Tensor, Tensor], rows: Tensor, kinds: Tensor, y: Tensor, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gain and fit of candidates (n, k) at places in quarters of a pixel."""
        inputs, energy = (each[rows[:, None], :, window_start(y), window_start(x)] for each in view)
        gain = (inputs * self.bank.exact[kinds, phase(y, x)]).flatten(2).sum(2)
        before = (energy[:, :, 0] * self.bank.reach[kinds]).flatten(2).sum(2)
        return gain, (gain / before.clamp_min(1e-3)).clamp(0, 1)


def free(found: list[list[Found]], bank: Templates) -> Float[Tensor, "b 32 32"]:
    """Weigh pixels by how little of them is under objects that were found."""
    weight = torch.ones(len(found), SIDE + 2 * PAD, SIDE + 2 * PAD)
    for row, objects in zip(weight, found, strict=True):
        for kind, y, x, *_ in objects:
            top, left = (spot // STEPS - WIDTH // 2 + PAD for spot in (y, x))
            cover = bank.cover[kind, y % STEPS * STEPS + x % STEPS]
            row[top : top + WIDTH, left : left + WIDTH] *= (1 - HIDE * cover).clamp(0, 1)
    return weight[:, PAD:-PAD, PAD:-PAD]


def around_place(one: Found, pixels: int) -> tuple[slice, slice]:
    """The square of places nearer to an object than so many pixels."""
    y, x = (round(spot / STEPS) for spot in (one.y, one.x))
    return (
        slice(max(y - pixels + 1, 0), y + pixels),
        slice(max(x - pixels + 1, 0), x + pixels),
    )


# --- correlations -------------------------------------------------------------------------------
def correlate(inputs: Float[Tensor, "b 9 32 32"], bank: Templates) -> Float[Tensor, "b k 32 32"]:
    """Gains of every kind with its centre at the corner of each pixel."""
    spectra = torch.fft.rfft2(inputs).flatten(2).permute(2, 0, 1)
    return inverse((spectra @ bank.spectra).permute(1, 2, 0))


def correlate_reach(
    energy: Float[Tensor, "b 32 32"], bank: Templates
) -> Float[Tensor, "b s 32 32"]:
    """The energy in the reach of every shape and size with its centre at each pixel's corner."""
    return inverse(torch.fft.rfft2(energy).flatten(1)[:, None] * bank.reach_spectra)


def inverse(spectra: Tensor) -> Tensor:
    """Transform spectra (..., frequencies) to pictures."""
    return torch.fft.irfft2(spectra.unflatten(-1, (SIDE, SIDE // 2 + 1)), s=(SIDE, SIDE))


@functools.cache
def coarse_limit() -> Float[Tensor, "shapes 1 32 32"]:
    """The least fit of each shape and size at a place; infinite where it would lie outside."""
    reach = torch.tensor([size / 2 - SLACK for _ in SHAPES for size in SIZES.values()])[:, None]
    spots = torch.arange(SIDE)
    inside = (spots >= reach) & (spots <= SIDE - reach)
    inside = inside[:, None, :, None] & inside[:, None, None, :]
    return torch.where(inside, COARSE_FIT, torch.inf)


def windows(images: Float[Tensor, "*b 32 32"]) -> Tensor:
    """View every square as large as a template, by its first pixel: (*b, y, x, WIDTH, WIDTH)."""
    padded = torch.nn.functional.pad(images, (PAD,) * 4)
    return padded.unfold(-2, WIDTH, 1).unfold(-2, WIDTH, 1)


def window_start(quarters: Tensor) -> Tensor:
    """The first pixel, of a padded picture, of the window around a place."""
    return quarters.div(STEPS, rounding_mode="floor") - WIDTH // 2 + PAD


def phase(y: Tensor, x: Tensor) -> Tensor:
    """Number the quarter of a pixel at which a place lies."""
    return y % STEPS * STEPS + x % STEPS


def noise_of(left: Float[Tensor, "b 3 32 32"]) -> Float[Tensor, " b"]:
    """Estimate the mean squared error of a pixel from the pixels closest to the background."""
    quiet = left.square().sum(1).flatten(1).quantile(0.3, dim=1)
    return (2.1 * quiet).clamp(max=NOISE)  # 2.1: mean over that quantile, for three normal colours


# --- background ---------------------------------------------------------------------------------
def fitted_ground(pictures: Float[Tensor, "b 3 32 32"]) -> Float[Tensor, "b 3 32 32"]:
    """Fit a plane of colour to the background by least squares that forget what lies far off.

    The edge of the picture, which objects leave free, comes first.
    """
    basis = plane_basis().flatten(1)
    colours = pictures.flatten(2)
    edge = torch.ones(SIDE, SIDE)
    edge[1:-1, 1:-1] = 0
    weight = edge.flatten().expand(len(pictures), -1)
    plane = torch.zeros(len(pictures), 3, 3)
    for _ in range(6):
        weighted = weight[:, None] * basis
        plane = torch.linalg.solve(
            weighted @ basis.T + 1e-4 * torch.eye(3), weighted @ colours.mT
        )  # basis, colour
        off = (colours - plane.mT @ basis).square().sum(1)
        weight = (1 + off / GROUND_SCALE**2).reciprocal().square()
        weight = weight * (1 + 2 * edge.flatten())
    return (plane.mT @ basis).view(pictures.shape)


def plane_basis() -> Float[Tensor, "3 32 32"]:
    """1, y and x at the pixels."""
    scaled = (torch.arange(SIDE) + 0.5) / SIDE - 0.5
    y, x = torch.meshgrid(scaled, scaled, indexing="ij")
    return torch.stack((torch.ones_like(x), y, x))
