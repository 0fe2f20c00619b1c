"""The program's books, from its accounts alone: is every unit in its vaults somebody's?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from robocompute_protocol.errors import ChainBusy
from robocompute_protocol.identifiers import Address, ChannelId
from robocompute_protocol.money import MicroUnits, format_amount
from robocompute_settlement import accounts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from robocompute_settlement.rpc import ChainAccount
    from robocompute_settlement.solana import SolanaSettlement

ATTEMPTS: Final = 10
"""Until vaults and accounts were read with nothing moved between."""
PAUSE_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class MintBooks:
    """One mint in the program: what its vault holds, and whose it is."""

    mint: Address
    vault: MicroUnits
    available: MicroUnits
    fees_owed: MicroUnits
    channels: MicroUnits
    """Deposited and not settled."""
    staked: MicroUnits
    """Bonded and unbonding."""

    @property
    def surplus(self) -> int:
        """What the vault holds beyond what is owed: donations. Less than 0 must never be."""
        return self.vault - self.available - self.fees_owed - self.channels - self.staked

    def json(self) -> dict[str, str]:
        """Return the books as decimal strings."""
        return {
            "vault": format_amount(self.vault),
            "available": format_amount(self.available),
            "fees_owed": format_amount(self.fees_owed),
            "channels": format_amount(self.channels),
            "staked": format_amount(self.staked),
            "surplus": format_amount(self.surplus),
        }


async def read_books(chain: SolanaSettlement) -> tuple[MintBooks, ...]:
    """Return the books of each accepted mint, all of one moment.

    Raises:
        ChainBusy: money moves all the time, or the chain does not answer.
        ChainRefused: the program is not set up.
    """
    mints = [mint for mint in (await chain.config()).mints if any(mint)]
    before = [await chain.vault_tokens(mint) for mint in mints]
    for _ in range(ATTEMPTS):
        found = await chain.program_accounts()
        after = [await chain.vault_tokens(mint) for mint in mints]
        if before == after:
            return tuple(
                add_up(mint, vault, found, chain.program_id)
                for mint, vault in zip(mints, after, strict=True)
            )
        before = after
        await trio.sleep(PAUSE_S)
    raise ChainBusy("the vaults changed each time they were read: try again")


def add_up(
    mint: Address,
    vault: MicroUnits,
    found: Iterable[tuple[Address, ChainAccount]],
    program_id: Address,
) -> MintBooks:
    """Add up the program's accounts of one mint."""
    sums: Counter[str] = Counter()
    for address, account in found:
        kind = account.data[0] if account.data else 0
        if kind == accounts.BALANCE_KIND:
            balance = accounts.decode_balance(account, program_id)
            if balance.mint == mint:
                sums["available"] += balance.available
                sums["fees_owed"] += balance.fees_owed
        elif kind == accounts.STAKE_KIND:
            stake = accounts.decode_stake(address, account, program_id)
            if stake.mint == mint:
                sums["staked"] += stake.bonded + stake.unbonding
        elif kind == accounts.CHANNEL_KIND:
            channel = accounts.decode_channel(ChannelId(address), account, program_id)
            if channel is not None and channel.mint == mint:
                sums["channels"] += channel.deposit - channel.settled
    return MintBooks(
        mint=mint,
        vault=vault,
        available=MicroUnits(sums["available"]),
        fees_owed=MicroUnits(sums["fees_owed"]),
        channels=MicroUnits(sums["channels"]),
        staked=MicroUnits(sums["staked"]),
    )
