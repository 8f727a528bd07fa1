"""What `parley probe` refuses before it asks anybody."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from probes.cli import probe


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a",
        "a",
        "http://",
        "http://[::1",
        "http://a:0",
        "http://a:x",
        "http://a:99999",
        "http://a?b",
        "http://a#b",
    ],
)
def test_what_is_no_deployment(url: str) -> None:
    with pytest.raises(click.UsageError, match="http:// or https:// URL"):
        probe.main(["api", url, "--quiet"], standalone_mode=False)


def test_a_file_without_certificates(tmp_path: Path) -> None:
    empty = tmp_path / "ca.pem"
    empty.write_text("no certificates here")
    arguments = ["api", "https://parley.test", "--quiet", "--ca", str(empty)]
    with pytest.raises(click.UsageError, match="has no certificates"):
        probe.main(arguments, standalone_mode=False)
