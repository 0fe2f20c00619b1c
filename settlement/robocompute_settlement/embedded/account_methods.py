"""The JSON-RPC methods that read accounts, and tokens in them."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final

import base58
from solders.pubkey import Pubkey
from solders.token import ID as TOKEN_PROGRAM
from solders.token.associated import get_associated_token_address

from robocompute_settlement.embedded import encoding as forms
from robocompute_settlement.embedded.requests import (
    INVALID_PARAMS,
    Arguments,
    RpcFault,
    in_context,
    read_address,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from solders.account import Account

    from robocompute_settlement.embedded.ledger import Ledger, Level

MAX_ACCOUNTS: Final = 100
"""Accounts in one request, as a node has it."""
TOKEN_PROGRAM_2022: Final = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")


class AccountMethods:
    """Answers from the ledger's accounts. ``table`` has the methods by name."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.table: dict[str, Callable[[Arguments], Any]] = {
            "getBalance": self._get_balance,
            "getAccountInfo": self._get_account_info,
            "getMultipleAccounts": self._get_multiple_accounts,
            "getProgramAccounts": self._get_program_accounts,
            "getTokenAccountBalance": self._get_token_account_balance,
            "getTokenAccountsByOwner": self._get_token_accounts_by_owner,
            "getTokenSupply": self._get_token_supply,
        }

    def account_json(
        self, account: Account | None, encoding: str, data_slice: dict[str, int] | None = None
    ) -> Any:
        return forms.account_json(account, encoding or "binary", data_slice, self.decimals)

    def matches(self, account: Account, filters: Any) -> bool:
        """Whether an account passes a ``getProgramAccounts`` filter list."""
        return all(self._passes(account, each) for each in filters or ())

    def _in_context(self, level: Level, value: Any) -> dict[str, Any]:
        return in_context(self._ledger.slot(level), value)

    # --- accounts -------------------------------------------------------------------------------

    def _get_balance(self, arguments: Arguments) -> Any:
        account = self._ledger.account(arguments.address(0), arguments.level)
        return self._in_context(arguments.level, 0 if account is None else account.lamports)

    def _get_account_info(self, arguments: Arguments) -> Any:
        account = self._ledger.account(arguments.address(0), arguments.level)
        value = self.account_json(account, arguments.encoding, arguments.data_slice)
        return self._in_context(arguments.level, value)

    def _get_multiple_accounts(self, arguments: Arguments) -> Any:
        value = [
            self.account_json(
                self._ledger.account(read_address(text), arguments.level),
                arguments.encoding or "base64",
                arguments.data_slice,
            )
            for text in arguments.texts(0, MAX_ACCOUNTS)
        ]
        return self._in_context(arguments.level, value)

    def _get_program_accounts(self, arguments: Arguments) -> Any:
        program = arguments.address(0)
        filters = arguments.options.get("filters")
        value = [
            {
                "pubkey": str(address),
                "account": self.account_json(account, arguments.encoding, arguments.data_slice),
            }
            for address, account in self._ledger.accounts_of(program, arguments.level)
            if self.matches(account, filters)
        ]
        if arguments.options.get("withContext"):
            return self._in_context(arguments.level, value)
        return value

    def _passes(self, account: Account, condition: Any) -> bool:
        match condition:
            case {"dataSize": int(size)}:
                return len(account.data) == size
            case {"memcmp": {"offset": int(offset), "bytes": wanted, **rest}}:
                raw = _memcmp_bytes(wanted, rest.get("encoding"))
                return account.data[offset : offset + len(raw)] == raw
            case "tokenAccountState" | {"tokenAccountState": _}:
                return len(account.data) == forms.TOKEN_ACCOUNT_BYTES
            case _:
                raise RpcFault(INVALID_PARAMS, f"Invalid params: filter {condition!r}")

    # --- tokens ---------------------------------------------------------------------------------

    def decimals(self, mint: Pubkey) -> int:
        """A mint's decimals; 0 where there is no such mint."""
        account = self._ledger.account(mint)
        known = account is not None and len(account.data) == forms.MINT_BYTES
        return account.data[44] if account is not None and known else 0

    def _get_token_account_balance(self, arguments: Arguments) -> Any:
        account = self._ledger.account(arguments.address(0), arguments.level)
        if account is None:
            raise RpcFault(INVALID_PARAMS, "Invalid param: could not find account")
        data = account.data
        if account.owner != TOKEN_PROGRAM or len(data) != forms.TOKEN_ACCOUNT_BYTES:
            raise RpcFault(INVALID_PARAMS, "Invalid param: not a Token account")
        decimals = self.decimals(Pubkey.from_bytes(data[:32]))
        amount = forms.ui_amount(int.from_bytes(data[64:72], "little"), decimals)
        return self._in_context(arguments.level, amount)

    def _get_token_accounts_by_owner(self, arguments: Arguments) -> Any:
        owner = bytes(arguments.address(0))
        chosen = arguments.positions[1] if len(arguments.positions) > 1 else None
        match chosen:
            case {"mint": str(text)}:
                mint = read_address(text)
                if self._ledger.account(mint, arguments.level) is None:
                    raise RpcFault(INVALID_PARAMS, "Invalid param: could not find mint")
                # A wallet's own account first: this is the one nearly every client wants.
                associated = get_associated_token_address(Pubkey.from_bytes(owner), mint)
            case {"programId": str(text)} if read_address(text) in (
                TOKEN_PROGRAM,
                TOKEN_PROGRAM_2022,
            ):
                mint, associated = None, None
                if read_address(text) == TOKEN_PROGRAM_2022:
                    return self._in_context(arguments.level, [])
            case _:
                raise RpcFault(INVALID_PARAMS, "Invalid params: a mint or a programId is needed")
        inner = Arguments(arguments.positions[2:3])
        found = [
            (address, account)
            for address, account in self._ledger.accounts_of(TOKEN_PROGRAM, inner.level)
            if len(account.data) == forms.TOKEN_ACCOUNT_BYTES
            and account.data[32:64] == owner
            and (mint is None or account.data[:32] == bytes(mint))
        ]
        found.sort(key=lambda pair: pair[0] != associated)
        value = [
            {
                "pubkey": str(address),
                "account": self.account_json(account, inner.encoding, inner.data_slice),
            }
            for address, account in found
        ]
        return self._in_context(inner.level, value)

    def _get_token_supply(self, arguments: Arguments) -> Any:
        account = self._ledger.account(arguments.address(0), arguments.level)
        if account is None or account.owner != TOKEN_PROGRAM:
            raise RpcFault(INVALID_PARAMS, "Invalid param: not a Token mint")
        if len(account.data) != forms.MINT_BYTES:
            raise RpcFault(INVALID_PARAMS, "Invalid param: not a Token mint")
        supply = int.from_bytes(account.data[36:44], "little")
        return self._in_context(arguments.level, forms.ui_amount(supply, account.data[44]))


def _memcmp_bytes(wanted: Any, named: Any) -> bytes:
    try:
        if isinstance(wanted, list):
            return bytes(wanted)  # pyright: ignore[reportUnknownArgumentType]
        if named == "base64":
            return base64.b64decode(wanted, validate=True)
        return base58.b58decode(wanted)
    except (ValueError, TypeError, binascii.Error):
        raise RpcFault(INVALID_PARAMS, "Invalid params: memcmp bytes") from None
