"""Where the tests find real data sets, which the repository may not hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def real_data(*parts: str) -> Path:
    """Path under ROBUSTSNN_TEST_DATA, else under ``shared/data`` beside the repository; skips the test if absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("ROBUSTSNN_TEST_DATA") or beside).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no real data at {path}")
    return path
