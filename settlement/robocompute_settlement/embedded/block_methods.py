"""The JSON-RPC methods about blocks. Every slot has one, and most are empty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from solders.pubkey import Pubkey

from robocompute_settlement.embedded.genesis import FAUCET_LAMPORTS
from robocompute_settlement.embedded.ledger import Level
from robocompute_settlement.embedded.requests import (
    BLOCK_CLEANED_UP,
    BLOCK_NOT_AVAILABLE,
    VERSION_NOT_SUPPORTED,
    Arguments,
    RpcFault,
    in_context,
    invalid_params,
)
from robocompute_settlement.embedded.transaction_json import (
    VersionNotSupported,
    accounts_in_block_json,
    in_block_json,
    signature_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_settlement.embedded.ledger import Ledger
    from robocompute_settlement.embedded.storage import Landed

MAX_BLOCKS: Final = 500_000
"""Slots of one request, as a node has it."""
MAX_LISTED: Final = 20_000
"""Blocks of one answer here, so that none takes seconds."""
VOTES: Final = 32
"""Depths of a block that a node counts votes for."""


class BlockMethods:
    """``table`` has the methods by name."""

    def __init__(self, ledger: Ledger, decimals: Callable[[Pubkey], int]) -> None:
        self._ledger = ledger
        self._decimals = decimals
        self.table: dict[str, Callable[[Arguments], Any]] = {
            "getBlock": self._get_block,
            "getBlockCommitment": self._get_block_commitment,
            "getBlockProduction": self._get_block_production,
            "getBlockTime": self._get_block_time,
            "getBlocks": self._get_blocks,
            "getBlocksWithLimit": self._get_blocks_with_limit,
            "getFirstAvailableBlock": lambda _: ledger.first_slot(),
            "minimumLedgerSlot": lambda _: ledger.first_slot(),
        }

    def _get_block(self, arguments: Arguments) -> Any:
        slot = arguments.number(0)
        level = arguments.settled_level
        if isinstance(arguments.at(1), str):
            encoding = str(arguments.at(1))
        else:
            encoding = arguments.encoding or "json"
        self._check_there(slot, level)
        timeline = self._ledger.timeline
        out: dict[str, Any] = {
            "blockhash": str(Pubkey.from_bytes(timeline.blockhash(slot))),
            "previousBlockhash": str(Pubkey.from_bytes(timeline.blockhash(max(0, slot - 1)))),
            "parentSlot": max(0, slot - 1),
            "blockHeight": slot,
            "blockTime": timeline.time_s(slot),
        }
        if arguments.options.get("rewards") is not False:
            out["rewards"] = []
        landed = self._ledger.block(slot)
        newest = arguments.option_number("maxSupportedTransactionVersion")
        match arguments.options.get("transactionDetails") or "full":
            case "none":
                pass
            case "signatures":
                out["signatures"] = [signature_text(each.signature) for each in landed]
            case "accounts":
                out["transactions"] = _listed(
                    landed, lambda each: accounts_in_block_json(each, newest, self._decimals)
                )
            case "full":
                out["transactions"] = _listed(
                    landed, lambda each: in_block_json(each, encoding, newest, self._decimals)
                )
            case other:
                raise invalid_params(
                    f"Invalid params: unknown variant `{str(other)[:64]}`, expected one of "
                    "`full`, `signatures`, `none`, `accounts`."
                )
        return out

    def _check_there(self, slot: int, level: Level) -> None:
        if slot > self._ledger.slot(level):
            raise RpcFault(BLOCK_NOT_AVAILABLE, f"Block not available for slot {slot}")
        first = self._ledger.first_slot()
        if slot < first:
            raise RpcFault(
                BLOCK_CLEANED_UP,
                f"Block {slot} cleaned up, does not exist on node. First available block: {first}",
            )

    def _get_block_time(self, arguments: Arguments) -> int:
        if not arguments.positions:
            raise invalid_params("Invalid params: invalid length 0, expected a tuple of size 1.")
        slot = arguments.number(0)
        self._check_there(slot, Level.CONFIRMED)
        return self._ledger.timeline.time_s(slot)

    def _get_blocks(self, arguments: Arguments) -> list[int]:
        first = arguments.number(0)
        last = self._ledger.slot(arguments.settled_level)
        wanted = arguments.at(1)
        if isinstance(wanted, int):
            last = min(last, wanted)
        if last - first > MAX_BLOCKS:
            raise invalid_params(f"Slot range too large; max {MAX_BLOCKS}")
        return self._slots(first, last)

    def _get_blocks_with_limit(self, arguments: Arguments) -> list[int]:
        first, limit = arguments.number(0), arguments.number(1)
        if limit > MAX_BLOCKS:
            raise invalid_params(f"Limit too large; max {MAX_BLOCKS}")
        last = min(self._ledger.slot(arguments.settled_level), first + limit - 1)
        return self._slots(first, last)

    def _slots(self, first: int, last: int) -> list[int]:
        first = max(first, self._ledger.first_slot())
        return list(range(first, min(last + 1, first + MAX_LISTED)))

    def _get_block_commitment(self, arguments: Arguments) -> Any:
        slot = arguments.number(0)
        depth = self._ledger.tick() - slot
        votes = [0] * VOTES
        if depth >= 0:
            votes[min(depth, VOTES - 1)] = FAUCET_LAMPORTS
        known = depth >= 0
        return {"commitment": votes if known else None, "totalStake": FAUCET_LAMPORTS}

    def _get_block_production(self, arguments: Arguments) -> Any:
        last = self._ledger.slot(arguments.level)
        leader = str(self._ledger.faucet)
        value = {
            "byIdentity": {leader: [last + 1, last + 1]},
            "range": {"firstSlot": 0, "lastSlot": last},
        }
        return in_context(last, value)


def _listed(landed: list[Landed], written: Callable[[Landed], Any]) -> list[Any]:
    try:
        return [written(each) for each in landed]
    except VersionNotSupported:
        raise version_fault() from None


def version_fault() -> RpcFault:
    """What a client is told that cannot read versioned transactions."""
    return RpcFault(
        VERSION_NOT_SUPPORTED,
        "Transaction version (0) is not supported by the requesting client. Please try the "
        'request again with the following configuration parameter: "maxSupportedTransactionVersion'
        '": 0',
    )
