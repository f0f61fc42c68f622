"""The output folder of a run: finished batches as small Parquet files, so that an interrupted run goes on where it was."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from robustsnn.errors import RobustSNNError
from robustsnn.files import writable_folder, write_atomic

Columns = Mapping[str, Sequence[Any]]

_MARK = {"tool": "robustsnn"}
_WRITTEN = (
    *("config.json", "results.json", "samples.parquet", "gradients.parquet", "examples.npz", "report.html"),
    *("plots", "work", "models", "training"),
)


class RunFolder:
    """Where a benchmark keeps what it has done.

    ``config.json`` says what the folder belongs to; ``work/<key>.parquet`` holds one finished batch each;
    ``models/`` and ``training/`` the trained models; ``samples.parquet`` all rows once the run is complete.

    Args:
        path: the folder; made if needed.
        identity: configuration of the run as plain data. A folder of another run is refused.

    Raises:
        RobustSNNError: the folder cannot be written, or belongs to a run with another configuration.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any]) -> None:
        self.path = writable_folder(path)
        self._claim(json.loads(json.dumps(_MARK | dict(identity))))
        for name in ("work", "models", "training"):
            writable_folder(self.path / name)

    def _claim(self, identity: dict[str, Any]) -> None:
        file = self.path / "config.json"
        if not file.exists():
            write_atomic(file, json.dumps(identity, indent=2))
            return
        found = _identity_in(self.path)
        if found is None:
            raise RobustSNNError(f"{file} was not written by a robustsnn run; choose another --out")
        different = sorted(set(_differences(identity, found)))
        if different:
            more = f" and {len(different) - 3} more" if len(different) > 3 else ""
            raise RobustSNNError(
                f"{self.path} holds a run with another configuration (other {', '.join(different[:3])}{more}); choose "
                "another --out, or add --fresh to delete that run first"
            )

    def has(self, key: str) -> bool:
        """Whether this batch is done."""
        return self._file(key).exists()

    def write(self, key: str, columns: Columns) -> None:
        """Keep the rows of a finished batch."""
        buffer = io.BytesIO()
        pq.write_table(pa.table(dict(columns)), buffer)
        write_atomic(self._file(key), buffer.getvalue())

    def read(self, keys: Sequence[str]) -> pa.Table:
        """The rows of all these batches that are done, in order.

        Raises:
            RobustSNNError: a file that is not what was written.
        """
        tables = []
        for key in keys:
            if self.has(key):
                try:
                    tables.append(pq.read_table(self._file(key)))
                except (OSError, pa.ArrowException):
                    raise RobustSNNError(f"{self._file(key)} is damaged; delete it and run again") from None
        return pa.concat_tables(tables, promote_options="default") if tables else pa.table({})

    def write_table(self, name: str, table: pa.Table) -> None:
        """A whole table at the top of the folder."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        write_atomic(self.path / name, buffer.getvalue())

    def _file(self, key: str) -> Path:
        return self.path / "work" / f"{key}.parquet"


def delete_run(path: str | Path) -> None:
    """Delete what a run wrote into a folder, and nothing else that lies there.

    Raises:
        RobustSNNError: the folder holds something, but no run.
    """
    folder = Path(path)
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if _identity_in(folder) is None:
        raise RobustSNNError(f"{folder} is not the folder of a robustsnn run; --fresh will not delete what it holds")
    for name in reversed(_WRITTEN):
        _delete(folder / name)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _identity_in(folder: Path) -> dict[str, Any] | None:
    """What the folder belongs to; None where no run says so."""
    try:
        found = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.items() >= _MARK.items() else None


def _differences(a: Any, b: Any, place: str = "") -> Iterator[str]:
    """Dotted names of the entries in which two trees of plain data differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            yield from _differences(a.get(key), b.get(key), f"{place}.{key}".lstrip("."))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (x, y) in enumerate(zip(a, b)):
            yield from _differences(x, y, f"{place}.{index}")
    elif a != b:
        yield place
