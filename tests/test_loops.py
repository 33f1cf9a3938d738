"""The loops: what is learned, averaged, logged and refused."""

import copy
import math
import re

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from steer import counting
from steer.data import Checkerboard
from steer.flow_map import ResidualMap
from steer.interpolant import Linear
from steer.loops import (
    ClassifierTraining,
    Constant,
    Cosine,
    CsvLog,
    Diverged,
    Ema,
    FlipAndShift,
    Identities,
    InverseSqrt,
    LastCheckpoint,
    MapTraining,
    Pictures,
    PlaneHistogram,
    RewardTuning,
    Warmup,
    quiet,
    read_csv_log,
)
from steer.loops.identities import residuals
from steer.loops.map_training import drop
from steer.samplers.jump import Jump
from steer.tilt import Tilt
from steer.training import FlowMatching, Joint, Loss, Plain, Semigroup
from steer.tuning import TuningObjective

quiet()
torch.set_num_threads(1)


class Plane(nn.Module):
    """u(x, s, t), a two-layer network."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w1 = nn.Parameter(torch.randn(4, 16, generator=generator) / 2)
        self.w2 = nn.Parameter(torch.randn(16, 2, generator=generator) / 4)

    def forward(self, x, s, t, cond=None):
        return torch.tanh(torch.cat((x, s[:, None], t[:, None]), 1) @ self.w1) @ self.w2


def tiny_map():
    return ResidualMap(Plane(), Linear())


class Climb(TuningObjective):
    """-E tilt(X_{0,1}(x0)), the simplest tuning objective."""

    claim = "maximiser"
    needs_gradient = True

    def forward(self, flow_map, base, tilt, x0, cond, generator, step):
        reward = tilt(flow_map(x0, 0.0, 1.0, cond), cond)
        return Loss(-reward.mean(), {"reward": reward.mean().detach()})


class Height(nn.Module):
    """r(x) = -|x - peak|^2, with a weight of its own that must stay as it is."""

    def __init__(self):
        super().__init__()
        self.peak = nn.Parameter(torch.tensor([1.0, -1.0]))

    def forward(self, x):
        return -(x - self.peak).square().sum(1)


def fit(loop, data=None, steps=20, callbacks=(), logger=False, **trainer):
    trainer = Trainer(
        max_steps=steps,
        callbacks=list(callbacks),
        logger=logger,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, LastCheckpoint) for callback in callbacks),
        **trainer,
    )
    trainer.fit(loop, data)
    return trainer


def tuning(**changes):
    flow_map = tiny_map()
    base = copy.deepcopy(flow_map).eval().requires_grad_(False)
    tilt = Tilt(Height().requires_grad_(False), scale=2.0)
    settings = {"shape": (2,), "batch_size": 32, "lr": 0.02} | changes
    return RewardTuning(flow_map, base, tilt, Climb(), **settings)


# Schedules


def test_schedules_have_their_closed_forms():
    assert [Constant()(step) for step in (0, 10**6)] == [1.0, 1.0]
    assert [Cosine(100)(step) for step in (0, 50, 100, 200)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert [InverseSqrt(25)(step) for step in (0, 25, 100)] == pytest.approx([1.0, 1.0, 0.5])
    assert [Warmup(4)(step) for step in (0, 1, 3, 9)] == pytest.approx([0.25, 0.5, 1.0, 1.0])
    assert Warmup(10, Cosine(100))(49) == Cosine(100)(49)


def test_the_schedule_multiplies_the_learning_rate():
    loop = MapTraining(tiny_map(), FlowMatching(), lr=0.5, schedule=Warmup(10))
    trainer = fit(loop, Checkerboard(8), steps=3)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5 * 0.4)


# Learning


def test_map_training_descends_and_logs(tmp_path):
    log = CsvLog(tmp_path / "log.csv")
    loop = MapTraining(tiny_map(), FlowMatching(), lr=0.01)
    fit(loop, Checkerboard(256), steps=100, logger=log, log_every_n_steps=1)
    curves = read_csv_log(tmp_path / "log.csv")
    loss = list(curves["train/loss"].values())
    assert len(loss) == 100
    assert sum(loss[-20:]) < 0.9 * sum(loss[:20])
    assert set(curves) == {"train/loss", "train/diagonal", "train/gradient_norm"}


def test_two_runs_are_equal_and_another_seed_differs():
    def weights(seed):
        loop = MapTraining(tiny_map(), FlowMatching(), lr=0.01, seed=seed)
        fit(loop, Checkerboard(8), steps=5)
        return loop.flow_map.network.w1

    torch.manual_seed(5)
    first = weights(0)
    torch.manual_seed(6)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


def test_reward_tuning_climbs_and_counts(tmp_path):
    loop = tuning()
    base = copy.deepcopy(loop.frozen[0].state_dict())
    tilt = copy.deepcopy(loop.frozen[1].state_dict())
    fit(loop, steps=60, logger=CsvLog(tmp_path / "log.csv"), log_every_n_steps=1)
    curves = read_csv_log(tmp_path / "log.csv")
    assert curves["train/reward"][59] > curves["train/reward"][0] + 2
    for now, before in ((loop.frozen[0].state_dict(), base), (loop.frozen[1].state_dict(), tilt)):
        assert all(torch.equal(now[name], before[name]) for name in before)
    assert loop.spent == counting.Evaluations(60 * 32, 60 * 32, 60 * 32, 60 * 32)
    assert curves["spent/network_forward"][59] == 60 * 32


def test_frozen_parts_are_neither_learned_nor_saved():
    loop = tuning()
    assert {name.split(".")[0] for name in loop.state_dict()} == {"flow_map"}
    assert len(list(loop.parameters())) == 2


def test_prompts_reach_the_objective():
    seen = []

    class Watch(Climb):
        def forward(self, flow_map, base, tilt, x0, cond, generator, step):
            seen.append(cond)
            return super().forward(flow_map, base, tilt, x0, None, generator, step)

    loop = tuning(prompts=lambda n, generator: torch.randint(10, (n,), generator=generator))
    loop.objective = Watch()
    fit(loop, steps=3)
    assert [cond.shape for cond in seen] == [(32,)] * 3
    assert not torch.equal(seen[0], seen[1])


def test_a_scale_for_each_prompt_follows_the_prompts_at_random():
    """Every sample's tilt is its own label's scale times its reward, in any order of labels."""
    labels = torch.tensor([5, 3, 8])
    scales = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    drawn = []

    class Watched(Climb):
        def forward(self, flow_map, base, tilt, x0, cond, generator, step):
            half = slice(7, None)
            expected = torch.stack([scales[int((labels == label).nonzero())] for label in cond])
            torch.testing.assert_close(tilt(x0, cond), expected * tilt.rewards(x0, cond))
            torch.testing.assert_close(tilt(x0[half], cond[half]), tilt(x0, cond)[half])
            drawn.append(cond)
            return super().forward(flow_map, base, tilt, x0, cond, generator, step)

    class Ask(Plane):
        def forward(self, x, s, t, cond=None):
            return super().forward(x, s, t)

    prompts = lambda n, generator: labels[torch.randint(3, (n,), generator=generator)]  # noqa: E731
    flow_map = ResidualMap(Ask(), Linear())
    base = ResidualMap(Ask(), Linear())
    by_prompt = Tilt(Height().requires_grad_(False), scales, labels)
    fit(
        RewardTuning(flow_map, base, by_prompt, Watched(), (2,), 32, prompts=prompts, lr=0.02),
        steps=2,
    )
    assert all(cond.unique().numel() == 3 for cond in drawn)
    with pytest.raises(ValueError, match=r"scale.*prompts="):
        RewardTuning(
            flow_map, base, Tilt(Height(), scales), Watched(), (2,), 32, prompts=prompts, lr=0.02
        )


def test_the_base_cannot_be_the_map_itself():
    flow_map = tiny_map()
    with pytest.raises(ValueError, match="frozen copy"):
        RewardTuning(flow_map, flow_map, Tilt(Height()), Climb(), (2,), 4, lr=0.1)


def test_a_classifier_learns_and_is_validated(tmp_path):
    class Corners(Checkerboard):
        """Which half of the image is bright."""

        def draw(self, generator):
            labels = torch.randint(2, (self.batch_size,), generator=generator)
            x = 0.1 * torch.randn(self.batch_size, 1, 8, 8, generator=generator)
            x[:, :, :4] += labels[:, None, None, None]
            return x, labels

        def val_dataloader(self):
            batch = self.draw(torch.Generator().manual_seed(0))
            return DataLoader([batch], batch_size=None)

    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 2))
    loop = ClassifierTraining(
        network, 2, label_smoothing=0.05, augmentation=FlipAndShift(1), lr=0.05
    )
    trainer = fit(
        loop,
        Corners(64),
        steps=60,
        callbacks=[Ema(0.9)],
        val_check_interval=30,
        check_val_every_n_epoch=None,
    )
    assert trainer.callback_metrics["val/accuracy"] > 0.95


# Chance


def test_dropped_conditions():
    generator = torch.Generator().manual_seed(0)
    labels = drop(torch.arange(10_000), 0.25, generator)
    assert abs((labels == -1).float().mean().item() - 0.25) < 0.02
    embeddings = drop(torch.ones(10_000, 3), 0.25, generator)
    gone = (embeddings == 0).all(1)
    assert torch.equal(gone, (embeddings == 0).any(1))
    assert abs(gone.float().mean().item() - 0.25) < 0.02
    texts = drop(["a hat"] * 1000, 0.25, generator)
    assert set(texts) == {"", "a hat"}
    assert drop(None, 0.25, generator) is None


def test_flip_and_shift_moves_whole_images():
    x = torch.zeros(500, 1, 9, 9)
    x[:, :, 4, 4] = 1
    moved = FlipAndShift(2)(x, torch.Generator().manual_seed(0))
    assert moved.shape == x.shape
    assert torch.equal(moved.sum((1, 2, 3)), torch.ones(500))
    assert moved.sum(0)[0, 2:7, 2:7].min() > 5
    assert moved.sum(0)[0, 2:7, 2:7].sum() == 500


def test_flip_and_shift_mirrors_half():
    x = torch.zeros(1000, 1, 4, 4)
    x[..., 0] = 1
    flipped = FlipAndShift(0)(x, torch.Generator().manual_seed(0))[:, 0, 0, 3]
    assert abs(flipped.mean().item() - 0.5) < 0.05


# The average


def test_the_average_follows_its_recursion():
    weights = []

    class Record(Ema):
        def on_train_batch_end(self, trainer, pl_module, *batch):
            weights.append(pl_module.flow_map.network.w1.detach().clone())
            super().on_train_batch_end(trainer, pl_module, *batch)

    loop = MapTraining(tiny_map(), FlowMatching(), lr=0.01)
    ema = Record(0.6)
    expected = loop.flow_map.network.w1.detach().clone()
    fit(loop, Checkerboard(8), steps=10, callbacks=[ema])
    for step, weight in enumerate(weights, start=1):
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(ema.average["flow_map.network.w1"], expected)


def test_the_average_is_put_on_and_taken_off():
    loop = MapTraining(tiny_map(), FlowMatching(), lr=0.01)
    ema = Ema(0.9)
    fit(loop, Checkerboard(8), steps=5, callbacks=[ema])
    own = loop.flow_map.network.w1.detach().clone()
    with ema.applied(loop):
        assert torch.equal(loop.flow_map.network.w1, ema.average["flow_map.network.w1"])
        assert not torch.equal(loop.flow_map.network.w1, own)
    assert torch.equal(loop.flow_map.network.w1, own)


def test_only_what_is_learned_is_averaged():
    loop = MapTraining(tiny_map(), FlowMatching(), lr=0.01)
    ema = Ema(0.9)
    loop.flow_map.network.w1.requires_grad_(False)
    fit(loop, Checkerboard(8), steps=2, callbacks=[ema])
    assert set(ema.average) == {"flow_map.network.w2"}


# Refusals


class Explode:
    """A loss whose term `off_diagonal` is not finite from step 3 on."""

    def __call__(self, flow_map, x0, x1, cond, generator, step):
        loss = flow_map(x0, 0.0, 1.0).square().mean()
        bad = loss * (math.nan if step >= 3 else 1.0)
        return Loss(loss + bad, {"diagonal": loss.detach(), "off_diagonal": bad.detach()})


def test_a_non_finite_loss_stops_and_names_the_term(tmp_path):
    last = LastCheckpoint(tmp_path, every=1)
    loop = MapTraining(tiny_map(), Explode(), lr=0.01)
    with pytest.raises(ValueError, match="nan at step 3, from its term 'off_diagonal'"):
        fit(loop, Checkerboard(8), callbacks=[last])
    assert torch.load(last.path, weights_only=True)["global_step"] == 3


class Overflow(torch.nn.Module):
    """Average velocities that overflow at late end times, from a certain step on."""

    def __init__(self, after=4):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(()))
        self.after = after
        self.steps = 0

    def forward(self, x, s, t, cond=None):
        if (s == t).all():  # the diagonal, once a step
            self.steps += 1
        late = (t > 0.7) & (t > s) & (self.steps > self.after)
        return self.w * x + torch.where(late, math.inf, 0.0)[:, None]


def test_a_divergence_names_step_objective_times_checkpoint_and_remedies(tmp_path):
    objective = Joint(FlowMatching(), Semigroup(), 0.5)
    loop = MapTraining(ResidualMap(Overflow(), Linear()), objective, lr=0.01)
    with pytest.raises(
        Diverged,
        match=r"the training loss is nan at step 4, from \d+ of the 32 residuals of Semigroup",
    ) as caught:
        fit(loop, Checkerboard(64), steps=9, callbacks=[LastCheckpoint(tmp_path, every=3)])
    says = str(caught.value)
    s, t = (
        float(number) for number in re.search(r"\(s, t\) = \(([^,]*), ([^)]*)\)", says).groups()
    )
    assert 0 <= s < t <= 1
    assert t > 0.7
    assert f"the weights of step 3 are kept in {tmp_path}/last.ckpt" in says
    assert caught.value.kept == tmp_path / "last.ckpt"
    assert says.endswith("lower lr, set the Trainer's gradient_clip_val=1")


def test_the_weights_that_failed_are_not_offered(tmp_path):
    loop = MapTraining(
        ResidualMap(Overflow(after=4), Linear()), Joint(FlowMatching(), Semigroup(), 0.5), lr=0.01
    )
    with pytest.raises(Diverged, match="at step 4") as caught:
        fit(loop, Checkerboard(64), steps=9, callbacks=[LastCheckpoint(tmp_path, every=2)])
    assert caught.value.kept is None
    assert "kept" not in str(caught.value)


def test_a_weighting_that_is_not_finite_is_blamed_itself():
    class Broken(Plain):
        def forward(self, residual, s, t):
            return residual * math.nan

    loop = MapTraining(
        tiny_map(), Joint(FlowMatching(), Semigroup(), 0.5, weighting=Broken()), lr=0.01
    )
    with pytest.raises(
        Diverged, match="at step 0, from the weighting, the residuals being finite: lower lr"
    ):
        fit(loop, Checkerboard(8), steps=2)


def test_data_that_is_not_finite_is_blamed_on_the_data():
    class Torn(Checkerboard):
        def draw(self, generator):
            x, _ = super().draw(generator)
            x[5, 1] = math.nan
            return x, None

    with pytest.raises(ValueError, match="sample 5 of the batch of step 0 is not finite"):
        fit(MapTraining(tiny_map(), FlowMatching(), lr=0.01), Torn(8), steps=2)


def test_a_non_finite_gradient_stops_before_the_weights_are_touched():
    class Cusp:
        def __call__(self, flow_map, x0, x1, cond, generator, step):
            loss = (flow_map(x0, 0.0, 1.0) - x0).square().sum().sqrt() * 0 + (
                flow_map.network.w1 * 0
            ).sqrt().sum()
            return Loss(loss, {})

    loop = MapTraining(tiny_map(), Cusp(), lr=0.01)
    with pytest.raises(ValueError, match="gradient's norm is nan at step 0"):
        fit(loop, Checkerboard(8))
    assert loop.flow_map.network.w1.isfinite().all()


def test_bad_settings():
    with pytest.raises(ValueError, match="lr must be positive"):
        MapTraining(tiny_map(), FlowMatching(), lr=0.0)
    with pytest.raises(ValueError, match="decay"):
        Ema(1.0)
    with pytest.raises(ValueError, match="batch_size"):
        Checkerboard(0)
    with pytest.raises(ValueError, match="every"):
        LastCheckpoint("somewhere", every=0)


# What a run leaves


def test_pictures_are_drawn_with_the_average_from_fixed_noise(tmp_path):
    seen = []

    class OneJump:
        def __call__(self, flow_map, x0, tilt=None, cond=None, generator=None):
            seen.append((x0.clone(), flow_map.network.w1.detach().clone(), flow_map.training))
            return Jump(1)(flow_map, x0, tilt, cond, generator)

    loop = MapTraining(tiny_map(), FlowMatching(), lr=0.01)
    ema = Ema(0.9)
    x0 = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    pictures = Pictures({"1_jump": OneJump()}, x0, PlaneHistogram(), tmp_path, every=4, ema=ema)
    fit(loop, Checkerboard(8), steps=8, callbacks=[ema, pictures])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_000004_1_jump.png",
        "step_000008_1_jump.png",
    ]
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[1][1], ema.average["flow_map.network.w1"])
    assert not seen[0][2]
    assert loop.flow_map.training


def test_a_histogram_puts_points_where_they_are():
    picture = PlaneHistogram(extent=2.0, bins=4)(
        torch.tensor([[1.5, -1.5], [1.5, -1.5], [9.0, 9.0]])
    )
    assert picture.shape == (3, 4, 4)
    assert (picture[0] == 0).nonzero().tolist() == [[3, 3]]  # right and low


def test_a_cut_line_of_a_log_is_passed_over(tmp_path):
    path = tmp_path / "log.csv"
    log = CsvLog(path)
    log.log_metrics({"loss": 1.0, "epoch": 0}, 1)
    log.log_metrics({"loss": 0.5}, 2)
    log.log_metrics({"loss": 0.25}, 2)
    with path.open("a") as file:
        file.write("3,lo")
    assert read_csv_log(path) == {"loss": {1: 1.0, 2: 0.25}}


def test_lightning_can_be_quiet(capfd, recwarn):
    quiet()
    fit(MapTraining(tiny_map(), FlowMatching(), lr=0.01), Checkerboard(8), steps=2)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""
    assert [str(warning.message) for warning in recwarn] == []


# Identities


class Curved(nn.Module):
    """u = w x^2 at all times: b = u, X_{s,t}(x) = x + (t - s) u(x).

    No identity holds unless w = 0.
    """

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, x, s, t, cond=None):
        return self.w.to(x.dtype) * x.square()


def test_identities_are_logged_and_hold_for_still_points(tmp_path):
    loop = MapTraining(ResidualMap(Curved(0.0), Linear()), FlowMatching(), lr=1e-12)
    fit(
        loop,
        Checkerboard(32),
        steps=4,
        callbacks=[Identities(2, samples=16)],
        logger=CsvLog(tmp_path / "log.csv"),
    )
    found = {
        name: curve
        for name, curve in read_csv_log(tmp_path / "log.csv").items()
        if name.startswith("identity/")
    }
    assert found.keys() == {"identity/semigroup", "identity/lagrangian", "identity/eulerian"}
    assert all(set(curve) == {2, 4} for curve in found.values())
    assert all(abs(number) < 1e-10 for curve in found.values() for number in curve.values())


def test_each_identity_has_its_own_residual():
    """For the gap g, with u at x: the three residuals by hand.

    Lagrangian u - u(x + g u), Eulerian g u' u, semigroup (u(x + g u / 2) - u) / 2.
    """
    batch = Checkerboard(32).draw(torch.Generator().manual_seed(0))[0].double()
    pairs, again = (Identities(samples=16).pairs(batch, None) for _ in range(2))
    assert torch.equal(pairs.x0, again.x0)
    assert torch.equal(pairs.t, again.t)
    x = pairs.at_s(Linear())
    gap = pairs.gap
    w = 0.3

    def u(x):
        return w * x.square()

    by_hand = {
        "semigroup": (u(x + gap * u(x) / 2) - u(x)) / 2,
        "lagrangian": u(x) - u(x + gap * u(x)),
        "eulerian": gap * 2 * w * x * u(x),
    }
    found = residuals(ResidualMap(Curved(w), Linear()), pairs)
    assert found == pytest.approx(
        {name: float(r.square().mean()) for name, r in by_hand.items()}, rel=1e-3
    )
    assert found["lagrangian"] > 1.05 * found["eulerian"]
