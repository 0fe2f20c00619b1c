"""Where money may be paid to: a wallet that somebody has the key of, or a token account."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robocompute_protocol.errors import ChainRefused
from robocompute_protocol.identifiers import Address, address_from_base58, to_base58
from robocompute_settlement.accounts import decode_token_account
from robocompute_settlement.addresses import has_a_key
from robocompute_settlement.refusals import SYSTEM

if TYPE_CHECKING:
    from robocompute_settlement.accounts import TokenAccount
    from robocompute_settlement.reading import SolanaReader


async def is_token_account(chain: SolanaReader, to: Address, symbol: str, mint: Address) -> bool:
    """Whether ``to`` is a token account of ``mint``; it is a wallet otherwise.

    Raises:
        ChainRefused: it is neither, so that nobody could ever get at money there.
    """
    await chain.connect()
    found = await chain.account(to)
    held = None if found is None else decode_token_account(found)
    if held is not None:
        _check_token_account(to, held, symbol, mint, vaults_of=chain.addresses.vault_authority)
        return True
    if found is not None and found.owner != address_from_base58(SYSTEM):
        raise ChainRefused(
            f"{to_base58(to)} is an account of the program {to_base58(found.owner)} and no wallet: "
            f"nobody could spend what is paid there. Name a wallet, or one of its {symbol} accounts"
        )
    if not has_a_key(to):
        raise ChainRefused(
            f"{to_base58(to)} is neither a {symbol} account nor a wallet: no key can exist for it, "
            f"so nobody could spend what is paid there. Name a wallet, or a {symbol} account that "
            "exists"
        )
    return False


def _check_token_account(
    to: Address, held: TokenAccount, symbol: str, mint: Address, *, vaults_of: Address
) -> None:
    if held.mint != mint:
        raise ChainRefused(
            f"{to_base58(to)} is a token account of another mint than {symbol}: name a wallet, "
            f"or one of its {symbol} accounts"
        )
    if held.owner == vaults_of:
        raise ChainRefused("that is the settlement program's own vault: name a wallet")
