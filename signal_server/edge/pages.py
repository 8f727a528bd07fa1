"""The static pages and JavaScript modules, each read once when the node starts.

Only shipped files have a name here, so no request can reach another file. It knows nothing of
rooms, tokens or credentials: the pages ask for those themselves.
"""

from __future__ import annotations

import hashlib
import html
import io
from collections.abc import Iterable, Mapping
from importlib.resources.abc import Traversable
from urllib.parse import urlsplit

import segno
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

_PAGES = {"/": "index.html", "/demo": "demo.html", "/diagnostics": "diagnostics.html"}
_FOLDERS = ("js", "css", "img")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".ts": "text/plain; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'self'; connect-src 'self' ws: wss:{origins}; img-src 'self' data: blob:; "
    "media-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(self), display-capture=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_MAX_QR_CHARS = 512
"""A longer link makes a code that phones fail to read."""


class _File(Struct, frozen=True):
    body: bytes
    etag: str
    content_type: str


def routes(
    roots: Iterable[Traversable],
    *,
    node: str = "local",
    region: str = "local",
    origins: Iterable[str] = (),
) -> list[Route]:
    """`/`, `/demo`, `/diagnostics`, their modules, styles and images, and the QR code.

    What the roots hold is served as one site, whose scripts may also ask those `origins`; raises
    ValueError for a file that two roots hold.
    """
    facts = {"node": node, "region": region}
    policy = _POLICY.format(origins="".join(f" {origin}" for origin in origins))
    headers = {**_HEADERS, "Content-Security-Policy": policy}
    folders: dict[str, dict[str, _File]] = {folder: {} for folder in ("", *_FOLDERS)}
    for root in roots:
        for folder, shipped in folders.items():
            _add(shipped, root / folder if folder else root, facts)
    pages = folders.pop("")
    found = [_page_route(path, pages[name], headers) for path, name in _PAGES.items()]
    found += [_folder_route(folder, shipped, headers) for folder, shipped in folders.items()]
    found.append(Route("/demo/qr.svg", _qr))
    return found


def _add(shipped: dict[str, _File], folder: Traversable, facts: Mapping[str, str]) -> None:
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if not entry.is_file() or _suffix(entry.name) not in _TYPES:
            continue
        if entry.name in shipped:
            raise ValueError(f"two files of this site are named {entry.name}")
        is_page = _suffix(entry.name) == ".html"
        shipped[entry.name] = (
            _page(entry, facts) if is_page else _file(entry.name, entry.read_bytes())
        )


def _page(entry: Traversable, facts: Mapping[str, str]) -> _File:
    text = entry.read_text(encoding="utf-8")
    for name, value in facts.items():
        text = text.replace("{{" + name + "}}", html.escape(value))
    return _file(entry.name, text.encode())


def _file(name: str, body: bytes) -> _File:
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return _File(body=body, etag=etag, content_type=_TYPES[_suffix(name)])


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]


def _page_route(path: str, page: _File, headers: Mapping[str, str]) -> Route:
    async def serve(request: Request) -> Response:
        return _answer(request, page, headers)

    return Route(path, serve)


def _folder_route(folder: str, shipped: Mapping[str, _File], headers: Mapping[str, str]) -> Route:
    async def serve(request: Request) -> Response:
        file = shipped.get(request.path_params["file"])
        if file is None:
            return PlainTextResponse("not found\n", 404)
        return _answer(request, file, headers)

    return Route(f"/{folder}/{{file}}", serve)


def _answer(request: Request, file: _File, site: Mapping[str, str]) -> Response:
    headers = {**site, "ETag": file.etag, "Content-Type": file.content_type}
    known = request.headers.get("If-None-Match", "")
    if known == "*" or file.etag in [tag.strip().removeprefix("W/") for tag in known.split(",")]:
        return Response(status_code=304, headers=headers)
    return Response(file.body, headers=headers)


async def _qr(request: Request) -> Response:
    """QR code of a link to this very site; for any other link it would be an open redirect."""
    url = request.query_params.get("url", "")
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    is_here = parts.scheme in {"http", "https"} and parts.netloc == request.headers.get("Host")
    if not is_here or len(url) > _MAX_QR_CHARS or not url.isascii() or parts.fragment:
        return PlainTextResponse("url must be a short link to this site\n", 400)
    picture = io.BytesIO()
    segno.make_qr(url, error="m").save(picture, kind="svg", border=3, light="#fff", xmldecl=False)
    policy = _POLICY.format(origins="")
    headers = {**_HEADERS, "Content-Security-Policy": policy, "Content-Type": _TYPES[".svg"]}
    return Response(picture.getvalue(), headers=headers)
