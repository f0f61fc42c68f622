"""NIR graphs become networks of ours: equal to SpikingJelly's export, and to the nodes' equations in double precision."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from robustsnn import gradients
from robustsnn.classifier import SpikingClassifier
from robustsnn.errors import RobustSNNError
from robustsnn.models import from_nir
from robustsnn.models.nir_layers import BranchedNetwork, Elementwise, Integrator
from robustsnn.neurons import IF, LIF

nir = pytest.importorskip("nir")

DT = 1e-4
T = 7


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def images(n: int = 5, *shape: int) -> Tensor:
    return torch.rand(n, *(shape or (2, 8, 8)), generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def classifier(graph: Any, dt: float = DT, **kwargs: Any) -> SpikingClassifier:
    return SpikingClassifier(from_nir(graph, dt, dtype=torch.float64, **kwargs), T)


def chain(*nodes: Any, shape: tuple[int, ...]) -> Any:
    """A graph of nodes one after the other."""
    named = {"input": nir.Input(np.array(shape)), **{f"n{i}": node for i, node in enumerate(nodes)}}
    named["output"] = nir.Output(np.array([1]))
    names = list(named)
    return nir.NIRGraph(named, list(itertools.pairwise(names)), type_check=False)


def kinds(module: nn.Module) -> list[type]:
    return [type(part) for part in module.modules() if not isinstance(part, nn.Sequential)]


# SpikingJelly


def jelly(**neurons: Any) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1),
        neuron.IFNode(v_threshold=0.4),
        layer.AvgPool2d(2),
        layer.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
        neuron.LIFNode(tau=2.0, decay_input=True, v_threshold=0.2),
        layer.Flatten(),
        layer.Linear(24, 12, bias=False),
        neuron.LIFNode(tau=1.7, decay_input=False, v_threshold=0.5, v_reset=-0.2),
        layer.Linear(12, 8),
        neuron.ParametricLIFNode(init_tau=1.5, v_threshold=0.1),
        layer.Linear(8, 4),
        neuron.CUBALIFNode(c_decay=0.3, v_decay=0.6, v_threshold=0.3),
    ).double()
    with torch.no_grad():
        for module in net:
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.mul_(2.5)
    return net


class TestAgainstSpikingJelly:
    @pytest.mark.parametrize("through_a_file", [False, True])
    @pytest.mark.parametrize("dt", [1e-4, 3e-3])
    def test_spike_for_spike(self, dt, through_a_file, tmp_path):
        pytest.importorskip("nirtorch")
        from spikingjelly.activation_based import nir_exchange

        net, path = jelly(), tmp_path / "net.nir"
        graph: Any = nir_exchange.export_to_nir(net, images()[:1], save_path=path, dt=dt)
        model = classifier(path if through_a_file else graph, dt=dt)
        functional.set_step_mode(net, "m")
        expected = net(images().expand(T, -1, -1, -1, -1))
        assert model.layout == "folded"
        outputs = model.outputs(images())
        assert torch.equal(outputs, expected)
        assert outputs.shape == (T, 5, 4)
        assert 0.05 < outputs.mean() < 0.95
        assert torch.equal(model.reference(images()), expected.mean(0))

    def test_no_layer_is_added_that_is_not_needed(self):
        pytest.importorskip("nirtorch")
        from spikingjelly.activation_based import nir_exchange

        net = jelly()[:6]
        found = from_nir(nir_exchange.export_to_nir(net, images()[:1], dt=DT), DT)
        assert [type(part) for part in found] == [nn.Conv2d, IF, nn.AvgPool2d, nn.Conv2d, LIF, nn.Flatten]
        assert isinstance(found, nn.Sequential)
        assert next(found.parameters()).dtype == torch.float32
        assert not found.training

    def test_gradient_rules_work(self):
        pytest.importorskip("nirtorch")
        from spikingjelly.activation_based import nir_exchange

        net = jelly()[:9]
        model = classifier(nir_exchange.export_to_nir(net, images()[:1], dt=DT))
        functional.set_step_mode(net, "m")
        other = SpikingClassifier(net, T)
        for rule in (gradients.BPTT("ATan"), gradients.BPTR()):
            found = []
            for each in (model, other):
                x = images().requires_grad_()
                found.append(torch.autograd.grad(each.through(rule)(x).cos().sum(), x)[0])
            torch.testing.assert_close(found[0], found[1], rtol=1e-8, atol=1e-10)
            assert found[0].abs().sum() > 0


# The equations of the nodes


def euler(node: Any, x_seq: np.ndarray, dt: float) -> np.ndarray:
    """The node's differential equation by forward Euler, neuron by neuron in plain Python floats."""
    kind = type(node).__name__
    steps, count = x_seq.shape[:2]
    flat = x_seq.reshape(steps, count, -1)
    size = flat.shape[2]

    def at(value: Any, i: int) -> float:
        values = np.asarray(value, dtype=np.float64)
        return float(values.flat[0] if values.size == 1 else values.reshape(-1)[i])

    out = np.zeros_like(flat)
    for n in range(count):
        for i in range(size):
            current = 0.0
            fires = kind in ("IF", "LIF", "CubaLIF")
            v = at(node.v_reset, i) if fires else at(node.v_leak, i) if kind in ("LI", "CubaLI") else 0.0
            for t in range(steps):
                x = float(flat[t, n, i])
                if kind.startswith("Cuba"):
                    current += dt / at(node.tau_syn, i) * (at(node.w_in, i) * x - current)
                    x, tau = current, at(node.tau_mem, i)
                elif kind in ("LIF", "LI"):
                    tau = at(node.tau, i)
                if kind in ("IF", "I"):
                    v += dt * at(node.r, i) * x
                else:
                    v += dt / tau * (at(node.v_leak, i) - v + at(node.r, i) * x)
                if fires:
                    spike = v >= at(node.v_threshold, i)
                    out[t, n, i] = float(spike)
                    if spike:
                        v = at(node.v_reset, i)
                else:
                    out[t, n, i] = v
    return out.reshape(x_seq.shape)


def parameters(kind: str, shape: tuple[int, ...], varying: bool, seed: int = 0) -> dict[str, np.ndarray]:
    generator = rng(seed)

    def some(low: float, high: float) -> np.ndarray:
        return generator.uniform(low, high, shape) if varying else np.full(shape, generator.uniform(low, high))

    found: dict[str, np.ndarray] = {"r": some(1.0, 3.0)}
    if kind in ("IF", "I"):
        found["r"] = found["r"] / DT
    if kind in ("LIF", "LI"):
        found["tau"] = np.full(shape, 3.3 * DT) if kind == "LIF" else some(2 * DT, 5 * DT)
    if kind.startswith("Cuba"):
        found |= {"tau_syn": some(1.5 * DT, 3 * DT), "w_in": some(0.5, 2.0)}
        found["tau_mem"] = np.full(shape, 2.6 * DT) if kind == "CubaLIF" else some(2 * DT, 5 * DT)
    if kind in ("LIF", "LI", "CubaLIF", "CubaLI"):
        found["v_leak"] = some(-0.2, 0.2)
    if kind in ("IF", "LIF", "CubaLIF"):
        found |= {"v_threshold": some(0.5, 0.9), "v_reset": some(-0.3, 0.2)}
    return found


NEURONS = ("IF", "LIF", "CubaLIF", "LI", "CubaLI", "I")


class TestAgainstTheEquations:
    @pytest.mark.parametrize("varying", [False, True], ids=["uniform", "varying"])
    @pytest.mark.parametrize("kind", NEURONS)
    def test_neuron_alone(self, kind, varying):
        shape = (2, 3, 4)
        node = getattr(nir, kind)(**parameters(kind, shape, varying))
        x = 2 * images(4, *shape)
        model = classifier(chain(node, nir.Flatten({"input": np.array(shape)}, 0, -1), shape=shape))
        expected = euler(node, np.broadcast_to(x.numpy(), (T, *x.shape)), DT).reshape(T, 4, -1)
        np.testing.assert_allclose(model.outputs(x).detach().numpy(), expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(model.reference(x).numpy(), expected.mean(0), rtol=1e-9, atol=1e-12)
        assert expected.std() > 0.1

    @pytest.mark.parametrize("spread", ["uniform", "channel", "neuron"])
    @pytest.mark.parametrize("kind", ["IF", "LIF", "CubaLIF"])
    def test_behind_a_convolution(self, kind, spread):
        """Differences between channels go into the weights, differences between positions do not fit there."""
        shape, generator = (3, 6, 6), rng(5)
        values = parameters(kind, shape, spread == "neuron")
        if spread == "channel":
            by_channel = parameters(kind, (3, 1, 1), True)
            values = {name: np.broadcast_to(value, shape).copy() for name, value in by_channel.items()}
        node = getattr(nir, kind)(**values)
        weight, bias = generator.normal(0.1, 0.5, (3, 2, 3, 3)), generator.normal(0.6, 0.3, 3)
        convolution = nir.Conv2d((8, 8), weight, 1, 0, 1, 1, bias)
        graph = chain(convolution, node, nir.Flatten({"input": np.array(shape)}, 0, -1), shape=(2, 8, 8))
        model = classifier(graph)
        currents = nn.functional.conv2d(images(), torch.tensor(weight), torch.tensor(bias))
        expected = euler(node, np.broadcast_to(currents.numpy(), (T, *currents.shape)), DT).reshape(T, 5, -1)
        assert np.array_equal(model.outputs(images()).detach().numpy(), expected)
        assert 0.05 < expected.mean() < 0.95
        assert (Elementwise in kinds(model.net)) == (spread == "neuron" or kind == "CubaLIF")

    @pytest.mark.parametrize("kind", ["Linear", "Affine", "Conv1d"])
    def test_folded_into_other_layers(self, kind):
        generator = rng(2)
        if kind == "Conv1d":
            weight, bias = generator.normal(0, 1, (3, 2, 3)), generator.normal(0, 1, 3)
            before, shape = nir.Conv1d(9, weight, 2, 1, 1, 1, bias), (3, 5)
            x = images(4, 2, 9)
            currents = nn.functional.conv1d(x, torch.tensor(weight), torch.tensor(bias), 2, 1)
        else:
            weight, bias = generator.normal(0, 1, (5, 6)), generator.normal(0, 1, 5)
            before, shape = nir.Linear(weight) if kind == "Linear" else nir.Affine(weight, bias), (5,)
            x = images(4, 6)
            currents = x @ torch.tensor(weight).T + (0 if kind == "Linear" else torch.tensor(bias))
        by_channel = {
            n: np.broadcast_to(v, shape).copy()
            for n, v in parameters("LIF", (shape[0], *[1] * (len(shape) - 1)), True).items()
        }
        node = nir.LIF(**by_channel)
        model = classifier(
            chain(before, node, nir.Flatten({"input": np.array(shape)}, 0, -1), shape=tuple(x.shape[1:]))
        )
        expected = euler(node, np.broadcast_to(currents.numpy(), (T, *currents.shape)), DT).reshape(T, 4, -1)
        assert np.array_equal(model.outputs(x).detach().numpy(), expected)
        assert Elementwise not in kinds(model.net)
        assert 0.05 < expected.mean() < 0.95

    def test_stateless_nodes(self):
        generator = rng(4)
        x, scale = images(), generator.normal(0, 1, (4, 4, 4))
        weight = generator.normal(0, 1, (4, 1, 3, 3))
        graph = chain(
            nir.Conv2d((8, 8), weight, (1, 1), "same", (1, 1), 2, np.zeros(4)),
            nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
            nir.Scale(scale),
            nir.AvgPool2d(np.array(2), np.array(2), np.array(1)),
            nir.Flatten({"input": np.array([4, 3, 3])}, 1, 2),
            nir.Flatten({"input": np.array([4, 9])}, 0, -1),
            shape=(2, 8, 8),
        )
        model = SpikingClassifier(from_nir(graph, DT, dtype=torch.float64), 1, layout="folded")
        y = nn.functional.conv2d(x, torch.tensor(weight), padding=1, groups=2)
        y = nn.functional.avg_pool2d(y, 2) * 4 * torch.tensor(scale)
        torch.testing.assert_close(model(x), nn.functional.avg_pool2d(y, 2, padding=1).flatten(1))

    def test_integrator_as_readout(self):
        """Rate rules see that it is not affine in each frame, and differentiate through its time."""
        weight, out = rng(1).normal(0, 1, (6, 8)), rng(2).normal(0, 1, (3, 6))
        node = nir.LI(np.full(3, 2 * DT), np.full(3, 1.5), np.zeros(3))
        spikes = nir.IF(np.full(6, 1 / DT), np.full(6, 0.6))
        model = classifier(chain(nir.Linear(weight), spikes, nir.Linear(out), node, shape=(8,)))
        x = images(4, 8).requires_grad_()
        (found,) = torch.autograd.grad(model.through(gradients.BPTT("Sigmoid"))(x).cos().sum(), x)
        v, potential, outputs = torch.zeros(4, 6).double(), torch.zeros(4, 3).double(), []
        for _ in range(T):
            v = v + x @ torch.tensor(weight).T
            s = (v >= 0.6).double() + torch.sigmoid(4 * (v - 0.6)) - torch.sigmoid(4 * (v - 0.6)).detach()
            v = v * (1 - s)
            potential = potential + 0.5 * (1.5 * s @ torch.tensor(out).T - potential)
            outputs.append(potential)
        expected = torch.stack(outputs).mean(0)
        torch.testing.assert_close(model(x), expected)
        torch.testing.assert_close(found, torch.autograd.grad(expected.cos().sum(), x)[0])
        (rate,) = torch.autograd.grad(model.through(gradients.BPTR())(x).cos().sum(), x)
        assert rate.isfinite().all()
        assert rate.abs().sum() > 0

    def test_integrator_before_any_neuron(self):
        node = nir.LI(np.full(8, 2 * DT), np.full(8, 1.0), np.zeros(8))
        model = classifier(chain(node, nir.IF(np.full(8, 1 / DT), np.full(8, 0.6)), shape=(8,)))
        torch.testing.assert_close(model(images(4, 8)), model.reference(images(4, 8)))
        assert 0 < model(images(4, 8)).mean() < 1

    def test_one_step_at_a_time(self):
        integrator = Integrator(torch.tensor(0.5), torch.tensor(2.0), torch.tensor(1.0))
        x = torch.ones(2, 3)
        assert [integrator(x)[0, 0].item() for _ in range(3)] == [3.0, 4.0, 4.5]
        integrator.reset_state()
        assert integrator(x)[0, 0].item() == 3.0


class TestGraphs:
    def branched(self) -> tuple[Any, list[np.ndarray]]:
        weights = [rng(i).normal(0, 1.5, (6, 6)) for i in range(3)]
        nodes = {
            "in.put": nir.Input(np.array([6])),
            "first": nir.Linear(weights[0]),
            "spike": nir.IF(np.full(6, 2 / DT), np.full(6, 0.8)),
            "deep": nir.Linear(weights[1]),
            "forward": nir.IF(np.full(6, 3 / DT), np.full(6, 0.9)),
            "last.fc": nir.Linear(weights[2]),
            "output": nir.Output(np.array([6])),
        }
        edges = [("in.put", "first"), ("first", "spike"), ("spike", "deep"), ("deep", "forward"), ("first", "forward")]
        edges += [("forward", "last.fc"), ("spike", "last.fc"), ("last.fc", "output")]
        return nir.NIRGraph(nodes, edges, type_check=False), weights

    def test_branches_are_added(self):
        graph, weights = self.branched()
        model, x = classifier(graph), images(4, 6)
        assert isinstance(model.net, BranchedNetwork)
        first = np.broadcast_to(x.numpy() @ weights[0].T, (T, 4, 6))
        spikes = euler(graph.nodes["spike"], first, DT)
        second = euler(graph.nodes["forward"], spikes @ weights[1].T + first, DT)
        expected = (spikes + second) @ weights[2].T
        np.testing.assert_allclose(model.outputs(x).detach().numpy(), expected, rtol=1e-12)
        np.testing.assert_allclose(model.reference(x).numpy(), expected.mean(0), rtol=1e-12)
        assert 0.05 < second.mean() < 0.95

    def test_shared_layers_are_not_scaled(self):
        """``first`` feeds two nodes, so the resistance of one of them stays out of its weights."""
        graph, weights = self.branched()
        net = from_nir(graph, DT, dtype=torch.float64)
        np.testing.assert_array_equal(net.nodes["node_first"].weight.detach().numpy(), weights[0])
        assert Elementwise in kinds(net.nodes["node_spike"])

    def test_gradient_rules_on_branches(self):
        graph, _ = self.branched()
        model, x = classifier(graph), images(4, 6).requires_grad_()
        (own,) = torch.autograd.grad(model(x).cos().sum(), x)
        (bptt,) = torch.autograd.grad(model.through(gradients.BPTT())(x).cos().sum(), x)
        torch.testing.assert_close(own, bptt)

    def test_graph_in_a_graph(self):
        inner = chain(nir.Linear(np.eye(4) * 2), nir.IF(np.full(4, 1 / DT), np.full(4, 1.0)), shape=(4,))
        model = classifier(chain(inner, nir.Scale(np.full(4, 3.0)), shape=(4,)))
        x = images(3, 4)
        spikes = euler(nir.IF(np.full(4, 1 / DT), np.full(4, 1.0)), np.broadcast_to(2 * x.numpy(), (T, 3, 4)), DT)
        np.testing.assert_allclose(model.outputs(x).detach().numpy(), 3 * spikes)

    @pytest.mark.parametrize("surrogate", ["Sigmoid", "triangle"])
    def test_surrogate(self, surrogate):
        graph = chain(nir.Linear(np.eye(4)), nir.IF(np.full(4, 1 / DT), np.full(4, 1.0)), shape=(4,))
        net = from_nir(graph, DT, surrogate=surrogate, detach_reset=True)
        node = next(part for part in net.modules() if isinstance(part, IF))
        assert type(node.surrogate_function).__name__ == {"triangle": "PiecewiseQuadratic"}.get(surrogate, surrogate)
        assert node.detach_reset


class TestErrors:
    def ends(self) -> dict[str, Any]:
        return {"i": nir.Input(np.array([4])), "o": nir.Output(np.array([4]))}

    @pytest.mark.parametrize("dt", [0, -1e-3, float("nan"), float("inf"), "1", True, None])
    def test_dt(self, dt):
        with pytest.raises(RobustSNNError, match="dt must be the length of a step"):
            from_nir(chain(nir.Linear(np.eye(4)), shape=(4,)), dt)

    @pytest.mark.parametrize(
        ("nodes", "message"),
        [
            (
                [nir.Threshold(np.ones(4))],
                "'n0' is of type Threshold, which has no counterpart here; supported: Affine",
            ),
            ([nir.Delay(np.ones(4))], "type Delay"),
            ([nir.Linear(np.ones((2, 4, 4)))], r"'n0' \(Linear\): the weight must have shape \[out, in\]"),
            (
                [nir.LIF(np.linspace(2, 3, 4) * DT, np.ones(4), np.zeros(4), np.ones(4))],
                "time constants differ within the layer",
            ),
            ([nir.LIF(np.full(4, DT), np.ones(4), np.zeros(4), np.ones(4))], "is 1 steps .* use a smaller dt"),
            ([nir.LI(np.full(4, DT / 2), np.ones(4), np.zeros(4))], "must be at least dt = 0.0001, got 5e-05"),
            ([nir.IF(np.ones(4), np.array([1.0, 1, 1, 0]))], "not above the reset potential"),
        ],
        ids=lambda value: "" if isinstance(value, list) else value[:20],
    )
    def test_nodes(self, nodes, message):
        with pytest.raises(RobustSNNError, match=message):
            from_nir(chain(*nodes, shape=(4,)), DT)

    def test_recurrent(self):
        nodes = {
            "i": nir.Input(np.array([4])),
            "a": nir.Linear(np.eye(4)),
            "b": nir.Linear(np.eye(4)),
            "o": nir.Output(np.array([4])),
        }
        edges = [("i", "a"), ("a", "b"), ("b", "a"), ("b", "o")]
        with pytest.raises(RobustSNNError, match="recurrent connections"):
            from_nir(nir.NIRGraph(nodes, edges, type_check=False), DT)

    def test_loose_ends(self):
        nodes = self.ends() | {"a": nir.Linear(np.eye(4))}
        with pytest.raises(RobustSNNError, match="'o' gets no input"):
            from_nir(nir.NIRGraph(nodes, [("i", "a")], type_check=False), DT)
        with pytest.raises(RobustSNNError, match=r"must have one output .* has 0"):
            from_nir(nir.NIRGraph({k: v for k, v in nodes.items() if k != "o"}, [("i", "a")], type_check=False), DT)

    def test_unused_branch(self):
        """A node that leads nowhere does not run."""
        nodes = {
            "i": nir.Input(np.array([4])),
            "a": nir.Linear(np.eye(4)),
            "b": nir.Linear(np.eye(3)),
            "o": nir.Output(np.array([4])),
        }
        net = from_nir(nir.NIRGraph(nodes, [("i", "a"), ("a", "b"), ("a", "o")], type_check=False), DT)
        torch.testing.assert_close(net(torch.ones(2, 4)), torch.ones(2, 4))

    def test_files(self, tmp_path, monkeypatch):
        with pytest.raises(RobustSNNError, match="no NIR file at"):
            from_nir(tmp_path / "missing.nir", DT)
        (tmp_path / "bad.nir").write_text("nothing")
        with pytest.raises(RobustSNNError, match="not a readable NIR file"):
            from_nir(str(tmp_path / "bad.nir"), DT)
        with pytest.raises(RobustSNNError, match=r"expected a nir.NIRGraph .* got int"):
            from_nir(7, DT)
        monkeypatch.setitem(sys.modules, "nir", None)
        with pytest.raises(RobustSNNError, match="pip install nir"):
            from_nir(tmp_path / "bad.nir", DT)

    def test_images_of_another_size(self):
        node = nir.LI(np.full((2, 4), 2 * DT), np.linspace(1, 2, 8).reshape(2, 4), np.zeros((2, 4)))
        with pytest.raises(RobustSNNError, match=r"parameters of shape \(2, 4\) and got inputs of shape \(2, 8, 8\)"):
            SpikingClassifier(from_nir(chain(node, shape=(2, 4)), DT), 2, layout="folded")(torch.rand(1, 2, 8, 8))
