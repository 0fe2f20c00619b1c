"""What the adapter's transactions weigh at their largest, held against the table in the docs."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from solders.keypair import Keypair

from robocompute_protocol.errors import ChainRefused
from robocompute_protocol.identifiers import (
    Address,
    AgreementId,
    ChannelId,
    Digest,
    NodeKey,
    Signature,
)
from robocompute_protocol.leases import sign_tick
from robocompute_protocol.messages import SignedVoucher
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.signing import SigningKey
from robocompute_settlement.administration import Administration
from robocompute_settlement.instructions import MAX_SWEPT
from robocompute_settlement.localworld import local_address, local_seed
from robocompute_settlement.port import (
    Attempt,
    BalanceView,
    ChannelView,
    ConfigView,
    Sent,
    SettleClaim,
    StakeView,
)
from robocompute_settlement.rpc import RecentBlockhash
from robocompute_settlement.solana import SolanaSettlement
from robocompute_settlement.transactions import MAX_TRANSACTION_BYTES, Budget, prepare

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from solders.instruction import Instruction

DOCS = Path(__file__).parents[2] / "docs" / "settlement.md"
MOST = MicroUnits(2**64 - 1)
FAR_S = 2**62
BUDGET = Budget(1_400_000, 2**64 - 1)
SIGNER = Keypair.from_seed(local_seed("signer"))
USDC, USDT, TREASURY = (local_address(name) for name in ("usdc", "usdt", "treasury"))
PROVIDER = SigningKey(local_seed("provider"))
ZERO = MicroUnits(0)
CONFIG = ConfigView(
    admin=local_address("admin"), pending_admin=Address(bytes(32)), treasury=TREASURY,
    mints=(USDC, USDT), domain=Digest(bytes(32)), slot_stake=MOST, unbond_s=1, min_challenge_s=1,
    fee_bps=1, slash_bps=1, paused=False,
)  # fmt: skip


class Scales(SolanaSettlement):
    """An adapter that weighs what it would send, on a chain where no Balance exists yet."""

    def __init__(self) -> None:
        super().__init__(
            rpc_urls=("http://127.0.0.1:1",), program_id=local_address("program"),
            signer_seed=local_seed("signer"), genesis_hash=Digest(bytes(range(32))),
        )  # fmt: skip
        self.sizes: list[int] = []

    async def config(self) -> ConfigView:
        return CONFIG

    async def balance(self, owner: Address, mint: Address, **_at: Any) -> BalanceView | None:
        return None

    async def send(
        self, *instructions: Instruction, also: tuple[Keypair, ...] = (),
        journal: Callable[[Attempt], None] | None = None,
    ) -> Sent:  # fmt: skip
        recent = RecentBlockhash(bytes(range(32)), 1)
        self.sizes.append(len(prepare(instructions, SIGNER, recent, BUDGET, also=also).wire))
        return Sent(signature="", slot=0)


def channel() -> ChannelView:
    """One whose rent somebody else paid, so that no address is named twice."""
    return ChannelView(
        channel=ChannelId(local_address("channel")), payer=local_address("payer"),
        payee=local_address("payee"), voucher_key=NodeKey(local_address("voucher key")),
        mint=USDC, rent_payer=local_address("rent payer"), nonce=1, deposit=MOST, settled=ZERO,
        fee_taken=ZERO, fee_bps=1, challenge_s=1, close_at_s=0, alloc_root=Digest(bytes(32)),
    )  # fmt: skip


def claims(count: int) -> tuple[SettleClaim, ...]:
    """Claims of different payers on different payees."""
    return tuple(
        SettleClaim(
            channel=ChannelId(local_address(f"channel {number}")),
            payee=local_address(f"payee {number}"), mint=USDC,
            voucher_key=NodeKey(local_address(f"key {number}")), claim=MOST,
            voucher=SignedVoucher(
                channel=ChannelId(local_address(f"channel {number}")), cumulative=MOST,
                sequence=1, closed=Digest(bytes(32)), open=((AgreementId(bytes(32)), MOST),),
                closes=(), signature=Signature(bytes(range(64))),
            ),
        )
        for number in range(count)
    )  # fmt: skip


def double_sale() -> dict[str, Any]:
    stake = StakeView(
        stake=local_address("stake"), owner=local_address("provider"), mint=USDC,
        node_key=PROVIDER.node_key, prev_key=NodeKey(bytes(32)), bonded=MOST, unbonding=ZERO,
        unbond_at_s=0, rotated_at_s=0, watermark_s=0, slashed=ZERO,
    )  # fmt: skip
    leases = [
        sign_tick(
            PROVIDER, stake=stake.stake, agreement=AgreementId(bytes(32)),
            payer=local_address(payer), slots=2**63, start_s=1, end_s=FAR_S,
        )
        for payer in ("first payer", "second payer")
    ]  # fmt: skip
    return {"stake": stake, "first": leases[0], "second": leases[1]}


def owners(count: int) -> tuple[Address, ...]:
    return tuple(local_address(f"owner {number}") for number in range(count))


SETTINGS: dict[str, Any] = {
    "treasury": TREASURY, "slot_stake": MOST, "unbond_s": 1, "min_challenge_s": 1, "fee_bps": 1,
    "slash_bps": 1,
}  # fmt: skip
OTHER = local_address("other")
KEY = NodeKey(local_address("key"))
WRITES: dict[str, Callable[[Scales], Awaitable[Sent]]] = {
    "open_channel": lambda chain: chain.open_channel(
        payer=OTHER, payee=local_address("payee"), mint=USDC, voucher_key=KEY, nonce=2**63,
        deposit=MOST, challenge_s=1,
    ),
    "top_up": lambda chain: chain.top_up(channel=channel(), amount=MOST),
    "settle": lambda chain: chain.settle(claims(1)),
    "settle (two)": lambda chain: chain.settle(claims(2)),
    "settle (three)": lambda chain: chain.settle(claims(3)),
    "close_by_payee": lambda chain: chain.close_by_payee(channel()),
    "request_close": lambda chain: chain.request_close(channel()),
    "finalize_close": lambda chain: chain.finalize_close(channel()),
    "deposit_wallet": lambda chain: chain.deposit_wallet(mint=USDC, amount=MOST),
    "withdraw_wallet": lambda chain: chain.withdraw_wallet(
        mint=USDC, amount=MOST, destination=OTHER
    ),
    "set_delegate_wallet": lambda chain: chain.set_delegate_wallet(
        mint=USDC, delegate=KEY, allowance=MOST, expires_s=FAR_S
    ),
    "register_wallet": lambda chain: chain.register_wallet(mint=USDC, node_key=KEY),
    "stake_wallet": lambda chain: chain.stake_wallet(mint=USDC, amount=MOST),
    "unstake_wallet": lambda chain: chain.unstake_wallet(mint=USDC, amount=MOST),
    "claim_unbonded_wallet": lambda chain: chain.claim_unbonded_wallet(mint=USDC),
    "rotate_key_wallet": lambda chain: chain.rotate_key_wallet(mint=USDC, node_key=KEY),
    "slash": lambda chain: chain.slash(**double_sale()),
    "sweep_fees": lambda chain: chain.sweep_fees(mint=USDC, owners=owners(MAX_SWEPT)),
    "init_config": lambda chain: Administration(chain).init_config(
        mints=(USDC, USDT), admin=OTHER, **SETTINGS
    ),
    "update_config": lambda chain: Administration(chain).update_config(**SETTINGS, paused=True),
    "propose_admin": lambda chain: Administration(chain).propose_admin(OTHER),
    "accept_admin": lambda chain: Administration(chain).accept_admin(),
}  # fmt: skip


async def weigh(name: str) -> int:
    """The largest transaction that this write makes."""
    async with Scales() as chain:
        await WRITES[name](chain)
        return max(chain.sizes)


def table() -> dict[str, int]:
    """What the document says."""
    section = DOCS.read_text().split("### Sizes", 1)[1]
    rows = re.findall(
        r"^\| `?([a-z_]+(?: \([a-z0-9 ]+\))?)`? \| ([\d,]+) \|", section, re.MULTILINE
    )
    return {name: int(size.replace(",", "")) for name, size in rows}


@pytest.mark.parametrize("name", WRITES)
async def test_a_transaction_fits_into_a_packet_and_is_what_the_docs_say(name: str) -> None:
    size = await weigh(name)
    assert size <= MAX_TRANSACTION_BYTES
    assert table()[name] == size


def test_the_table_has_every_write_and_nothing_else() -> None:
    def writes(made_by: type) -> set[str]:
        return {
            name
            for name, method in inspect.getmembers(made_by, inspect.iscoroutinefunction)
            if not name.startswith("_") and inspect.signature(method).return_annotation == "Sent"
        }

    every = writes(SolanaSettlement) | writes(Administration)
    assert {name.split(" ")[0] for name in WRITES} == every - {"send", "send_signed"}
    assert table().keys() == WRITES.keys()


async def test_more_than_a_packet_is_refused_before_anything_is_sent() -> None:
    async with Scales() as chain:
        with pytest.raises(ChainRefused, match="up to 26"):
            await chain.sweep_fees(mint=USDC, owners=owners(MAX_SWEPT + 1))
        with pytest.raises(ChainRefused, match="1 to 3"):
            await chain.settle(claims(4))
        assert chain.sizes == []
