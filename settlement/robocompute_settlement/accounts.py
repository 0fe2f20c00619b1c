"""The program's accounts as the port's views. Every account begins with the same eight bytes."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Final

from solders.pubkey import Pubkey
from solders.token import ID as TOKEN_PROGRAM

from robocompute_protocol.errors import ChainRefused
from robocompute_protocol.identifiers import Address, ChannelId, Digest, NodeKey
from robocompute_protocol.money import MicroUnits
from robocompute_settlement.port import BalanceView, ChannelView, ConfigView, StakeView

if TYPE_CHECKING:
    from robocompute_settlement.rpc import ChainAccount

VERSION: Final = 1
"""The only layout version so far."""

CONFIG_KIND: Final = 1
BALANCE_KIND: Final = 2
STAKE_KIND: Final = 3
CHANNEL_KIND: Final = 4

_HEADER: Final = Struct("<BBBBHH")
"""kind, version, bump, state, fee_bps, padding"""
_CONFIG: Final = Struct("<8x32s32s32s32s32s32sQQQHBBBB2x")
_BALANCE: Final = Struct("<8x32s32s32sQQQQQq")
_STAKE: Final = Struct("<8x32s32s32s32s32sQQqqqQ")
_CHANNEL: Final = Struct("<8x32s32s32s32s32sQQQQQq32s")
CHANNEL_BYTES: Final = _CHANNEL.size
CHANNEL_PAYER_AT: Final = 8
CHANNEL_PAYEE_AT: Final = 40
CHANNEL_MINT_AT: Final = 104
STAKE_BYTES: Final = _STAKE.size
STAKE_MINT_AT: Final = 40
"""Where an endpoint finds what it is to filter channels by."""
_TOKEN: Final = Struct("<32s32sQ36xB")
"""mint, owner, amount, delegate, state"""
CLASSIC_TOKENS: Final = Address(bytes(TOKEN_PROGRAM))
_TIME: Final = Struct("<QqQQq")
"""slot, start of the epoch, epoch, epoch of the next leaders, Unix time"""
CLOCK: Final = Address(bytes(Pubkey.from_string("SysvarC1ock11111111111111111111111111111111")))
"""The account in which a chain keeps its time."""
TOKEN_ACCOUNT_BYTES: Final = 165
"""The size of a classic token account."""


def _fee_bps(data: bytes, kind: int, layout: Struct) -> int:
    if len(data) != layout.size or data[0] != kind or data[1] != VERSION:
        raise ChainRefused(
            f"the account is not of the expected kind: {len(data)} bytes beginning "
            f"{data[:2].hex()}; is the program of this version?"
        )
    return _HEADER.unpack_from(data)[4]


def _owned(account: ChainAccount, program_id: Address) -> bytes:
    if account.owner != program_id:
        raise ChainRefused("the account belongs to another program")
    return account.data


def decode_config(account: ChainAccount, program_id: Address) -> ConfigView:
    """Read the Config account.

    Raises:
        ChainRefused: it is another program's, or of another kind or version; so below.
    """
    data = _owned(account, program_id)
    fee_bps = _fee_bps(data, CONFIG_KIND, _CONFIG)
    fields = _CONFIG.unpack(data)
    admin, treasury, mint0, mint1, domain, pending, slot_stake, unbond_s, min_challenge_s = fields[
        :9
    ]
    return ConfigView(
        admin=Address(admin),
        pending_admin=Address(pending),
        treasury=Address(treasury),
        mints=(Address(mint0), Address(mint1)),
        domain=Digest(domain),
        slot_stake=MicroUnits(slot_stake),
        unbond_s=unbond_s,
        min_challenge_s=min_challenge_s,
        fee_bps=fee_bps,
        slash_bps=fields[9],
        paused=fields[10] != 0,
    )


def decode_balance(account: ChainAccount, program_id: Address) -> BalanceView:
    """Read a Balance account."""
    data = _owned(account, program_id)
    _fee_bps(data, BALANCE_KIND, _BALANCE)
    owner, mint, delegate, available, owed, paid, nonce, allowance, expires = _BALANCE.unpack(data)
    return BalanceView(
        owner=Address(owner),
        mint=Address(mint),
        delegate=Address(delegate),
        available=MicroUnits(available),
        fees_owed=MicroUnits(owed),
        fees_paid=MicroUnits(paid),
        next_nonce=nonce,
        allowance=MicroUnits(allowance),
        delegate_expires_s=expires,
    )


def decode_stake(address: Address, account: ChainAccount, program_id: Address) -> StakeView:
    """Read a Stake account."""
    data = _owned(account, program_id)
    _fee_bps(data, STAKE_KIND, _STAKE)
    owner, mint, node_key, prev_key, _rent_payer, *numbers = _STAKE.unpack(data)
    bonded, unbonding, unbond_at_s, rotated_at_s, watermark_s, slashed = numbers
    return StakeView(
        stake=address,
        owner=Address(owner),
        mint=Address(mint),
        node_key=NodeKey(node_key),
        prev_key=NodeKey(prev_key),
        bonded=MicroUnits(bonded),
        unbonding=MicroUnits(unbonding),
        unbond_at_s=unbond_at_s,
        rotated_at_s=rotated_at_s,
        watermark_s=watermark_s,
        slashed=MicroUnits(slashed),
    )


def decode_channel(
    channel: ChannelId, account: ChainAccount, program_id: Address
) -> ChannelView | None:
    """Read a Channel account; ``None`` for the empty system account a closed one may leave."""
    if not account.data:
        return None
    data = _owned(account, program_id)
    fee_bps = _fee_bps(data, CHANNEL_KIND, _CHANNEL)
    payer, payee, voucher_key, mint, rent_payer, *numbers = _CHANNEL.unpack(data)
    nonce, deposit, settled, fee_taken, challenge_s, close_at_s, alloc_root = numbers
    return ChannelView(
        channel=channel,
        payer=Address(payer),
        payee=Address(payee),
        voucher_key=NodeKey(voucher_key),
        mint=Address(mint),
        rent_payer=Address(rent_payer),
        nonce=nonce,
        deposit=MicroUnits(deposit),
        settled=MicroUnits(settled),
        fee_taken=MicroUnits(fee_taken),
        fee_bps=fee_bps,
        challenge_s=challenge_s,
        close_at_s=close_at_s,
        alloc_root=Digest(alloc_root),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenAccount:
    """A classic token account."""

    owner: Address
    mint: Address
    amount: MicroUnits


def decode_token_account(account: ChainAccount) -> TokenAccount | None:
    """Read a token account; ``None`` for one that is none, or not initialised."""
    if account.owner != CLASSIC_TOKENS or len(account.data) != TOKEN_ACCOUNT_BYTES:
        return None
    mint, owner, amount, state = _TOKEN.unpack_from(account.data)
    if state == 0:
        return None
    return TokenAccount(owner=Address(owner), mint=Address(mint), amount=MicroUnits(amount))


def token_amount(account: ChainAccount) -> MicroUnits:
    """What a token account holds.

    Raises:
        ChainRefused: it is none.
    """
    found = decode_token_account(account)
    if found is None:
        raise ChainRefused("the account is no token account")
    return found.amount


def decode_time(account: ChainAccount) -> int:
    """Return the Unix time that ``CLOCK`` holds. Raises: ChainRefused when it is no clock."""
    if len(account.data) != _TIME.size:
        raise ChainRefused(f"the chain's clock has {len(account.data)} bytes")
    return _TIME.unpack(account.data)[4]
