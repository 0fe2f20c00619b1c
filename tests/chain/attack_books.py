"""What an attack test compares: accounts before and after, the books' sum, and accounts made up."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from solders.account import Account
from solders.transaction_metadata import FailedTransactionMetadata

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

    from settlement_world import World
    from solders.instruction import Instruction
    from solders.keypair import Keypair
    from solders.pubkey import Pubkey

    Seen: TypeAlias = dict[Pubkey, tuple[int, bytes, Pubkey] | None]

FIELDS: Final = {
    "balance": {
        "available": (104, "<Q"), "fees_owed": (112, "<Q"), "fees_paid": (120, "<Q"),
        "next_nonce": (128, "<Q"), "allowance": (136, "<Q"), "delegate_expires": (144, "<q"),
    },
    "stake": {
        "bonded": (168, "<Q"), "unbonding": (176, "<Q"), "unbond_at": (184, "<q"),
        "rotated_at": (192, "<q"), "watermark": (200, "<q"), "slashed": (208, "<Q"),
    },
    "channel": {
        "nonce": (168, "<Q"), "deposit": (176, "<Q"), "settled": (184, "<Q"),
        "fee_taken": (192, "<Q"), "challenge_s": (200, "<Q"), "close_at": (208, "<q"),
    },
    "config": {
        "slot_stake": (200, "<Q"), "unbond_s": (208, "<Q"), "min_challenge_s": (216, "<Q"),
        "slash_bps": (224, "<H"), "paused": (226, "<B"),
    },
}  # fmt: skip
"""Where each number lies in an account, by ``docs/settlement.md``."""


def rewrite(world: World, kind: str, address: Pubkey, **numbers: int) -> None:
    """Write numbers into an account of the program, as no instruction could."""
    account = world.svm.get_account(address)
    assert account is not None
    data = bytearray(account.data)
    for name, value in numbers.items():
        at, form = FIELDS[kind][name]
        struct.pack_into(form, data, at, value)
    world.put(address, bytes(data), world.program, lamports=account.lamports)


def seen(world: World, addresses: Iterable[Pubkey]) -> Seen:
    """Lamports, data and owner of each account."""
    found: Seen = {}
    for address in addresses:
        account = world.svm.get_account(address)
        found[address] = (
            None if account is None else (account.lamports, bytes(account.data), account.owner)
        )
    return found


def named(world: World, calls: Iterable[Instruction]) -> set[Pubkey]:
    """Every account the calls name, but for the one that pays for transactions."""
    metas = {meta.pubkey for call in calls for meta in call.accounts}
    return metas - {world.fee_payer.pubkey()}


def refused(world: World, *calls: Instruction, signers: tuple[Keypair, ...] = ()) -> str:
    """The refusal's name; no account that the calls name may have changed."""
    addresses = named(world, calls)
    before = seen(world, addresses)
    answer = world.refusal(*calls, signers=signers)
    assert seen(world, addresses) == before
    return answer


def where_refused(
    world: World, *calls: Instruction, signers: tuple[Keypair, ...] = ()
) -> int | None:
    """Index of the instruction that failed; None where all went well."""
    result = world.send(*calls, signers=signers)
    if not isinstance(result, FailedTransactionMetadata):
        return None
    index = getattr(result.err(), "index", None)
    assert isinstance(index, int), result.err()
    return index


def booked(
    world: World, owners: Iterable[Pubkey], channels: Iterable[Pubkey], mint: Pubkey
) -> int:
    """What the books say that the vault of a mint holds: the sum of section 1 of the docs."""
    total = 0
    for owner in set(owners):
        if world.data(world.balance_address(owner, mint)):
            balance = world.read_balance(owner, mint)
            total += balance.available + balance.fees_owed
        stake = world.svm.get_account(world.stake_address(owner, mint))
        if stake is not None and stake.owner == world.program:
            bonded, unbonding = struct.unpack_from("<QQ", stake.data, 168)
            total += bonded + unbonding
    for address in set(channels):
        account = world.svm.get_account(address)
        if account is not None and account.owner == world.program:
            channel = world.read_channel(address)
            if channel.mint == mint:
                total += channel.deposit - channel.settled
    return total


def fund(world: World, address: Pubkey, lamports: int) -> None:
    """Lamports at an address that has no account, as a stranger's transfer leaves them."""
    world.svm.set_account(address, Account(lamports, b"", type(address).default()))
