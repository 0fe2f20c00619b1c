"""What a local world stands on: its keys, its chain's first state, and everybody's money in place.

All of it can be done again: each step looks at what is there and does what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from robocompute_node.config import (
    LOCAL_PROGRAM,
    LOCAL_USDC,
    LOCAL_USDT,
    Role,
)
from robocompute_node.founding import Founded, found_node, settings_text
from robocompute_node.keys import KeyFile, load_key, make_key
from robocompute_protocol.errors import ChainRefused, ConfigError
from robocompute_protocol.identifiers import to_base58
from robocompute_protocol.money import UNIT, MicroUnits, parse_amount
from robocompute_settlement.solana import SolanaSettlement

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from robocompute_node.config import NodeConfig
    from robocompute_node.localnet.blueprint import Node, Plan

Tell = Callable[[str], None]
"""Told in a few words what was done."""
LAMPORTS_PER_UNIT: Final = 10**9 // UNIT
"""SOL amounts are written like the others, with six places; a lamport is finer."""
DELEGATION_S: Final = 10 * 365 * 86_400
"""A local world's node keys stay delegates for ten years."""
SLASH_BPS: Final = 2_000
"""The settlement program's usual penalty: a fifth of the stake."""
ADMIN_LAMPORTS: Final = 100 * 10**9
"""Whoever sets the program up pays for a few accounts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inhabitant:
    """A node of the world, with its data folder founded."""

    node: Node
    founded: Founded

    @property
    def config(self) -> NodeConfig:
        return self.founded.config


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Keys and nodes of a world below ``folder``."""

    folder: Path
    admin: KeyFile
    faucet: KeyFile
    inhabitants: tuple[Inhabitant, ...]

    @property
    def genesis_path(self) -> Path:
        return self.folder / "chain" / "genesis.json"


def lay_ground(plan: Plan, folder: Path) -> Ground:
    """Make or read the world's keys, its nodes' folders and its chain's genesis file.

    Raises:
        ConfigError: something there cannot be used, or the program was not built.
    """
    keys = folder / "keys"
    inhabitants = tuple(
        Inhabitant(node=node, founded=found_node(folder / node.name, _document(plan, node)))
        for node in plan.blueprint.nodes
    )
    ground = Ground(
        folder=folder,
        admin=_key(keys / "admin.json"),
        faucet=_key(keys / "faucet.json"),
        inhabitants=inhabitants,
    )
    if not ground.genesis_path.exists():
        if not plan.binary.is_file():
            raise ConfigError(
                f"{plan.path}: the settlement program {plan.binary} is not there: `make program` "
                "builds it"
            )
        ground.genesis_path.parent.mkdir(parents=True, exist_ok=True)
        ground.genesis_path.write_text(json.dumps(_genesis(plan, ground), indent=2) + "\n")
    return ground


def write_settings(
    inhabitant: Inhabitant, plan: Plan, *, ports_from_zero: bool, rpc_url: str, ws_url: str,
    bootstrap: tuple[str, ...],
) -> None:  # fmt: skip
    """Rewrite a node's config.toml for this start: where the chain is now, and whom to meet."""
    document = _document(plan, inhabitant.node)
    if ports_from_zero:
        document["api"] = {"port": 0}
        document["p2p"] = {"listen": [_listen(0)]}
    document["chain"] = {"rpc_url": rpc_url, "ws_url": ws_url}
    document["p2p"]["bootstrap"] = list(bootstrap)
    path = inhabitant.config.path
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(settings_text(document, data_dir=path.parent))
    draft.chmod(0o600)
    draft.replace(path)


async def settle_in(plan: Plan, ground: Ground, rpc_url: str, *, now_s: int, tell: Tell) -> None:
    """Set the program up and put everybody's money where its node needs it. Repeatable.

    Raises:
        ChainError: the chain refused a step, or does not answer.
    """
    async with SolanaSettlement(
        rpc_url=rpc_url, ws_url=None, program_id=LOCAL_PROGRAM, signer_seed=ground.admin.seed
    ) as admin:
        await _set_up_program(plan, ground, admin, tell)
    for inhabitant in ground.inhabitants:
        async with SolanaSettlement(
            rpc_url=rpc_url,
            ws_url=None,
            program_id=LOCAL_PROGRAM,
            signer_seed=inhabitant.founded.wallet.seed,
        ) as wallet:
            await _move_in(plan, inhabitant, wallet, now_s, tell)


async def _set_up_program(plan: Plan, ground: Ground, admin: SolanaSettlement, tell: Tell) -> None:
    try:
        await admin.config()
    except ChainRefused:
        blueprint = plan.blueprint
        await admin.init_config(
            mints=(LOCAL_USDC, LOCAL_USDT),
            treasury=ground.admin.address,
            slot_stake=parse_amount(blueprint.fees.slot_stake),
            unbond_s=blueprint.timing.unbond_s,
            min_challenge_s=blueprint.timing.min_challenge_s,
            fee_bps=blueprint.fees.fee_bps,
            slash_bps=SLASH_BPS,
        )
        tell("settlement program set up")


async def _move_in(
    plan: Plan, inhabitant: Inhabitant, wallet: SolanaSettlement, now_s: int, tell: Tell
) -> None:
    node, owner = inhabitant.node, wallet.signer
    node_key = inhabitant.founded.node_key.node_key
    stake = MicroUnits(node.stake_slots * parse_amount(plan.blueprint.fees.slot_stake))
    bonded = MicroUnits(0)
    if Role.PROVIDER in node.roles:
        staked = await wallet.stake_of(owner, LOCAL_USDC)
        if staked is None:
            await wallet.register_wallet(mint=LOCAL_USDC, node_key=node_key)
        else:
            bonded = staked.bonded
    balance = await wallet.balance(owner, LOCAL_USDC)
    fresh = balance is None or balance.delegate != node_key
    wanted = (parse_amount(node.deposit) if fresh else 0) + max(0, stake - bonded)
    available = 0 if balance is None else balance.available
    if wanted > available or balance is None:
        await wallet.deposit_wallet(mint=LOCAL_USDC, amount=MicroUnits(max(0, wanted - available)))
        tell(f"{node.name}: deposited {_show(wanted - available)}")
    if bonded < stake:
        await wallet.stake_wallet(mint=LOCAL_USDC, amount=MicroUnits(stake - bonded))
        tell(f"{node.name}: staked {_show(stake - bonded)}")
    if fresh:
        await wallet.set_delegate_wallet(
            mint=LOCAL_USDC,
            delegate=node_key,
            allowance=parse_amount(node.allowance),
            expires_s=now_s + DELEGATION_S,
        )
        tell(f"{node.name}: its node key is its wallet's delegate")


def _show(amount: int) -> str:
    return f"{amount / UNIT:.2f} USDC"


def _key(path: Path) -> KeyFile:
    return load_key(path) if path.exists() else make_key(path)


def _listen(port: int) -> str:
    return f"/ip4/127.0.0.1/tcp/{port}"


def _document(plan: Plan, node: Node) -> dict[str, dict[str, Any]]:
    """Return a node's config.toml, as far as the world's file says it."""
    document: dict[str, dict[str, Any]] = {
        "node": {"roles": list(node.roles)},
        "p2p": {"listen": [_listen(node.p2p_port)]},
        "api": {"port": node.api_port},
    }
    if node.client:
        document["client"] = dict(node.client)
    if node.provider:
        document["provider"] = dict(node.provider)
    return document


def _genesis(plan: Plan, ground: Ground) -> Mapping[str, object]:
    """Return the embedded chain's genesis file."""
    wallets: list[dict[str, object]] = [
        {"address": to_base58(ground.admin.public), "lamports": ADMIN_LAMPORTS}
    ]
    for inhabitant in ground.inhabitants:
        holds = plan.wallet(inhabitant.node.wallet)
        half = parse_amount(holds.sol) * LAMPORTS_PER_UNIT // 2
        tokens = {
            to_base58(LOCAL_USDC): parse_amount(holds.usdc),
            to_base58(LOCAL_USDT): parse_amount(holds.usdt),
        }
        founded = inhabitant.founded
        wallet, node_key = to_base58(founded.wallet.public), to_base58(founded.node_key.public)
        wallets.append({"address": wallet, "lamports": half, "tokens": tokens})
        wallets.append({"address": node_key, "lamports": half})
    admin = to_base58(ground.admin.public)
    mints = zip(plan.blueprint.mints, (LOCAL_USDC, LOCAL_USDT), strict=True)
    return {
        "faucet": list(ground.faucet.pair),
        "programs": [
            {
                "address": to_base58(LOCAL_PROGRAM),
                "upgrade_authority": admin,
                "binary": str(plan.binary),
            }
        ],
        "mints": [
            {"symbol": mint.symbol, "address": to_base58(address), "authority": admin}
            for mint, address in mints
        ],
        "wallets": wallets,
        "finality_slots": plan.blueprint.chain.finality_slots,
    }
