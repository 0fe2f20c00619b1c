"""The table of JSON-RPC methods, and what is the same for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from robocompute_settlement.embedded.account_json import (
    ENCODINGS,
    MAX_BASE58_BYTES,
    BadEncoding,
    TooLargeForBase58,
)
from robocompute_settlement.embedded.account_methods import AccountMethods
from robocompute_settlement.embedded.block_methods import BlockMethods
from robocompute_settlement.embedded.chain_methods import ChainMethods
from robocompute_settlement.embedded.fault_methods import FaultMethods
from robocompute_settlement.embedded.requests import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MIN_CONTEXT_SLOT,
    Arguments,
    RpcFault,
    invalid_params,
)
from robocompute_settlement.embedded.transaction_methods import TransactionMethods

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_settlement.embedded.ledger import Ledger


class Methods:
    """What a client may call. ``call`` looks the name up."""

    def __init__(self, ledger: Ledger, *, faults: bool = False) -> None:
        """Make the table.

        Args:
            ledger: the chain that answers.
            faults: whether the methods that make things go wrong are there too.
        """
        self._ledger = ledger
        self.accounts = AccountMethods(ledger)
        chain = ChainMethods(ledger)
        transactions = TransactionMethods(ledger, self.accounts, chain.behind)
        self._table: dict[str, Callable[[Arguments], Any]] = {
            **chain.table,
            **BlockMethods(ledger, self.accounts.decimals).table,
            **self.accounts.table,
            **transactions.table,
            **(FaultMethods(ledger).table if faults else {}),
        }

    def add(self, name: str, method: Callable[[], Any]) -> None:
        """Add a method without parameters."""
        self._table[name] = lambda _: method()

    @property
    def names(self) -> tuple[str, ...]:
        """The methods there are."""
        return tuple(sorted(self._table))

    def call(self, name: str, params: Any) -> Any:
        """Answer one request.

        Raises:
            RpcFault: the answer is an error object.
            StoreError: the chain cannot go on.
        """
        method = self._table.get(name)
        if method is None:
            raise RpcFault(METHOD_NOT_FOUND, "Method not found")
        if params is None:
            params = []
        if not isinstance(params, list):
            raise invalid_params("Invalid params: invalid type: map, expected a sequence.")
        arguments = Arguments(params)  # pyright: ignore[reportUnknownArgumentType]
        self._check_context(arguments)
        try:
            return method(arguments)
        except TooLargeForBase58:
            raise RpcFault(
                INVALID_REQUEST,
                f"Encoded binary (base 58) data should be less than {MAX_BASE58_BYTES} bytes, "
                "please use Base64 encoding.",
            ) from None
        except BadEncoding as exc:
            known = ", ".join(f"`{each}`" for each in ENCODINGS)
            raise RpcFault(
                INVALID_PARAMS,
                f"Invalid params: unknown variant `{str(exc)[:64]}`, expected one of {known}.",
            ) from None

    def _check_context(self, arguments: Arguments) -> None:
        floor = arguments.option_number("minContextSlot")
        if floor is None:
            return
        slot = self._ledger.slot(arguments.level)
        if floor > slot:
            raise RpcFault(
                MIN_CONTEXT_SLOT,
                "Minimum context slot has not been reached",
                {"contextSlot": slot},
            )
