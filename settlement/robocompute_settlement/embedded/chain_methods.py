"""The JSON-RPC methods about the chain as a whole: slots, epochs, blockhashes, fees, supply."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final

from solders.message import from_bytes_versioned
from solders.pubkey import Pubkey

from robocompute_settlement.embedded.fees import fee_of
from robocompute_settlement.embedded.genesis import FAUCET_LAMPORTS, rent_exempt
from robocompute_settlement.embedded.requests import (
    BLOCK_NOT_AVAILABLE,
    FEATURE_SET,
    NO_SNAPSHOT,
    NODE_UNHEALTHY,
    SOLANA_VERSION,
    Arguments,
    RpcFault,
    in_context,
    invalid_params,
    read_address,
)
from robocompute_settlement.embedded.timeline import SLOT_MS, SLOTS_PER_EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_settlement.embedded.ledger import Ledger

MAX_LEADERS: Final = 5_000
MAX_LEADER_SCHEDULE: Final = 432_000
MAX_SAMPLES: Final = 720
MAX_FEE_ACCOUNTS: Final = 128
LARGEST: Final = 20
"""Limits of one answer, as a node has them."""
SAMPLE_S: Final = 60
"""Seconds of one performance sample."""
HEALTHY_SLOTS: Final = 128
"""An endpoint that is further behind than this says so when it is asked for its health."""
MIN_DELEGATION: Final = 1_000_000_000


class ChainMethods:
    """``table`` has the methods by name."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._leader = str(ledger.faucet)
        self.table: dict[str, Callable[[Arguments], Any]] = {
            "getBlockHeight": lambda a: ledger.slot(a.level),
            "getClusterNodes": _nothing_expected(self._get_cluster_nodes),
            "getEpochInfo": self._get_epoch_info,
            "getEpochSchedule": _nothing_expected(self._get_epoch_schedule),
            "getFeeForMessage": self._get_fee_for_message,
            "getGenesisHash": _nothing_expected(self._get_genesis_hash),
            "getHealth": _nothing_expected(self._get_health),
            "getHighestSnapshotSlot": _nothing_expected(_no_snapshot),
            "getIdentity": _nothing_expected(lambda: {"identity": self._leader}),
            "getInflationGovernor": lambda _: _INFLATION,
            "getInflationRate": _nothing_expected(self._get_inflation_rate),
            "getInflationReward": self._get_inflation_reward,
            "getLargestAccounts": self._get_largest_accounts,
            "getLatestBlockhash": self._get_latest_blockhash,
            "getLeaderSchedule": self._get_leader_schedule,
            "getMaxRetransmitSlot": _nothing_expected(lambda: 0),
            "getMaxShredInsertSlot": _nothing_expected(lambda: 0),
            "getMinimumBalanceForRentExemption": lambda a: rent_exempt(a.number(0)),
            "getRecentPerformanceSamples": self._get_recent_performance_samples,
            "getRecentPrioritizationFees": self._get_recent_prioritization_fees,
            "getSlot": lambda a: ledger.slot(a.level),
            "getSlotLeader": lambda _: self._leader,
            "getSlotLeaders": self._get_slot_leaders,
            "getStakeMinimumDelegation": self._get_stake_minimum_delegation,
            "getSupply": self._get_supply,
            "getTransactionCount": lambda _: ledger.transaction_count,
            "getVersion": _nothing_expected(
                lambda: {"solana-core": SOLANA_VERSION, "feature-set": FEATURE_SET}
            ),
            "getVoteAccounts": self._get_vote_accounts,
            "isBlockhashValid": self._is_blockhash_valid,
        }

    def behind(self) -> RpcFault | None:
        """What a node answers that knows it is behind; ``None`` for one that is not."""
        slots = self._ledger.faults.lag_slots
        if slots <= HEALTHY_SLOTS:
            return None
        return RpcFault(
            NODE_UNHEALTHY, f"Node is behind by {slots} slots", {"numSlotsBehind": slots}
        )

    # --- the node -------------------------------------------------------------------------------

    def _get_health(self) -> str:
        fault = self.behind()
        if fault is not None:
            raise fault
        return "ok"

    def _get_genesis_hash(self) -> str:
        return str(Pubkey.from_bytes(self._ledger.founding.genesis_hash))

    def _get_cluster_nodes(self) -> list[dict[str, Any]]:
        nowhere = "127.0.0.1:1"  # there is no gossip: a client must send by RPC
        addresses = (
            "gossip", "pubsub", "rpc", "serveRepair", "tpu", "tpuForwards", "tpuForwardsQuic",
            "tpuQuic", "tpuVote", "tvu",
        )  # fmt: skip
        return [
            {
                "pubkey": self._leader,
                "version": SOLANA_VERSION,
                "featureSet": FEATURE_SET,
                "shredVersion": 1,
                **dict.fromkeys(addresses, nowhere),
            }
        ]

    def _get_vote_accounts(self, _: Arguments) -> dict[str, Any]:
        slot = self._ledger.tick()
        voter = {
            "votePubkey": self._leader,
            "nodePubkey": self._leader,
            "activatedStake": FAUCET_LAMPORTS,
            "commission": 0,
            "epochCredits": [[slot // SLOTS_PER_EPOCH, slot, 0]],
            "epochVoteAccount": True,
            "lastVote": slot,
            "rootSlot": max(0, slot - self._ledger.founding.finality_slots),
        }
        return {"current": [voter], "delinquent": []}

    # --- slots and epochs -----------------------------------------------------------------------

    def _get_epoch_info(self, arguments: Arguments) -> dict[str, int]:
        slot = self._ledger.slot(arguments.level)
        return {
            "absoluteSlot": slot,
            "blockHeight": slot,
            "epoch": slot // SLOTS_PER_EPOCH,
            "slotIndex": slot % SLOTS_PER_EPOCH,
            "slotsInEpoch": SLOTS_PER_EPOCH,
            "transactionCount": self._ledger.transaction_count,
        }

    def _get_epoch_schedule(self) -> dict[str, Any]:
        return {
            "slotsPerEpoch": SLOTS_PER_EPOCH,
            "leaderScheduleSlotOffset": SLOTS_PER_EPOCH,
            "warmup": False,
            "firstNormalEpoch": 0,
            "firstNormalSlot": 0,
        }

    def _get_slot_leaders(self, arguments: Arguments) -> list[str]:
        arguments.number(0)
        limit = arguments.number(1)
        if not 1 <= limit <= MAX_LEADERS:
            raise invalid_params(f"Invalid limit; max {MAX_LEADERS}")
        return [self._leader] * limit

    def _get_leader_schedule(self, _: Arguments) -> dict[str, list[int]]:
        return {self._leader: list(range(MAX_LEADER_SCHEDULE))}

    def _get_recent_performance_samples(self, arguments: Arguments) -> list[dict[str, int]]:
        limit = arguments.number(0) if arguments.positions else MAX_SAMPLES
        if limit > MAX_SAMPLES:
            raise invalid_params(f"Invalid limit; max {MAX_SAMPLES}")
        slots = SAMPLE_S * 1000 // SLOT_MS
        newest = self._ledger.tick() // slots * slots
        return [
            {
                "slot": slot,
                "numSlots": slots,
                "samplePeriodSecs": SAMPLE_S,
                "numTransactions": 0,
                "numNonVoteTransactions": 0,
            }
            for slot in range(newest, 0, -slots)[:limit]
        ]

    # --- blockhashes and fees -------------------------------------------------------------------

    def _get_latest_blockhash(self, arguments: Arguments) -> Any:
        blockhash, last = self._ledger.latest_blockhash(arguments.level)
        value = {"blockhash": str(Pubkey.from_bytes(blockhash)), "lastValidBlockHeight": last}
        return in_context(self._ledger.slot(arguments.level), value)

    def _is_blockhash_valid(self, arguments: Arguments) -> Any:
        known = self._ledger.knows_blockhash(bytes(arguments.address(0)), arguments.level)
        return in_context(self._ledger.slot(arguments.level), known)

    def _get_fee_for_message(self, arguments: Arguments) -> Any:
        text = arguments.text(0)
        try:
            message = from_bytes_versioned(base64.b64decode(text, validate=True))
        except binascii.Error as exc:
            raise invalid_params(f"invalid base64 encoding: {exc}") from exc
        except Exception as exc:
            raise invalid_params(
                "failed to deserialize solana_message::non_bpf_modules::versions::"
                "VersionedMessage: io error: failed to fill whole buffer"
            ) from exc
        blockhash = bytes(message.recent_blockhash)
        known = self._ledger.knows_blockhash(blockhash, arguments.level)
        value = fee_of(message).total if known else None
        return in_context(self._ledger.slot(arguments.level), value)

    def _get_recent_prioritization_fees(self, arguments: Arguments) -> list[dict[str, int]]:
        texts = arguments.texts(0, MAX_FEE_ACCOUNTS) if arguments.positions else []
        wanted = [read_address(text) for text in texts]
        return [
            {"slot": slot, "prioritizationFee": price}
            for slot, price in self._ledger.prices.listed(wanted)
        ]

    # --- SOL ------------------------------------------------------------------------------------

    def _get_supply(self, arguments: Arguments) -> Any:
        total = sum(each.lamports for _, each in self._ledger.all_accounts(arguments.level))
        value: dict[str, Any] = {
            "total": total,
            "circulating": total,
            "nonCirculating": 0,
            "nonCirculatingAccounts": [],
        }
        return in_context(self._ledger.slot(arguments.level), value)

    def _get_largest_accounts(self, arguments: Arguments) -> Any:
        found = sorted(
            self._ledger.all_accounts(arguments.level),
            key=lambda pair: (-pair[1].lamports, bytes(pair[0])),
        )
        value = [
            {"address": str(address), "lamports": account.lamports}
            for address, account in found[:LARGEST]
        ]
        return in_context(self._ledger.slot(arguments.level), value)

    def _get_inflation_rate(self) -> dict[str, Any]:
        return {"epoch": 0, "foundation": 0.0, "total": 0.0, "validator": 0.0}

    def _get_inflation_reward(self, arguments: Arguments) -> Any:
        addresses = arguments.texts(0, MAX_LEADERS)
        epoch = arguments.options.get("epoch")
        boundary = SLOTS_PER_EPOCH * (1 + (epoch if isinstance(epoch, int) else 0))
        if boundary > self._ledger.tick():
            raise RpcFault(BLOCK_NOT_AVAILABLE, f"Block not available for slot {boundary}")
        return [None for _ in addresses]

    def _get_stake_minimum_delegation(self, arguments: Arguments) -> Any:
        return in_context(self._ledger.slot(arguments.level), MIN_DELEGATION)


_INFLATION: Final = {
    "foundation": 0.0, "foundationTerm": 0.0, "initial": 0.0, "taper": 0.0, "terminal": 0.0,
}  # fmt: skip
"""Nobody stakes here, so nothing is minted."""


def _no_snapshot() -> Any:
    raise RpcFault(NO_SNAPSHOT, "No snapshot")


def _nothing_expected(answer: Callable[[], Any]) -> Callable[[Arguments], Any]:
    """A method without parameters: a node refuses any."""

    def checked(arguments: Arguments) -> Any:
        if arguments.positions:
            listed = ", ".join(_debug(each) for each in arguments.positions[:MAX_FEE_ACCOUNTS])
            raise RpcFault(
                -32602, "Invalid parameters: No parameters were expected", f"Array([{listed}])"
            )
        return answer()

    return checked


def _debug(value: Any) -> str:
    match value:
        case bool():
            return f"Bool({str(value).lower()})"
        case int() | float():
            return f"Number({value})"
        case str():
            return f'String("{value[:64]}")'
        case _:
            return "Object {..}"
