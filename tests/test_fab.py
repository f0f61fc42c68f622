"""FAB against closed forms, linear programs, the authors' code, and the properties it promises."""

from __future__ import annotations

import attack_models as am
import numpy as np
import pytest
import torch
from attack_models import fooled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch import Tensor, nn

from robustsnn.attacks.image.fab import FAB
from robustsnn.attacks.image.hyperplane import shortest_step
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.gradients import BPTT

NORMS = ("Linf", "L2", "L1")
DUAL = {"Linf": 1, "L2": 2, "L1": torch.inf}
ORDER = {"Linf": torch.inf, "L2": 2, "L1": 1}
FAR = {"Linf": 1.0, "L2": 8.0, "L1": 64.0}  # wider than the space
norms = pytest.mark.parametrize("norm", NORMS)
shapes = pytest.mark.parametrize("shape", [(8,), (4, 6), (1, 8, 8), (2, 3, 5, 5)], ids=str)
quick = settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def size(delta: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm(delta.double().flatten(1), ORDER[norm], dim=1)


def linear_case(shape: tuple[int, ...], count: int, norm: str, away: float, dead: int = 0):
    """A linear model and images at distance ``away`` from its boundary, where the bounds take no part."""
    generator = torch.Generator().manual_seed(len(shape))
    w = torch.randn(shape, generator=generator, dtype=torch.float64)
    y = torch.arange(count) % 2
    f = away * float(torch.linalg.vector_norm(w.flatten(), DUAL[norm])) * (1 - 2.0 * y)
    x = 0.02 * torch.rand(count, *shape, generator=generator, dtype=torch.float64) - 0.01
    x += (f - (x * w).flatten(1).sum(1)).view(-1, *[1] * len(shape)) * w / w.pow(2).sum()
    assert x.abs().max() + 1.1 * away < 0.5
    return am.Linear(w, dead), x + 0.5, y


class TestShortestStep:
    """The projection onto a plane within the bounds, against solvers that know nothing of sorting."""

    @staticmethod
    def solved(x: np.ndarray, w: np.ndarray, gap: float, norm: str) -> float:
        """Least norm of ``d`` with ``w d = gap`` and ``0 <= x + d <= 1``."""
        n = len(x)
        if norm == "L2":
            result = optimize.minimize(
                lambda d: d @ d,
                np.zeros(n),
                jac=lambda d: 2 * d,
                bounds=list(zip(-x, 1 - x)),
                constraints={"type": "eq", "fun": lambda d: w @ d - gap, "jac": lambda d: w},
                method="SLSQP",
                options={"ftol": 1e-15, "maxiter": 500},
            )
            return float(np.sqrt(result.fun))
        sizes = 1 if norm == "Linf" else n  # variables: d, and bounds on its absolute values
        cost = np.r_[np.zeros(n), np.ones(sizes)]
        above = np.ones((n, 1)) if norm == "Linf" else np.eye(n)
        inequalities = np.block([[np.eye(n), -above], [-np.eye(n), -above]])
        result = optimize.linprog(
            cost,
            A_ub=inequalities,
            b_ub=np.zeros(2 * n),
            A_eq=np.r_[w, np.zeros(sizes)][None],
            b_eq=[gap],
            bounds=[*zip(-x, 1 - x), *[(0, None)] * sizes],
        )
        assert result.status == 0
        return float(result.fun)

    @norms
    def test_as_short_as_a_solver_finds(self, norm):
        rng = np.random.default_rng(0)
        for _ in range(25):
            n = int(rng.integers(1, 7))
            x, w = rng.random(n), rng.normal(size=n) * (rng.random(n) < 0.8)
            x = np.where(rng.random(n) < 0.3, x.round(), x)
            sign = rng.choice([-1, 1])
            reach = np.maximum(sign * w * (1 - x), -sign * w * x).sum()
            gap = sign * reach * rng.uniform(0.02, 0.98)
            step = shortest_step(*(torch.tensor(np.array([v])) for v in (x, w, gap)), norm)
            assert float((step[0] * torch.tensor(w)).sum()) == pytest.approx(gap, abs=1e-9)
            assert float(size(step, norm)[0]) == pytest.approx(self.solved(x, w, gap, norm), abs=2e-6)

    @norms
    def test_out_of_reach_goes_to_the_nearest_corner(self, norm):
        x, w = torch.tensor([[0.2, 0.7, 0.5]]), torch.tensor([[1.0, -2.0, 0.0]])
        step = shortest_step(x, w, torch.tensor([50.0]), norm)
        assert torch.allclose(x + step, torch.tensor([[1.0, 0.0, 0.5]]))

    @norms
    @quick
    @given(seed=st.integers(0, 2**31), n=st.integers(1, 40), scale=st.sampled_from([0.0, 1e-38, 1e-12, 1.0, 1e12]))
    def test_meets_the_plane_within_the_bounds(self, norm, seed, n, scale):
        generator = torch.Generator().manual_seed(seed)
        low, high = -1.0, 2.0
        x = (3 * torch.rand(6, n, generator=generator) - 1).clamp(low, high)
        x[0] = x[0].round()
        w = scale * torch.randn(6, n, generator=generator)
        share = torch.tensor([0.0, 0.1, 0.5, 0.9, 2.0, -0.5])
        heading = share.sign()[:, None] * w
        reach = (heading * torch.where(heading > 0, high - x, low - x)).sum(1)
        step = shortest_step(x, w, share * reach, norm, (low, high))
        assert step.isfinite().all()
        assert (step[w == 0] == 0).all()
        assert (x + step >= low - 1e-5).all()
        assert (x + step <= high + 1e-5).all()
        if scale > 1e-30:
            met = (step.double() * w.double()).sum(1)
            expected = share.clamp(max=1) * reach
            assert torch.allclose(met, expected.double(), rtol=1e-4, atol=1e-5 * float(w.abs().max()))

    @norms
    def test_agrees_with_the_authors_code(self, norm):
        projections = pytest.importorskip("pyautoattack.fab_projections")
        generator = torch.Generator().manual_seed(0)
        x, w = torch.rand(40, 50, generator=generator), torch.randn(40, 50, generator=generator)
        gap = torch.linspace(-8, 8, 40)
        theirs = getattr(projections, f"projection_{norm.lower()}")(x, w, (w * x).sum(1) + gap)
        assert torch.allclose(size(shortest_step(x, w, gap, norm), norm), size(theirs, norm), rtol=1e-4, atol=1e-6)

    def test_unknown_norm(self):
        with pytest.raises(UnknownNameError, match="L3"):
            shortest_step(torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1), "L3")


@norms
class TestLinearOracle:
    """On a linear model the distance to the boundary is known."""

    @shapes
    @pytest.mark.parametrize("count", [1, 5])
    def test_finds_the_distance(self, shape, count, norm):
        model, x, y = linear_case(shape, count, norm, away := 0.03)
        adv = FAB(model, FAR[norm], steps=20, norm=norm, early_stop=False)(x, y)
        assert fooled(model, adv, y).all()
        found = size(adv - x, norm)
        assert (found >= away * (1 - 1e-6)).all()
        assert (found <= 1.01 * away).all()

    @shapes
    @pytest.mark.parametrize("count", [1, 5])
    @pytest.mark.parametrize("early_stop", [True, False])
    def test_just_inside_and_just_outside(self, shape, count, norm, early_stop):
        model, x, y = linear_case(shape, count, norm, away := 0.03, dead=3)
        for ratio, expected in ((0.95, False), (1.05, True)):
            adv = FAB(model, ratio * away, steps=20, norm=norm, early_stop=early_stop)(x, y)
            assert fooled(model, adv, y).tolist() == [expected] * count
            assert (size(adv - x, norm) <= ratio * away * (1 + 1e-9)).all()
            assert expected or torch.equal(adv, x)

    def test_with_active_bounds(self, norm):
        """Images at corners of [0, 1]: the distance is what the linear program says."""
        w = torch.from_numpy(np.random.default_rng(1).normal(size=(6,)))
        model, x = am.Linear(w), am.random_images(6, 6)
        x[::2] = x[::2].round()
        y = model(x).argmax(1)
        gap = -((x - 0.5) * w).sum(1)
        exact = [TestShortestStep.solved(a.numpy(), w.numpy(), float(g), norm) for a, g in zip(x, gap)]
        adv = FAB(model, FAR[norm], steps=20, norm=norm, early_stop=False)(x, y)
        assert fooled(model, adv, y).all()
        found = size(adv - x, norm)
        assert (found / torch.tensor(exact) >= 1 - 1e-5).all()
        assert (found / torch.tensor(exact) <= 1.01).all()

    def test_the_point_after_the_last_step_is_judged(self, norm):
        model, x, y = linear_case((1, 8, 8), 4, norm, away := 0.03)
        assert fooled(model, FAB(model, 1.06 * away, steps=1, norm=norm)(x, y), y).all()

    def test_targeted(self, norm):
        model, x, y = linear_case((4, 6), 6, norm, away := 0.03, dead=2)
        goal = 1 - y
        adv = FAB(model, 1.05 * away, steps=20, norm=norm, targeted=True)(x, goal)
        assert torch.equal(model(adv).argmax(1), goal)
        assert torch.equal(FAB(model, 0.95 * away, steps=20, norm=norm, targeted=True)(x, goal), x)
        never = torch.full_like(y, 2)
        assert torch.equal(FAB(model, 1.05 * away, steps=5, norm=norm, targeted=True)(x, never), x)
        assert torch.equal(FAB(model, 1.05 * away, steps=5, norm=norm, targeted=True)(x, y), x)  # reached already


class Crossing(nn.Module):
    """Logits ``(0, -w (x - 1/2) - 0.72 m, -2 w (x - 1/2) - 1.2 m, -9)``: class 1 comes next, class 2 wins first."""

    def __init__(self, w: Tensor, m: float) -> None:
        super().__init__()
        self.w, self.m = nn.Parameter(w), m

    def forward(self, x: Tensor) -> Tensor:
        f = -((x - 0.5) * self.w).flatten(1).sum(1)
        return torch.stack([0 * f, f - 0.72 * self.m, 2 * f - 1.2 * self.m, 0 * f - 9], 1)


class TestTargets:
    @pytest.mark.filterwarnings("ignore:.*all zero")  # of class 3
    @pytest.mark.parametrize("n_targets", [1, 2, 9])
    def test_another_class_than_the_target_counts_and_the_final_search_comes_nearer(self, n_targets):
        """Steps towards class 1 end at 0.756 of m, won by class 2, which wins from 0.6 on."""
        w = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 5, 5)))
        m = 0.1 * float(w.abs().sum())
        x, y = torch.full((3, 1, 5, 5), 0.5, dtype=torch.float64), torch.zeros(3, dtype=torch.long)
        model = Crossing(w, m)
        assert fooled(model, FAB(model, 0.061, n_targets=n_targets, steps=2)(x, y), y).all()
        assert not fooled(model, FAB(model, 0.0599, n_targets=n_targets, steps=5)(x, y), y).any()

    def test_cost_does_not_depend_on_the_number_of_classes(self):
        counts = []
        for dead in (0, 1, 50):
            model, x, y = linear_case((6,), 4, "Linf", 0.03, dead)
            attack = FAB(model, 0.02, steps=7, n_targets=1)
            attack(x, y)
            counts.append((attack.work.forwards, attack.work.backwards))
        assert counts[0] == counts[1] == counts[2]
        assert counts[0][1] == 4 * 7

    def test_one_pass_per_step_and_target(self):
        model, x, y = linear_case((6,), 4, "Linf", 0.03, dead=3)
        attack = FAB(model, 1e-4, steps=7, n_targets=3)
        attack(x, y)
        assert attack.work.backwards == 4 * 7 * 3

    @pytest.mark.parametrize("classes", [2, 3])
    def test_few_classes(self, classes):
        model = am.Smooth(16, classes)
        x = am.random_images(10, 16)
        y = model(x).argmax(1)
        adv = FAB(model, 0.3, steps=20)(x, y)
        assert fooled(model, adv, y).double().mean() > 0.6


class TestPeer:
    @pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.1), ("L2", 0.6), ("L1", 2.5)])
    def test_as_near_as_the_authors_code(self, norm, eps):
        """Small CNN on digits, n = 60, 3 targets, 20 steps: median distance within 3 %, robust accuracy within 4 points."""
        fab = pytest.importorskip("pyautoattack.fab_pt")
        model = am.trained_cnn()
        x, y = am.digits(60)
        x, y = (v[~fooled(model, x, y)] for v in (x, y))
        ours = FAB(model, FAR[norm], steps=20, n_targets=3, norm=norm, early_stop=False)(x, y)
        assert fooled(model, ours, y).all()
        theirs = torch.full((len(x),), torch.inf, dtype=torch.float64)
        with torch.random.fork_rng():
            peer = fab.FABAttack_PT(model, norm=norm, n_iter=20, eps=eps, targeted=True, device="cpu")
            for peer.target_class in (2, 3, 4):
                point = peer.attack_single_run(x, y, is_targeted=True)
                theirs = torch.minimum(theirs, size(point - x, norm).where(fooled(model, point, y), torch.inf))
        distance = size(ours - x, norm)
        assert 0.9 < float((distance / theirs).median()) < 1.03
        assert float((distance > eps).double().mean()) <= float((theirs > eps).double().mean()) + 0.04
        stopped = FAB(model, eps, steps=20, n_targets=3, norm=norm)(x, y)
        assert abs(float(fooled(model, stopped, y).double().mean()) - float((distance <= eps).double().mean())) < 0.04

    def test_a_spiking_network_through_bptt(self):
        """n = 60: about as strong as APGD with as many gradients, and far from random."""
        model = am.trained_snn().through(BPTT())
        x, y = am.digits(60)
        adv = FAB(model, 0.12, steps=15, n_targets=3)(x, y)
        clean, robust = (float((~fooled(model, v, y)).double().mean()) for v in (x, adv))
        assert clean > 0.9
        assert robust < 0.65
        assert (size(adv - x, "Linf") <= 0.12 + 1e-6).all()


@norms
class TestProperties:
    @quick
    @given(
        seed=st.integers(0, 2**20),
        shape=st.sampled_from([(3,), (2, 5), (1, 3, 3), (2, 1, 3, 4)]),
        eps=st.sampled_from([0.0, 1e-6, 0.05, 0.5, 3.0]),
        early_stop=st.booleans(),
        targeted=st.booleans(),
    )
    def test_in_ball_and_bounds(self, norm, seed, shape, eps, early_stop, targeted):
        x = am.random_images(4, *shape, seed=seed, dtype=torch.float32)
        x[0] = x[0].round()
        model = am.Smooth(x[0].numel(), 3, seed=seed % 7).float()
        y = torch.arange(4) % 3
        attack = FAB(model, eps, steps=4, norm=norm, early_stop=early_stop, targeted=targeted, n_restarts=2)
        adv = attack(x, y)
        assert adv.isfinite().all()
        assert adv.shape == x.shape
        assert not adv.requires_grad
        assert adv.min() >= 0
        assert adv.max() <= 1
        assert (size(adv - x, norm) <= eps * (1 + 1e-5) + 1e-7).all()
        assert eps or torch.equal(adv, x)

    def test_neither_batch_nor_order_matters(self, norm):
        model = am.OneByOne(am.Smooth(gain=2.0))
        x = am.random_images(9, 1, 4, 4)
        y = model(x).argmax(1)
        eps = {"Linf": 0.05, "L2": 0.2, "L1": 0.4}[norm]
        for options in ({}, {"early_stop": False}):
            whole = FAB(model, eps, steps=5, n_restarts=2, norm=norm, **options)
            adv = whole(x, y)
            assert 0 < fooled(model, adv, y).sum() < 9
            split = FAB(model, eps, steps=5, n_restarts=2, norm=norm, batch_size=2, **options)
            assert torch.equal(split(x, y), adv)
            assert torch.equal(whole(x.flip(0), y.flip(0)).flip(0), adv)

    def test_more_steps_and_restarts_never_hurt(self, norm):
        model = am.Smooth()
        x = am.random_images(40, 16)
        y = model(x).argmax(1)
        eps = {"Linf": 0.04, "L2": 0.15, "L1": 0.5}[norm]
        before = torch.zeros(40, dtype=torch.bool)
        for steps, restarts in ((1, 1), (3, 1), (10, 1), (10, 3)):
            now = fooled(model, FAB(model, eps, steps=steps, n_restarts=restarts, norm=norm)(x, y), y)
            if steps == 1 or restarts > 1:  # the final search starts elsewhere after other numbers of steps
                assert (now >= before).all()
            assert now.sum() >= before.sum()
            before = now
        assert 0 < before.sum() < 40

    def test_minimum_norm_takes_the_nearest_of_all_restarts(self, norm):
        model = am.Smooth(gain=25.0)
        x = am.random_images(20, 16)
        y = model(x).argmax(1)
        attack = FAB(model, FAR[norm], steps=4, norm=norm, early_stop=False)
        once, thrice = attack(x, y), FAB(model, FAR[norm], 4, norm=norm, early_stop=False, n_restarts=4)(x, y)
        assert fooled(model, once, y).all()
        assert fooled(model, thrice, y).all()
        assert (size(thrice - x, norm) <= size(once - x, norm)).all()
        assert (size(thrice - x, norm) < size(once - x, norm)).any()
        assert torch.equal(attack(x, (y + 1) % 4), x), "misclassified images are as near as can be"

    def test_zero_gradients_give_the_image_back_and_are_counted(self, norm):
        class Flat(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return 0 * x.flatten(1)[:, :2] + torch.tensor([1.0, 0.0])

        x, y = am.random_images(3, 1, 4, 4, dtype=torch.float32), torch.zeros(3, dtype=torch.long)
        attack = FAB(Flat(), 0.1, steps=3, norm=norm)
        with pytest.warns(RuntimeWarning, match="all zero"):
            assert torch.equal(attack(x, y), x)
        assert attack.work.zero_gradients == 9

    def test_reproducible_and_the_global_generator_is_left_alone(self, norm):
        model = am.Smooth(gain=25.0)
        x = am.random_images(20, 16)
        y = model(x).argmax(1)
        state = torch.random.get_rng_state()
        runs = [FAB(model, FAR[norm], 4, norm=norm, early_stop=False, n_restarts=4, seed=s)(x, y) for s in (0, 0, 1)]
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize(
    "bad",
    [{"steps": 0}, {"n_targets": 0}, {"alpha_max": 1.1}, {"beta": -0.1}, {"eta": 0.9}, {"norm": "L0"}, {"loss": "ce"}],
)
def test_parameters_that_make_no_sense(bad):
    with pytest.raises(RobustSNNError) as error:
        FAB(am.Smooth(), **{"eps": 1} | bad)
    assert next(iter(bad)).split("_")[0] in str(error.value)
    assert "\n" not in str(error.value)
