"""Applications that were written for others' pre-call tests, on a site of their own.

That of opentok-network-test-js is the sample in its package, of which nothing is changed. What its
build (webpack) would bundle is resolved by an import map: the package it uses is a deployment's
module, and its chart library, which is not free, is a stand-in that keeps what it is told.
"""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Page
from servers import Parley

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "node_modules" / "opentok-network-test-js" / "sample"
OPENTOK = "https://static.opentok.com/v2/js/opentok.min.js"
OT = "window.OT = { initSession() { throw new Error('OpenTok was asked'); } };"
CHART = """
window.drawn = {};
class Chart {
  constructor({ chart }) {
    const drawing = { points: [], subtitle: "" };
    window.drawn[chart.renderTo] = drawing;
    this.series = [{ addPoint: ({ x, y }) => drawing.points.push([x, y]) }];
    this.setTitle = (_, { text }) => (drawing.subtitle = text);
  }
}
export default { Chart };
"""
BUNDLE = """
const map = document.createElement("script");
map.type = "importmap";
map.textContent = JSON.stringify({ imports: %s });
document.head.append(map);
import("./src/js/index.js");
"""


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Nobody reads it."""


@contextmanager
def site(folder: Path) -> Iterator[str]:
    """The URL of that folder, on a port of its own."""
    files = functools.partial(_Files, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class OpenTokSample:
    """A copy of it in a folder, built as its README says, for that deployment."""

    def __init__(self, folder: Path, parley: Parley) -> None:
        self.folder = folder / "sample"
        self._session = {"apiKey": parley.account_sid, "sessionId": parley.url}
        shutil.copytree(SAMPLE, self.folder)
        probes = f"{parley.url}/js/parley-probes.js"
        modules = {"opentok-network-test-js": probes, "highcharts": "/highcharts.js"}
        self._write("bundle.js", BUNDLE % json.dumps(modules))
        self._write("highcharts.js", CHART)
        self._write("src/js/config.js", "export default { apiKey: '', sessionId: '', token: '' };")
        self._compile()

    def _compile(self) -> None:
        """Its types have to fit those that the deployment's module declares."""
        options = {
            "target": "es2022",
            "moduleResolution": "bundler",
            "noImplicitAny": False,
            "allowJs": False,
            "types": [],
            "outDir": "src/js",
            "paths": {"opentok-network-test-js": [f"{ROOT}/probes/browser/js/parley-probes.d.ts"]},
        }
        project = {"extends": "./tsconfig.json", "compilerOptions": options}
        self._write("tsconfig.es.json", json.dumps({**project, "files": ["src/js/index.ts"]}))
        compiler = str(ROOT / "node_modules" / ".bin" / "tsc")
        command = [compiler, "-p", str(self.folder / "tsconfig.es.json")]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def open(self, context: BrowserContext, url: str, token: str) -> Page:
        """Its page, from that site."""
        config = f"export default {json.dumps({**self._session, 'token': token})};"
        page = context.new_page()
        page.route(OPENTOK, lambda route: route.fulfill(body=OT, content_type="text/javascript"))
        page.route(
            f"{url}/src/js/config.js",
            lambda route: route.fulfill(body=config, content_type="text/javascript"),
        )
        page.goto(f"{url}/index.html")
        # Its modules come after the page.
        page.wait_for_load_state("networkidle")
        return page
