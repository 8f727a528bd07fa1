"""A switchboard's whole state as bytes, and back into another switchboard of the same rules.

What the two have in common anyway (limits, counters, address policies) is named, not copied. Only
classes of the core and the wire are ever built from the bytes. The format is that of the classes:
`VERSION` must rise when they change, and nodes of different formats share nothing.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from typing import Any

from signal_server.core.strand import Strand
from signal_server.core.switchboard import Switchboard

VERSION = 2
IS_PLAIN = hasattr(Strand, "__slots__")
FORMAT = f"{VERSION}" if IS_PLAIN else f"{VERSION}c"
"""Compiled classes (`hatch_build.py`) write their fields in another way."""
_OWN = ("signal_server.core.", "signal_server.wire.")
_FOREIGN = frozenset(
    {
        ("builtins", "frozenset"),
        ("builtins", "set"),
        ("collections", "OrderedDict"),
        ("collections", "deque"),
        ("copyreg", "_reconstructor"),
        ("msgspec", "Raw"),
        ("msgspec._core", "UNSET"),
        ("msgspec._utils", "rebuild"),
    }
)


class StateError(Exception):
    """The bytes are not a state of this format."""


def _shared(name: str) -> object:
    """Stands in the bytes for an object that both boards have."""
    raise StateError(name)


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, shared: dict[str, object]) -> None:
        super().__init__(file, protocol=5)
        self._names = {id(each): name for name, each in shared.items()}

    # Not persistent_id, which is asked about every string and number too.
    def reducer_override(self, obj: object) -> Any:
        name = self._names.get(id(obj))
        return NotImplemented if name is None else (_shared, (name,))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, shared: dict[str, object]) -> None:
        super().__init__(file)
        self._shared = shared

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (__name__, _shared.__name__):
            return self._shared.__getitem__
        if (module, name) in _FOREIGN:
            return super().find_class(module, name)
        # A name with dots, or one that was imported, would lead out of our modules.
        if module.startswith(_OWN) and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise StateError(f"{module}.{name} is no part of a state")


def pack(value: object, shared: dict[str, object] | None = None) -> bytes:
    """`value` and all it refers to; objects of `shared` by their names."""
    file = io.BytesIO()
    _Pickler(file, shared or {}).dump(value)
    return file.getvalue()


def unpack(octets: bytes, shared: dict[str, object] | None = None) -> Any:
    """What was packed; StateError for anything else."""
    try:
        return _Unpickler(io.BytesIO(octets), shared or {}).load()
    except StateError:
        raise
    except Exception as flaw:
        raise StateError(f"not a state: {type(flaw).__name__}") from flaw


def capture(board: Switchboard) -> bytes:
    """Everything the board knows of sessions, rooms, calls, bans and rates."""
    tally = board.tally
    levels = (tally.candidates_held, tally.held_bytes)
    return pack((board.containers(), levels), board.shared())


def restore(board: Switchboard, octets: bytes) -> None:
    """Into a fresh board with the same rules; raises StateError."""
    targets = board.containers()
    try:
        sources, (held, held_bytes) = unpack(octets, board.shared())
        if [type(each) for each in sources] != [type(each) for each in targets]:
            raise StateError("not what a board contains")
        for target, source in zip(targets, sources, strict=True):
            _adopt(target, source)
    except (TypeError, ValueError, AttributeError) as flaw:
        raise StateError(f"not a board's state: {type(flaw).__name__}") from flaw
    board.tally.candidates_held, board.tally.held_bytes = held, held_bytes


def _adopt(target: Any, source: Any) -> None:
    """In place: other parts of the board hold on to the target."""
    if isinstance(target, dict | OrderedDict):
        target.clear()
        target.update(source)
        return
    if hasattr(target, "__setstate__"):
        # Compiled classes have no slots to look at.
        target.__setstate__(source.__getstate__())
        return
    for slot in type(target).__slots__:
        mine, theirs = getattr(target, slot), getattr(source, slot)
        if isinstance(mine, dict) or hasattr(mine, "__setstate__"):
            _adopt(mine, theirs)
        else:
            setattr(target, slot, theirs)
