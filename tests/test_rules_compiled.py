"""The compiled loops of ASSG and PDSG give what their plain twins give, and ASSG's memory survives what attacks do."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.gradients import ASSG, PDSG, assg_loops, pdsg_loops
from robustsnn.gradients.pdsg import _gaussian
from robustsnn.loops import PARALLEL_FROM
from robustsnn.neurons import IF, LIF

LAW = assg_loops.Law(0.9, 0.7, 2.6, 1.5, 9.0)
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}


def normal(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class TestASSG:
    @settings(deadline=None, max_examples=60)
    @given(
        steps=st.integers(1, 4),
        samples=st.integers(1, 6),
        features=st.sampled_from([(), (1,), (7,), (2, 3, 5), (0,)]),
        dtype=st.sampled_from(list(TOLERANCE)),
        update=st.booleans(),
        data=st.data(),
    )
    def test_is_the_twin(self, steps, samples, features, dtype, update, data):
        rows = data.draw(st.none() | st.permutations(range(samples)).flatmap(lambda p: st.just(p[: (len(p) + 1) // 2])))
        where = None if rows is None else torch.tensor(rows)
        u = normal((steps, samples if rows is None else len(rows), *features), dtype)
        mean = normal((steps, samples, *features), dtype, 1).abs()
        deviation = normal(mean.shape, dtype, 2).abs()
        mean.view(-1)[:1] = deviation.view(-1)[:1] = 0  # sharpest
        kept = [[mean.clone(), deviation.clone()] for _ in range(2)]
        found = assg_loops.fused(u.clone(), *kept[0], where, LAW, update)
        reference = assg_loops.plain(u.clone(), *kept[1], where, LAW, update)
        tolerance = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype] / 10}
        torch.testing.assert_close(found, reference, **tolerance)
        for a, b in zip(*kept):
            torch.testing.assert_close(a, b, **tolerance)
        others = sorted(set(range(samples)) - set(range(samples) if rows is None else rows))
        assert torch.equal(kept[0][0][:, others], mean[:, others])
        if not update:
            assert torch.equal(kept[0][0], mean)
            assert torch.equal(kept[0][1], deviation)

    def test_every_value_once_whatever_the_number_of_threads(self):
        u = normal((3, 5, 2, 64, 41), torch.float32)
        assert u.numel() > PARALLEL_FROM
        rows = torch.tensor([6, 0, 3, 5, 2])
        results, before = [], torch.get_num_threads()
        try:
            for threads in (1, 4):
                torch.set_num_threads(threads)
                mean, deviation = torch.ones(3, 7, 2, 64, 41), torch.zeros(3, 7, 2, 64, 41)
                results.append((assg_loops.fused(u.clone(), mean, deviation, rows, LAW, True), mean, deviation))
        finally:
            torch.set_num_threads(before)
        for a, b in zip(*results):
            assert torch.equal(a, b)

    def test_a_row_that_is_not_contiguous(self):
        u = normal((3, 4, 6), torch.float64).transpose(1, 2)
        kept = [[torch.ones(3, 6, 4, dtype=torch.float64), torch.zeros(3, 6, 4, dtype=torch.float64)] for _ in range(2)]
        found = assg_loops.sharpen(u.clone(memory_format=torch.preserve_format), *kept[0], None, LAW, True)
        torch.testing.assert_close(found, assg_loops.plain(u, *kept[1], None, LAW, True), rtol=1e-14, atol=0)

    def test_a_sample_that_comes_twice_learns_once(self):
        """Both of its rows read what was known before."""
        u = normal((2, 1, 3), torch.float64).repeat(1, 3, 1)
        mean, deviation = torch.ones(2, 2, 3, dtype=torch.float64), torch.zeros(2, 2, 3, dtype=torch.float64)
        psi = assg_loops.sharpen(u.clone(), mean, deviation, torch.tensor([1, 0, 1]), LAW, True)
        assert torch.equal(mean[:, 0], mean[:, 1])
        assert torch.equal(psi[:, 0], psi[:, 2])

    def test_half_precision_runs_plainly(self):
        u = normal((2, 3, 4), torch.bfloat16)
        psi = assg_loops.sharpen(u, torch.ones_like(u), torch.zeros_like(u), None, LAW, True)
        assert psi.dtype == torch.bfloat16
        assert (psi > 0).all()

    @pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
    def test_an_attack_through_a_network(self, dtype, monkeypatch):
        """Samples leave, come back in another order, draws are repeated, a run begins anew: both twins agree."""
        model = _network(dtype)
        x = torch.rand(6, 2, 8, 8, generator=torch.Generator().manual_seed(4)).to(dtype)
        plan = [([0, 1, 2, 3, 4, 5], True), ([5, 1, 2], True), ([2, 5], False), ([0, 1, 2, 3, 4, 5], True), ([4], True)]

        def gradients() -> list[Tensor]:
            rule = ASSG()
            view, found = model.through(rule), []
            for _ in range(2):
                rule.begin(6)
                for k, (rows, update) in enumerate(plan):
                    rule.select(torch.tensor(rows), update)
                    found += [_gradient(view, x[rows] * (1 - 0.05 * k)) for _ in range(2)]
            return found

        fast = gradients()
        monkeypatch.setattr(assg_loops, "fused", assg_loops.plain)
        slow = gradients()
        assert all((g != 0).any() for g in slow)
        for a, b in zip(fast, slow):
            torch.testing.assert_close(a, b, rtol=1e-12 if dtype == torch.float64 else 1e-3, atol=1e-6)
        half = len(fast) // 2
        assert all(torch.equal(a, b) for a, b in zip(fast[:half], fast[half:]))

    def test_gradients_of_two_passes_taken_afterwards(self):
        """Each backward pass uses the slopes of its own forward pass."""
        model, x = _network(torch.float64), torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(4)).double()
        first, second = model.through(ASSG()), model.through(ASSG())
        leaves = [(x * scale).requires_grad_() for scale in (1.0, 0.8)]
        logits = [first(leaf).square().sum() for leaf in leaves]
        late = [torch.autograd.grad(value, leaf)[0] for value, leaf in zip(logits, leaves)]
        for found, leaf in zip(late, leaves):
            assert torch.equal(found, _gradient(second, leaf.detach()))

    def test_channels_last(self):
        model, x = _network(torch.float64), torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(4)).double()
        reference = _gradient(model.through(ASSG()), x)
        found = _gradient(
            model.to(memory_format=torch.channels_last).through(ASSG()), x.to(memory_format=torch.channels_last)
        )
        torch.testing.assert_close(found, reference, rtol=1e-10, atol=1e-15)

    def test_neurons_that_do_not_have_a_row_for_each_sample(self):
        """Rows of the statistics belong to samples; another axis in front is refused before anything is read."""
        model = SpikingClassifier(nn.Sequential(nn.Flatten(0, 1), IF(), nn.Unflatten(0, (-1, 2)), nn.Flatten()), 2)
        rule = ASSG()
        rule.begin(4)
        rule.select(torch.arange(4), True)
        with pytest.raises(RobustSNNError, match="one row for each of the 4 samples, got 8"):
            _gradient(model.through(rule), torch.rand(4, 2, 3, 3))

    def test_copies_have_learnt_nothing(self):
        model, x = _network(torch.float64), torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(4)).double()
        rule = ASSG(xi=0.5)
        fresh = _gradient(model.through(rule), x)
        assert not torch.equal(_gradient(model.through(rule), x), fresh)
        for other in (copy.deepcopy(rule), pickle.loads(pickle.dumps(rule))):
            assert torch.equal(_gradient(model.through(other), x), fresh)


class TestPDSG:
    @settings(deadline=None, max_examples=60)
    @given(
        steps=st.integers(1, 5),
        batch=st.integers(1, 3),
        channels=st.integers(1, 3),
        space=st.sampled_from([(1, 1), (3, 5), (4, 4), (6, 7), (2, 3, 4)]),
        dtype=st.sampled_from([torch.float32, torch.float64]),
        statistics=st.sampled_from(["sample", "batch"]),
        offset=st.sampled_from([0.0, -3.0]),
    )
    def test_is_the_twin_in_double_precision(self, steps, batch, channels, space, dtype, statistics, offset):
        u = normal((steps, batch, channels, *space), dtype) + offset
        before = u.clone()
        axes = PDSG(statistics)._axes(u.dim() - 1)
        found = pdsg_loops.gaussian(u, statistics == "batch", 1e-6)
        assert torch.equal(u, before)
        exact = _gaussian(u.double(), axes, 1e-6)
        rtol, atol = (1e-10, 1e-14) if dtype == torch.float64 else (1e-4, 1e-6)
        torch.testing.assert_close(found.double(), exact, rtol=rtol, atol=atol)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_no_spread_counts_as_one(self, dtype):
        u = torch.full((3, 2, 2, 5, 5), 1 / 3, dtype=dtype)
        u[:, 1] *= 1 + torch.finfo(dtype).eps
        found = pdsg_loops.gaussian(u, True, 16 * torch.finfo(dtype).eps)
        torch.testing.assert_close(found, torch.exp(-((u - 0.5) ** 2) / 2) / (2 * torch.pi) ** 0.5)

    def test_a_sample_does_not_depend_on_its_company(self):
        u = normal((4, 3, 2, 6, 7), torch.float32)
        together = pdsg_loops.gaussian(u, False, 1e-6)
        assert torch.equal(together[:, 1:2], pdsg_loops.gaussian(u[:, 1:2], False, 1e-6))
        assert not torch.equal(pdsg_loops.gaussian(u, True, 1e-6)[:, 1:2], pdsg_loops.gaussian(u[:, 1:2], True, 1e-6))

    @pytest.mark.parametrize("statistics", ["sample", "batch"])
    def test_through_a_network(self, statistics, monkeypatch):
        model, x = _network(torch.float64), torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(4)).double()
        fast = _gradient(model.through(PDSG(statistics)), x)
        monkeypatch.setattr(pdsg_loops, "supports", lambda u: False)
        slow = _gradient(model.through(PDSG(statistics)), x)
        assert (slow != 0).any()
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-14)


def _network(dtype: torch.dtype) -> SpikingClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = [nn.Conv2d(2, 4, 3, padding=1), LIF(2.0), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3, padding=1), IF()]
        net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(96, 8), IF(), nn.Linear(8, 5))
    for weight in net.parameters():
        weight.data *= 3
    return SpikingClassifier(net, 3).to(dtype).eval()


def _gradient(view: nn.Module, x: Tensor) -> Tensor:
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    return torch.autograd.grad(view(leaf).square().sum(), leaf)[0]
