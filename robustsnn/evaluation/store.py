"""The output folder of a run: finished batches as small Parquet files, so that an interrupted run goes on where it was."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from robustsnn.errors import RobustSNNError
from robustsnn.files import writable_folder, write_atomic

Columns = Mapping[str, Sequence[Any]]


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
        self._claim(json.loads(json.dumps(identity)))
        for name in ("work", "models", "training"):
            writable_folder(self.path / name)

    def _claim(self, identity: dict[str, Any]) -> None:
        file = self.path / "config.json"
        if not file.exists():
            write_atomic(file, json.dumps(identity, indent=2))
            return
        try:
            found = json.loads(file.read_text())
        except (OSError, ValueError):
            raise RobustSNNError(f"{file} is not readable JSON; choose another --out, or delete the folder") from None
        different = [key for key in {**identity, **found} if identity.get(key) != found.get(key)]
        if different:
            raise RobustSNNError(
                f"{self.path} holds a run with another configuration ({', '.join(sorted(different))} differ); choose "
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
