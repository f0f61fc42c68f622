"""Training in several processes: torchrun's two end where one does, and stop together; joined batch norm; processes killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from several_processes import RUNS, run

from robustsnn.defenses.processes import Processes, is_main_process, process_count
from robustsnn.errors import RobustSNNError

HERE = Path(__file__).parent


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder that two processes of torchrun leave, and what each of them says."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(HERE / "several_processes.py"), str(folder)],
        env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "distributed_backend" not in done.stderr  # nothing of lightning's on the terminal
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_end_where_one_does(name, two):
    folder, said = two
    model, alone = run(name)
    states = [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for key, expected in model.state_dict().items():
        assert torch.equal(states[0][key], states[1][key]), key
        torch.testing.assert_close(states[0][key], expected, rtol=1e-6, atol=1e-9)
    assert said[0][name]["history"] == said[1][name]["history"]
    assert said[0][name]["best"] == alone["best"]
    for together, single in zip(said[0][name]["history"], alone["history"]):
        for key in ("train_accuracy", "validation_accuracy", "robust_accuracy"):
            assert together[key] == single[key], key
        assert together["loss"] == pytest.approx(single["loss"], rel=1e-6)
        assert together["terms"] == pytest.approx(single["terms"], rel=1e-5)
    assert [s[name]["told"] for s in said] == [alone["told"], [0, 0]]  # the first one reports
    assert sorted(path.name for path in (folder / name).iterdir()) == ["log.csv", "training.safetensors"]


def test_all_processes_stop_together(two):
    folder, said = two
    first, second = (s["stopped"] for s in said)
    assert first["nan"] == second["nan"]
    assert "the loss is nan in epoch 2, batch 2 of 4" in first["nan"]
    assert first["interrupt"] == second["interrupt"] == "KeyboardInterrupt: "
    assert first["resumed"] == second["resumed"] == "trained"
    assert first["failed"] == "OSError: no space left"
    assert second["failed"] == "RobustSNNError: the first process stopped: OSError: no space left"
    assert len((folder / "nan" / "log.csv").read_text().splitlines()) == 2  # the good epoch is kept
    assert len((folder / "interrupt" / "log.csv").read_text().splitlines()) == 3


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    name, whole = "everything", tmp_path / "whole"
    expected, said = run(name, whole)
    folder = tmp_path / "killed"
    killed = subprocess.Popen(
        [sys.executable, str(HERE / "several_processes.py"), str(folder), name], env=environment()
    )
    try:
        while not (folder / "training.safetensors").exists():
            assert killed.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
    finally:
        killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
    (folder / ".training.safetensors.k1ll3d").write_text("half of a state")
    model, resumed = run(name, folder)
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in expected.state_dict().items())
    for record in said["history"] + resumed["history"]:
        del record["seconds"]
    assert resumed["history"] == said["history"]
    assert resumed["told"][1] == 1  # one epoch was there
    assert sorted(path.name for path in folder.iterdir()) == ["log.csv", "training.safetensors"]


def test_without_torchrun_there_is_one_process():
    assert process_count() == 1
    assert is_main_process()
    alone = Processes("cpu")
    assert (alone.count, alone.rank, alone.main, alone.device) == (1, 0, True, torch.device("cpu"))
    numbers = torch.arange(5)
    assert alone.share(numbers).equal(numbers)


def test_one_gpu_is_not_for_several_processes(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert not is_main_process()
    with pytest.raises(RobustSNNError, match="2 processes cannot share 'cuda:0'; use 'cuda'"):
        Processes("cuda:0")
    with pytest.raises(RobustSNNError, match=r"2 GPUs for as many processes are not available here \(1 found\)"):
        Processes("cuda")
