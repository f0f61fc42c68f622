"""How many images fit: estimates against measured memory, nothing moved by the probe, batches cut where they do not fit."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import robustsnn as rs
from robustsnn.attacks import memory
from robustsnn.attacks.memory import batch_size_for, bytes_of_a_pass, free_memory, parse_memory, split_to_fit
from robustsnn.errors import RobustSNNError

MB = 1_000_000


def network(channels: int = 4) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            rs.neurons.LIF(),
            nn.AvgPool2d(2),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            rs.neurons.LIF(),
            nn.Flatten(),
            nn.Linear(channels * 16, 4),
        )


@pytest.fixture
def images() -> Tensor:
    return torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))


MEASURED = """
import sys
import torch
import robustsnn as rs
from torch import nn
from robustsnn.attacks.memory import bytes_of_a_pass

def resident(field):
    return int(open("/proc/self/status").read().split(field)[1].split()[0]) * 1024

rule, n = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
net = nn.Sequential(
    nn.Conv2d(3, 24, 3, padding=1), rs.neurons.LIF(), nn.Conv2d(24, 24, 3, padding=1), nn.BatchNorm2d(24),
    rs.neurons.LIF(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(24 * 256, 10),
)
model = rs.SpikingClassifier(net, 8).eval().through(rs.gradients.build_rule(rule))
for parameter in model.parameters():
    parameter.requires_grad = False
images = torch.rand(n, 3, 32, 32)

def attack(x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x).logsumexp(1).sum(), x)

attack(images[:1])
estimate = bytes_of_a_pass(model, images[:8]) / 8 * n
before = resident("VmRSS:")
attack(images)
print(estimate, resident("VmHWM:") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads resident memory from /proc")
@pytest.mark.parametrize(("rule", "n"), [("bptt", 32), ("bptt", 96), ("bptr", 96)])
def test_estimates_are_within_a_factor_of_two_of_resident_memory(rule, n) -> None:
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, rule, str(n)], capture_output=True, text=True, check=True, timeout=120
    )
    estimate, grown = map(float, result.stdout.split())
    assert grown > 20 * MB
    assert 0.5 < estimate / grown < 2


def test_counts_what_lives_at_a_time_and_no_more() -> None:
    class Chain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                for _ in range(5):
                    x.repeat(1, 100)  # gone before the next
            return x.repeat(1, 10)

    x = torch.rand(7, 1000)
    seen = memory._peak_counted(lambda: Chain()(x.requires_grad_()), torch.device("cpu"))
    assert seen == 100 * x.nbytes
    kept = []
    seen = memory._peak_counted(lambda: kept.extend(x.detach() + k for k in range(5)), torch.device("cpu"))
    assert seen == 5 * x.nbytes
    assert memory._peak_counted(lambda: x.detach().mul_(2).view(-1)[3:], torch.device("cpu")) == 0


def test_grows_with_images_and_time(images) -> None:
    view = rs.SpikingClassifier(network(), 8).eval().through(rs.gradients.BPTT())
    longer = rs.SpikingClassifier(network(), 32).eval().through(rs.gradients.BPTT())
    assert bytes_of_a_pass(view, images[:8]) / bytes_of_a_pass(view, images[:4]) == pytest.approx(2, rel=0.1)
    assert bytes_of_a_pass(longer, images[:4]) / bytes_of_a_pass(view, images[:4]) == pytest.approx(4, rel=0.2)


class TestBatchSize:
    def test_the_batch_fits_and_a_larger_one_does_not(self, images) -> None:
        view = rs.SpikingClassifier(network(), 8).eval().through(rs.gradients.BPTT())
        budget = bytes_of_a_pass(view, images) / 2
        size = batch_size_for(view, images, budget)
        assert bytes_of_a_pass(view, images[:size]) <= budget
        assert bytes_of_a_pass(view, images[: size + 1]) > 0.98 * budget
        assert size in (5, 6)

    def test_a_text_and_the_memory_that_is_free(self, images) -> None:
        model = rs.SpikingClassifier(network(), 8).eval()
        assert batch_size_for(model, images, "1GB") == len(images)
        assert batch_size_for(model, images) == len(images)

    def test_no_limit_where_the_system_does_not_say(self, images, monkeypatch) -> None:
        monkeypatch.setattr(memory, "free_memory", lambda device: None)
        assert batch_size_for(rs.SpikingClassifier(network(), 8).eval(), images) == len(images)

    def test_half_of_what_is_free(self, images, monkeypatch) -> None:
        view = rs.SpikingClassifier(network(), 8).eval().through(rs.gradients.BPTT())
        monkeypatch.setattr(memory, "free_memory", lambda device: int(bytes_of_a_pass(view, images)))
        assert batch_size_for(view, images) in (5, 6)

    def test_less_than_one_image(self, images) -> None:
        model = rs.SpikingClassifier(network(), 8).eval()
        with pytest.warns(RuntimeWarning, match="one image takes about .* kB .* budget of 2 kB"):
            assert batch_size_for(model, images, "2kB") == 1

    def test_more_images_at_once_for_rules_that_need_less(self) -> None:
        images = torch.rand(200, 3, 8, 8)
        model = rs.SpikingClassifier(network(), 32).eval()
        sizes = [
            batch_size_for(model.through(rs.gradients.build_rule(name)), images, "5MB") for name in ("bptt", "bptr")
        ]
        assert 1 < 2 * sizes[0] < sizes[1]

    def test_models_that_are_no_modules_or_have_no_gradient(self, images) -> None:
        assert batch_size_for(lambda x: x.flatten(1)[:, :3], images, "1MB") == len(images)
        assert batch_size_for(lambda x: x.detach().flatten(1)[:, :3], images, "1MB") == len(images)

    def test_no_images(self, images) -> None:
        with pytest.raises(RobustSNNError, match="empty"):
            batch_size_for(rs.SpikingClassifier(network(), 8), images[:0])


class TestTheProbeMovesNothing:
    def test_random_encoders_and_the_global_generator(self, images) -> None:
        fresh, used = (rs.SpikingClassifier(network(), 4, encoder="poisson").eval() for _ in range(2))
        torch.manual_seed(5)
        state = torch.get_rng_state()
        for _ in range(2):  # before the first draw, and in the middle
            batch_size_for(used, images, "500kB")
            with torch.no_grad():
                assert torch.equal(used(images), fresh(images))
        assert torch.equal(torch.get_rng_state(), state)

    def test_a_model_that_draws_from_the_global_generator(self, images) -> None:
        class Noisy(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return (x + torch.randn_like(x)).flatten(1)[:, :3]

        state = torch.get_rng_state()
        batch_size_for(Noisy(), images, "100kB")
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize("mixed", [False, True])
    def test_adaptive_rules(self, images, mixed) -> None:
        rules = [rs.gradients.build_rule("assg") for _ in range(2)]
        x = images[:3]
        gradients = []
        for rule, probed in zip(rules, (False, True)):
            inner = rs.gradients.Mixture([(rule, 1.0), (rs.gradients.BPTR(), 1.0)]) if mixed else rule
            view = rs.SpikingClassifier(network(), 4).eval().through(inner)
            for step in range(3):
                if probed and step:
                    batch_size_for(view, images, "500kB")
                leaf = x.clone().requires_grad_()
                gradients.append(torch.autograd.grad(view(leaf).pow(2).sum(), leaf)[0])
        assert not torch.equal(gradients[0], gradients[2])  # it learns
        for plain, probed in zip(gradients[:3], gradients[3:]):
            assert torch.equal(plain, probed)

    def test_modes_flags_and_buffers(self, images) -> None:
        model = rs.SpikingClassifier(network(), 4).train()
        model.net[4].eval()
        model.net[0].weight.requires_grad = False
        model.net[0].bias.grad = torch.ones_like(model.net[0].bias)
        before = ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()])
        state = {name: value.clone() for name, value in model.state_dict().items()}
        shown = images.clone()
        batch_size_for(model.through(rs.gradients.BPTT()), images, "500kB")
        assert before == ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()])
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert torch.equal(model.net[0].bias.grad, torch.ones_like(model.net[0].bias))
        assert model.net[3].weight.grad is None
        assert torch.equal(shown, images)
        assert not images.requires_grad


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        ("4GB", 4 * 10**9),
        ("4 gb", 4 * 10**9),
        ("1.5MB", 1_500_000),
        ("2GiB", 2 * 2**30),
        ("512KiB", 512 * 1024),
        ("3k", 3000),
        ("10B", 10),
        ("4e9", 4 * 10**9),
        (1e9, 10**9),
        (7, 7),
    ],
)
def test_amounts_of_memory(amount, expected) -> None:
    assert parse_memory(amount) == expected


@pytest.mark.parametrize(
    "amount", ["", "GB", "-1GB", "4 horses", "4GBB", 0, "0.1", -3, True, None, float("nan"), "inf"]
)
def test_amounts_that_are_none(amount) -> None:
    with pytest.raises(RobustSNNError, match="amount of memory must be like '4GB'"):
        parse_memory(amount)


class TestFreeMemory:
    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
    def test_here(self) -> None:
        free = free_memory()
        total = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]) * 1024
        assert 0 < free <= total

    def test_unknown(self) -> None:
        assert free_memory("meta") is None

    def test_the_machine(self, tmp_path) -> None:
        file = tmp_path / "meminfo"
        file.write_text("MemTotal:       24684084 kB\nMemAvailable:   2000 kB\n")
        assert memory._free_on_machine(file) == 2000 * 1024
        assert memory._free_on_machine(tmp_path / "none") is None

    @pytest.mark.parametrize("version", [1, 2])
    def test_the_tightest_control_group(self, tmp_path, version) -> None:
        line, folder = ("5:memory:/jobs/mine", "memory") if version == 1 else ("0::/jobs/mine", "")
        limit, used = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
        )
        root = tmp_path / "cgroup"
        for path, most, now, cached in (("", "max", 0, 0), ("jobs", "1000", 300, 50), ("jobs/mine", "2000", 500, 0)):
            place = root / folder / path
            place.mkdir(parents=True, exist_ok=True)
            (place / limit).write_text(f"{most}\n")
            (place / used).write_text(f"{now}\n")
            (place / "memory.stat").write_text(f"active_file 7\ninactive_file {cached}\n")
        groups = tmp_path / "groups"
        groups.write_text(f"3:cpuset:/\n{line}\n")
        assert sorted(memory._free_in_groups(root, groups)) == [750, 1500]

    def test_in_a_container_the_files_are_at_the_root(self, tmp_path) -> None:
        (tmp_path / "memory.max").write_text("1000\n")
        (tmp_path / "memory.current").write_text("1200\n")
        groups = tmp_path / "groups"
        groups.write_text("0::/outside/of/here\n")
        assert list(memory._free_in_groups(tmp_path, groups)) == [0]

    def test_no_control_groups(self, tmp_path) -> None:
        assert list(memory._free_in_groups(tmp_path, tmp_path / "none")) == []


class TestSplitToFit:
    @staticmethod
    def limited(most: int, error: type[Exception] = torch.OutOfMemoryError, text: str = "CUDA out of memory") -> tuple:
        sizes: list[int] = []

        def function(x: Tensor, y: Tensor) -> Tensor:
            sizes.append(len(x))
            if len(x) > most:
                raise error(text)
            return x * y[:, None]

        return function, sizes

    @pytest.mark.parametrize("n", [1, 2, 7, 16, 33])
    @pytest.mark.parametrize("most", [1, 2, 3, 5, 40])
    def test_same_result_in_smaller_pieces(self, n, most) -> None:
        x, y = torch.rand(n, 3), torch.rand(n)
        function, sizes = self.limited(most)
        assert torch.equal(split_to_fit(function, x, y), x * y[:, None])
        fitting = [size for size in sizes if size <= most]
        assert sum(fitting) == n
        assert len(sizes) - len(fitting) <= 6

    def test_begins_with_the_given_size(self) -> None:
        function, sizes = self.limited(3)
        split_to_fit(function, torch.rand(10, 3), torch.rand(10), batch_size=4)
        assert sizes == [4, 2, 2, 2, 2, 2]

    @pytest.mark.parametrize(
        ("error", "text"), [(RuntimeError, "DefaultCPUAllocator: can't allocate memory"), (MemoryError, "")]
    )
    def test_memory_of_the_cpu(self, error, text) -> None:
        function, _ = self.limited(2, error, text)
        x, y = torch.rand(5, 3), torch.rand(5)
        assert torch.equal(split_to_fit(function, x, y), x * y[:, None])

    def test_torch_on_the_cpu_says_so(self) -> None:
        def greedy(x: Tensor) -> Tensor:
            if len(x) > 2:
                torch.empty(2**50)
            return x

        x = torch.rand(5, 3)
        assert torch.equal(split_to_fit(greedy, x), x)

    def test_one_sample_that_does_not_fit(self) -> None:
        function, _ = self.limited(0)
        with pytest.raises(RobustSNNError, match=r"single sample of shape \(3,\)"):
            split_to_fit(function, torch.rand(4, 3), torch.rand(4))

    def test_other_errors_pass(self) -> None:
        function, sizes = self.limited(2, RuntimeError, "shapes differ")
        with pytest.raises(RuntimeError, match="shapes differ"):
            split_to_fit(function, torch.rand(4, 3), torch.rand(4))
        assert sizes == [4]

    def test_an_attack_is_the_same_in_pieces(self, images) -> None:
        labels = torch.arange(len(images)) % 4
        view = rs.SpikingClassifier(network(), 4).eval().through(rs.gradients.BPTT())
        attack = rs.attacks.PGD(view, eps=0.1, steps=3)

        def narrow(x: Tensor, y: Tensor) -> Tensor:
            if len(x) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return attack(x, y)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.testing.assert_close(split_to_fit(narrow, images, labels), attack(images, labels))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda(images) -> None:
    view = rs.SpikingClassifier(network(), 8).eval().to("cuda").through(rs.gradients.BPTT())
    assert free_memory("cuda") > 0
    assert bytes_of_a_pass(view, images[:8]) > bytes_of_a_pass(view, images[:1]) > 0
    assert batch_size_for(view, images) == len(images)
