"""The examples run as they are, and what they print says what they are there to say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def output_of(name: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "library"), [("attack_an_snntorch_network.py", "snntorch"), ("attack_a_norse_network.py", "norse")]
)
def test_networks_of_other_frameworks(name, library):
    pytest.importorskip(library)
    printed = output_of(name)
    assert "nothing wrong found" in printed
    assert float(re.search(r"clean ([\d.]+)%", printed).group(1)) > 80
    rows = re.findall(r"eps (\d+)/255: random signs ([\d.]+)%, PGD-10 ([\d.]+)%", printed)
    assert [int(eps) for eps, *_ in rows] == [8, 16, 32]
    adversarial = [float(pgd) for *_, pgd in rows]
    assert adversarial == sorted(adversarial, reverse=True)
    assert adversarial[-1] < float(rows[-1][1]) - 20


def test_a_spikingjelly_network():
    printed = output_of("attack_a_spikingjelly_network.py")
    clean, noise = (float(re.search(rf"{what} ([\d.]+)%", printed).group(1)) for what in ("clean", "random signs"))
    attacked = [
        float(value) for value in re.findall(r"^(?:BPTT|BPTR|torchattacks).* ([\d.]+)%$", printed, re.MULTILINE)
    ]
    assert len(attacked) >= 3
    assert clean > 75
    assert max(attacked) < min(clean, noise) - 15
