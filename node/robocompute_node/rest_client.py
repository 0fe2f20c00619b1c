"""Asking the running node of a data folder over its own REST server."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import httpx

from robocompute_node.keys import load_api_key
from robocompute_protocol.errors import RoboComputeError

if TYPE_CHECKING:
    from robocompute_node.config import NodeConfig

PATIENCE_S: Final = 10.0
"""The server is on this machine: an answer that takes longer is none."""


class NodeNotRunning(RoboComputeError):
    """The node's REST server does not answer."""

    code = "node_not_running"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestClient:
    """One node's REST server, and the key to it."""

    url: str
    key: str = field(repr=False)
    command: str
    """What starts the node, for the error when it does not answer."""

    @classmethod
    def of(cls, config: NodeConfig) -> RestClient:
        """Return the client of the node in ``config.data_dir``, running or not.

        Raises:
            ConfigError: its API key cannot be read.
        """
        url = f"http://{config.api.host}:{config.api.port}"
        try:
            told: Any = json.loads(config.api_address_path.read_text())
            url = str(told["url"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # Not running, or cut off while it started: the address it is set to have.
        return cls(
            url=url,
            key=load_api_key(config.api_key_path),
            command=f"robocompute-node run --data {config.data_dir}",
        )

    def get(self, path: str) -> Any:
        """Return the JSON at ``path`` below /api/v1. Raises: see ``ask``."""
        return self.ask("GET", path)

    def ask(self, method: str, path: str, *, patience_s: float = PATIENCE_S) -> Any:
        """Return the JSON that the node answers.

        Raises:
            NodeNotRunning: nothing answers, or not in ``patience_s``, or it knows another key.
            RoboComputeError: the node refused; the text is its own.
        """
        try:
            answer = httpx.request(
                method,
                f"{self.url}/api/v1{path}",
                headers={"Authorization": f"Bearer {self.key}"},
                timeout=patience_s,
                trust_env=False,
            )
            body: Any = answer.json()
        except (httpx.HTTPError, ValueError) as exc:
            raise NodeNotRunning(
                f"no node answers at {self.url}: start it with `{self.command}`",
                details={"url": self.url},
            ) from exc
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            raise NodeNotRunning(
                f"what answers at {self.url} does not know this node's API key: another node has "
                f"the port, or the key was changed while it ran; start this one with "
                f"`{self.command}`",
                details={"url": self.url},
            )
        if answer.is_error:
            raise RoboComputeError(f"{self.url} refused: {body['error']['message']}")
        return body
