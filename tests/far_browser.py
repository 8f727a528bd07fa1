"""Chromium on the client's side of a network, with one authority that it trusts."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from deployments import Deployment
from networks import Network
from people import CHROMIUM, FLAGS
from playwright.sync_api import Page, sync_playwright
from probe_pages import page_of


@contextlib.contextmanager
def far_page(link: Network, deployment: Deployment) -> Iterator[Page]:
    """A page of that deployment with a probe client; fails if it leaves a connection open."""
    flags = [*FLAGS, f"--unsafely-treat-insecure-origin-as-secure={deployment.url}"]
    home = link.home / "visitor"
    home.mkdir()
    if deployment.authority is not None:
        _trust(deployment.authority, home)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=link.command(CHROMIUM),
            args=flags,
            env={**os.environ, "HOME": str(home)},
            timeout=60_000,
        )
        with page_of(browser.new_context(), deployment) as page:
            yield page
        browser.close()


def _trust(authority: Path, home: Path) -> None:
    """In the database of certificates that Chromium finds in its HOME."""
    folder = home / ".pki" / "nssdb"
    folder.mkdir(parents=True)
    database = ["certutil", "-d", f"sql:{folder}"]
    subprocess.run([*database, "-N", "--empty-password"], check=True)
    trust = ["-A", "-n", "authority", "-t", "C,,", "-i", str(authority)]
    subprocess.run([*database, *trust], check=True)
