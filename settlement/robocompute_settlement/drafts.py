"""Transactions that are signed elsewhere: drafted here, signed where the wallet's key is, sent here.

What a draft does is read off the very bytes that are signed, never off what is written beside
them: a file that was changed on its way says something else, or is refused.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from struct import Struct, error as StructError
from typing import Any, Final

import base58
import msgspec
from solders.compute_budget import ID as COMPUTE_BUDGET
from solders.keypair import Keypair
from solders.message import Message, to_bytes_versioned
from solders.signature import Signature
from solders.transaction import Transaction

from robocompute_protocol.errors import ConfigError
from robocompute_protocol.identifiers import Address, to_base58
from robocompute_protocol.money import format_amount
from robocompute_settlement.instructions import ASSOCIATED_TOKEN_PROGRAM, discriminator
from robocompute_settlement.sending import SIMULATION_UNITS
from robocompute_settlement.transactions import Priority

FORMAT: Final = "robocompute transaction 1"
"""What a draft's file begins with. A later form has a later number."""
MAX_DRAFT_BYTES: Final = 65_536
"""A transaction is 1,232 bytes at most, and its file a few thousand."""
LAMPORTS_A_SIGNATURE: Final = 5_000
MICRO_LAMPORTS: Final = 1_000_000
"""In a lamport."""
LAMPORTS_A_SOL: Final = 1_000_000_000
MAX_UNITS: Final = 1_400_000
"""Compute units of one transaction: the chain grants no more, whatever is asked for."""
DEFAULT_UNITS: Final = 200_000
"""Compute units for each instruction, where none are asked for."""
MAX_FEE: Final = LAMPORTS_A_SIGNATURE + (
    SIMULATION_UNITS * Priority().most_micro_lamports // MICRO_LAMPORTS
)
"""In lamports: what the adapter itself would pay at most, by its defaults. A draft that pays more
was made to burn the wallet's SOL."""
UNKNOWN: Final = "UNKNOWN"
"""Begins the words for what cannot be put into words."""


class BadDraft(ConfigError):
    """A file that holds no transaction, or none that may be signed or sent."""

    code = "bad_draft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """One transaction for one signer, who also pays its fee."""

    message: bytes
    """What is signed."""
    last_valid_height: int
    """No block above this height takes it."""
    signature: bytes | None = None

    @property
    def signer(self) -> Address:
        return Address(bytes(_message(self.message).account_keys[0]))


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: str
    what: tuple[str, ...]
    signer: str
    message: str
    last_valid_block_height: int
    signature: str | None


def draft_file(draft: Draft, program_id: Address) -> bytes:
    """Return the JSON file of a draft: for people to read, for machines to sign and send."""
    signature = draft.signature
    file = _File(
        format=FORMAT,
        what=describe(draft.message, program_id),
        signer=to_base58(draft.signer),
        message=base64.b64encode(draft.message).decode(),
        last_valid_block_height=draft.last_valid_height,
        signature=None if signature is None else base58.b58encode(signature).decode(),
    )
    return msgspec.json.format(msgspec.json.encode(file)) + b"\n"


def read_draft(data: bytes) -> Draft:
    """Read a draft's file, signed or not. What is written beside the message counts for nothing.

    Raises:
        BadDraft: it is no such file, or its signature is not the signer's.
    """
    try:
        file = msgspec.json.decode(data, type=_File)
        message = base64.b64decode(file.message, validate=True)
        signature = None if file.signature is None else base58.b58decode(file.signature)
    except (msgspec.DecodeError, binascii.Error, ValueError) as exc:
        raise BadDraft(f"this is no transaction file of `--unsigned`: {exc}") from None
    if file.format != FORMAT:
        raise BadDraft(f"this file says it is {file.format!r}, and {FORMAT!r} is needed")
    draft = Draft(
        message=message, last_valid_height=file.last_valid_block_height, signature=signature
    )
    if _message(message).header.num_required_signatures != 1:
        raise BadDraft("this transaction needs other signatures than the wallet's: not signed")
    if signature is not None:
        wire_of(draft)
    return draft


def sign_draft(draft: Draft, seed: bytes, program_id: Address) -> Draft:
    """Sign with the wallet's key.

    Raises:
        BadDraft: it is another wallet's transaction, or does something that nobody can tell.
    """
    if any(line.startswith(UNKNOWN) for line in describe(draft.message, program_id)):
        raise BadDraft(
            "what is UNKNOWN in this transaction is not signed here: make it anew with --unsigned, "
            "by this version of robocompute-node"
        )
    key = Keypair.from_seed(seed)
    if bytes(key.pubkey()) != draft.signer:
        raise BadDraft(
            f"this transaction is for the wallet {to_base58(draft.signer)}, and the key is of "
            f"{key.pubkey()}: take the key of that wallet"
        )
    signature = bytes(key.sign_message(to_bytes_versioned(_message(draft.message))))
    return Draft(
        message=draft.message, last_valid_height=draft.last_valid_height, signature=signature
    )


def wire_of(draft: Draft) -> bytes:
    """Return the signed transaction as it is sent.

    Raises:
        BadDraft: it is not signed, or not by its signer.
    """
    if draft.signature is None:
        raise BadDraft("this transaction is not signed: `robocompute-node wallet sign FILE` first")
    message = _message(draft.message)
    try:
        signature = Signature.from_bytes(draft.signature)
    except ValueError:
        raise BadDraft("a signature is 64 bytes, in base58") from None
    if not signature.verify(message.account_keys[0], draft.message):
        raise BadDraft(
            f"the signature is not one of {message.account_keys[0]} over this transaction"
        )
    return bytes(Transaction.populate(message, [signature]))


def signature_of(draft: Draft) -> str:
    """Return what the transaction is known by on chain.

    Raises:
        BadDraft: it is not signed, or not by its signer.
    """
    wire_of(draft)
    assert draft.signature is not None
    return str(Signature.from_bytes(draft.signature))


def _message(data: bytes) -> Message:
    try:
        message = Message.from_bytes(data)
    except ValueError:
        raise BadDraft("the bytes to sign are no transaction") from None
    if bytes(message) != data:
        raise BadDraft("the bytes to sign are not a transaction alone")
    accounts = len(message.account_keys)
    named = [
        index
        for each in message.instructions
        for index in (each.program_id_index, *bytes(each.accounts))
    ]
    if not 0 < message.header.num_required_signatures <= accounts or max(named, default=0) >= accounts:  # fmt: skip
        raise BadDraft("the bytes to sign name accounts that are not in them")
    return message


def program_of(message: bytes) -> Address:
    """Return the program that a transaction is for, which nobody has vouched for yet.

    Raises:
        BadDraft: it is for none, or for several.
    """
    parsed = _message(message)
    called = {parsed.account_keys[each.program_id_index] for each in parsed.instructions}
    called -= {COMPUTE_BUDGET, ASSOCIATED_TOKEN_PROGRAM}
    if len(called) != 1:
        raise BadDraft("this transaction is not one of a settlement program alone: not signed")
    return Address(bytes(called.pop()))


# --- what it does, in words ---------------------------------------------------------------------


def describe(message: bytes, program_id: Address) -> tuple[str, ...]:
    """Say what a transaction does, a line for each instruction, and last what it pays at most.

    Raises:
        BadDraft: the bytes are no transaction, or its fee is more than any of ours.
    """
    parsed = _message(message)
    keys = parsed.account_keys
    lines: list[str] = []
    budget: dict[int, int] = {}
    for instruction in parsed.instructions:
        program = keys[instruction.program_id_index]
        accounts = [str(keys[index]) for index in bytes(instruction.accounts)]
        data = bytes(instruction.data)
        if program == COMPUTE_BUDGET:
            setting = _BUDGET.get(data[:1])
            if setting is None or len(data) != 1 + setting.size or data[0] in budget:
                lines.append(f"{UNKNOWN}: a compute budget that this version never asks for")
            else:
                (budget[data[0]],) = setting.unpack(data[1:])
        elif program == ASSOCIATED_TOKEN_PROGRAM and data == b"\x01" and len(accounts) >= 4:
            lines.append(f"make the token account of {accounts[2]}, where there is none yet")
        elif bytes(program) == program_id:
            lines.append(_ours(data, accounts))
        else:
            lines.append(f"{UNKNOWN}: an instruction of program {program}")
    fee = _most_fee(parsed, budget)
    if fee > MAX_FEE:
        raise BadDraft(
            f"this transaction could pay a fee of {_sol(fee)} SOL, and none of ours pays more than "
            f"{_sol(MAX_FEE)}: it is not to be signed"
        )
    return (*lines, f"fee at most {_sol(fee)} SOL")


def _most_fee(message: Message, budget: dict[int, int]) -> int:
    """In lamports."""
    units = budget.get(_LIMIT, DEFAULT_UNITS * len(message.instructions))
    priority = -(-min(units, MAX_UNITS) * budget.get(_PRICE, 0) // MICRO_LAMPORTS)
    return LAMPORTS_A_SIGNATURE * message.header.num_required_signatures + priority


def _sol(lamports: int) -> str:
    return f"{lamports // LAMPORTS_A_SOL}.{lamports % LAMPORTS_A_SOL:09d}"


def _ours(data: bytes, accounts: list[str]) -> str:
    name, packed = _SIGNED_BY_WALLETS.get(data[:8], ("", Struct("<")))
    try:
        return _in_words(name, packed.unpack(data[8:]), accounts)
    except (StructError, IndexError):
        return _NOT_KNOWN


def _in_words(name: str, values: tuple[Any, ...], at: list[str]) -> str:
    match name, values:
        case "deposit", (int(amount),):
            return f"deposit {format_amount(amount)} of mint {at[4]} from the wallet {at[0]}"
        case "withdraw", (int(amount),):
            return f"withdraw {format_amount(amount)} of mint {at[4]} to token account {at[3]}"
        case "set_delegate", (bytes(key), int(allowance), int(expires)):
            if not any(key):
                return "end the delegation: no key but the wallet's may lock money"
            return (
                f"let the key {to_base58(key)} lock up to {format_amount(allowance)} in channels, "
                f"until second {expires} since 1970"
            )
        case "register", (bytes(key),):
            return f"register the wallet {at[0]}; {to_base58(key)} signs its leases"
        case "stake", (int(amount),):
            return f"move {format_amount(amount)} from the balance into the stake"
        case "unstake", (int(amount),):
            return f"begin to take {format_amount(amount)} out of the stake"
        case "claim_unbonded", ():
            return "move what has waited out of the stake into the balance"
        case "rotate_key", (bytes(key),):
            return f"from now on {to_base58(key)} signs the stake's leases"
        case "close_by_payee", ():
            return f"close the channel {at[1]}, giving up what is not settled"
        case "request_close", ():
            return (
                f"ask to close the channel {at[1]}: its rest comes back after its challenge time"
            )
        case "finalize_close", ():
            return f"close the channel {at[0]}, whose challenge time is over"
        case _:
            return _NOT_KNOWN


_LIMIT: Final = 2
_PRICE: Final = 3
_BUDGET: Final = {bytes((_LIMIT,)): Struct("<I"), bytes((_PRICE,)): Struct("<Q")}
"""The compute budget's instructions that we use: a limit in units, a price in micro-lamports."""
_NOT_KNOWN: Final = (
    f"{UNKNOWN}: an instruction of the settlement program that this version does not know"
)
_SIGNED_BY_WALLETS: Final[dict[bytes, tuple[str, Struct]]] = {
    discriminator(name): (name, Struct(packed))
    for name, packed in {
        "deposit": "<Q", "withdraw": "<Q", "set_delegate": "<32sQq", "register": "<32s",
        "stake": "<Q", "unstake": "<Q", "claim_unbonded": "<", "rotate_key": "<32s",
        "close_by_payee": "<", "request_close": "<", "finalize_close": "<",
    }.items()
}  # fmt: skip
"""The eight bytes an instruction's data begin with, and how its arguments are packed."""
