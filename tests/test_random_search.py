"""Random search against closed forms and distributions, and the properties it promises."""

from __future__ import annotations

import attack_models as am
import pytest
import torch
from attack_models import fooled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from query_cases import Noisy, linf_case, size
from scipy import stats

from robustsnn.attacks.image.random_search import RandomSearch
from robustsnn.gradients import BPTT

NORMS = ("Linf", "L2", "L1", "L0")
norms = pytest.mark.parametrize("norm", NORMS)
quick = settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def draws_of(norm: str, eps: float, shape: tuple[int, ...], count: int) -> torch.Tensor:
    """What the search tries on a model that never gives in: changes ``[count, *shape]`` of one grey image."""
    recording = am.Recording(lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), 2))
    x = torch.full((1, *shape), 0.5, dtype=torch.float64)
    RandomSearch(recording, eps, steps=count, norm=norm)(x, torch.zeros(1, dtype=torch.long))
    return torch.cat(recording.seen[1:]) - x


class TestDraws:
    def test_linf_corners_and_uniform_draws_by_turns(self):
        delta = draws_of("Linf", 0.2, (1, 5, 5), 400)
        corners, inside = delta[::2], delta[1::2]
        assert torch.allclose(corners.abs(), torch.tensor(0.2).double())
        assert abs(float(corners.sign().mean())) < 4 / corners.numel() ** 0.5
        assert stats.kstest(inside.flatten().numpy(), stats.uniform(-0.2, 0.4).cdf).pvalue > 1e-3

    def test_l2_and_l1_uniform_on_the_sphere(self):
        """A coordinate of the L2 sphere in 3 dimensions is uniform; of the L1 sphere it is Beta(1, 2) with a sign."""
        for norm, law in (("L2", stats.uniform(0, 1)), ("L1", stats.beta(1, 2))):
            delta = draws_of(norm, 0.3, (3,), 600)
            assert torch.allclose(size(delta, norm), torch.tensor(0.3).double())
            first = delta[:, 0] / 0.3
            assert stats.kstest(first.abs().numpy(), law.cdf).pvalue > 1e-3
            assert abs(float(first.sign().mean())) < 4 / 600**0.5

    def test_l0_random_entries_at_the_bounds(self):
        delta = draws_of("L0", 3, (2, 5), 500)
        assert (size(delta, "L0") == 3).all()
        assert torch.allclose(delta[delta != 0].abs(), torch.tensor(0.5).double())
        assert stats.chisquare((delta != 0).flatten(1).sum(0).numpy()).pvalue > 1e-3

    def test_draws_are_independent_of_each_other(self):
        delta = draws_of("Linf", 0.2, (1, 20, 20), 60).flatten(1)
        correlation = torch.corrcoef(delta) - torch.eye(60)
        assert correlation.abs().max() < 6 / 400**0.5


class TestOracle:
    @pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3), (1, 1, 2, 3)], ids=str)
    @pytest.mark.parametrize("count", [1, 5])
    def test_in_six_dimensions_the_best_corner_is_found(self, shape, count):
        """One of 64 corners: 600 draws of them miss it with probability 1e-4."""
        model, x, y = linf_case(shape, count, away := 0.03)
        assert fooled(model, RandomSearch(model, 1.001 * away, steps=1200)(x, y), y).all()
        inside = RandomSearch(model, 0.999 * away, steps=100)
        assert not fooled(model, inside(x, y), y).any()
        assert inside.queries.tolist() == [101] * count

    def test_keeps_the_draw_of_highest_loss(self):
        model, x, y = linf_case((1, 4, 4), 1, 0.03)
        recording = am.Recording(model)
        adv = RandomSearch(recording, 0.02, steps=50)(x, y)
        losses = [float(model(seen)[0, 1 - y].detach()) for seen in recording.seen[1:]]
        assert float(model(adv)[0, 1 - y]) == max(losses)

    def test_keeps_the_first_that_fools(self):
        model, x, y = linf_case((1, 2, 2), 8, 0.03)
        recording = am.Recording(am.OneByOne(model))
        attack = RandomSearch(recording, 0.045, steps=200, batch_size=1)
        adv = attack(x, y)
        assert fooled(model, adv, y).all()
        assert len(recording.seen) == attack.queries.sum()
        ends = attack.queries.cumsum(0) - 1
        assert torch.equal(torch.cat([recording.seen[end] for end in ends]), adv)
        assert attack.queries.unique().numel() > 2

    def test_random_noise_is_no_attack_in_many_dimensions(self):
        """On 400 pixels 300 draws come 3 to 4 standard deviations far, where the boundary is 10 away."""
        model, x, y = linf_case((1, 20, 20), 10, away := 0.03)
        assert not fooled(model, RandomSearch(model, 1.5 * away, steps=300)(x, y), y).any()

    def test_targeted(self):
        model = am.Smooth(4, 3)
        x = am.random_images(12, 4)
        goal = (model(x).argmax(1) + 1) % 3
        attack = RandomSearch(model, 0.6, steps=300, targeted=True)
        reached = model(attack(x, goal)).argmax(1) == goal
        assert reached.sum() >= 6
        assert torch.equal(attack.queries < 301, reached)

    def test_stochastic_models_decide_by_fresh_draws(self):
        x, y = torch.full((20, 4), 0.5), torch.zeros(20, dtype=torch.long)
        attack = RandomSearch(Noisy(margin=1.0, noise=0.6), 0.1, steps=60)
        attack(x, y)
        assert attack.queries.tolist() == [61] * 20

    def test_a_spiking_network_through_bptt(self):
        """n = 60: weaker than gradients, but stronger than a single draw."""
        view = am.trained_snn().through(BPTT())
        x, y = am.digits(60)
        robust = [
            float((~fooled(view, RandomSearch(view, 0.15, steps=steps)(x, y), y)).double().mean()) for steps in (1, 60)
        ]
        assert robust[1] < robust[0]
        assert robust[1] > 0.2


@norms
class TestProperties:
    @quick
    @given(
        seed=st.integers(0, 2**20),
        shape=st.sampled_from([(1,), (5,), (2, 5), (1, 3, 3), (2, 1, 6, 6)]),
        eps=st.sampled_from([0, 1e-6, 0.05, 1, 3]),
        early_stop=st.booleans(),
    )
    def test_in_ball_and_bounds(self, norm, seed, shape, eps, early_stop):
        if norm == "L0":
            eps = int(eps)
        x = am.random_images(4, *shape, seed=seed, dtype=torch.float32)
        x[0], x[1] = x[0].round(), 0
        model = am.Smooth(x[0].numel(), 3, seed=seed % 7).float()
        y = torch.arange(4) % 3
        adv = RandomSearch(model, eps, steps=12, norm=norm, early_stop=early_stop, n_restarts=2)(x, y)
        assert adv.isfinite().all()
        assert adv.shape == x.shape
        assert not adv.requires_grad
        assert adv.min() >= 0
        assert adv.max() <= 1
        assert (size(adv - x, norm) <= eps * (1 + 1e-5) + 1e-7).all()
        assert eps or torch.equal(adv, x)

    def test_neither_batch_nor_order_matters(self, norm):
        model = am.OneByOne(am.Smooth(gain=2.0))
        x = am.random_images(12, 2, 4, 2)
        y = model(x).argmax(1)
        eps, steps = {"Linf": (0.08, 60), "L2": (0.3, 60), "L1": (0.8, 60), "L0": (1, 3)}[norm]
        whole = RandomSearch(model, eps, steps, norm=norm)
        adv, queries = whole(x, y), whole.queries
        assert 0 < fooled(model, adv, y).sum() < 12
        split = RandomSearch(model, eps, steps, norm=norm, batch_size=5)
        assert torch.equal(split(x, y), adv)
        assert torch.equal(split.queries, queries)
        assert torch.equal(whole(x.flip(0), y.flip(0)).flip(0), adv)

    def test_more_steps_and_restarts_never_hurt(self, norm):
        model = am.Smooth()
        x = am.random_images(40, 16)
        y = model(x).argmax(1)
        eps, most = {"Linf": (0.1, 60), "L2": (0.4, 60), "L1": (1.5, 60), "L0": (1, 3)}[norm]
        before, counts = torch.zeros(40, dtype=torch.bool), []
        for steps, restarts in ((1, 1), (most // 2, 1), (most, 1), (most, 3)):
            now = fooled(model, RandomSearch(model, eps, steps, norm=norm, n_restarts=restarts)(x, y), y)
            assert (now >= before).all(), "the draws of a shorter search are the first of a longer one"
            before = now
            counts.append(int(now.sum()))
        assert 0 < counts[0] < counts[-2] < 40

    def test_reproducible_and_the_global_generator_is_left_alone(self, norm):
        model = am.Smooth()
        x = am.random_images(8, 16)
        y = model(x).argmax(1)
        state = torch.random.get_rng_state()
        runs = [RandomSearch(model, 1, 3, norm=norm, seed=s)(x, y) for s in (0, 0, 1)]
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])
