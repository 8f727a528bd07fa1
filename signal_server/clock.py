"""The two clocks: monotonic seconds for timers, Unix seconds for expiry. Never mixed.

The only module that asks the machine for the time; everything else is told.
"""

from __future__ import annotations

import time

monotonic = time.monotonic
"""Seconds since an arbitrary start; never goes back."""
unix = time.time
"""Seconds since 1970 UTC; may jump."""
