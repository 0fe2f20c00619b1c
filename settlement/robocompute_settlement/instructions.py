"""The program's instructions, packed as its IDL describes them (a test holds both together).

Data are eight bytes of ``SHA-256("global:" + name)`` and the arguments one after another, which is
Anchor's form for fixed-size values.
"""

from __future__ import annotations

from hashlib import sha256
from struct import Struct, pack
from typing import TYPE_CHECKING, Final, NamedTuple

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.token import ID as TOKEN_PROGRAM

from robocompute_protocol.vouchers import voucher_bytes
from robocompute_settlement.addresses import Addresses, associated_token_account

if TYPE_CHECKING:
    from collections.abc import Sequence

    from robocompute_protocol.identifiers import Address, ChannelId, Digest, NodeKey
    from robocompute_protocol.money import MicroUnits
    from robocompute_settlement.port import ChannelView, SettleClaim, StakeView

SYSTEM_PROGRAM: Final = Pubkey.default()
ASSOCIATED_TOKEN_PROGRAM: Final = Pubkey.from_string(
    "ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL"
)
ED25519_PROGRAM: Final = Pubkey.from_string("Ed25519SigVerify111111111111111111111111111")
INSTRUCTIONS_SYSVAR: Final = Pubkey.from_string("Sysvar1nstructions1111111111111111111111111")
MAX_CLAIMS: Final = 3
"""Settlements one transaction has room for: a fourth does not fit into 1,232 bytes."""
MAX_SWEPT: Final = 26
"""Owners whose fees one transaction has room for."""
ASSOCIATED_CREATE_IDEMPOTENT: Final = b"\x01"

_THIS_INSTRUCTION: Final = 0xFFFF
_ED25519_OFFSETS: Final = Struct("<HHHHHHH")


def discriminator(name: str) -> bytes:
    """The eight bytes an instruction's data begin with."""
    return sha256(f"global:{name}".encode()).digest()[:8]


def _key(address: bytes) -> Pubkey:
    return Pubkey.from_bytes(address)


def _r(address: bytes | Pubkey, *, signer: bool = False) -> AccountMeta:
    key = address if isinstance(address, Pubkey) else _key(address)
    return AccountMeta(key, is_signer=signer, is_writable=False)


def _w(address: bytes | Pubkey, *, signer: bool = False) -> AccountMeta:
    key = address if isinstance(address, Pubkey) else _key(address)
    return AccountMeta(key, is_signer=signer, is_writable=True)


def create_token_account(payer: Address, owner: Address, mint: Address) -> Instruction:
    """Create the owner's associated token account; no error when it exists."""
    return Instruction(
        ASSOCIATED_TOKEN_PROGRAM,
        ASSOCIATED_CREATE_IDEMPOTENT,
        [
            _w(payer, signer=True),
            _w(associated_token_account(owner, mint)),
            _r(owner),
            _r(mint),
            _r(SYSTEM_PROGRAM),
            _r(TOKEN_PROGRAM),
        ],
    )


class Statement(NamedTuple):
    """Signed bytes that the chain's Ed25519 program is to verify."""

    signature: bytes
    key: bytes
    message: bytes


def verify_statements(statements: Sequence[Statement]) -> Instruction:
    """The Ed25519 instruction over them, in the exact layout the program insists on.

    For messages of one length, entry ``i`` is at ``2 + 14 n + (96 + length) i``: signature, key
    and message, one after another.
    """
    at = 2 + _ED25519_OFFSETS.size * len(statements)
    offsets, entries = b"", b""
    for each in statements:
        offsets += _ED25519_OFFSETS.pack(
            at, _THIS_INSTRUCTION,
            at + 64, _THIS_INSTRUCTION,
            at + 96, len(each.message), _THIS_INSTRUCTION,
        )  # fmt: skip
        entries += each.signature + each.key + each.message
        at += 96 + len(each.message)
    return Instruction(ED25519_PROGRAM, bytes((len(statements), 0)) + offsets + entries, [])


def verify_vouchers(claims: tuple[SettleClaim, ...]) -> Instruction:
    """The Ed25519 instruction over the claims' vouchers, in their order."""
    return verify_statements(
        [
            Statement(each.voucher.signature, each.voucher_key, voucher_bytes(each.voucher))
            for each in claims
        ]
    )


class Instructions:
    """Builds the instructions of one deployment."""

    def __init__(self, addresses: Addresses) -> None:
        self._at = addresses

    def _build(self, name: str, arguments: bytes, *accounts: AccountMeta) -> Instruction:
        data = discriminator(name) + arguments
        return Instruction(_key(self._at.program_id), data, list(accounts))

    def init_config(
        self, *, authority: Address, mints: tuple[Address, Address], genesis_hash: Digest,
        admin: Address, treasury: Address, slot_stake: MicroUnits, unbond_s: int,
        min_challenge_s: int, fee_bps: int, slash_bps: int,
    ) -> Instruction:  # fmt: skip
        """Create Config and the vaults; the program's upgrade authority signs."""
        return self._build(
            "init_config",
            genesis_hash
            + admin
            + treasury
            + pack("<QQQHH", slot_stake, unbond_s, min_challenge_s, fee_bps, slash_bps),
            _w(authority, signer=True),
            _w(self._at.config),
            _r(self._at.program_data),
            _r(mints[0]),
            _w(self._at.vault(mints[0])),
            _r(mints[1]),
            _w(self._at.vault(mints[1])),
            _r(self._at.vault_authority),
            _r(TOKEN_PROGRAM),
            _r(SYSTEM_PROGRAM),
        )

    def update_config(
        self, *, admin: Address, treasury: Address, slot_stake: MicroUnits, unbond_s: int,
        min_challenge_s: int, fee_bps: int, slash_bps: int, paused: bool,
    ) -> Instruction:  # fmt: skip
        """Replace every setting."""
        return self._build(
            "update_config",
            treasury
            + pack("<QQQHH?", slot_stake, unbond_s, min_challenge_s, fee_bps, slash_bps, paused),
            _r(admin, signer=True),
            _w(self._at.config),
        )

    def propose_admin(self, *, admin: Address, new_admin: Address) -> Instruction:
        """Offer the administration; the zero address takes the offer back."""
        return self._build("propose_admin", new_admin, _r(admin, signer=True), _w(self._at.config))

    def accept_admin(self, *, new_admin: Address) -> Instruction:
        return self._build("accept_admin", b"", _r(new_admin, signer=True), _w(self._at.config))

    def deposit(self, *, owner: Address, mint: Address, amount: int) -> Instruction:
        """From the owner's associated token account. Zero only creates the Balance."""
        return self._build(
            "deposit",
            pack("<Q", amount),
            _w(owner, signer=True),
            _w(associated_token_account(owner, mint)),
            _w(self._at.vault(mint)),
            _w(self._at.balance(owner, mint)),
            _r(mint),
            _r(self._at.config),
            _r(TOKEN_PROGRAM),
            _r(SYSTEM_PROGRAM),
        )

    def withdraw(
        self, *, owner: Address, mint: Address, destination: Address, amount: int
    ) -> Instruction:
        """To a token account."""
        return self._build(
            "withdraw",
            pack("<Q", amount),
            _r(owner, signer=True),
            _w(self._at.balance(owner, mint)),
            _w(self._at.vault(mint)),
            _w(destination),
            _r(mint),
            _r(self._at.vault_authority),
            _r(self._at.config),
            _r(TOKEN_PROGRAM),
        )

    def set_delegate(
        self, *, owner: Address, mint: Address, delegate: bytes, allowance: int, expires_s: int
    ) -> Instruction:
        return self._build(
            "set_delegate",
            delegate + pack("<Qq", allowance, expires_s),
            _r(owner, signer=True),
            _w(self._at.balance(owner, mint)),
        )

    def open_channel(
        self, *, authority: Address, payer: Address, payee: Address, mint: Address,
        voucher_key: NodeKey, nonce: int, deposit: int, challenge_s: int,
    ) -> Instruction:  # fmt: skip
        """The authority (owner or delegate) pays the rent and gets it back at the close."""
        return self._build(
            "open_channel",
            payee + voucher_key + pack("<QQQ", nonce, deposit, challenge_s),
            _r(authority, signer=True),
            _w(authority, signer=True),
            _w(self._at.balance(payer, mint)),
            _w(self._at.channel(payer, payee, mint, nonce)),
            _r(self._at.config),
            _r(SYSTEM_PROGRAM),
        )

    def top_up(self, *, authority: Address, channel: ChannelView, amount: int) -> Instruction:
        return self._build(
            "top_up",
            pack("<Q", amount),
            _r(authority, signer=True),
            _w(self._at.balance(channel.payer, channel.mint)),
            _w(channel.channel),
        )

    def settle(
        self, *, channel: ChannelId, payee: Address, mint: Address, ed_ix: int, entry: int,
        claim: int,
    ) -> Instruction:  # fmt: skip
        """``ed_ix`` is where in the transaction the vouchers are verified, ``entry`` which one."""
        return self._build(
            "settle",
            pack("<BBQ", ed_ix, entry, claim),
            _w(channel),
            _w(self._at.balance(payee, mint)),
            _r(INSTRUCTIONS_SYSVAR),
        )

    def close_by_payee(self, *, authority: Address, channel: ChannelView) -> Instruction:
        return self._build(
            "close_by_payee",
            b"",
            _r(authority, signer=True),
            _w(channel.channel),
            _r(self._at.balance(channel.payee, channel.mint)),
            _w(self._at.balance(channel.payer, channel.mint)),
            _w(channel.rent_payer),
        )

    def request_close(self, *, authority: Address, channel: ChannelView) -> Instruction:
        return self._build(
            "request_close",
            b"",
            _r(authority, signer=True),
            _w(channel.channel),
            _r(self._at.balance(channel.payer, channel.mint)),
        )

    def finalize_close(self, *, channel: ChannelView) -> Instruction:
        return self._build(
            "finalize_close",
            b"",
            _w(channel.channel),
            _w(self._at.balance(channel.payer, channel.mint)),
            _w(channel.rent_payer),
        )

    def register(self, *, owner: Address, mint: Address, node_key: NodeKey) -> Instruction:
        """Create the owner's Stake, bound to the key that signs its leases."""
        return self._build(
            "register",
            node_key,
            _r(owner, signer=True),
            _w(owner, signer=True),
            _w(self._at.stake(owner, mint)),
            _r(mint),
            _r(self._at.config),
            _r(SYSTEM_PROGRAM),
        )

    def stake(self, *, owner: Address, mint: Address, amount: int) -> Instruction:
        return self._build(
            "stake",
            pack("<Q", amount),
            _r(owner, signer=True),
            _w(self._at.balance(owner, mint)),
            _w(self._at.stake(owner, mint)),
        )

    def unstake(self, *, owner: Address, mint: Address, amount: int) -> Instruction:
        return self._build(
            "unstake",
            pack("<Q", amount),
            _r(owner, signer=True),
            _w(self._at.stake(owner, mint)),
            _r(self._at.config),
        )

    def claim_unbonded(self, *, owner: Address, mint: Address) -> Instruction:
        return self._build(
            "claim_unbonded",
            b"",
            _r(owner, signer=True),
            _w(self._at.balance(owner, mint)),
            _w(self._at.stake(owner, mint)),
        )

    def rotate_key(self, *, owner: Address, mint: Address, node_key: NodeKey) -> Instruction:
        return self._build(
            "rotate_key",
            node_key,
            _r(owner, signer=True),
            _w(self._at.stake(owner, mint)),
            _r(self._at.config),
        )

    def slash(
        self, *, reporter: Address, stake: StakeView, payers: tuple[Address, Address],
        treasury: Address, ed_ix: int,
    ) -> Instruction:  # fmt: skip
        """Entries 0 and 1 of instruction ``ed_ix`` are the two leases, in the payers' order."""
        return self._build(
            "slash",
            pack("<BBB", ed_ix, 0, 1),
            _r(reporter, signer=True),
            _r(self._at.config),
            _w(stake.stake),
            *(_w(self._at.balance(owner, stake.mint)) for owner in (reporter, *payers, treasury)),
            _r(INSTRUCTIONS_SYSVAR),
        )

    def sweep_fees(
        self, *, rent_payer: Address, treasury: Address, mint: Address,
        owners: tuple[Address, ...],
    ) -> Instruction:  # fmt: skip
        """Move what the owners' Balances owe to the treasury's Balance."""
        return self._build(
            "sweep_fees",
            b"",
            _w(rent_payer, signer=True),
            _r(self._at.config),
            _w(self._at.balance(treasury, mint)),
            _r(mint),
            _r(SYSTEM_PROGRAM),
            *(_w(self._at.balance(owner, mint)) for owner in owners),
        )
