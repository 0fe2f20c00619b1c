"""LiteSVM as a function: a transaction and accounts in, what would become of them out.

LiteSVM 0.26 runs programs as a cluster does, but charges no priority fees, keeps no rent rules
and lets a failed precompile off; those are added here. Nothing changes until ``put``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from solders.account import Account
from solders.litesvm import LiteSVM
from solders.pubkey import Pubkey

from robocompute_settlement.embedded.fees import Fee, fee_of
from robocompute_settlement.embedded.genesis import BPF_LOADER_UPGRADEABLE, rent_exempt
from robocompute_settlement.embedded.wire import NotTaken, named_accounts

if TYPE_CHECKING:
    from solders.clock import Clock
    from solders.transaction import VersionedTransaction

LOG_BYTES: Final = 10_000
"""Of one transaction's log; the rest is cut off, as on the public clusters."""
LOADED_OVERHEAD_BYTES: Final = 64
"""What the runtime counts for each loaded account besides its data."""
INCINERATOR: Final = Pubkey.from_string("1nc1nerator11111111111111111111111111111111")
SYSTEM: Final = Pubkey.default()
_PAYING_FAULTS: Final = frozenset(
    {"InvalidProgramForExecution", "MaxLoadedAccountsDataSizeExceeded", "UnbalancedTransaction"}
)
"""Errors of transactions that are in a block all the same, besides those of instructions."""

Returned = tuple[bytes, bytes] | None
"""A program and the data it returned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a transaction that pays its fee."""

    keys: tuple[Pubkey, ...]
    writable: frozenset[int]
    before: tuple[Account | None, ...]
    after: tuple[Account | None, ...]
    """Of ``keys``, in order."""
    error: Any
    """As JSON-RPC writes it; ``None`` where it succeeded."""
    logs: tuple[str, ...]
    inner: Any
    """As LiteSVM writes it: a list of inner instructions for each instruction."""
    units: int
    returned: Returned
    fee: Fee
    loaded_bytes: int

    @property
    def changed(self) -> list[tuple[Pubkey, Account | None]]:
        """The accounts that are not as they were."""
        both = zip(self.keys, self.before, self.after, strict=True)
        return [(key, after) for key, before, after in both if before != after]


class Machine:
    """Accounts and the programs among them."""

    def __init__(self) -> None:
        self._svm = (
            LiteSVM()
            .with_sigverify(False)  # the ledger does, so that a simulation may leave it out
            .with_blockhash_check(False)  # LiteSVM knows one blockhash; the timeline knows 150
            .with_transaction_history(0)  # duplicates are looked up in the store
            .with_log_bytes_limit(LOG_BYTES)
        )

    def account(self, address: Pubkey) -> Account | None:
        """The account; ``None`` where there is none."""
        account = self._svm.get_account(address)
        return None if account is None or account.lamports == 0 else account

    def put(self, address: Pubkey, account: Account | None) -> None:
        """Set an account, or remove it. A program's data must be set before the program."""
        self._svm.set_account(address, Account.default() if account is None else account)

    def set_clock(self, clock: Clock) -> None:
        """Let programs see this time."""
        self._svm.warp_to_slot(clock.slot)
        self._svm.set_clock(clock)

    def named(self, transaction: VersionedTransaction) -> tuple[Account | None, ...]:
        """The accounts a transaction names, as they are.

        Raises:
            NotTaken: a lookup table is missing, or too short.
        """
        keys, _ = named_accounts(transaction.message, self._table)
        return tuple(self.account(key) for key in keys)

    def run(self, transaction: VersionedTransaction) -> Outcome:
        """Say what a transaction does to the accounts, and leave them as they are.

        Raises:
            NotTaken: it cannot pay, or names what is not there: it would be in no block.
        """
        message = transaction.message
        keys, writable = named_accounts(message, self._table)
        before = [self.account(key) for key in keys]
        fee = fee_of(message)
        payer = _charged(before[0], fee)
        after = [payer, *before[1:]]
        raw, touched = self._simulate(transaction, keys[0], before[0], fee)
        error = raw.get("err")
        if error is None:
            after = [
                _kept(touched.get(key, before[index])) if index in writable else before[index]
                for index, key in enumerate(keys)
            ]
            error = _rent_error(keys, writable, before, after)
            if error is not None:
                after = [payer, *before[1:]]
        elif not isinstance(error, dict) and error not in _PAYING_FAULTS:
            raise NotTaken(error)
        elif error == "InvalidProgramForExecution" and self._lacks_program(transaction):
            error = "ProgramAccountNotFound"
        meta: dict[str, Any] = raw["meta"]
        return Outcome(
            keys=tuple(keys),
            writable=frozenset(writable),
            before=tuple(before),
            after=tuple(after),
            error=error,
            logs=tuple(meta["logs"]),
            inner=meta["inner_instructions"],
            units=meta["compute_units_consumed"],
            returned=_returned(meta),
            fee=fee,
            loaded_bytes=self._loaded_bytes(before),
        )

    def _simulate(
        self, transaction: VersionedTransaction, payer: Pubkey, account: Account | None, fee: Fee
    ) -> tuple[dict[str, Any], dict[Pubkey, Account]]:
        if account is not None and fee.priority:
            # LiteSVM takes the base fee itself; programs see the payer without either.
            self._svm.set_account(payer, _with_lamports(account, account.lamports - fee.priority))
        try:
            result = self._svm.simulate_transaction(transaction)
        finally:
            if account is not None and fee.priority:
                self._svm.set_account(payer, account)
        raw: dict[str, Any] = json.loads(result.to_json())
        if "err" in raw:
            return raw, {}
        return raw, dict(result.post_accounts())  # type: ignore[union-attr]

    def _lacks_program(self, transaction: VersionedTransaction) -> bool:
        message = transaction.message
        programs = {each.program_id_index for each in message.instructions}
        return any(self.account(message.account_keys[index]) is None for index in programs)

    def _loaded_bytes(self, accounts: list[Account | None]) -> int:
        total = 0
        for account in accounts:
            total += LOADED_OVERHEAD_BYTES + (0 if account is None else len(account.data))
            if account is not None and account.executable:
                if account.owner != BPF_LOADER_UPGRADEABLE:
                    continue
                data = self.account(Pubkey.from_bytes(account.data[4:36]))
                total += LOADED_OVERHEAD_BYTES + (0 if data is None else len(data.data))
        return total

    def _table(self, address: Pubkey) -> bytes | None:
        account = self.account(address)
        return None if account is None else account.data


def _charged(payer: Account | None, fee: Fee) -> Account | None:
    """The payer without the fee, as far as it may pay it."""
    if payer is None:
        raise NotTaken("AccountNotFound")
    if payer.owner != SYSTEM:
        raise NotTaken("InvalidAccountForFee")
    if payer.lamports < fee.total:
        raise NotTaken("InsufficientFundsForFee")
    charged = _kept(_with_lamports(payer, payer.lamports - fee.total))
    if not _may_become(payer, charged):
        raise NotTaken({"InsufficientFundsForRent": {"account_index": 0}})
    return charged


def _rent_error(
    keys: list[Pubkey],
    writable: set[int],
    before: list[Account | None],
    after: list[Account | None],
) -> Any:
    for index in sorted(writable):
        if keys[index] != INCINERATOR and not _may_become(before[index], after[index]):
            return {"InsufficientFundsForRent": {"account_index": index}}
    return None


def _may_become(before: Account | None, after: Account | None) -> bool:
    """Whether rent allows it: no account may become one that would have to pay rent."""
    if after is None or after.lamports >= rent_exempt(len(after.data)):
        return True
    return (
        before is not None
        and before.lamports < rent_exempt(len(before.data))
        and len(before.data) == len(after.data)
        and after.lamports <= before.lamports
    )


def _with_lamports(account: Account, lamports: int) -> Account:
    return Account(lamports, account.data, account.owner, account.executable, account.rent_epoch)


def _kept(account: Account | None) -> Account | None:
    return None if account is None or account.lamports == 0 else account


def _returned(meta: dict[str, Any]) -> Returned:
    data = meta["return_data"]["data"]
    return (bytes(meta["return_data"]["program_id"]), bytes(data)) if data else None
