"""Models made by anybody's function: found, called once, checked, measured."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
import torch
from tiny_benchmark import content, tiny

from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.evaluation import run_benchmark
from robustsnn.evaluation.factory import factory_hash, is_factory, made_by
from robustsnn.evaluation.overrides import evaluation_of

CODE = """
import torch
import robustsnn as rs
import helper_beside_it

calls = []

def build():
    calls.append(1)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10), rs.neurons.IF(), torch.nn.Linear(10, 10))
    return rs.SpikingClassifier(net, 2)

def foreign():
    return rs.SpikingClassifier(torch.nn.Sequential(torch.nn.Flatten(2), torch.nn.Linear(64, 10)), 2, layout="sequence")

def bare():
    return torch.nn.Linear(3, 3)

def breaks():
    raise KeyError("weights")
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "helper_beside_it.py").write_text("")
    path = tmp_path / f"mine_{tmp_path.name[-6:]}.py"
    path.write_text(CODE)
    return path


def choices(paths, **changes):
    options = dict.fromkeys(("dataset", "root", "attacks", "rules", "eps", "steps", "n_test", "time_steps"))
    return evaluation_of(paths, **options | {"download": False, "norm": "Linf", "seed": 0, "device": "cpu"} | changes)


@pytest.mark.parametrize("text", ["a.py:f", "dir/a.py:build", "package.module:make", "module:make"])
def test_what_is_a_factory(text):
    assert is_factory(text)


@pytest.mark.parametrize("text", ["a.py", "model.safetensors", "C:\\x\\m.safetensors", "a.py:", "a.py:1x", ":f"])
def test_what_is_not(text):
    assert not is_factory(text)


def test_called_once_with_a_seed(file):
    state = torch.random.get_rng_state()
    model = made_by(f"{file}:build")
    assert made_by(f"{file}:build") is model
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(0)
    assert torch.equal(model.net[1].weight, torch.nn.Linear(64, 10).weight)
    assert not model.training
    assert factory_hash(f"{file}:build") == factory_hash(f"{file}:build")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("biuld", ["function in", "Did you mean 'build'"]),
        ("bare", ["returned Linear", "rs.SpikingClassifier(net, time_steps"]),
        ("breaks", ["failed: KeyError", "weights"]),
    ],
)
def test_errors(file, name, words):
    with pytest.raises((RobustSNNError, UnknownNameError)) as caught:
        made_by(f"{file}:{name}")
    assert all(word in str(caught.value) for word in words), caught.value


def test_no_file_and_code_that_does_not_run(tmp_path):
    with pytest.raises(RobustSNNError, match="there is no file"):
        made_by(f"{tmp_path}/none.py:build")
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_package")
    with pytest.raises(RobustSNNError, match="cannot be imported: ModuleNotFoundError"):
        made_by(f"{broken}:build")


def test_a_benchmark_of_a_factory(file, tmp_path):
    model = {"name": "mine", "factory": f"{file}:build"}
    results = run_benchmark(tiny(model), tmp_path / "out")
    (found,) = results["models"]
    assert found["spec"] is None
    assert "layout folded" in found["description"]
    rows = pq.read_table(tmp_path / "out" / "samples.parquet")
    assert rows.num_rows == 40 * (1 + 2 * 2 + 2 * 2 * 2)


def test_another_file_is_another_run(file, tmp_path):
    model = {"name": "mine", "factory": f"{file}:build"}
    run_benchmark(tiny(model), tmp_path / "out")
    other = file.with_name("other_" + file.name)
    other.write_text(CODE + "\n# changed")
    with pytest.raises(RobustSNNError, match="another configuration"):
        run_benchmark(tiny(model | {"factory": f"{other}:build"}), tmp_path / "out")


def test_foreign_models_are_attacked_through_their_own_gradient(file):
    assert [rule.name for rule in choices([f"{file}:foreign"]).rules] == ["own"]
    assert [rule.name for rule in choices([f"{file}:build"]).rules] == ["bptt", "bptr"]
    assert [rule.name for rule in choices([f"{file}:foreign"], rules=["cba"]).rules] == ["cba"]


def test_rules_that_do_not_know_the_neurons(file, tmp_path):
    model = {"name": "mine", "factory": f"{file}:foreign"}
    with pytest.raises(RobustSNNError, match=r"model mine: rule bptt does not know its neurons.*--rule own"):
        run_benchmark(tiny(model), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("net.py", "names no function.*such as net.py:build"),
        ("net.py:", "names no function.*such as net.py:build"),
        ("net.py:1x", "names no function.*such as net.py:build"),
    ],
)
def test_what_only_looks_like_a_factory(path, message):
    with pytest.raises(RobustSNNError, match=message):
        choices([path])


def test_a_factory_sets_its_own_time_steps(file):
    with pytest.raises(RobustSNNError, match="sets its own number of steps"):
        choices([f"{file}:build"], time_steps=4)


def test_code_that_leaves_the_process(tmp_path):
    leaving = tmp_path / "leaving.py"
    leaving.write_text("import sys\nsys.exit('no weights')")
    with pytest.raises(RobustSNNError, match="cannot be imported: SystemExit: no weights"):
        made_by(f"{leaving}:build")


def test_names_and_steps_as_given(file):
    config = choices(
        [f"{file}:build", f"{file}:foreign"], attacks=["pgd", "square", "pgd", "ensemble-quick"], steps=7, norm="l2"
    )
    assert [model.name for model in config.models] == [file.stem, f"{file.stem}-2"]
    assert [(attack.name, attack.params.get("steps")) for attack in config.attacks] == [
        ("pgd", 7),
        ("square", 7),
        ("ensemble-quick", None),
    ]
    assert config.norm == "L2"


def test_steps_of_other_libraries(file):
    pytest.importorskip("torchattacks")
    pytest.importorskip("art")
    names = ["torchattacks:PGD", "torchattacks:FGSM", "art:ProjectedGradientDescent"]
    found = [attack.params for attack in choices([f"{file}:build"], attacks=names, steps=7).attacks]
    assert found == [{"steps": 7}, {}, {"max_iter": 7}]


def test_attacks_without_a_rule_run_once(file, tmp_path):
    model = {"name": "mine", "factory": f"{file}:build"}
    attacks = [{"name": "square", "params": {"steps": 5}}, {"name": "ensemble-quick"}]
    config = tiny(model, attacks=attacks, eps=[0.1], noises=[], rules=[], checks={"n_images": 0})
    (found,) = run_benchmark(config, tmp_path / "out")["models"]
    assert [(entry["attack"], entry["rule"]) for entry in found["attacks"]] == [
        ("square", None),
        ("ensemble-quick", None),
    ]
    ensemble = found["attacks"][1]
    assert sum(member["count"] for member in ensemble["members"]) == ensemble["verified"]
    assert ensemble["backwards"] > 0


def test_a_factory_takes_no_checkpoint():
    with pytest.raises(RobustSNNError, match="neither checkpoint nor conversion"):
        tiny({"name": "x", "factory": "a.py:f", "checkpoint": "b.safetensors"})
    assert content()["models"]
