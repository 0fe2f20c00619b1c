"""What a local world stands on: its keys, its chain's first state, and everybody's money in place.

All of it can be done again: each step looks at what is there and does what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from robocompute_node.config import Role
from robocompute_node.founding import Founded, found_node, settings_text
from robocompute_node.keys import KeyFile, load_key, make_key
from robocompute_node.localnet.blueprint import Backend
from robocompute_node.localnet.chains import LOCAL, deployment_of
from robocompute_node.localnet.cluster import Need, require_cluster
from robocompute_protocol.errors import ConfigError
from robocompute_protocol.identifiers import to_base58
from robocompute_protocol.money import UNIT, MicroUnits, parse_amount
from robocompute_settlement.localworld import (
    GenesisPlan,
    PlannedWallet,
    found_world,
    write_genesis,
)
from robocompute_settlement.solana import SolanaSettlement

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_node.config import NodeConfig
    from robocompute_node.localnet.blueprint import Node, Plan
    from robocompute_node.localnet.chains import Deployment
    from robocompute_node.localnet.cluster import Tell
    from robocompute_protocol.identifiers import Address

LAMPORTS_PER_UNIT: Final = 10**9 // UNIT
"""SOL amounts are written like the others, with six places; a lamport is finer."""
DELEGATION_S: Final = 10 * 365 * 86_400
"""A local world's node keys stay delegates for ten years."""


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
    """Set the program up, may upgrade it and mint both coins, and pays airdrops."""
    inhabitants: tuple[Inhabitant, ...]

    @property
    def genesis_path(self) -> Path:
        return self.folder / "chain" / "genesis.json"


def lay_ground(plan: Plan, folder: Path) -> Ground:
    """Make or read the world's keys, its nodes' folders and its chain's genesis file.

    Raises:
        ConfigError: something there cannot be used, or the program was not built.
    """
    inhabitants = tuple(
        Inhabitant(node=node, founded=found_node(folder / node.name, _document(plan, node)))
        for node in plan.blueprint.nodes
    )
    admin = folder / "keys" / "admin.json"
    ground = Ground(
        folder=folder,
        admin=load_key(admin) if admin.exists() else make_key(admin),
        inhabitants=inhabitants,
    )
    founds = plan.blueprint.chain.backend is not Backend.URL
    if founds and not ground.genesis_path.exists():
        if not plan.binary.is_file():
            raise ConfigError(
                f"{plan.path}: the settlement program {plan.binary} is not there: `make program` "
                "builds it"
            )
        write_genesis(_genesis(plan, ground), ground.genesis_path)
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
    document["chain"] = {**document.get("chain", {}), "rpc_url": rpc_url, "ws_url": ws_url}
    document["p2p"]["bootstrap"] = list(bootstrap)
    path = inhabitant.config.path
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(settings_text(document, data_dir=path.parent))
    draft.chmod(0o600)
    draft.replace(path)


async def settle_in(plan: Plan, ground: Ground, rpc_url: str, *, now_s: int, tell: Tell) -> None:
    """Set the program up and put everybody's money where its node needs it. Repeatable.

    On a cluster of somebody else's nothing is set up: what is missing there is told.

    Raises:
        ChainError: the chain refused a step, or does not answer.
        ConfigError: a cluster lacks something.
    """
    deployment = deployment_of(plan.blueprint.chain)
    async with SolanaSettlement(
        rpc_urls=(rpc_url,),
        program_id=deployment.program_id,
        signer_seed=ground.admin.seed,
    ) as admin:
        if plan.blueprint.chain.backend is Backend.URL:
            await require_cluster(_needs(plan, ground), deployment, admin, tell)
        elif not await admin.is_set_up():
            await _set_up_program(plan, ground, admin, deployment)
            tell("settlement program set up")
    for inhabitant in ground.inhabitants:
        async with SolanaSettlement(
            rpc_urls=(rpc_url,),
            program_id=deployment.program_id,
            signer_seed=inhabitant.founded.wallet.seed,
        ) as wallet:
            await _move_in(plan, inhabitant, wallet, deployment.mints[0], now_s, tell)


async def _set_up_program(
    plan: Plan, ground: Ground, admin: SolanaSettlement, deployment: Deployment
) -> None:
    blueprint = plan.blueprint
    await found_world(
        admin,
        mints=deployment.mints,
        treasury=ground.admin.address,
        slot_stake=parse_amount(blueprint.fees.slot_stake),
        unbond_s=blueprint.timing.unbond_s,
        min_challenge_s=blueprint.timing.min_challenge_s,
        fee_bps=blueprint.fees.fee_bps,
    )


async def _move_in(
    plan: Plan, inhabitant: Inhabitant, wallet: SolanaSettlement, mint: Address, now_s: int,
    tell: Tell,
) -> None:  # fmt: skip
    node, owner = inhabitant.node, wallet.signer
    node_key = inhabitant.founded.node_key.node_key
    stake = MicroUnits(node.stake_slots * parse_amount(plan.blueprint.fees.slot_stake))
    bonded = MicroUnits(0)
    if Role.PROVIDER in node.roles:
        staked = await wallet.stake_of(owner, mint)
        if staked is None:
            await wallet.register_wallet(mint=mint, node_key=node_key)
        else:
            bonded = staked.bonded
    balance = await wallet.balance(owner, mint)
    fresh = balance is None or balance.delegate != node_key
    wanted = (parse_amount(node.deposit) if fresh else 0) + max(0, stake - bonded)
    available = 0 if balance is None else balance.available
    if wanted > available or balance is None:
        await wallet.deposit_wallet(mint=mint, amount=MicroUnits(max(0, wanted - available)))
        tell(f"{node.name}: deposited {_show(wanted - available)}")
    if bonded < stake:
        await wallet.stake_wallet(mint=mint, amount=MicroUnits(stake - bonded))
        tell(f"{node.name}: staked {_show(stake - bonded)}")
    if fresh:
        await wallet.set_delegate_wallet(
            mint=mint,
            delegate=node_key,
            allowance=parse_amount(node.allowance),
            expires_s=now_s + DELEGATION_S,
        )
        tell(f"{node.name}: its node key is its wallet's delegate")


def _show(amount: int) -> str:
    return f"{amount / UNIT:.2f} USDC"


def _listen(port: int) -> str:
    return f"/ip4/127.0.0.1/tcp/{port}"


def _document(plan: Plan, node: Node) -> dict[str, dict[str, Any]]:
    """Return a node's config.toml, as far as the world's file says it."""
    document: dict[str, dict[str, Any]] = {
        "node": {"roles": list(node.roles)},
        "p2p": {"listen": [_listen(node.p2p_port)]},
        "api": {"port": node.api_port},
    }
    deployment = deployment_of(plan.blueprint.chain)
    if deployment != LOCAL:
        usdc, usdt = map(to_base58, deployment.mints)
        program = to_base58(deployment.program_id)
        document["chain"] = {"program_id": program, "mint": usdc, "mint_usdt": usdt}
    if node.client:
        document["client"] = dict(node.client)
    if node.provider:
        document["provider"] = dict(node.provider)
    if node.containers:
        document["containers"] = dict(node.containers)
    return document


def _genesis(plan: Plan, ground: Ground) -> GenesisPlan:
    """Return what the chain starts with: the admin owns program and mints, and pays airdrops."""
    wallets: list[PlannedWallet] = []
    for inhabitant in ground.inhabitants:
        holds = plan.wallet(inhabitant.node.wallet)
        half = parse_amount(holds.sol) * LAMPORTS_PER_UNIT // 2
        tokens = dict(zip(LOCAL.mints, map(parse_amount, (holds.usdc, holds.usdt)), strict=True))
        founded = inhabitant.founded
        wallets += [
            PlannedWallet(address=founded.wallet_address, lamports=half, tokens=tokens),
            PlannedWallet(address=founded.node_key.address, lamports=half),
        ]
    return GenesisPlan(
        wallets=tuple(wallets),
        program_binary=plan.binary,
        program_id=LOCAL.program_id,
        mints=LOCAL.mints,
        faucet_seed=ground.admin.seed,
        finality_slots=plan.blueprint.chain.finality_slots,
    )


def _needs(plan: Plan, ground: Ground) -> list[Need]:
    """Return what each key of the world must hold on a cluster that gives nothing away."""
    needs: list[Need] = []
    for inhabitant in ground.inhabitants:
        node, founded = inhabitant.node, inhabitant.founded
        half = parse_amount(plan.wallet(node.wallet).sol) * LAMPORTS_PER_UNIT // 2
        stake = node.stake_slots * parse_amount(plan.blueprint.fees.slot_stake)
        needs += [
            Need(
                who=f"{node.name}'s wallet",
                address=founded.wallet_address,
                lamports=half,
                deposit=parse_amount(node.deposit),
                stake=MicroUnits(stake),
            ),
            Need(who=f"{node.name}'s node key", address=founded.node_key.address, lamports=half),
        ]
    return needs
