"""The JSON-RPC methods that read accounts, and tokens in them."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final

import base58
from solders.pubkey import Pubkey
from solders.token import ID as TOKEN_PROGRAM
from solders.token.associated import get_associated_token_address

from robocompute_settlement.embedded.account_json import MINT_BYTES, account_json, ui_amount
from robocompute_settlement.embedded.ledger import TOKEN_ACCOUNT_BYTES
from robocompute_settlement.embedded.requests import (
    Arguments,
    in_context,
    invalid_params,
    read_address,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from solders.account import Account

    from robocompute_settlement.embedded.ledger import Ledger, Level

MAX_ACCOUNTS: Final = 100
"""Accounts in one request, as a node has it."""
MAX_FILTERS: Final = 4
MAX_MEMCMP_BYTES: Final = 128
LARGEST: Final = 20
TOKEN_PROGRAM_2022: Final = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")

Found = list[tuple[Pubkey, "Account"]]


class AccountMethods:
    """Answers from the ledger's accounts. ``table`` has the methods by name."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.table: dict[str, Callable[[Arguments], Any]] = {
            "getAccountInfo": self._get_account_info,
            "getBalance": self._get_balance,
            "getMultipleAccounts": self._get_multiple_accounts,
            "getProgramAccounts": self._get_program_accounts,
            "getTokenAccountBalance": self._get_token_account_balance,
            "getTokenAccountsByDelegate": self._get_token_accounts_by_delegate,
            "getTokenAccountsByOwner": self._get_token_accounts_by_owner,
            "getTokenLargestAccounts": self._get_token_largest_accounts,
            "getTokenSupply": self._get_token_supply,
        }

    def account_json(
        self,
        address: Pubkey,
        account: Account | None,
        encoding: str,
        data_slice: tuple[int, int] | None = None,
    ) -> Any:
        """An account as this endpoint writes it."""
        return account_json(address, account, encoding, data_slice, self.decimals)

    def matches(self, account: Account, filters: Any) -> bool:
        """Whether an account passes a ``getProgramAccounts`` filter list."""
        return all(_passes(account, each) for each in read_filters(filters))

    def decimals(self, mint: Pubkey) -> int:
        """A mint's decimals; 0 where there is no such mint."""
        account = self._ledger.account(mint)
        if account is None or len(account.data) != MINT_BYTES:
            return 0
        return account.data[44]

    # --- accounts -------------------------------------------------------------------------------

    def _in_context(self, level: Level, value: Any) -> dict[str, Any]:
        return in_context(self._ledger.slot(level), value)

    def _get_balance(self, arguments: Arguments) -> Any:
        account = self._ledger.account(arguments.address(0), arguments.level)
        return self._in_context(arguments.level, 0 if account is None else account.lamports)

    def _get_account_info(self, arguments: Arguments) -> Any:
        address = arguments.address(0)
        account = self._ledger.account(address, arguments.level)
        value = self.account_json(
            address, account, arguments.encoding or "binary", arguments.data_slice
        )
        return self._in_context(arguments.level, value)

    def _get_multiple_accounts(self, arguments: Arguments) -> Any:
        addresses = [read_address(text) for text in arguments.texts(0, MAX_ACCOUNTS)]
        value = [
            self.account_json(
                address,
                self._ledger.account(address, arguments.level),
                arguments.encoding or "base64",
                arguments.data_slice,
            )
            for address in addresses
        ]
        return self._in_context(arguments.level, value)

    def _get_program_accounts(self, arguments: Arguments) -> Any:
        program = arguments.address(0)
        filters = read_filters(arguments.options.get("filters"))
        found = [
            (address, account)
            for address, account in self._ledger.accounts_of(program, arguments.level)
            if all(_passes(account, each) for each in filters)
        ]
        value = self._listed(found, arguments, "binary")
        if arguments.flag("withContext"):
            return self._in_context(arguments.level, value)
        return value

    def _listed(self, found: Found, arguments: Arguments, encoding: str) -> list[dict[str, Any]]:
        return [
            {
                "pubkey": str(address),
                "account": self.account_json(
                    address, account, arguments.encoding or encoding, arguments.data_slice
                ),
            }
            for address, account in found
        ]

    # --- tokens ---------------------------------------------------------------------------------

    def _get_token_account_balance(self, arguments: Arguments) -> Any:
        account = self._ledger.account(arguments.address(0), arguments.level)
        if account is None:
            raise invalid_params("Invalid param: could not find account")
        if not _is_token_account(account):
            raise invalid_params("Invalid param: not a Token account")
        decimals = self.decimals(Pubkey.from_bytes(account.data[:32]))
        amount = ui_amount(_amount(account), decimals)
        return self._in_context(arguments.level, amount)

    def _get_token_accounts_by_owner(self, arguments: Arguments) -> Any:
        owner = arguments.address(0)
        mint = self._chosen_mint(arguments)
        first = None if mint is None else get_associated_token_address(owner, mint)
        return self._tokens(arguments, mint, lambda data: data[32:64] == bytes(owner), first)

    def _get_token_accounts_by_delegate(self, arguments: Arguments) -> Any:
        delegate = bytes(arguments.address(0))
        mint = self._chosen_mint(arguments)
        return self._tokens(
            arguments, mint, lambda data: data[72] == 1 and data[76:108] == delegate, None
        )

    def _chosen_mint(self, arguments: Arguments) -> Pubkey | None:
        """The mint asked for; ``None`` for any of the classic token program."""
        match arguments.at(1):
            case {"mint": str(text)}:
                mint = read_address(text)
                if self._ledger.account(mint) is None:
                    raise invalid_params("Invalid param: could not find mint")
                return mint
            case {"programId": str(text)}:
                if read_address(text) not in (TOKEN_PROGRAM, TOKEN_PROGRAM_2022):
                    raise invalid_params("Invalid param: unrecognized Token program id")
                return None
            case _:
                raise invalid_params("Invalid params: expected a mint or a programId.")

    def _tokens(
        self,
        arguments: Arguments,
        mint: Pubkey | None,
        wanted: Callable[[bytes], bool],
        first: Pubkey | None,
    ) -> Any:
        options = Arguments(arguments.positions[2:3])
        program = TOKEN_PROGRAM
        match arguments.at(1):
            case {"programId": str(text)}:
                program = read_address(text)
            case _:
                pass
        found = [
            (address, account)
            for address, account in self._ledger.accounts_of(program, options.level)
            if _is_token_account(account)
            and wanted(account.data)
            and (mint is None or account.data[:32] == bytes(mint))
        ]
        # A wallet's own account first: this is the one nearly every client wants.
        found.sort(key=lambda pair: pair[0] != first)
        return self._in_context(options.level, self._listed(found, options, "binary"))

    def _get_token_largest_accounts(self, arguments: Arguments) -> Any:
        mint = arguments.address(0)
        self._check_mint(self._ledger.account(mint, arguments.level))
        found = [
            (address, _amount(account))
            for address, account in self._ledger.accounts_of(TOKEN_PROGRAM, arguments.level)
            if _is_token_account(account) and account.data[:32] == bytes(mint)
        ]
        found.sort(key=lambda pair: (-pair[1], bytes(pair[0])))
        decimals = self.decimals(mint)
        value = [
            {"address": str(address), **ui_amount(amount, decimals)}
            for address, amount in found[:LARGEST]
        ]
        return self._in_context(arguments.level, value)

    def _get_token_supply(self, arguments: Arguments) -> Any:
        account = self._check_mint(self._ledger.account(arguments.address(0), arguments.level))
        supply = int.from_bytes(account.data[36:44], "little")
        return self._in_context(arguments.level, ui_amount(supply, account.data[44]))

    def _check_mint(self, account: Account | None) -> Account:
        if account is None:
            raise invalid_params("Invalid param: could not find account")
        if account.owner != TOKEN_PROGRAM or len(account.data) != MINT_BYTES:
            raise invalid_params("Invalid param: not a Token mint")
        return account


def _is_token_account(account: Account) -> bool:
    return account.owner == TOKEN_PROGRAM and len(account.data) == TOKEN_ACCOUNT_BYTES


def _amount(account: Account) -> int:
    return int.from_bytes(account.data[64:72], "little")


Filter = tuple[int, bytes] | int
"""Bytes at an offset, or a size."""


def read_filters(value: Any) -> list[Filter]:
    """A ``getProgramAccounts`` filter list."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid_params("Invalid params: filters: expected a sequence.")
    if len(value) > MAX_FILTERS:  # pyright: ignore[reportUnknownArgumentType]
        raise invalid_params(f"Too many filters provided; max {MAX_FILTERS}")
    return [_read_filter(each) for each in value]  # pyright: ignore[reportUnknownVariableType]


def _read_filter(value: Any) -> Filter:
    match value:
        case {"dataSize": int(size)}:
            return size
        case {"memcmp": {"offset": int(offset), "bytes": wanted, **rest}} if offset >= 0:
            raw = _memcmp_bytes(wanted, rest.get("encoding"))
            if len(raw) > MAX_MEMCMP_BYTES:
                raise invalid_params("Invalid param: DataTooLarge")
            return offset, raw
        case "tokenAccountState" | {"tokenAccountState": _}:
            return TOKEN_ACCOUNT_BYTES
        case _:
            raise invalid_params("Invalid params: filters: unknown filter.")


def _passes(account: Account, condition: Filter) -> bool:
    if isinstance(condition, int):
        return len(account.data) == condition
    offset, raw = condition
    return account.data[offset : offset + len(raw)] == raw


def _memcmp_bytes(wanted: Any, named: Any) -> bytes:
    try:
        if isinstance(wanted, list):
            return bytes(wanted)  # pyright: ignore[reportUnknownArgumentType]
        if named == "base64":
            return base64.b64decode(wanted, validate=True)
        return base58.b58decode(wanted)
    except (ValueError, TypeError, binascii.Error):
        raise invalid_params("Invalid params: filters: memcmp bytes are not readable.") from None
