"""Is the chain there, and is it the one the settings mean? Asked once, before anything is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import httpx

from robocompute_protocol.errors import ChainBusy, ConfigError
from robocompute_protocol.identifiers import to_base58

if TYPE_CHECKING:
    from robocompute_node.config import NodeConfig

PATIENCE_S: Final = 5.0
"""A local chain answers in milliseconds, a public one within a second or two."""


async def require_chain(config: NodeConfig) -> str:
    """Return the chain's genesis hash.

    Raises:
        ChainBusy: nothing answers at rpc_url.
        ConfigError: something answers, but the settlement program is not on it.
    """
    where = config.chain.rpc_url
    genesis = await _ask(config, "getGenesisHash", [])
    program = to_base58(config.chain.program_id)
    account = await _ask(config, "getAccountInfo", [program, {"encoding": "base64"}])
    if not _executable(account):
        raise ConfigError(
            f"the chain at {where} has no program {program}: correct rpc_url or program_id in "
            f"[chain] of {config.path}"
        )
    return str(genesis)


def _executable(account: Any) -> bool:
    try:
        return bool(account["value"]["executable"])
    except (TypeError, KeyError):
        return False


async def _ask(config: NodeConfig, method: str, parameters: list[object]) -> Any:
    where = config.chain.rpc_url
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
    try:
        async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
            answer = await client.post(where, json=request)
            body: Any = answer.json()
    except (httpx.HTTPError, ValueError) as exc:
        reason = str(exc) or type(exc).__name__
        raise ChainBusy(
            f"the chain at {where} does not answer ({reason}): start it (a local world with "
            f"`robocompute-node localnet up`), or correct rpc_url in [chain] of {config.path}",
            details={"rpc_url": where},
        ) from None
    if not isinstance(body, dict) or "result" not in body:
        raise ChainBusy(
            f"what answers at {where} is not a Solana RPC: correct rpc_url in [chain] of "
            f"{config.path}",
            details={"rpc_url": where},
        )
    return body["result"]  # pyright: ignore[reportUnknownVariableType]
