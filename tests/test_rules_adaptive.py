"""ASSG's statistics over an attack, PDSG's deviations, CBA's artificial network, mixtures."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from torch import Tensor, nn

from robustsnn.classifier import SpikingClassifier
from robustsnn.encoding import Encoder
from robustsnn.errors import RobustSNNError
from robustsnn.gradients import ASSG, BPTR, BPTT, CBA, HART, PDSG, RGA, AdaptiveRule, Mixture, Own
from robustsnn.gradients.pdsg import _running_deviation
from robustsnn.neurons import IF, LIF


def gradient(view: nn.Module, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(view(leaf).square().sum(), leaf)[0]


def images(n: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(n, 2, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class _Currents(Encoder):
    """Images ``[N, T]`` are the currents of one neuron over time."""

    def forward(self, images: Tensor, time_steps: int) -> Tensor:
        return images.t().unsqueeze(-1)


CURRENTS = torch.rand(5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def _rows(view: nn.Module, x: Tensor) -> np.ndarray:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(view(leaf).sum(), leaf)[0].numpy()


def expected(row: Tensor, seen: list[Tensor], **settings: float) -> np.ndarray:
    """ASSG's gradient of one IF neuron at ``row`` after forward passes at ``seen``; by the recursion in `oracle`."""

    def distances(currents: Tensor) -> np.ndarray:
        return oracle.run(currents.numpy(), 1.0, 1.0)[0] - 1.0

    alpha = oracle.assg_alpha([distances(x) for x in seen], **settings) if seen else np.full(4, START)
    m, s, _ = oracle.run(row.numpy(), 1.0, 1.0)
    return oracle.bptt(m, s, np.full(4, 0.25), oracle.atan(m - 1.0, alpha), 1.0, 1.0, rho=0)[0]


START = 2 / np.pi * np.tan(np.pi * 0.425) / (1 + 1e-4)


class TestASSG:
    def view(self, rule: ASSG) -> nn.Module:
        return SpikingClassifier(nn.Sequential(IF()), 4, _Currents()).double().through(rule)

    def check(self, rule: ASSG, x: Tensor, seen: list[list[Tensor]]) -> None:
        found = _rows(self.view(rule), x)
        for row, history, grad in zip(x, seen, found):
            np.testing.assert_allclose(grad, expected(row, history), rtol=1e-9)

    def test_is_an_adaptive_rule(self):
        assert isinstance(ASSG(), AdaptiveRule)
        assert isinstance(Mixture(), AdaptiveRule)
        assert not isinstance(BPTT(), AdaptiveRule)

    def test_alone_it_learns_at_every_pass_and_starts_afresh_with_another_batch(self):
        rule = ASSG()
        history: list[Tensor] = []
        for k in range(4):
            history.append(CURRENTS * (1 + 0.1 * k))
            self.check(rule, history[-1], [[x[i] for x in history] for i in range(5)])
        self.check(rule, CURRENTS[:3], [[x] for x in CURRENTS[:3]])
        self.check(rule, CURRENTS, [[x] for x in CURRENTS])

    def test_rows_and_repeated_draws(self):
        """Each sample has its own history, whichever rows come together; EOT passes leave it alone."""
        rule = ASSG()
        rule.begin(5)
        history: list[list[Tensor]] = [[] for _ in range(5)]
        plan = [
            ([0, 1, 2, 3, 4], True),
            ([3, 1], True),
            ([1, 3, 4], False),
            ([4, 0], True),
            ([0, 4], False),
            ([2], True),
        ]
        for k, (rows, update) in enumerate(plan):
            rule.select(torch.tensor(rows), update)
            x = CURRENTS[rows] * (1 + 0.1 * k)
            if update:
                for row, currents in zip(rows, x):
                    history[row].append(currents)
            self.check(rule, x, [history[row] for row in rows])
            self.check(rule, 1.05 * x, [history[row] for row in rows])  # another draw of the same step

    def test_a_first_pass_without_update(self):
        rule = ASSG()
        rule.begin(5)
        rule.select(torch.arange(5), update=False)
        self.check(rule, CURRENTS, [[] for _ in CURRENTS])

    def test_begin_forgets(self):
        rule = ASSG()
        for _ in range(2):
            rule.begin(5)
            rule.select(torch.arange(5), update=True)
            self.check(rule, CURRENTS, [[x] for x in CURRENTS])

    def test_a_batch_that_was_not_announced_leaves_the_run_alone(self):
        rule = ASSG()
        rule.begin(5)
        rule.select(torch.arange(5), update=True)
        self.check(rule, CURRENTS, [[x] for x in CURRENTS])
        rule.select(torch.arange(5), update=True)
        self.check(rule, CURRENTS[:2], [[x] for x in CURRENTS[:2]])
        self.check(rule, CURRENTS, [[x, x] for x in CURRENTS])

    def test_closed_forms(self):
        """A frozen input: M = b^n + (1 - b^n)|u|, D = (1 - b) n b^n |1 - |u||."""
        beta, rule = 0.8, ASSG(beta1=0.8, beta2=0.8)
        view, u = self.view(rule), oracle.run(np.array(oracle.BASE), 1.0, 1.0)[0] - 1
        x = torch.tensor([oracle.BASE], dtype=torch.float64)
        for n in range(1, 12):
            found = _rows(view, x)[0]
            mean = beta**n + (1 - beta**n) * np.abs(u)
            deviation = (1 - beta) * n * beta**n * np.abs(1 - np.abs(u))
            alpha = 2 / np.pi * np.tan(np.pi * 0.425) / (mean + 1.5 * deviation + 1e-4)
            m, s, _ = oracle.run(np.array(oracle.BASE), 1.0, 1.0)
            grad, _ = oracle.bptt(m, s, np.full(4, 0.25), oracle.atan(u, alpha), 1.0, 1.0, rho=0)
            np.testing.assert_allclose(found, grad, rtol=1e-10)

    def test_sharpness_is_capped(self):
        """A neuron that stays at its threshold: the slope grows to half of the cap and no further."""
        model = SpikingClassifier(nn.Sequential(IF()), 1, _Currents()).double()
        for cap in (100.0, 7.0):
            view = model.through(ASSG(max_alpha=cap))
            for _ in range(200):
                (grad,) = _rows(view, torch.ones(1, 1, dtype=torch.float64))[0]
            assert grad == cap / 2

    def test_calls_of_one_neuron_are_kept_apart(self):
        """A neuron used twice has two sets of statistics: the same gradients as two neurons."""
        torch.manual_seed(0)
        shared, second = IF(v_threshold=0.5), nn.Linear(6, 6)
        head = (nn.Flatten(), nn.Linear(128, 6))
        twice = nn.Sequential(*head, shared, second, shared, nn.Linear(6, 5)).double()
        once = nn.Sequential(*head, IF(v_threshold=0.5), second, IF(v_threshold=0.5), twice[-1]).double()
        views = [SpikingClassifier(net, 4).through(ASSG()) for net in (twice, once)]
        for k in range(3):
            found, reference = (gradient(view, images(seed=k)) for view in views)
            assert torch.equal(found, reference)
            assert (found != 0).any()

    def test_another_network_starts_afresh(self, make_model):
        rule = ASSG()
        rule.begin(4)
        gradient(make_model().through(rule), images())
        other = make_model(time_steps=3, seed=1)
        assert torch.equal(gradient(other.through(rule), images()), gradient(other.through(ASSG()), images()))

    def test_select_before_begin_and_rows_out_of_range(self):
        rule = ASSG()
        with pytest.raises(RobustSNNError, match=r"begin\(n\)"):
            rule.select(torch.arange(2), True)
        rule.begin(3)
        for rows in ([3], [-1, 0]):
            with pytest.raises(RobustSNNError, match="3 samples"):
                rule.select(torch.tensor(rows), True)


class TestPDSG:
    @pytest.mark.parametrize("shape", [(7, 3, 4), (7, 3, 4, 5, 6), (7, 2, 5, 3), (1, 3, 2), (6, 1, 1)], ids=str)
    @pytest.mark.parametrize("statistics", ["sample", "batch"])
    def test_deviations_are_numpys(self, shape, statistics):
        u = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 5
        axes = PDSG(statistics)._axes(u.dim() - 1)
        channel = 1 if len(shape) == 5 else len(shape) - 2
        assert (0 in axes) == (statistics == "batch")
        assert channel not in axes
        found = _running_deviation(u, axes, 1e-12)
        for index in np.ndindex(*[1 if axis in axes else size for axis, size in enumerate(shape[1:])]):
            where = tuple(slice(None) if axis in axes else slice(i, i + 1) for axis, i in enumerate(index))
            group = u[(slice(None), *where)].numpy()
            np.testing.assert_allclose(found[(slice(None), *index)], oracle.pdsg_sigma(group), rtol=1e-12)

    @pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e6])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_no_spread_counts_as_one(self, value, dtype):
        u = torch.full((5, 2, 3, 3, 3), value, dtype=dtype)
        assert (_running_deviation(u, [2, 3], 1e-6) == 1).all()
        jitter = u.clone()
        jitter[::2] *= 1 + torch.finfo(dtype).eps
        deviation = _running_deviation(jitter, [2, 3], 4 * torch.finfo(dtype).eps * value)
        assert (deviation == 1).all()

    def test_does_not_depend_on_the_offset(self):
        u = torch.rand(6, 2, 9, generator=torch.Generator().manual_seed(0))
        shifted = _running_deviation(u + 1000, [1], 1e-6)
        torch.testing.assert_close(shifted, _running_deviation(u, [1], 1e-6), rtol=1e-3, atol=0)

    @pytest.mark.parametrize("statistics", ["sample", "batch"])
    def test_of_a_map_that_is_not_square(self, statistics):
        """A layer of neurons on [N, C, H, W] maps, by the recursion with deviations of each channel."""
        x = torch.rand(2, 3, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.5
        model = SpikingClassifier(nn.Sequential(LIF(2.0, decay_input=False, v_reset=None)), 4).double()
        leaf = x.clone().requires_grad_()
        (found,) = torch.autograd.grad(model.through(PDSG(statistics))(leaf).sum(), leaf)
        potentials = np.empty((4, *x.shape))
        spikes = np.empty_like(potentials)
        for index in np.ndindex(*x.shape):
            m, s, _ = oracle.run(np.full(4, x[index].item()), 0.5, 1.0, soft=True)
            potentials[(slice(None), *index)], spikes[(slice(None), *index)] = m, s
        for n, c, h, w in np.ndindex(*x.shape):
            group = potentials[:, :, c] if statistics == "batch" else potentials[:, n, c]
            m, s = potentials[:, n, c, h, w], spikes[:, n, c, h, w]
            psi = oracle.pdsg(m - 1, oracle.pdsg_sigma(group))
            grad, _ = oracle.bptt(m, s, np.full(4, 0.25), psi, 0.5, 1.0, soft=True)
            np.testing.assert_allclose(found[n, c, h, w], grad.sum(), rtol=1e-10)


class TestCBA:
    CURRENTS = (-0.2, 0.03, 0.3, 0.55, 0.8, 0.97, 1.3)

    @pytest.mark.parametrize(
        ("rule", "slopes", "values"),
        [
            (CBA(), (0, 1, 1, 1, 1, 1, 1), (0, 0.03, 0.3, 0.55, 0.8, 0.97, 1.3)),
            (CBA("quantised"), (0, 1, 1, 1, 1, 1, 0), (0, 0, 0.25, 0.5, 0.75, 1, 1)),
        ],
        ids=["relu", "quantised"],
    )
    @pytest.mark.parametrize(
        ("node", "scale"), [(IF(), 1), (LIF(2.0, decay_input=False), 1), (LIF(4.0), 4), (IF(v_threshold=2.5), 2.5)]
    )
    def test_activation(self, rule, slopes, values, node, scale):
        """phi(w x / theta), whatever the leak: inputs are scaled by theta / w, slopes by w / theta."""
        x = scale * torch.tensor([self.CURRENTS], dtype=torch.float64)[None]
        x.requires_grad_()
        out = rule._activate(node, x, 1)
        np.testing.assert_allclose(out.detach().flatten(), values, rtol=1e-12, atol=1e-15)
        (grad,) = torch.autograd.grad(out.sum(), x)
        np.testing.assert_allclose(grad.flatten(), np.array(slopes) / scale, rtol=1e-12)

    @pytest.mark.parametrize("pool", [nn.AvgPool2d, nn.MaxPool2d])
    @pytest.mark.parametrize("readout", ["mean", "sum", "last"])
    def test_is_the_gradient_of_the_artificial_network(self, make_model, pool, readout):
        model = make_model(readout=readout, encoder="poisson")
        parts = [pool(2) if isinstance(module, nn.AvgPool2d) else module for module in model.net]
        model.net = nn.Sequential(*parts)
        node = next(module for module in parts if isinstance(module, LIF))
        gain = 1 / node.tau if node.decay_input else 1.0
        ann = nn.Sequential(*[Scaled(gain) if isinstance(module, LIF) else module for module in parts]).eval()
        model.encoder.reseed(1)
        mean = model.encode(images()).mean(0).requires_grad_()
        upstream = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        logits = ann(mean) * (4 if readout == "sum" else 1)
        (reference,) = torch.autograd.grad((logits * upstream).sum(), mean)
        leaf = images().requires_grad_()
        model.encoder.reseed(1)
        (found,) = torch.autograd.grad((model.through(CBA())(leaf) * upstream).sum(), leaf)
        torch.testing.assert_close(
            found, reference, rtol=1e-9, atol=1e-12
        )  # straight through the spikes of the encoder


class Scaled(nn.Module):
    """``relu(gain x)``."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.gain * x)


def normalised(gradient: Tensor) -> Tensor:
    return gradient / gradient.abs().flatten(1).mean(1).view(-1, 1, 1, 1)


class TestMixture:
    def test_shares_do_not_depend_on_the_length_of_a_gradient(self, make_model):
        model = make_model()
        a, b = (gradient(model.through(rule), images()) for rule in (HART(0.5), BPTT("triangle", detach_reset=False)))
        found = gradient(model.through(Mixture()), images())
        torch.testing.assert_close(found, 0.5 * normalised(a) + 0.5 * normalised(b))
        raw = gradient(model.through(Mixture(normalised=False)), images())
        torch.testing.assert_close(raw, 0.5 * a + 0.5 * b)
        weighted = gradient(model.through(Mixture({RGA(): 3.0, Own(): 1})), images())
        own, rga = gradient(model, images()), gradient(model.through(RGA()), images())
        torch.testing.assert_close(weighted, 3 * normalised(rga) + normalised(own))

    def test_a_gradient_of_zero_stays_zero(self):
        """The first sample is silent: BPTR has nothing for it, and the rest of the mixture counts alone."""
        net = nn.Sequential(IF(), nn.Flatten(), nn.Linear(4, 3)).double()
        model = SpikingClassifier(net, 2)
        x = torch.tensor([0.1, 0.9], dtype=torch.float64).view(2, 1, 1, 1).expand(2, 1, 2, 2).clone()
        bptr, rga = (gradient(model.through(rule), x) for rule in (BPTR(), RGA()))
        assert (bptr[0] == 0).all()
        assert (rga != 0).all()
        found = gradient(model.through(Mixture([(BPTR(), 1.0), (RGA(), 1.0)])), x)
        torch.testing.assert_close(found[:1], normalised(rga)[:1])
        torch.testing.assert_close(found[1:], (normalised(rga) + normalised(bptr))[1:])
        silent = gradient(model.through(Mixture({BPTR(): 1.0})), x[:1])
        assert (silent == 0).all()

    def test_rules_that_learn(self, make_model):
        """Inside a mixture a rule hears of runs, rows and draws: its gradients are those of the rule alone."""
        model = make_model()
        alone, inside = ASSG(), ASSG()
        mixture = Mixture([(inside, 1.0), (BPTR(), 0.0)], normalised=False)
        for rule in (alone, mixture):
            rule.begin(6)
        for rows, update in (([0, 1, 2, 3], True), ([2, 5], True), ([2, 5], False), ([5, 0, 2], True)):
            for rule in (alone, mixture):
                rule.select(torch.tensor(rows), update)
            found, reference = (gradient(model.through(rule), images(6, 1)[rows]) for rule in (mixture, alone))
            torch.testing.assert_close(found, reference, rtol=1e-12, atol=0)

    def test_one_draw_for_all_rules(self, make_model):
        model = make_model(encoder="poisson")
        model.encoder.reseed(2)
        found = gradient(model.through(Mixture({BPTR(): 1.0, RGA(): 1.0})), images())
        parts = []
        for rule in (BPTR(), RGA()):
            model.encoder.reseed(2)
            parts.append(normalised(gradient(model.through(rule), images())))
        torch.testing.assert_close(found, parts[0] + parts[1])
