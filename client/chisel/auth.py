"""Which API key to use, and where it is kept."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_BACKEND: Final = "http://127.0.0.1:8000"
"""One's own node."""
AUTHENTICATION_FAILED: Final = "❌ Authentication failed. Unable to get valid API key."

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def backend_url(environment: Mapping[str, str] | None = None) -> str:
    """The backend in use: CHISEL_BACKEND_URL, else where one's own node says that it listens."""
    found = environment if environment is not None else os.environ
    url = found.get("CHISEL_BACKEND_URL")
    if not url:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told: Any = json.loads((node_home(found) / "api.json").read_text(encoding="utf-8"))
            if urlsplit(str(told["url"])).hostname in _LOOPBACK:
                url = str(told["url"])
    return (url or DEFAULT_BACKEND).rstrip("/")


def node_home(environment: Mapping[str, str]) -> Path:
    """The data folder of one's own node: ROBOCOMPUTE_HOME, or ~/.robocompute."""
    home = environment.get("ROBOCOMPUTE_HOME")
    return Path(home) if home else Path.home() / ".robocompute"


def credentials_path() -> Path:
    """Where a key is saved, if one is."""
    return Path.home() / ".chisel" / "credentials.json"


def known_api_key(url: str, environment: Mapping[str, str] | None = None) -> str | None:
    """The key for ``url``: CHISEL_API_KEY, then the saved one, then the local node's own.

    Nothing is validated, and nothing leaves this machine. A key saved for another address, and the
    node's own key for an address that is not this machine, are never given out.
    """
    found = environment if environment is not None else os.environ
    if key := found.get("CHISEL_API_KEY", "").strip():
        return key
    if key := _saved_key(url):
        return key
    if urlsplit(url).hostname in _LOOPBACK:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            key = (node_home(found) / "api_key").read_text(encoding="ascii").strip()
            return key or None
    return None


def is_authenticated(backend: str | None = None) -> bool:
    """Whether there is a key and the backend accepts it now. An unreachable backend means no."""
    from robocompute.exceptions import RoboComputeError

    url = (backend or backend_url()).rstrip("/")
    key = known_api_key(url)
    if key is None:
        return False
    try:
        _validate(url, key)
    except RoboComputeError:
        return False
    return True


def authenticate(backend: str | None = None) -> str:
    """Return a key that the backend has just accepted; ask for one where a person is there.

    Raises:
        RuntimeError: there is none, or the backend does not accept it, or cannot be asked.
    """
    from robocompute.exceptions import RoboComputeError

    url = (backend or backend_url()).rstrip("/")
    key = known_api_key(url)
    asked = False
    if key is None and sys.stdin.isatty() and sys.stderr.isatty():
        from getpass import getpass

        with contextlib.suppress(EOFError):
            key = getpass(f"🔑 API key for {url}: ").strip() or None
            asked = True
    if key is None:
        raise RuntimeError(AUTHENTICATION_FAILED)
    try:
        answer = _validate(url, key)
    except RoboComputeError as error:
        raise RuntimeError(AUTHENTICATION_FAILED) from error
    if asked:
        save_credentials({"api_key": key, "email": answer.get("email"), "backend": url})
    return key


def save_credentials(credentials: Mapping[str, Any]) -> None:
    """Keep them for later runs: whole or not at all, and readable by their owner only."""
    path = credentials_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    partial = path.with_name(f".credentials.{os.getpid()}.json")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(dict(credentials), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def clear_credentials() -> bool:
    """Forget the saved key; whether there was one. A node's own key file is not touched."""
    try:
        credentials_path().unlink()
    except FileNotFoundError:
        return False
    return True


def _saved_key(url: str) -> str | None:
    try:
        saved: Any = json.loads(credentials_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(saved, dict):
        return None
    fields: dict[str, Any] = saved  # pyright: ignore[reportUnknownVariableType]
    if fields.get("backend", url) != url:
        return None
    key = fields.get("api_key")
    return key if isinstance(key, str) and key else None


def _validate(url: str, key: str) -> Mapping[str, Any]:
    from robocompute import RoboComputeClient

    with RoboComputeClient(key, base_url=url, timeout=5.0) as client:
        return client.validate()
