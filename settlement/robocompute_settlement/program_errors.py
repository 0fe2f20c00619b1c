"""The program's refusals by number: the name in its IDL, and what a person should know."""

from __future__ import annotations

from typing import Final

PROGRAM_ERRORS: Final[dict[int, tuple[str, str]]] = {
    6000: ("UnknownInstruction", "the program does not know this instruction: update one side"),
    6001: ("BadArguments", "the instruction's arguments are not what the program expects"),
    6002: ("MissingAccount", "an account is missing from the instruction"),
    6003: ("MissingSignature", "a required signature is missing"),
    6004: ("ForeignAccount", "an account is not there yet, or is not the program's"),
    6005: ("WrongAccountKind", "an account is of another kind, version or size"),
    6006: ("WrongAddress", "an account is not at the address its seeds give"),
    6007: ("AlreadyExists", "it exists already"),
    6008: ("NotAuthorized", "this key may not do that: only the owner or its delegate"),
    6009: ("DelegationExpired", "the node key's delegation has ended: set it again"),
    6010: ("AllowanceExceeded", "the node key's allowance is used up: set a higher one"),
    6011: ("InsufficientFunds", "the balance does not cover the amount: deposit more"),
    6012: ("Overflow", "an amount or a time is too large"),
    6013: ("ZeroAmount", "the amount must not be zero"),
    6014: ("WrongMint", "this mint is not accepted"),
    6015: ("WrongTokenAccount", "the token account is of another owner, mint or program"),
    6016: ("WrongBalance", "the balance is of another owner or mint"),
    6017: ("Paused", "new deposits and channels are paused"),
    6018: ("WrongNonce", "another channel was opened meanwhile: read the balance and try again"),
    6019: ("ChallengeOutOfRange", "the challenge time is outside the allowed range"),
    6020: ("ChannelClosing", "the channel is closing"),
    6021: ("ChannelNotClosing", "nobody asked to close the channel"),
    6022: ("ChallengeNotOver", "the challenge time is not over"),
    6023: ("WrongRentPayer", "the rent must go back to who paid it"),
    6024: ("NoSignatureCheck", "the voucher's signature was not verified"),
    6025: ("WrongVoucher", "the voucher is not one of this channel by its key"),
    6026: ("SettingOutOfRange", "a setting is outside its bounds"),
    6027: ("NotUpgradeAuthority", "only the program's upgrade authority may do this"),
    6028: ("ZeroKey", "an address is zero where a real one is needed"),
    6029: ("WrongLease", "a lease is not of this stake, or by no key of it that counts"),
    6030: ("NoDoubleSale", "the two leases do not let one slot to two payers for one moment"),
    6031: ("LeaseOutOfTime", "a lease is too old, paid for already, or has not begun"),
    6032: ("NothingToSlash", "the stake is too small for a penalty"),
    6033: ("UnbondingNotOver", "the unbonding time is not over: try again later"),
    6034: ("RotationTooSoon", "the key was changed less than an unbonding time ago"),
}
"""Numbers are stable; a test compares names and numbers with the IDL."""


def describe(number: int) -> str:
    """One line about a refusal."""
    name, text = PROGRAM_ERRORS.get(number, ("", ""))
    return f"{text} ({name}, {number})" if name else f"program error {number}"
