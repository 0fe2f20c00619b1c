"""Where this machine gets its Python packages: what pip and uv are configured to use, read anew.

No address is written down in this project. pip's settings are translated, because uv, which does
the installing, does not read them.
"""

from __future__ import annotations

import configparser
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robocompute_node.executor.egress import Way, host_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PIP_TO_UV: Final = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "no-index": "UV_NO_INDEX",
}
_PASSED_ON: Final = (
    "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS",
    "UV_INSECURE_HOST", "UV_NO_INDEX", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "UV_HTTP_TIMEOUT",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
    "http_proxy", "https_proxy", "all_proxy", "no_proxy",
)  # fmt: skip
_LISTS: Final = frozenset({"UV_INDEX", "UV_FIND_LINKS", "UV_INSECURE_HOST"})
_COMMA: Final = frozenset({"UV_FIND_LINKS"})
"""uv separates these by commas, pip everything by white space."""
_PROXIES: Final = (
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "HTTP_PROXY",
    "http_proxy",
)
_NO_PROXIES: Final = ("NO_PROXY", "no_proxy")
_INDEXES: Final = (
    "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS",
)  # fmt: skip
_UNDER_SYSTEM: Final = ("/usr/", "/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/pki/ca-trust/")
"""The sandbox shows these anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageIndex:
    """What a build is told, and shown."""

    env: dict[str, str]
    paths: tuple[Path, ...]
    """Host files and folders that ``env`` names, to be seen at the same place."""
    way: Way
    """What a build may reach: the indexes named, and files wherever in the internet they point."""


def configured(environment: Mapping[str, str], home: Path) -> PackageIndex:
    """Read the configuration as pip and uv would: environment over user over machine."""
    env: dict[str, str] = {}
    for key, value in _pip_settings(environment, home):
        name = _PIP_TO_UV[key]
        if name in _LISTS:
            value = ("," if name in _COMMA else " ").join(value.split())
        if value.strip():
            env[name] = value.strip()
    env |= {name: environment[name] for name in _PASSED_ON if environment.get(name)}
    if env.get("UV_NO_INDEX", "").lower() in {"0", "false", "no", "off"}:
        del env["UV_NO_INDEX"]
    paths: list[Path] = []
    for name in ("UV_FIND_LINKS", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        for word in env.get(name, "").split(","):
            text = word.removeprefix("file://")
            if text.startswith("/") and not text.startswith(_UNDER_SYSTEM):
                paths.append(Path(text))
    existing = tuple(path for path in dict.fromkeys(paths) if path.exists())
    if "UV_FIND_LINKS" in env:
        # uv refuses to work at all with a folder that is not there; pip only passes it over.
        words = [
            word
            for word in env["UV_FIND_LINKS"].split(",")
            if not word.startswith("/") or Path(word).exists()
        ]
        env["UV_FIND_LINKS"] = ",".join(words)
        if not words:
            del env["UV_FIND_LINKS"]
    way = _way(env)
    for name in (*_PROXIES, *_NO_PROXIES):
        env.pop(name, None)
    return PackageIndex(env=env, paths=existing, way=way)


def _way(env: Mapping[str, str]) -> Way:
    words = " ".join(env.get(name, "") for name in _INDEXES).replace(",", " ").split()
    # "name=url" gives an index a name.
    urls = [word.partition("=")[2] if "=" in word.partition("://")[0] else word for word in words]
    hosts = [host for url in urls if (host := host_of(url)) is not None]
    if not {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_NO_INDEX"} & env.keys():
        hosts += _default_hosts()
    proxy = next((env[name] for name in _PROXIES if env.get(name)), "")
    through = host_of(proxy if "://" in proxy else f"http://{proxy}") if proxy else None
    direct = ",".join(env.get(name, "") for name in _NO_PROXIES).replace(" ", ",").split(",")
    return Way(
        named=frozenset(hosts),
        public=True,
        through=through,
        direct=frozenset(name.lower() for name in direct if name),
    )


def _default_hosts() -> list[tuple[str, int]]:
    """Where pip itself would look when it is told nothing, and where the files of that index are.

    They are on the public internet, but for a machine whose network puts something in between.
    """
    try:
        index = importlib.import_module("pip._internal.models.index").PyPI
    except ImportError:
        return []
    return [(str(index.netloc), 443), (str(index.file_storage_domain), 443)]


def _pip_settings(environment: Mapping[str, str], home: Path) -> Iterator[tuple[str, str]]:
    """Yield (key, value), the more important ones later."""
    user = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    files = [
        Path("/etc/xdg/pip/pip.conf"),
        Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        user / "pip" / "pip.conf",
    ]
    if environment.get("PIP_CONFIG_FILE"):
        files.append(Path(environment["PIP_CONFIG_FILE"]))
    for path in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue
        for section in ("global", "install"):
            if parser.has_section(section):
                yield from (
                    (key, value) for key, value in parser.items(section) if key in _PIP_TO_UV
                )
    for key in _PIP_TO_UV:
        value = environment.get("PIP_" + key.upper().replace("-", "_"))
        if value:
            yield key, value
