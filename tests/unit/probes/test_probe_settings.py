"""URLs of regions and targets are origins and nothing else: regions' are in every page's policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from signal_server.config import load
from turn_broker.config import SettingsError

TABLES = {
    "regions[0]": "[[regions]]",
    "probes.targets[0]": "[[probes.targets]]",
}


@pytest.mark.parametrize("key", TABLES)
@pytest.mark.parametrize(
    "url",
    [
        "https://a;script-src *",
        "https://a;",
        "https://a,https://b",
        "https://a b",
        "https://a\n",
        "https://a\t",
        "https://'none'",
        'https://a"',
        "https://*.example.org",
        "https://user@a",
        "https://a/",
        "https://a/path",
        "https://a?b",
        "https://a#b",
        "https://ä.example.org",
        "https://a:0",
        "https://a:65536",
        "https://a:",
        "https://",
        "wss://a",
        "//a",
        "a",
        "",
    ],
)
def test_what_is_no_origin_is_refused_by_name(key: str, url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        load(written(tmp_path, TABLES[key], url), {})
    assert str(refused.value).startswith(f"{key}: url is no http(s)://host[:port]")
    assert repr(url) in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://eu.example.org",
        "http://10.0.0.1:8080",
        "https://[2001:db8::1]:8443",
        "http://node_1:80",
        "https://localhost:65535",
    ],
)
def test_origins_are_taken(url: str, tmp_path: Path) -> None:
    settings = load(written(tmp_path, "[[regions]]", url), {})
    assert [region.url for region in settings.regions] == [url]


def written(folder: Path, table: str, url: str) -> Path:
    path = folder / "parley.toml"
    path.write_text(f'{table}\nid = "a"\nurl = {json.dumps(url)}\n', "utf-8")
    return path
