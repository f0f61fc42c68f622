"""The Square attack against closed forms, other libraries, and the properties it promises."""

from __future__ import annotations

import attack_models as am
import numpy as np
import pytest
import torch
from attack_models import fooled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from query_cases import Noisy, Steps, linf_case, size
from torch import Tensor, nn

from robustsnn.attacks.image import squares
from robustsnn.attacks.image.pgd import PGD
from robustsnn.attacks.image.square import Square
from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.gradients import BPTT

NORMS = ("Linf", "L2", "L1")
EPS = {"Linf": 0.1, "L2": 0.5, "L1": 2.0}
norms = pytest.mark.parametrize("norm", NORMS)
quick = settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


class TestMoves:
    def test_share_of_pixels_is_the_table_of_the_paper(self):
        """Section 5: p is halved at these iterations of 10,000; other budgets rescale."""
        table = {0: 1, 10: 1, 11: 2, 50: 2, 51: 4, 201: 8, 501: 16, 1001: 32, 2001: 64, 4001: 128, 6001: 256, 8001: 512}
        for step, divisor in table.items():
            assert squares.share_of_pixels(step, 10_000, 0.8) == 0.8 / divisor
        assert squares.share_of_pixels(501, 1000, 0.8) == squares.share_of_pixels(5010, 10_000, 0.8)

    @pytest.mark.parametrize(
        ("share", "plane", "least", "expected"),
        [
            (0.8, (32, 32), 1, (29, 29)),
            (0.001, (8, 8), 1, (1, 1)),
            (0.001, (8, 8), 3, (3, 3)),
            (1.0, (8, 8), 3, (8, 8)),
            (0.05, (32, 32), 3, (7, 7)),
            (0.06, (32, 32), 3, (9, 9)),  # 8 made odd
            (0.5, (1, 40), 1, (1, 20)),
            (0.5, (40, 1), 1, (20, 1)),
            (0.05, (1, 40), 1, (1, 2)),
            (0.001, (1, 40), 3, (1, 3)),
            (0.8, (2, 2), 3, (2, 2)),
            (1.0, (1, 1), 3, (1, 1)),
            (0.8, (4, 25), 1, (4, 20)),
        ],
    )
    def test_sides(self, share, plane, least, expected):
        assert squares.sides(share, *plane, least=least) == expected

    @pytest.mark.parametrize(
        ("shape", "planes"),
        [((7,), (1, 1, 7)), ((3, 7), (3, 1, 7)), ((3, 5, 7), (3, 5, 7)), ((4, 2, 5, 7), (8, 5, 7))],
        ids=str,
    )
    def test_planes(self, shape, planes):
        x = am.random_images(2, *shape)
        assert squares.as_planes(x).shape == (2, *planes)
        assert torch.equal(squares.as_planes(x).reshape_as(x), x)

    def test_windows_cover_every_place_evenly(self):
        draws = torch.stack(
            torch.meshgrid(torch.linspace(0, 1 - 1e-6, 61), torch.linspace(0, 1 - 1e-6, 61), indexing="ij"), -1
        )
        plane = torch.arange(5 * 8.0).view(1, 1, 5, 8).expand(61 * 61, 2, 5, 8)
        seen = plane[squares.window(plane, (2, 3), draws.view(-1, 2))]
        assert seen.shape == (61 * 61, 2, 2, 3)
        corners, counts = seen[:, 0, 0, 0].unique(return_counts=True)
        assert corners.tolist() == [8 * row + column for row in range(4) for column in range(6)]
        assert counts.max() < 1.3 * counts.min()
        assert torch.equal(seen[:, 0] - seen[:, 0, :1, :1], torch.tensor([[0.0, 1, 2], [8, 9, 10]]).expand(3721, 2, 3))

    def test_recolouring_by_hand(self):
        x = torch.tensor([0.5, 0.05, 0.5, 0.5]).view(1, 1, 2, 2).repeat(2, 2, 1, 1)
        point = x + 0.1
        place = squares.window(x, (1, 2), torch.zeros(2, 2))
        colours = torch.tensor([[-1.0, 1.0], [1.0, 1.0]])
        moved = squares.recolour(point, x, place, colours, 0.1, (0.0, 1.0))
        assert torch.allclose(moved[0, 0, 0], torch.tensor([0.4, 0.0]))
        assert torch.allclose(moved[0, 1, 0], torch.tensor([0.6, 0.15]))
        assert torch.allclose(moved[1, :, 0], torch.tensor([0.4, 0.0])), "nothing would change: turned round"
        assert torch.equal(moved[:, :, 1], point[:, :, 1])
        assert torch.equal(point, x + 0.1)

    @pytest.mark.parametrize("order", [2, 1])
    @pytest.mark.parametrize("sides", [(7, 7), (3, 3), (2, 2), (1, 5), (1, 1), (6, 3)], ids=str)
    def test_pyramid_agrees_with_the_authors_code(self, sides, order):
        square = pytest.importorskip("pyautoattack.square")
        ours = squares.pyramid(*sides, order)
        assert float(torch.linalg.vector_norm(ours, order)) == pytest.approx(1)
        if sides[0] != sides[1] or sides[0] < 2:
            return
        theirs = square.SquareAttack(None, norm=f"L{order}", device="cpu")
        with torch.random.fork_rng():
            delta = theirs.eta(sides[0]).double()
        assert torch.allclose(ours, delta, atol=1e-6) or torch.allclose(ours, delta.T, atol=1e-6)

    @pytest.mark.parametrize("order", [2, 1])
    def test_mass_is_shifted_and_none_is_lost(self, order):
        """Channel by channel the new window holds what both held, and each an equal share of what was unused."""
        delta = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        norm = torch.linalg.vector_norm(delta.flatten(1), order, dim=1)
        place = squares.window(delta, (3, 3), torch.tensor([[0.0, 0.0], [0.3, 0.3], [0.9, 0.9]]))
        source = squares.window(delta, (3, 3), torch.tensor([[0.9, 0.9], [0.6, 0.6], [0.9, 0.9]]))
        bumps = squares.pyramid(3, 3, order).expand(3, 2, 3, 3)
        eps = 1.2 * float(norm.max())
        after = squares.shift_mass(delta, place, source, bumps, eps, order)
        assert torch.allclose(torch.linalg.vector_norm(after.flatten(1), order, dim=1), torch.tensor(eps).double())
        for i in range(3):
            inside = torch.zeros(6, 6, dtype=torch.bool)
            inside[place[2][i, 0], place[3][i, 0]] = True
            both = inside.clone()
            both[source[2][i, 0], source[3][i, 0]] = True
            assert (after[i][:, both & ~inside] == 0).all()
            assert torch.allclose(after[i][:, ~both], delta[i][:, ~both])
            held = delta[i][:, both].abs().pow(order).sum(1) + (eps**order - norm[i] ** order) / 2
            assert torch.allclose(after[i][:, inside].abs().pow(order).sum(1), held)

    def test_tiles_have_the_radius_and_both_signs(self):
        x = torch.zeros(4, 3, 11, 17)
        delta = squares.tiles(x, torch.rand(4, 3 * 11 * 17, generator=torch.Generator().manual_seed(0)), 0.7, 2)
        assert torch.allclose(size(delta, "L2"), torch.tensor(0.7).double())
        assert (delta[:, :, 0] != 0).any()
        assert torch.unique(delta[:, :, :2, 1:4].flatten(2).sign(), dim=1).shape[1] > 1


class TestLinearOracle:
    @pytest.mark.parametrize("shape", [(8,), (4, 6), (1, 8, 8), (2, 1, 5, 6)], ids=str)
    @pytest.mark.parametrize("count", [1, 4])
    def test_finds_the_best_corner_and_no_better_one(self, shape, count):
        model, x, y = linf_case(shape, count, away := 0.03)
        inside = Square(model, 0.999 * away, steps=60)
        assert not fooled(model, inside(x, y), y).any()
        assert inside.queries.tolist() == [61] * count
        attack = Square(model, 1.001 * away, steps=2000)
        assert fooled(model, attack(x, y), y).all()
        assert (attack.queries < 2001).all()

    @norms
    def test_bounded_by_the_distance_in_every_norm(self, norm):
        """At 2.5 times the distance most are found, below it none."""
        model, x, y = linf_case((1, 6, 6), 10, 0.03)
        w = model.w.detach().flatten()
        dual = {"Linf": 1, "L2": 2, "L1": torch.inf}[norm]
        away = 0.03 * float(w.abs().sum() / torch.linalg.vector_norm(w, dual))
        for ratio, expected in ((0.99, False), (2.5, True)):
            adv = Square(model, ratio * away, steps=400, norm=norm)(x, y)
            assert fooled(model, adv, y).tolist() == [expected] * 10

    def test_plateaus_do_not_stop_the_search(self):
        """Rounded logits: single pixels change nothing, several together do."""
        model, x, y = linf_case((1, 6, 6), 20, 0.03)
        rough = Steps(model.w.detach(), levels=3.0)
        y = rough(x).argmax(1)
        assert fooled(rough, Square(rough, 0.06, steps=800)(x, y), y).all()

    def test_targeted(self):
        w = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 1, 6, 6)))

        class Three(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.stack([((x - 0.5) * v).flatten(1).sum(1) for v in w], 1)

        model, x = Three(), 0.5 + 0.02 * (am.random_images(9, 1, 6, 6) - 0.5)
        goal = (model(x).argmax(1) + torch.arange(9) % 3) % 3
        attack = Square(model, 0.1, steps=500, targeted=True)
        adv = attack(x, goal)
        assert torch.equal(model(adv).argmax(1), goal)
        assert torch.equal(adv[::3], x[::3]), "these were there already"
        assert (attack.queries[::3] == 1).all()


class TestPeers:
    @pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.12), ("L2", 1.0)])
    def test_at_least_as_strong_as_torchattacks(self, norm, eps):
        """Small CNN on digits, n = 80, 500 queries: no more survivors than torchattacks leaves, and 2 points."""
        torchattacks = pytest.importorskip("torchattacks")
        model = am.trained_cnn()
        x, y = am.digits(80)
        with torch.random.fork_rng():
            theirs = fooled(model, torchattacks.Square(model, norm=norm, eps=eps, n_queries=500)(x, y), y)
        ours = fooled(model, Square(model, eps, steps=500, norm=norm)(x, y), y)
        assert ours.double().mean() >= theirs.double().mean() - 0.02
        assert theirs.double().mean() > 0.3

    def test_as_strong_as_the_authors_code_in_l1(self):
        """n = 80, 200 queries, within 6 points."""
        square = pytest.importorskip("pyautoattack.square")
        model = am.trained_cnn()
        x, y = am.digits(80)
        with torch.random.fork_rng():
            peer = square.SquareAttack(model, norm="L1", eps=4.0, n_queries=200, seed=0, device="cpu")
            theirs = fooled(model, peer.perturb(x, y), y).double().mean()
        ours = fooled(model, Square(model, 4.0, steps=200, norm="L1")(x, y), y).double().mean()
        assert ours >= theirs - 0.06
        assert ours > 0.3

    def test_a_spiking_network_through_bptt(self):
        """n = 60: near what PGD-10 reaches through BPTT, without a gradient."""
        view = am.trained_snn().through(BPTT())
        x, y = am.digits(60)
        attack = Square(view, 0.12, steps=300)
        robust = [float((~fooled(view, adv, y)).double().mean()) for adv in (attack(x, y), PGD(view, 0.12)(x, y))]
        assert attack.work.backwards == 0
        assert robust[0] < robust[1] + 0.25
        assert robust[0] < 0.6


class TestQueries:
    def test_counted_for_every_sample(self):
        model, x, y = linf_case((1, 4, 4), 6, away := 0.03)
        y[0] = 1 - y[0]
        counting = am.Counting(model)
        attack = Square(counting, 1.2 * away, steps=300, batch_size=4)
        adv = attack(x, y)
        assert fooled(model, adv, y).all()
        assert attack.queries[0] == 1
        assert (attack.queries[1:] > 1).all()
        assert attack.queries.sum() == counting.samples == attack.work.forwards

    @pytest.mark.parametrize("steps", [1, 2, 70])
    @pytest.mark.parametrize("n_restarts", [1, 3])
    def test_never_more_than_allowed(self, steps, n_restarts):
        model, x, y = linf_case((1, 4, 4), 3, 0.03)
        attack = Square(model, 0.001, steps=steps, n_restarts=n_restarts)
        attack(x, y)
        assert attack.queries.tolist() == [1 + steps * n_restarts] * 3

    def test_no_query_repeats_the_best_point(self):
        """With one channel the colours of a square are turned round rather than drawn in vain."""
        model, x, y = linf_case((1, 4, 4), 1, 0.03)
        recording = am.Recording(model)
        Square(recording, 0.02, steps=150)(x, y)
        best, score = recording.seen[1], None
        for seen in recording.seen[1:]:
            value = float(model(seen)[0, 0].detach()) * (1 - 2 * int(y))
            assert score is None or not torch.equal(seen, best)
            if score is None or value <= score:
                best, score = seen, value

    def test_the_last_query_is_judged(self):
        """A model that is fooled from its fifth query on."""

        class Late(nn.Module):
            calls = 0

            def forward(self, x: Tensor) -> Tensor:
                self.calls += 1
                return torch.tensor([[0.0, 1.0]] if self.calls >= 5 else [[1.0, 0.0]]).expand(len(x), 2)

        x, y = am.random_images(2, 1, 4, 4), torch.zeros(2, dtype=torch.long)
        attack = Square(Late(), 0.1, steps=4)
        adv = attack(x, y)
        assert (adv != x).flatten(1).any(1).all()
        assert attack.queries.tolist() == [5, 5]

    def test_stochastic_models_decide_by_fresh_draws(self):
        """Single draws are lost 12 % of the time; the mean of ten never."""
        model = Noisy(margin=1.0, noise=0.6)
        x, y = torch.full((20, 1, 4, 4), 0.5), torch.zeros(20, dtype=torch.long)
        attack = Square(model, 0.1, steps=60)
        attack(x, y)
        assert attack.queries.tolist() == [61] * 20
        assert attack.work.forwards > attack.queries.sum()
        lost = Square(Noisy(margin=-1.0, noise=0.6), 0.1, steps=60)
        lost(x, y)
        assert lost.queries.max() == 1

    def test_without_early_stop_the_loss_goes_on_rising(self):
        model, x, y = linf_case((1, 4, 4), 5, 0.03)
        points = [Square(model, 0.06, steps=100, early_stop=stop)(x, y) for stop in (True, False)]
        z = [model(p).gather(1, y[:, None]) for p in points]
        assert (z[1] <= z[0]).all()
        assert (z[1] < z[0]).any()
        assert fooled(model, points[1], y).all()

    @pytest.mark.parametrize("loss", ["margin", "ce", "dlr"])
    def test_losses(self, loss):
        model = am.Smooth()
        x = am.random_images(20, 16)
        y = model(x).argmax(1)
        assert fooled(model, Square(model, 0.1, steps=150, loss=loss)(x, y), y).double().mean() > 0.5


@norms
class TestProperties:
    @quick
    @given(
        seed=st.integers(0, 2**20),
        shape=st.sampled_from([(1,), (5,), (2, 5), (1, 3, 3), (3, 7, 4), (2, 1, 6, 6), (2, 1, 1, 9)]),
        eps=st.sampled_from([0.0, 1e-6, 0.05, 0.5, 3.0]),
        early_stop=st.booleans(),
        targeted=st.booleans(),
    )
    def test_in_ball_and_bounds(self, norm, seed, shape, eps, early_stop, targeted):
        x = am.random_images(4, *shape, seed=seed, dtype=torch.float32)
        x[0] = x[0].round()
        x[1] = 0
        model = am.Smooth(x[0].numel(), 3, seed=seed % 7).float()
        y = torch.arange(4) % 3
        attack = Square(model, eps, steps=12, norm=norm, early_stop=early_stop, targeted=targeted, n_restarts=2)
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
        x = am.random_images(9, 2, 4, 2)
        y = model(x).argmax(1)
        whole = Square(model, 0.4 * EPS[norm], steps=150, norm=norm)
        adv, queries = whole(x, y), whole.queries
        assert 0 < fooled(model, adv, y).sum() < 9
        split = Square(model, 0.4 * EPS[norm], steps=150, norm=norm, batch_size=2)
        assert torch.equal(split(x, y), adv)
        assert torch.equal(split.queries, queries)
        assert torch.equal(whole(x.flip(0), y.flip(0)).flip(0), adv)
        assert torch.equal(whole.queries.flip(0), queries)

    def test_more_steps_and_restarts_help(self, norm):
        model = am.Smooth()
        x = am.random_images(60, 1, 4, 4)
        y = model(x).argmax(1)
        counts = [
            int(fooled(model, Square(model, 0.5 * EPS[norm], steps=steps, norm=norm)(x, y), y).sum())
            for steps in (1, 20, 200)
        ]
        assert counts[0] < counts[1] < counts[2] < 60
        once, thrice = (Square(model, 0.5 * EPS[norm], steps=20, norm=norm, n_restarts=n)(x, y) for n in (1, 3))
        assert (fooled(model, thrice, y) >= fooled(model, once, y)).all()

    def test_needs_no_gradient(self, norm):
        model = Steps(torch.from_numpy(np.random.default_rng(0).normal(size=(1, 4, 4))), levels=5.0)
        x = am.random_images(10, 1, 4, 4)
        y = model(x).argmax(1)
        assert fooled(model, Square(model, 2 * EPS[norm], steps=200, norm=norm)(x, y), y).sum() >= 5
        assert not Square.takes_gradient

    def test_reproducible_and_the_global_generator_is_left_alone(self, norm):
        model = am.Smooth()
        x = am.random_images(8, 16)
        y = model(x).argmax(1)
        state = torch.random.get_rng_state()
        runs = [Square(model, 0.02, 30, norm=norm, seed=s)(x, y) for s in (0, 0, 1)]
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])

    def test_a_constant_model(self, norm):
        class Flat(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.tensor([1.0, 0.0]).expand(len(x), 2)

        x, y = am.random_images(3, 1, 4, 4, dtype=torch.float32), torch.zeros(3, dtype=torch.long)
        attack = Square(Flat(), 0.1, steps=20, norm=norm)
        adv = attack(x, y)
        assert adv.isfinite().all()
        assert (size(adv - x, norm) <= 0.1 + 1e-6).all()
        assert attack.queries.tolist() == [21] * 3


@pytest.mark.parametrize("bad", [{"steps": 0}, {"p_init": 0}, {"p_init": 1.1}, {"norm": "L0"}, {"loss": "hinge"}])
def test_parameters_that_make_no_sense(bad):
    with pytest.raises((RobustSNNError, UnknownNameError)) as error:
        Square(am.Smooth(), **{"eps": 1} | bad)
    assert next(iter(bad)) in str(error.value) or "L0" in str(error.value)
    assert "\n" not in str(error.value)
