"""The methods with which a test makes things go wrong. Only a chain started for tests has them."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final

import msgspec
from solders.account import Account
from solders.pubkey import Pubkey

from robocompute_settlement.embedded.account_json import MINT_BYTES
from robocompute_settlement.embedded.faults import with_changes
from robocompute_settlement.embedded.ledger import TOKEN_ACCOUNT_BYTES
from robocompute_settlement.embedded.requests import Arguments, invalid_params
from robocompute_settlement.embedded.storage import unpack_account

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_settlement.embedded.ledger import Ledger

_STATE: Final = 108
_INITIALIZED, _FROZEN = 1, 2
"""Where a token account's state is, and two of them."""


class FaultMethods:
    """``table`` has the methods by name."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.table: dict[str, Callable[[Arguments], Any]] = {
            "embeddedDonate": self._donate,
            "embeddedExpireBlockhashes": lambda _: ledger.expire_blockhashes(),
            "embeddedFaults": self._set_faults,
            "embeddedFaultsLeft": lambda _: msgspec.to_builtins(ledger.faults),
            "embeddedFreeze": self._freeze,
            "embeddedRollback": self._roll_back,
            "embeddedSetAccount": self._set_account,
            "embeddedSkip": self._skip,
        }

    def _set_faults(self, arguments: Arguments) -> None:
        try:
            self._ledger.faults = with_changes(self._ledger.faults, arguments.options)
        except msgspec.ValidationError as exc:
            raise invalid_params(f"Invalid params: {exc}") from exc

    def _skip(self, arguments: Arguments) -> int:
        self._ledger.skip(arguments.number(0))
        return self._ledger.tick()

    def _roll_back(self, arguments: Arguments) -> int:
        return self._ledger.roll_back(arguments.number(0), resend=arguments.flag("resend"))

    def _set_account(self, arguments: Arguments) -> None:
        try:
            account = unpack_account(base64.b64decode(arguments.text(1), validate=True))
        except (ValueError, binascii.Error) as exc:
            raise invalid_params(f"Invalid params: {exc}") from exc
        self._ledger.set_accounts([(arguments.address(0), account)])

    def _donate(self, arguments: Arguments) -> None:
        """Give SOL or tokens to any account, as anybody may on a public chain."""
        address = arguments.address(0)
        lamports = arguments.option_number("lamports") or 0
        tokens = arguments.option_number("tokens") or 0
        account = self._ledger.account(address) or Account(0, b"", Pubkey.default())
        data, changes = account.data, []
        if tokens:
            self._need_token_account(account)
            mint_address = Pubkey.from_bytes(data[:32])
            mint = self._ledger.account(mint_address)
            if mint is None or len(mint.data) != MINT_BYTES:
                raise invalid_params("Invalid params: the token account has no mint")
            data = _added(data, 64, tokens)
            changes = [(mint_address, _with_data(mint, _added(mint.data, 36, tokens)))]
        richer = Account(
            account.lamports + lamports, data, account.owner, account.executable,
            account.rent_epoch,
        )  # fmt: skip
        self._ledger.set_accounts([*changes, (address, richer)])

    def _freeze(self, arguments: Arguments) -> None:
        """Freeze a token account, as its issuer may, or thaw it."""
        address = arguments.address(0)
        account = self._ledger.account(address)
        self._need_token_account(account)
        if account is not None:
            state = _FROZEN if arguments.at(1) is not False else _INITIALIZED
            data = account.data[:_STATE] + bytes([state]) + account.data[_STATE + 1 :]
            self._ledger.set_accounts([(address, _with_data(account, data))])

    def _need_token_account(self, account: Account | None) -> None:
        if account is None or len(account.data) != TOKEN_ACCOUNT_BYTES:
            raise invalid_params("Invalid params: not a token account")


def _with_data(account: Account, data: bytes) -> Account:
    return Account(account.lamports, data, account.owner, account.executable, account.rent_epoch)


def _added(data: bytes, offset: int, amount: int) -> bytes:
    total = int.from_bytes(data[offset : offset + 8], "little") + amount
    return data[:offset] + total.to_bytes(8, "little") + data[offset + 8 :]
