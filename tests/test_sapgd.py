"""SA-PGD against the published recursion, its schedule and the factors that it promises."""

from __future__ import annotations

import itertools
import math

import attack_models as am
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustsnn.attacks.image.sapgd import SAPGD
from robustsnn.attacks.image.schedule import checkpoints

HALVINGS = (22, 41, 57, 70, 80, 87, 93, 99)
FACTORS = (1, 1.118, 1.120, 1.091)


class Ramp(nn.Module):
    """A constant gradient, of the same size everywhere: class 1 gains with every pixel and never wins."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.w = w

    def forward(self, x: Tensor) -> Tensor:
        f = ((x - 0.5) * self.w).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(f), f, f - 1000], 1) - torch.tensor([0.0, 1e4, 0.0]).to(x)


def path(attack: SAPGD, x: Tensor, y: Tensor, start: Tensor) -> list[Tensor]:
    """Every iterate, the start included."""
    recording = am.Recording(attack.model)
    attack.model = recording
    attack.ball.edge_start = lambda *_: start
    with torch.no_grad():
        attack.run(x, y, 0)
    return recording.seen


class TestSchedule:
    def test_of_the_paper(self):
        assert tuple(checkpoints(100)) == HALVINGS

    @pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 50, 137])
    def test_of_any_length(self, steps):
        """Intervals 22 %, then 3 % shorter each, down to 6 %."""
        points = np.array(checkpoints(steps))
        assert points[-1] <= steps
        gaps = np.diff([0, *points])
        assert gaps[0] == max(int(0.22 * steps), 1)
        expected = [max(a - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)) for a in gaps[:-1]]
        assert gaps[1:].tolist() == expected

    def test_halvings_and_factors_of_a_constant_gradient(self):
        """Small steps, so that nothing is clipped: the moves are the table times eps, halved at the given steps."""
        w = torch.ones(1, 2, 2, dtype=torch.float64)
        x = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
        attack = SAPGD(Ramp(w), 1e-4, steps=100, loss="margin", bounds=(-1e6, 1e6))
        attack.ball.project = lambda point, _: point
        seen = path(attack, x, torch.zeros(1, dtype=torch.long), x)
        moves = [(after - before).mean().item() / 1e-4 for before, after in itertools.pairwise(seen)]
        assert len(moves) == 100
        for step, move in enumerate(moves):
            halved = sum(point <= step for point in HALVINGS)
            factor = (2 - 0.5**step) / math.sqrt((1 - 0.8 ** (step + 1)) / 0.2)
            assert move == pytest.approx(min(factor, 1.0) / 2**halved, rel=1e-6), step
        assert moves[99] * 2**8 == pytest.approx(2 / math.sqrt(5), abs=1e-4)

    def test_table_of_factors_before_clipping(self):
        x = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
        attack = SAPGD(Ramp(x[0]), 0.1, steps=60)
        samples = attack.begin(x, torch.zeros(1, dtype=torch.long), x)
        samples.grad = torch.full_like(x, 7e-5)
        for step in range(60):
            attack.move(samples, step)
            factor = samples.first / samples.second.sqrt()
            if step < len(FACTORS):
                assert (factor - FACTORS[step]).abs().max() < 6e-4
        assert (factor - 0.8944272).abs().max() < 1e-5

    def test_factors_times_rms_over_mean(self):
        """For a gradient of unequal entries the factor of each is that of its share: g/mean|g| over g/rms."""
        w = torch.tensor([[[1.0, 3.0], [0.0, -2.0]]], dtype=torch.float64)
        x = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
        attack = SAPGD(Ramp(w), 1e-4, steps=100, loss="margin", bounds=(-1e6, 1e6))
        attack.ball.project = lambda point, _: point
        seen = path(attack, x, torch.zeros(1, dtype=torch.long), x)
        ratio = math.sqrt(14 / 4) / (6 / 4)
        expected = min(1.0, 2 / math.sqrt(5) * ratio) * w.sign() / 2**8 * 1e-4
        assert torch.allclose(seen[-1] - seen[-2], expected, rtol=1e-3)


def published(model, x: np.ndarray, label: int, start: np.ndarray, eps: float, steps: int) -> tuple[list, list, list]:
    """The recursion for one sample, in float64 NumPy but for the gradient: points, losses, and which fool."""
    point, m, v, eta = start, np.zeros_like(x), np.zeros_like(x), eps
    points, losses, fools = [], [], []
    for step in range(steps + 1):
        tensor = torch.from_numpy(point)[None].requires_grad_()
        z = model(tensor)
        loss = nn.functional.cross_entropy(z, torch.tensor([label]))
        grad = torch.autograd.grad(loss, tensor)[0][0].numpy()
        points.append(point)
        losses.append(loss.item())
        fools.append(int(z.argmax()) != label)
        if step in checkpoints(steps):
            eta /= 2
        m = 0.5 * m + grad / np.abs(grad).mean()
        v = 0.8 * v + grad**2 / (grad**2).mean()
        move = np.clip(eta * m / (np.sqrt(v) + 1e-12), -eta, eta)
        point = np.clip(np.clip(point + move, x - eps, x + eps), 0, 1)
    return points, losses, fools


class TestPlainTwin:
    @pytest.mark.parametrize("shape", [(16,), (1, 4, 4), (2, 2, 2, 2)], ids=str)
    @pytest.mark.parametrize("early_stop", [True, False])
    def test_every_sample_by_itself(self, shape, early_stop):
        """Axes are never fixed: five-dimensional input (time, polarity) as well."""
        model, x = am.Smooth(16, classes=8, gain=10), am.random_images(20, *shape)
        y = model(x).argmax(1).detach()
        attack = SAPGD(model, 0.03, steps=12, early_stop=early_stop)
        start = attack.ball.edge_start(x, 0, 5)
        attack.ball.edge_start = lambda origin, *_: start
        with torch.no_grad():
            result, flags = attack.run(x, y, 0)
        for i in range(len(x)):
            points, losses, fools = published(model, x[i].numpy(), int(y[i]), start[i].numpy(), 0.03, 12)
            assert bool(flags[i]) == any(fools)
            hits = np.flatnonzero(fools)
            at = int(np.argmax(losses)) if not len(hits) else int(hits[0] if early_stop else hits[-1])
            assert np.abs(result[i].numpy() - points[at]).max() < 1e-9
        assert 0 < flags.sum() < len(x)

    def test_start_is_at_the_edge(self):
        x = 0.5 + 0.01 * am.random_images(4, 1, 4, 4)
        attack = SAPGD(Ramp(torch.zeros(1, 4, 4, dtype=torch.float64)), 0.1, steps=1)
        with pytest.warns(RuntimeWarning, match="all zero"):
            adv = attack(x, torch.zeros(4, dtype=torch.long))
        assert ((adv - x).abs().flatten(1).amax(1) - 0.1).abs().max() < 1e-12


class TestGuards:
    def test_zero_gradients_move_nothing_and_hurt_nobody(self):
        """0/0 for some samples: they stand still at their start, their mates' results are those without them."""

        class Dead(am.Wrapper):
            def forward(self, x: Tensor) -> Tensor:
                z = self.model(x)
                return torch.where((x[:, 0] > 0.9)[:, None], z.detach(), z)

        inner = am.OneByOne(am.Smooth(16, classes=8, gain=10))
        x = am.random_images(6, 16).clamp(max=0.8)
        x[:3, 0] = 1.0
        y = inner(x).argmax(1).detach()
        attack = SAPGD(Dead(inner), 0.02, steps=9, early_stop=False)
        with pytest.warns(RuntimeWarning, match="all zero"):
            adv = attack(x, y)
        assert adv.isfinite().all()
        assert torch.equal(adv[:3], attack.ball.edge_start(x, 0, 300)[:3])
        assert torch.equal(adv[3:], SAPGD(inner, 0.02, steps=9, early_stop=False)(x[3:], y[3:]))

    @pytest.mark.parametrize("scale", [1e-30, 1e30])
    def test_any_size_of_gradient(self, scale):
        """In float32 squares of such gradients are 0 or infinite."""
        model = am.Smooth(16, classes=4).float()
        x = am.random_images(5, 16, dtype=torch.float32)
        y = model(x).argmax(1)

        def scaled(z: Tensor) -> Tensor:
            return model(z) * scale

        first = SAPGD(scaled, 0.1, steps=3, loss="margin", early_stop=False)(x, y)
        second = SAPGD(model, 0.1, steps=3, loss="margin", early_stop=False)(x, y)
        assert (first - second).abs().max() < 1e-5
