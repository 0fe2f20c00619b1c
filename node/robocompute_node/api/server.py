"""The REST server's socket and worker."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio
from hypercorn.config import Config as HypercornConfig, Sockets
from hypercorn.trio.run import worker_serve
from hypercorn.utils import wrap_app  # pyright: ignore[reportUnknownVariableType]

from robocompute_node.api.app import make_app
from robocompute_node.keys import load_api_key
from robocompute_node.ports import holder_of
from robocompute_protocol.errors import ConfigError

if TYPE_CHECKING:
    from robocompute_node.api.port import NodeApi
    from robocompute_node.config import NodeConfig

log = logging.getLogger(__name__)

BACKLOG: Final = 128
"""Connections waiting to be accepted."""
KEEP_ALIVE_S: Final = 75.0
"""Longer than common clients keep an idle connection, so that they close first, without a race."""
UNREAD_MS: Final = 20_000
"""A reader that takes nothing for this long loses its stream (and resumes it): what is written to
it would otherwise hold up the end of the node."""
GRACE_S: Final = 2.0
"""Answers under way at a stop get this long."""


async def serve(
    api: NodeApi,
    config: NodeConfig,
    *,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer REST requests until cancelled; reports the bound port.

    While it runs, ``config.api_address_path`` says where it is.

    Raises:
        ConfigError: the port is taken (says by whom), the address is not this machine's, or the
            API key's file is missing or open to others.
    """
    app = make_app(
        api,
        api_key=load_api_key(config.api_key_path),
        allowed_hosts=(*config.api.allowed_hosts, *_own_name(config.api.host)),
    )
    listener = listen(config)
    host, port = listener.getsockname()[:2]
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(
                partial(
                    worker_serve,
                    wrap_app(_asgi(app), 0, "asgi"),
                    _hypercorn_config(),
                    sockets=Sockets([], [listener], []),
                )
            )
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            _write_address(config, url)
            log.info("REST server on %s", url)
            task_status.started(port)
    finally:
        config.api_address_path.unlink(missing_ok=True)
        listener.close()


def listen(config: NodeConfig) -> socket.socket:
    """Bind and listen on the configured address.

    Raises:
        ConfigError: as ``serve``.
    """
    host, port = config.api.host, config.api.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise ConfigError(
            f"{host!r} is no address to listen on ({exc.strerror}): correct host in [api] of "
            f"{config.path}"
        ) from exc
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        if exc.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} of {host} is taken{holder_of(port)}: stop that program, or set port "
                f"in [api] of {config.path} (0 takes a free one)",
                details={"port": port},
            ) from None
        raise ConfigError(
            f"cannot listen on {host} port {port} ({exc.strerror}): correct host and port in [api] "
            f"of {config.path}",
            details={"port": port},
        ) from exc
    return listener


def _hypercorn_config() -> HypercornConfig:
    config = HypercornConfig()
    config.accesslog = None
    config.errorlog = logging.getLogger(f"{__name__}.http")
    config.errorlog.setLevel(logging.WARNING)
    config.include_server_header = False
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.graceful_timeout = GRACE_S
    return config


def _asgi(app: object) -> Any:
    """Hypercorn types ASGI by its own TypedDicts, Starlette by plain mappings: the same protocol."""
    return app


def _own_name(host: str) -> tuple[str, ...]:
    """The name that requests to a configured address carry."""
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104
        return ()
    return (f"[{host.strip('[]')}]" if ":" in host else host,)


def _write_address(config: NodeConfig, url: str) -> None:
    path = config.api_address_path
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps({"url": url, "pid": os.getpid()}) + "\n")
    draft.replace(path)
