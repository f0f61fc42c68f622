"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from robustsnn.errors import RobustSNNError


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write ``data`` beside ``path``, flush it to disk, then move it into place in one step.

    Raises:
        RobustSNNError: the folder cannot be written, or the disk is full; a file that was there stays as it was.
    """
    path = Path(path)
    content = data.encode() if isinstance(data, str) else data
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise RobustSNNError(f"cannot write {path}: {error.strerror}; choose another folder") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise RobustSNNError(
                f"cannot write {path}: {error.strerror or error}; make room there or choose another folder (the file that "
                "was there is as it was)"
            ) from None
        raise


def writable_folder(path: str | Path) -> Path:
    """Make the folder if needed and check, before any long work, that files can be written in it.

    Raises:
        RobustSNNError: it cannot be made or written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RobustSNNError(
            f"cannot write to the folder {folder}: {error.strerror}; choose another with --out"
        ) from None
    return folder
