"""How this copy of Parley was built."""

from __future__ import annotations

from signal_server.core import switchboard


def is_compiled() -> bool:
    """Whether the hot modules run as machine code (`hatch_build.py`)."""
    return not switchboard.__file__.endswith(".py")
