"""Solana's upgradeable loader: its instructions and its accounts, as bytes."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct, pack
from typing import TYPE_CHECKING, Final

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from robocompute_protocol.errors import ChainRefused
from robocompute_protocol.identifiers import Address, to_base58
from robocompute_settlement.addresses import BPF_LOADER_UPGRADEABLE

if TYPE_CHECKING:
    from robocompute_settlement.rpc import ChainAccount

RENT_SYSVAR: Final = Pubkey.from_string("SysvarRent111111111111111111111111111111111")
CLOCK_SYSVAR: Final = Pubkey.from_string("SysvarC1ock11111111111111111111111111111111")
SYSTEM: Final = Pubkey.default()
LOADER: Final = Address(bytes(BPF_LOADER_UPGRADEABLE))

BUFFER_HEADER: Final = 37
"""Bytes in front of a buffer's program: kind, and an authority."""
DATA_HEADER: Final = 45
"""Bytes in front of a deployed program: kind, slot, and an authority or room for one."""
PROGRAM_BYTES: Final = 36
"""A program's own account only says where its code is."""
WRITE_BYTES: Final = 900
"""Of the program in one transaction: 1,012 fit beside a signature, less what a priority fee takes."""
MIN_EXTENSION: Final = 10_240
"""Newer clusters extend a program by no less."""

ELF_MAGIC: Final = b"\x7fELF"
ELF_HEADER_BYTES: Final = 64
_SECTIONS_AT: Final = Struct("<Q")
_SECTIONS_AT_OFFSET: Final = 40
"""Where an ELF header says at which byte the section table begins."""
_SECTIONS: Final = Struct("<HH")
_SECTIONS_OFFSET: Final = 58
"""Where it says how large an entry of that table is, and how many there are."""
_BUFFER: Final = Struct("<IB32s")
_PROGRAM: Final = Struct("<I32s")
_DATA: Final = Struct("<IQB32s")
_BUFFER_KIND, _PROGRAM_KIND, _DATA_KIND = 1, 2, 3


def program_data_address(program_id: Address) -> Address:
    """Where a program's code and upgrade authority are kept."""
    found, _ = Pubkey.find_program_address([program_id], BPF_LOADER_UPGRADEABLE)
    return Address(bytes(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployedProgram:
    """What the loader keeps of a program."""

    program_id: Address
    authority: Address | None
    """Who may replace it; nobody, for ever, when None."""
    slot: int
    """When it was put there last."""
    code: bytes
    """The whole room, with zeros behind the program."""

    @property
    def binary(self) -> bytes:
        """The program alone, byte for byte the file that was deployed.

        A file may end in zeros itself: where it ends is what its own header says, whose section
        table linkers write last. Of what has no such header, all but the zeros at its end.
        """
        if self.code[:4] == ELF_MAGIC and len(self.code) >= ELF_HEADER_BYTES:
            (table,) = _SECTIONS_AT.unpack_from(self.code, _SECTIONS_AT_OFFSET)
            size, count = _SECTIONS.unpack_from(self.code, _SECTIONS_OFFSET)
            end = table + size * count
            if ELF_HEADER_BYTES <= end <= len(self.code) and not any(self.code[end:]):
                return self.code[:end]
        return self.code.rstrip(b"\0")


def read_buffer(account: ChainAccount) -> tuple[Address | None, bytes]:
    """Return a buffer's authority and contents.

    Raises:
        ChainRefused: it is no buffer.
    """
    if account.owner != LOADER or len(account.data) < BUFFER_HEADER:
        raise ChainRefused("the account is no buffer of the upgradeable loader")
    kind, present, authority = _BUFFER.unpack_from(account.data)
    if kind != _BUFFER_KIND:
        raise ChainRefused("the account is no buffer of the upgradeable loader")
    return Address(authority) if present else None, account.data[BUFFER_HEADER:]


def require_program(program_id: Address, account: ChainAccount) -> None:
    """See that the account is an upgradeable program.

    Raises:
        ChainRefused: it is something else.
    """
    if account.owner != LOADER or account.data[:4] != pack("<I", _PROGRAM_KIND):
        raise ChainRefused(
            f"what is at {to_base58(program_id)} is no upgradeable program: name another address"
        )


def read_program_data(program_id: Address, account: ChainAccount) -> DeployedProgram:
    """Read a program's ProgramData account.

    Raises:
        ChainRefused: it is none: the program was closed, or is another loader's.
    """
    if account.owner != LOADER or len(account.data) < DATA_HEADER:
        raise ChainRefused(f"program {to_base58(program_id)} has no code: it was closed")
    kind, slot, present, authority = _DATA.unpack_from(account.data)
    if kind != _DATA_KIND:
        raise ChainRefused(f"program {to_base58(program_id)} has no code: it was closed")
    return DeployedProgram(
        program_id=program_id,
        authority=Address(authority) if present else None,
        slot=slot,
        code=account.data[DATA_HEADER:],
    )


def initialize_buffer(buffer: Address, authority: Address) -> Instruction:
    """Make a new account of the loader's a buffer that ``authority`` may write."""
    return _instruction(pack("<I", 0), _w(buffer), _r(authority))


def write(buffer: Address, authority: Address, offset: int, piece: bytes) -> Instruction:
    """Put ``piece`` at ``offset`` of the program in a buffer."""
    data = pack("<IIQ", 1, offset, len(piece)) + piece
    return _instruction(data, _w(buffer), _r(authority, signer=True))


def deploy(
    payer: Address, program_id: Address, buffer: Address, authority: Address, room: int
) -> Instruction:
    """Make a buffer a program with ``room`` bytes; what the buffer holds pays for part of it."""
    return _instruction(
        pack("<IQ", 2, room),
        _w(payer, signer=True),
        _w(program_data_address(program_id)),
        _w(program_id),
        _w(buffer),
        _r(RENT_SYSVAR),
        _r(CLOCK_SYSVAR),
        _r(SYSTEM),
        _r(authority, signer=True),
    )


def upgrade(
    program_id: Address, buffer: Address, authority: Address, refund: Address
) -> Instruction:
    """Replace a program's code with a buffer's; ``refund`` gets what the buffer held."""
    return _instruction(
        pack("<I", 3),
        _w(program_data_address(program_id)),
        _w(program_id),
        _w(buffer),
        _w(refund),
        _r(RENT_SYSVAR),
        _r(CLOCK_SYSVAR),
        _r(authority, signer=True),
    )


def extend(program_id: Address, payer: Address, more: int) -> Instruction:
    """Make a program's room larger: what clusters took before ``extend_checked``."""
    return _instruction(
        pack("<II", 6, more),
        _w(program_data_address(program_id)),
        _w(program_id),
        _r(SYSTEM),
        _w(payer, signer=True),
    )


def extend_checked(
    program_id: Address, authority: Address, payer: Address, more: int
) -> Instruction:
    """Make a program's room larger, with its authority's signature."""
    return _instruction(
        pack("<II", 9, more),
        _w(program_data_address(program_id)),
        _w(program_id),
        _r(authority, signer=True),
        _r(SYSTEM),
        _w(payer, signer=True),
    )


def _instruction(data: bytes, *accounts: AccountMeta) -> Instruction:
    return Instruction(BPF_LOADER_UPGRADEABLE, data, list(accounts))


def _key(address: bytes | Pubkey) -> Pubkey:
    return address if isinstance(address, Pubkey) else Pubkey.from_bytes(address)


def _r(address: bytes | Pubkey, *, signer: bool = False) -> AccountMeta:
    return AccountMeta(_key(address), is_signer=signer, is_writable=False)


def _w(address: bytes | Pubkey, *, signer: bool = False) -> AccountMeta:
    return AccountMeta(_key(address), is_signer=signer, is_writable=True)
