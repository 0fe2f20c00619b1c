"""What a transaction costs: signatures, priority, and the runtime's measure of its work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from solders.pubkey import Pubkey

if TYPE_CHECKING:
    from solders.message import Message, MessageV0

LAMPORTS_PER_SIGNATURE: Final = 5_000
MICRO_LAMPORTS: Final = 1_000_000
"""Micro-lamports in a lamport: compute units are priced in them."""
MAX_UNITS: Final = 1_400_000
"""Compute units of one transaction at most."""
UNITS_PER_INSTRUCTION: Final = 200_000
UNITS_PER_BUILTIN: Final = 3_000
"""What an instruction may use where the transaction sets no limit."""

PRICED_SLOTS: Final = 150
"""How long prices are remembered."""

COMPUTE_BUDGET: Final = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
ED25519_PROGRAM: Final = Pubkey.from_string("Ed25519SigVerify111111111111111111111111111")
SECP256K1_PROGRAM: Final = Pubkey.from_string("KeccakSecp256k11111111111111111111111111111")
PRECOMPILES: Final = frozenset({ED25519_PROGRAM, SECP256K1_PROGRAM})
_BUILTINS: Final = frozenset(
    {
        COMPUTE_BUDGET,
        Pubkey.default(),
        Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111"),
        Pubkey.from_string("BPFLoader2111111111111111111111111111111111"),
        Pubkey.from_string("LoaderV411111111111111111111111111111111111"),
        Pubkey.from_string("Vote111111111111111111111111111111111111111"),
    }
)
_SET_LIMIT: Final = 2
_SET_PRICE: Final = 3

_COST_SIGNATURE: Final = 720
_COST_PRECOMPILE: Final = {ED25519_PROGRAM: 2_280, SECP256K1_PROGRAM: 6_690}
_COST_WRITE_LOCK: Final = 300
_COST_PAGE: Final = 8
PAGE_BYTES: Final = 32_768
"""Loaded account data are counted in pages of this size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fee:
    """Lamports, whether the transaction succeeds or fails."""

    base: int
    priority: int

    @property
    def total(self) -> int:
        return self.base + self.priority


def fee_of(message: Message | MessageV0) -> Fee:
    """What a transaction costs in a block."""
    signatures = message.header.num_required_signatures
    limit, price, default = -1, 0, 0
    for instruction in message.instructions:
        program = message.account_keys[instruction.program_id_index]
        data = bytes(instruction.data)
        if program in PRECOMPILES:
            signatures += data[0] if data else 0
        else:
            default += UNITS_PER_BUILTIN if program in _BUILTINS else UNITS_PER_INSTRUCTION
        if program == COMPUTE_BUDGET and data:
            if data[0] == _SET_LIMIT:
                limit = int.from_bytes(data[1:5], "little")
            elif data[0] == _SET_PRICE:
                price = int.from_bytes(data[1:9], "little")
    units = min(default if limit < 0 else limit, MAX_UNITS)
    return Fee(
        base=signatures * LAMPORTS_PER_SIGNATURE, priority=-(-price * units // MICRO_LAMPORTS)
    )


def unit_price(message: Message | MessageV0) -> int:
    """Micro-lamports a compute unit, as the transaction offers them."""
    for instruction in message.instructions:
        data = bytes(instruction.data)
        program = message.account_keys[instruction.program_id_index]
        if program == COMPUTE_BUDGET and data[:1] == bytes([_SET_PRICE]):
            return int.from_bytes(data[1:9], "little")
    return 0


class RecentPrices:
    """The lowest prices that recent blocks took. Forgotten at a restart, as a node's are."""

    def __init__(self) -> None:
        self._blocks: dict[int, int] = {}
        self._accounts: dict[int, dict[Pubkey, int]] = {}

    def note(self, slot: int, price: int, written: list[Pubkey]) -> None:
        """Remember a transaction that landed, and the accounts it could write."""
        for old in [each for each in self._blocks if each < slot - PRICED_SLOTS]:
            del self._blocks[old], self._accounts[old]
        self._blocks[slot] = min(price, self._blocks.get(slot, price))
        accounts = self._accounts.setdefault(slot, {})
        for key in written:
            accounts[key] = min(price, accounts.get(key, price))

    def forget_after(self, slot: int) -> None:
        """Forget the blocks of a dropped fork."""
        for gone in [each for each in self._blocks if each > slot]:
            del self._blocks[gone], self._accounts[gone]

    def listed(self, wanted: list[Pubkey]) -> list[tuple[int, int]]:
        """For each block with transactions, what it took to write all of these accounts."""
        return [
            (slot, max([lowest, *(self._accounts[slot].get(key, 0) for key in wanted)]))
            for slot, lowest in sorted(self._blocks.items())
        ]


def cost_of(message: Message | MessageV0, *, writable: int, units: int, loaded_bytes: int) -> int:
    """The runtime's cost model: what a transaction takes of a block's capacity."""
    cost = message.header.num_required_signatures * _COST_SIGNATURE
    data_bytes = 0
    for instruction in message.instructions:
        data = bytes(instruction.data)
        data_bytes += len(data)
        program = message.account_keys[instruction.program_id_index]
        cost += _COST_PRECOMPILE.get(program, 0) * (data[0] if data else 0)
    pages = -(-loaded_bytes // PAGE_BYTES)
    return cost + writable * _COST_WRITE_LOCK + data_bytes // 4 + units + pages * _COST_PAGE
