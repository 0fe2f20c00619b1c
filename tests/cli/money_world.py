"""An embedded chain, and nodes on it whose owners type money commands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from robocompute_node.chain_link import chain_link
from robocompute_node.cli.main import run_command
from robocompute_node.config_file import load_config
from robocompute_node.founding import found_node
from robocompute_node.keys import load_key, make_key
from robocompute_protocol.identifiers import Address, ChannelId, to_base58
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.signing import SigningKey
from robocompute_protocol.vouchers import PayerLedger, UnsignedVoucher, sign_voucher
from robocompute_settlement.port import SettleClaim
from robocompute_settlement.solana import SolanaSettlement

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import pytest
    from settlement_chains import ChainWorld

    from robocompute_node.config import NodeConfig
    from robocompute_protocol.messages import SignedVoucher
    from robocompute_settlement.port import ChannelView


CHALLENGE_S = 60


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Somebody with a node's folder, who types commands and reads what they say."""

    world: ChainWorld
    config: NodeConfig
    wallet: Address
    capsys: pytest.CaptureFixture[str]

    @property
    def data(self) -> str:
        return str(self.config.data_dir)

    def types(self, *words: str, data: str | None = None) -> tuple[int, str, str]:
        """Run one command; return its exit status, and what it said and complained of."""
        status = run_command([*words, "--data", data or self.data])
        out, err = self.capsys.readouterr()
        return status, out, err

    def json(self, *words: str) -> Any:
        """Run one command that must succeed, with --json."""
        status, out, err = self.types(*words, "--json")
        assert status == 0, err
        return json.loads(out)

    def refused(self, *words: str) -> str:
        """Run one command that must fail, and say why in one line."""
        status, _, err = self.types(*words)
        assert status != 0
        assert err.count("\n") == 1, err
        return err

    def held(self) -> dict[str, str]:
        """What the wallet has in USDC."""
        found: dict[str, str] = self.json("wallet")["holdings"][0]
        return found


def found_owner(
    world: ChainWorld,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    role: str = "client",
    secret: bool = True,
) -> Owner:
    """Make a node whose wallet has SOL and USDC; without its ``secret`` that stays elsewhere."""
    person, node = world.person(), world.person()
    folder.mkdir(parents=True)
    make_key(folder / "node.key", seed=node.seed)
    chain: dict[str, object] = {
        "rpc_url": world.rpc_url,
        "ws_url": world.ws_url,
        "program_id": to_base58(world.plan.program_id),
        "mint": to_base58(world.plan.mints[0]),
        "mint_usdt": to_base58(world.plan.mints[1]),
    }
    if secret:
        make_key(folder / "wallet.json", seed=person.seed)
    else:
        chain["wallet"] = to_base58(person.address)
        make_key(folder.with_name(folder.name + ".wallet.json"), seed=person.seed)
    founded = found_node(folder, {"node": {"roles": [role]}, "chain": chain})
    return Owner(
        world=world,
        config=load_config(founded.config.data_dir),
        wallet=person.address,
        capsys=capsys,
    )


def on_chain(owner: Owner, act: Callable[[SolanaSettlement], Awaitable[Any]]) -> Any:
    """Do something on the chain as the node of ``owner``."""

    async def acted() -> Any:
        async with SolanaSettlement(
            **chain_link(owner.config.chain),
            signer_seed=load_key(owner.config.node_key_path).seed,
        ) as chain:
            return await act(chain)

    return trio.run(acted)


def open_channel(payer: Owner, payee: Owner, deposit: int) -> ChannelView:
    """Open a channel with the payer's node key, which its delegate it must be."""
    mint = payer.config.chain.mint

    async def act(chain: SolanaSettlement) -> ChannelView:
        balance = await chain.balance(payer.wallet, mint)
        assert balance is not None
        await chain.open_channel(
            payer=payer.wallet,
            payee=payee.wallet,
            mint=mint,
            voucher_key=load_key(payer.config.node_key_path).node_key,
            nonce=balance.next_nonce,
            deposit=MicroUnits(deposit),
            challenge_s=CHALLENGE_S,
        )
        name = chain.channel_address(payer.wallet, payee.wallet, mint, balance.next_nonce)
        view = await chain.channel(name)
        assert view is not None
        return view

    view: ChannelView = on_chain(payer, act)
    return view


def voucher(payer: Owner, channel: ChannelId, cumulative: int) -> SignedVoucher:
    """A voucher that promises ``cumulative``."""
    ledger = PayerLedger(channel=channel)
    unsigned = UnsignedVoucher(
        channel=channel,
        cumulative=MicroUnits(cumulative),
        sequence=1,
        closed=ledger.closed,
        open=(),
        closes=(),
    )
    return sign_voucher(SigningKey(load_key(payer.config.node_key_path).seed), unsigned)


def settle(payer: Owner, payee: Owner, view: ChannelView, cumulative: int) -> str:
    """Settle a channel at ``cumulative``; return the transaction's signature."""

    async def act(chain: SolanaSettlement) -> str:
        claim = SettleClaim(
            channel=view.channel,
            payee=view.payee,
            mint=view.mint,
            voucher_key=view.voucher_key,
            voucher=voucher(payer, view.channel, cumulative),
            claim=MicroUnits(cumulative),
        )
        return (await chain.settle((claim,))).signature

    signature: str = on_chain(payee, act)
    return signature
