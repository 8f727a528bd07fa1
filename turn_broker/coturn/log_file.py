"""Follows a log file across rotation and truncation, without losing what was still written.

Knows files, not lines. Polls: twenty looks a second at a file's size cost nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

MAX_READ = 1024 * 1024


class LogFile:
    """Blocking, but only for reads of the page cache."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._at = 0

    def skip(self) -> None:
        """Go to the present end; a file that does not exist yet will be read from its beginning."""
        self.close()
        self._open()
        if self._file is not None:
            self._at = self._file.seek(0, os.SEEK_END)

    def read(self) -> tuple[bytes, bool]:
        """What was written since, at most `MAX_READ`, and whether it begins a new file.

        OSError when the file cannot be read.
        """
        if self._file is None:
            self._open()
            return (self._take(), True) if self._file is not None else (b"", False)
        if os.fstat(self._file.fileno()).st_size < self._at:
            self._at = self._file.seek(0)
            return self._take(), True
        chunk = self._take()
        if chunk or not self._is_replaced():
            return chunk, False
        last = self._take()
        if not last:
            self.close()
        return last, False

    def close(self) -> None:
        """Forget the file; the next `read` begins it anew."""
        if self._file is not None:
            self._file.close()
        self._file, self._at = None, 0

    def _open(self) -> None:
        try:
            self._file = self._path.open("rb", buffering=0)
        except FileNotFoundError:
            self._file = None

    def _take(self) -> bytes:
        assert self._file is not None
        chunk = self._file.read(MAX_READ) or b""
        self._at += len(chunk)
        return chunk

    def _is_replaced(self) -> bool:
        """Whether something is written to another file of that name, so no more to this one."""
        assert self._file is not None
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False
        ours = os.fstat(self._file.fileno())
        return now.st_size > 0 and (now.st_dev, now.st_ino) != (ours.st_dev, ours.st_ino)
