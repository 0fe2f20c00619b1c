"""``chain recover``: a lost store, rebuilt from the chain and the node's keys."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from robocompute_node.cli.options import inner_data_option, json_option
from robocompute_node.cli.output import say, say_json, say_table
from robocompute_protocol.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_node.config import NodeConfig
    from robocompute_node.store import Store


@click.command("recover")
@click.option("--force", is_flag=True, help="Also where a store is: it is put aside, not deleted.")
@inner_data_option
@json_option
def recover_command(data: Path, force: bool, as_json: bool) -> None:
    """Rebuild the lost store of DIR from the chain and the keys. The node must not run.

    Channels come back as far as they were settled, with every settlement's transaction. What only
    receipts could tell is said plainly.
    """
    import trio

    from robocompute_node.config_file import load_config

    config = load_config(data)
    told = trio.run(_recover, config, force)
    if as_json:
        say_json(told)
        return
    say(f"Wallet {told['wallet_address']}: {told['available']} available, {told['bonded']} staked")
    if told["channels"]:
        head = ["channel", "role", "peer", "state", "deposit", "settled"]
        say_table([[str(row[key]) for key in head] for row in told["channels"]], head=head)
    say(f"{len(told['settlements'])} settlements are known by transaction (--json lists them)")
    if not told["history_whole"]:
        say("! The chain's history here is not whole: an endpoint that keeps all of it knows more")
    if told["put_aside"]:
        say(f"The store that was here is now {told['put_aside']}")
    say("Not known any more:")
    for line in told["not_known"]:
        say(f"  - {line}")
    say(f"Then: robocompute-node run --data {data}")


async def _recover(config: NodeConfig, force: bool) -> dict[str, Any]:
    from robocompute_node.chain_link import chain_link
    from robocompute_node.chain_probe import require_chain
    from robocompute_node.clocks import Clock
    from robocompute_node.keys import load_key, load_wallet_address
    from robocompute_node.services.accounts_recovery import recover, report, write
    from robocompute_settlement.solana import SolanaSettlement

    wallet = load_wallet_address(config)
    node_key = load_key(config.node_key_path)
    await require_chain(config)
    async with SolanaSettlement(**chain_link(config.chain), signer=wallet) as chain:
        await chain.connect()
        now = Clock().now_ms()
        found = await recover(chain, wallet, node_key.node_key, config.chain.mint, now=now)
    store, aside = _fresh_store(config, force=force)
    try:
        write(store, found)
    finally:
        store.close()
    return {**report(found, wallet), "put_aside": None if aside is None else str(aside)}


def _fresh_store(config: NodeConfig, *, force: bool) -> tuple[Store, Path | None]:
    """Open a store without records; one that has any is put aside, where that was asked for.

    Raises:
        ConfigError: a node uses it, or it has records and nothing was forced.
    """
    from robocompute_node.services.accounts_recovery import require_fresh
    from robocompute_node.store import Store

    store = Store(config.store_dir)
    try:
        require_fresh(store)
    except ConfigError:
        store.close()
        if not force:
            raise
    else:
        return store, None
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = config.store_dir.with_name(f"store.{moment}")
    config.store_dir.rename(aside)
    return Store(config.store_dir), aside
