"""Is the chain there, and is it the one the settings mean? Asked once, before anything is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import httpx

from robocompute_protocol.errors import ChainBusy, ConfigError
from robocompute_protocol.identifiers import to_base58

if TYPE_CHECKING:
    from robocompute_node.config import ChainSettings, NodeConfig

PATIENCE_S: Final = 5.0
"""A local chain answers in milliseconds, a public one within a second or two."""


class _Unanswered(Exception):
    """One address gives no answer that can be used."""


async def require_answer(chain: ChainSettings) -> None:
    """Return once an address of the chain answers, whatever is there.

    Raises:
        ChainBusy: none does.
    """
    silent: list[str] = []
    for url in chain.rpc_url:
        try:
            await _ask(url, "getGenesisHash", [])
        except _Unanswered as exc:
            silent.append(str(exc))
        else:
            return
    raise ChainBusy(
        f"the chain at {chain.where} does not answer ({'; '.join(silent)}): start it (a local "
        "world with `robocompute-node localnet up`), or name another with --rpc URL",
        details={"rpc_url": chain.where},
    )


async def require_chain(config: NodeConfig) -> str:
    """Return the chain's genesis hash.

    Raises:
        ChainBusy: none of the addresses in rpc_url answers.
        ConfigError: the first that answers has not the settlement program on it.
    """
    silent: list[str] = []
    for url in config.chain.rpc_url:
        try:
            return await _require_program(config, url)
        except _Unanswered as exc:
            silent.append(str(exc))
    found = f"the chain at {config.chain.where} does not answer ({'; '.join(silent)})"
    raise ChainBusy(
        f"{found}: start it (a local world with `robocompute-node localnet up`), or correct "
        f"rpc_url in [chain] of {config.path}",
        details={"rpc_url": config.chain.where},
    )


async def _require_program(config: NodeConfig, url: str) -> str:
    genesis = await _ask(url, "getGenesisHash", [])
    program = to_base58(config.chain.program_id)
    account = await _ask(url, "getAccountInfo", [program, {"encoding": "base64"}])
    if not _executable(account):
        raise ConfigError(
            f"the chain at {url} has no program {program}: correct rpc_url or program_id in "
            f"[chain] of {config.path}"
        )
    return str(genesis)


def _executable(account: Any) -> bool:
    try:
        return bool(account["value"]["executable"])
    except (TypeError, KeyError):
        return False


async def _ask(url: str, method: str, parameters: list[object]) -> Any:
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
    try:
        async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
            answer = await client.post(url, json=request)
            body: Any = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as exc:
        raise _Unanswered(str(exc) or type(exc).__name__) from None
    if not isinstance(body, dict) or "result" not in body:
        raise _Unanswered("what answers is not a Solana RPC")
    return body["result"]  # pyright: ignore[reportUnknownVariableType]
