"""Norm balls against independent truth: optimality certificates, brute force, distributions, and properties."""

from __future__ import annotations

import itertools
import math

import attack_models as am
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from torch import Tensor

from robustsnn.attacks import GaussianNoise, SignNoise, UniformNoise
from robustsnn.attacks.image.ball import BALLS, Ball, build_ball
from robustsnn.errors import RobustSNNError
from robustsnn.evaluation.verification import is_legal

NORMS = tuple(BALLS)
norms = pytest.mark.parametrize("norm", NORMS)
quick = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
seeds = st.integers(0, 2**31)
shapes = st.sampled_from([(5,), (3, 4), (2, 3, 3), (2, 2, 3, 3)])
bounds_of = st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 4.0), (-0.3, 0.1)])


def distance(a: Tensor, b: Tensor, norm: str) -> np.ndarray:
    delta = np.abs((a.double() - b.double()).flatten(1).numpy())
    order = {"Linf": np.inf, "L2": 2, "L1": 1, "L0": 0}[norm]
    return np.array([np.linalg.norm(row, order) for row in delta])


def extreme_images(shape: tuple[int, ...], bounds: tuple[float, float], seed: int, dtype: torch.dtype) -> Tensor:
    low, high = bounds
    x = low + (high - low) * am.random_images(5, *shape, seed=seed, dtype=dtype)
    x[1], x[2] = low, high
    x[3] = torch.full_like(x[3], high).where(x[3] > (low + high) / 2, low)
    return x.clamp(low, high)


@st.composite
def situations(draw, norm: str) -> tuple[Ball, Tensor, Tensor]:
    """A ball, images, and vectors of all sizes, zeros among them."""
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    shape, bounds, seed = draw(shapes), draw(bounds_of), draw(seeds)
    eps = draw(st.integers(0, 8) if norm == "L0" else st.one_of(st.just(0.0), st.floats(1e-6, 6)))
    x = extreme_images(shape, bounds, seed, dtype)
    vector = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    vector = vector * draw(st.sampled_from([1e-30, 1e-3, 1.0, 50.0]))
    vector[0] = 0
    vector[vector.abs() < vector.abs().median() * draw(st.sampled_from([0.0, 1.0]))] = 0
    return build_ball(norm, eps, bounds), x, vector


def points_of(ball: Ball, x: Tensor, vector: Tensor) -> dict[str, Tensor]:
    size = torch.linspace(0, 2 * ball.eps, len(x), dtype=x.dtype)
    noise = vector.clamp(-1, 1)
    return {
        "project": ball.project(x + vector, x),
        "start": ball.start(x, 3, 0),
        "edge_start": ball.edge_start(x, 3, 0),
        "noisy": ball.noisy(x, noise, 3),
        "corner": ball.corner(x, vector),
        "ascend": ball.ascend(ball.start(x, 3, 0), vector, size, x),
        "ascend by one size": ball.ascend(x, vector, ball.eps / 2, x),
    }


class TestProperties:
    @norms
    @given(data=st.data())
    @quick
    def test_every_point_is_legal(self, norm, data):
        ball, x, vector = data.draw(situations(norm))
        for name, point in points_of(ball, x, vector).items():
            assert point.dtype == x.dtype, name
            assert point.shape == x.shape, name
            assert point.isfinite().all(), name
            assert point.min() >= ball.bounds[0], name
            assert point.max() <= ball.bounds[1], name
            assert (distance(point, x, norm) <= ball.eps + 1e-6 * max(1, ball.eps)).all(), name
            assert is_legal(point, x, ball).all(), name
            if ball.eps == 0:
                assert torch.equal(point, x), name

    @norms
    @given(data=st.data())
    @quick
    def test_projection_is_idempotent_and_leaves_the_inside_alone(self, norm, data):
        ball, x, vector = data.draw(situations(norm))
        once = ball.project(x + vector, x)
        twice = ball.project(once, x)
        assert (twice - once).abs().max() <= 1e-6 * max(1, ball.eps)
        if norm != "L2":  # which rounds when it scales
            assert torch.equal(twice, once)
        inside = ball.clamp(x + 0.9 * (once - x))
        assert (ball.project(inside, x) - inside).abs().max() <= 1e-6

    @norms
    @given(data=st.data())
    @quick
    def test_distance(self, norm, data):
        ball, x, vector = data.draw(situations(norm))
        point = ball.clamp(x + vector)
        expected = distance(point, x, norm)
        assert np.allclose(ball.distance(point, x).double().numpy(), expected, rtol=1e-5, atol=1e-7)

    @norms
    @given(data=st.data())
    @quick
    def test_independent_of_batch_mates(self, norm, data):
        ball, x, vector = data.draw(situations(norm))
        whole = points_of(ball, x, vector)
        for name in ("project", "start", "edge_start", "corner", "ascend by one size"):
            alone = torch.cat([points_of(ball, x[i : i + 1], vector[i : i + 1])[name] for i in range(len(x))])
            assert torch.allclose(whole[name], alone, rtol=1e-6, atol=1e-7), name

    @pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
    def test_direction_is_the_steepest_of_unit_length(self, norm):
        """Hoelder: no direction of unit length climbs more than the dual norm."""
        grad = torch.randn(20, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        grad[0] = 0
        direction = build_ball(norm, 1.0).direction(grad)
        dual = {"Linf": "L1", "L2": "L2", "L1": "Linf"}[norm]
        assert np.allclose((grad * direction).flatten(1).sum(1).numpy(), distance(grad, 0 * grad, dual))
        assert np.allclose(distance(direction, 0 * grad, norm)[1:], 1)
        assert not direction[0].any()

    def test_l0_direction_takes_eps_entries_past_their_bounds(self):
        grad = torch.randn(20, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        direction = build_ball("L0", 3, (-1.0, 1.0)).direction(grad * 1e-20)
        assert ((direction.abs() >= 8 * 2 - 1e-9).sum(1) == 3).all()
        assert torch.equal(direction.sign(), grad.sign())
        assert torch.equal(direction.abs().argsort(1), grad.abs().argsort(1))

    def test_l0_eps_must_be_a_whole_number(self):
        with pytest.raises(RobustSNNError, match=r"number of entries that may change, a whole number, got 0\.5"):
            build_ball("L0", 0.5)

    def test_legality_by_the_norm_of_the_ball(self):
        x = torch.full((3, 1, 4, 4), 0.5)
        point = x.clone()
        point[1, 0, 0, :2] += 0.25
        point[2] += 0.1
        for norm, eps, expected in (
            ("L0", 2, [True, True, False]),
            ("L0", 1, [True, False, False]),
            ("L0", 16, [True, True, True]),
            ("L1", 0.5, [True, True, False]),
            ("L1", 1.6, [True, True, True]),
            ("L1", 0.499, [True, False, False]),
            ("L2", 0.36, [True, True, False]),
            ("Linf", 0.2, [True, False, True]),
        ):
            assert is_legal(point, x, build_ball(norm, eps)).tolist() == expected, (norm, eps)
        assert not is_legal(x * math.nan, x, build_ball("L1", 100.0)).any()


def best_linear(grad: np.ndarray, x: np.ndarray, eps: float, bounds: tuple[float, float]) -> float:
    """The largest ``grad (z - x)`` over the L1 ball within the bounds, by linear programming (ups and downs apart)."""
    low, high = bounds
    limits = [*((0, high - v) for v in x), *((0, v - low) for v in x)]
    cost = np.concatenate([-grad, grad])
    return -optimize.linprog(cost, A_ub=np.ones((1, 2 * len(x))), b_ub=[eps], bounds=limits).fun


def subsets(entries: int, count: int) -> list[tuple[int, ...]]:
    return list(itertools.combinations(range(entries), min(count, entries)))


class TestOptimality:
    @given(seed=seeds, eps=st.floats(0.01, 4), bounds=bounds_of, spread=st.sampled_from([0.1, 1.0, 5.0]))
    @quick
    def test_l1_projection_is_the_nearest_point(self, seed, eps, bounds, spread):
        """``z`` is nearest to ``v`` exactly if ``(v - z) (w - z) <= 0`` for all ``w`` of the convex set."""
        x = extreme_images((6,), bounds, seed, torch.float64)
        v = x + spread * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        z = build_ball("L1", eps, bounds).project(v, x)
        for point, wanted, origin in zip(z.numpy(), v.numpy(), x.numpy()):
            normal = wanted - point
            farthest = best_linear(normal, origin, eps, bounds) + normal @ origin
            assert farthest - normal @ point <= 1e-8 * (1 + np.abs(normal).sum())

    @given(seed=seeds, eps=st.floats(0.01, 4), bounds=bounds_of)
    @quick
    def test_l1_corner_is_the_best_of_a_linear_loss(self, seed, eps, bounds):
        x = extreme_images((6,), bounds, seed, torch.float64)
        grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        corner = build_ball("L1", eps, bounds).corner(x, grad)
        for point, slope, origin in zip(corner.numpy(), grad.numpy(), x.numpy()):
            assert slope @ (point - origin) == pytest.approx(best_linear(slope, origin, eps, bounds), abs=1e-8)

    @given(seed=seeds, eps=st.floats(0.01, 4))
    @quick
    def test_l2_projection_is_the_nearest_point_where_no_bound_cuts(self, seed, eps):
        x = am.random_images(4, 6, seed=seed)
        v = x + 3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        z = build_ball("L2", eps, (-1e9, 1e9)).project(v, x)
        normal = (v - z).numpy()
        assert (eps * np.linalg.norm(normal, axis=1) - (normal * (z - x).numpy()).sum(1) <= 1e-9).all()

    @given(seed=seeds, eps=st.integers(0, 6), bounds=bounds_of, spread=st.sampled_from([0.1, 1.0, 5.0]))
    @quick
    def test_l0_projection_and_corner_by_brute_force(self, seed, eps, bounds, spread):
        x = extreme_images((5,), bounds, seed, torch.float64)
        v = x + spread * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        ball, low, high = build_ball("L0", eps, bounds), *bounds
        z, corner = ball.project(v, x), ball.corner(x, v - x)
        for i in range(len(x)):
            origin, wanted, slope = x[i].numpy(), v[i].numpy(), (v - x)[i].numpy()
            nearest, highest = math.inf, -math.inf
            for chosen in subsets(5, eps):
                near, far = origin.copy(), origin.copy()
                for entry in chosen:
                    near[entry] = np.clip(wanted[entry], low, high)
                    far[entry] = high if slope[entry] > 0 else low
                nearest = min(nearest, ((near - wanted) ** 2).sum())
                highest = max(highest, slope @ (far - origin))
            assert ((z[i].numpy() - wanted) ** 2).sum() == pytest.approx(nearest, abs=1e-12)
            assert slope @ (corner[i].numpy() - origin) == pytest.approx(highest, abs=1e-12)

    @pytest.mark.parametrize("eps", [0.1, 12.0, 500.0])
    def test_large_float32_images_stay_inside_l1_without_tolerance(self, eps):
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(4, 3, 32, 32, generator=generator)
        point = build_ball("L1", eps).project(x + torch.randn(x.shape, generator=generator), x)
        size = distance(point, x, "L1")
        assert (size <= eps * (1 + 1e-12)).all()
        assert (size >= eps * (1 - 1e-4) - 1e-4).all()


class TestRandomPoints:
    @norms
    def test_equal_seeds_equal_points_and_others_other_ones(self, norm):
        x = am.random_images(4, 1, 5, 5)
        ball = build_ball(norm, 3)
        for draw in (ball.start, ball.edge_start):
            assert torch.equal(draw(x, 1, 2), draw(x, 1, 2))
            assert (draw(x, 1, 2) != draw(x, 1, 3)).flatten(1).any(1).all()
            assert (draw(x, 1, 2) != draw(x, 2, 2)).flatten(1).any(1).all()

    def test_l1_start_has_uniform_length_and_direction(self):
        """On the L1 sphere in three dimensions, the share of an entry follows a Beta(1, 2) law, with a random sign."""
        x = 0.5 + 1e-3 * am.random_images(3000, 3)
        u = (build_ball("L1", 0.1).start(x, 0, 0) - x) / 0.1
        length = u.abs().sum(1)
        assert stats.kstest(length.numpy(), stats.uniform(0, 1).cdf).pvalue > 1e-3
        for entry in range(3):
            assert stats.kstest((u[:, entry].abs() / length).numpy(), stats.beta(1, 2).cdf).pvalue > 1e-3
        assert (u > 0).double().mean() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(9000))

    @pytest.mark.parametrize("norm", ["L1", "L0"])
    def test_edge_start_spends_the_radius(self, norm):
        x = am.random_images(50, 1, 8, 8).round(decimals=1)
        x[0], x[1] = 0, 1
        for eps in (1, 5):
            assert np.allclose(distance(build_ball(norm, eps).edge_start(x, 0, 0), x, norm), eps)

    def test_l0_entries_are_chosen_evenly(self):
        x = am.random_images(4000, 10)
        for draw in ("start", "edge_start"):
            moved = getattr(build_ball("L0", 3), draw)(x, 0, 0) != x
            assert (moved.sum(1) == 3).all()
            assert (moved.double().mean(0) - 0.3).abs().max() < 4 * math.sqrt(0.21 / 4000)

    @pytest.mark.parametrize("kind", [UniformNoise, SignNoise, GaussianNoise])
    def test_noise_has_the_size_of_the_ball(self, kind):
        x = 0.5 + 1e-3 * am.random_images(50, 1, 8, 8)
        y = torch.zeros(50, dtype=torch.long)
        assert np.allclose(distance(kind(None, eps=0.3, norm="L1")(x, y), x, "L1"), 0.3)
        sparse = kind(None, eps=7, norm="L0")(x, y)
        assert (distance(sparse, x, "L0") == 7).all()
        where = (sparse != x).double().mean((0, 1))
        assert (where - 7 / 64).abs().max() < 4.5 * math.sqrt(7 / 64 / 50)
