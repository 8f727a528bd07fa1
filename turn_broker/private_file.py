"""Replaces a small file that only its owner may read. It does not know what is in it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def replace_private(path: Path, content: bytes) -> None:
    """Write `content` to `path` (mode 0600): a reader, or a crash, finds the old or the new whole.

    Blocks until it is on the disk; raises OSError.
    """
    # mkstemp makes the file with mode 0600.
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
