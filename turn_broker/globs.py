"""The room patterns of access tokens: `*` and `?`. It does not know tokens."""

from __future__ import annotations


def matches(pattern: str, text: str) -> bool:
    """Glob match with only `*` and `?`; brackets are plain characters, case counts.

    Greedy with one point to return to: at most len(pattern) * len(text) steps for any pattern.
    """
    p = t = 0
    star = -1
    resume = 0
    while t < len(text):
        if p < len(pattern) and pattern[p] == "*":
            star, resume = p, t
            p += 1
        elif p < len(pattern) and pattern[p] in ("?", text[t]):
            p += 1
            t += 1
        elif star >= 0:
            resume += 1
            p, t = star + 1, resume
        else:
            return False
    return not pattern[p:].strip("*")
