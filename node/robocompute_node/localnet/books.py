"""The books of a local world: is the money of each mint all there, to the unit?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from robocompute_node.config import LOCAL_PROGRAM, LOCAL_USDC
from robocompute_node.config_file import load_config
from robocompute_node.keys import load_key
from robocompute_protocol.money import MicroUnits, format_amount, parse_amount
from robocompute_settlement.solana import SolanaSettlement

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """USDC in the settlement program: what the vault holds, and whose it is."""

    vault: MicroUnits
    available: MicroUnits
    fees_owed: MicroUnits
    channels: MicroUnits
    staked: MicroUnits

    @property
    def surplus(self) -> int:
        """What the vault holds beyond what is owed: 0, unless somebody donated to it."""
        return self.vault - self.available - self.fees_owed - self.channels - self.staked

    def json(self) -> Mapping[str, str]:
        """Return the books as decimal strings."""
        return {
            "vault": format_amount(self.vault),
            "available": format_amount(self.available),
            "fees_owed": format_amount(self.fees_owed),
            "channels": format_amount(self.channels),
            "staked": format_amount(self.staked),
            "surplus": format_amount(self.surplus),
        }


async def read_books(
    world: Path, rpc_url: str, data_dirs: Iterable[Path], locked: Iterable[str]
) -> Books:
    """Add up what the nodes in ``data_dirs`` own; ``locked`` is what each says is in its channels.

    Raises:
        ChainError: the chain does not answer.
    """
    available = fees_owed = staked = 0
    admin = load_key(world / "keys" / "admin.json")
    async with SolanaSettlement(
        rpc_url=rpc_url, ws_url=None, program_id=LOCAL_PROGRAM, signer_seed=admin.seed
    ) as chain:
        owners = [load_key(load_config(data).wallet_path).address for data in data_dirs]
        for owner in (admin.address, *owners):
            balance = await chain.balance(owner, LOCAL_USDC)
            stake = await chain.stake_of(owner, LOCAL_USDC)
            if balance is not None:
                available += balance.available
                fees_owed += balance.fees_owed
            if stake is not None:
                staked += stake.bonded + stake.unbonding
        vault = await chain.vault_tokens(LOCAL_USDC)
    return Books(
        vault=vault,
        available=MicroUnits(available),
        fees_owed=MicroUnits(fees_owed),
        channels=MicroUnits(sum(parse_amount(amount) for amount in locked)),
        staked=MicroUnits(staked),
    )
