"""An embedded chain inside the test's own process, with a clock that the test moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from robocompute_settlement.embedded.genesis import Genesis, Mint, Wallet
from robocompute_settlement.embedded.ledger import Ledger, Level, open_ledger
from robocompute_settlement.embedded.methods import Methods
from robocompute_settlement.embedded.storage import ChainStore
from robocompute_settlement.embedded.timeline import SLOT_MS
from robocompute_settlement.localworld import local_seed

if TYPE_CHECKING:
    from pathlib import Path

    from solders.instruction import Instruction

    from robocompute_settlement.embedded.storage import Landed

START_MS: Final = 1_800_000_000_000
LAMPORTS: Final = 10_000_000_000
TOKENS: Final = 5_000_000
ALICE: Final = Keypair.from_seed(local_seed("alice"))
BOB: Final = Keypair.from_seed(local_seed("bob"))
MINT: Final = Keypair.from_seed(local_seed("mint")).pubkey()
FEE: Final = 5_000
MEMO: Final = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")


def founding_genesis() -> Genesis:
    """Two wallets and a mint."""
    faucet = Keypair.from_seed(local_seed("faucet"))
    wallets = [
        Wallet(address=str(each.pubkey()), lamports=LAMPORTS, tokens={str(MINT): TOKENS})
        for each in (ALICE, BOB)
    ]
    mint = Mint(symbol="USDC", address=str(MINT), authority=str(faucet.pubkey()))
    return Genesis(faucet=list(bytes(faucet)), mints=(mint,), wallets=tuple(wallets))


@dataclass(slots=True)
class Chain:
    """A ledger, its methods, and its time."""

    folder: Path
    history: int = 100_000
    now_ms: int = START_MS
    store: ChainStore = field(init=False)
    ledger: Ledger = field(init=False)
    methods: Methods = field(init=False)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Open the chain, as a new process would."""
        self.store = ChainStore(self.folder, history=self.history)
        self.ledger = open_ledger(self.store, founding_genesis(), lambda: self.now_ms)
        self.methods = Methods(self.ledger, faults=True)

    def close(self) -> None:
        """Release the folder."""
        self.store.__exit__()

    def reopen(self) -> None:
        """Forget all that is only in memory."""
        self.close()
        self.open()

    def call(self, name: str, *params: Any) -> Any:
        """A JSON-RPC request."""
        return self.methods.call(name, list(params))

    def faults(self, **changes: Any) -> None:
        """Switch some faults."""
        self.call("embeddedFaults", changes)

    def pass_slots(self, slots: int) -> int:
        """Let time pass; the present slot."""
        self.now_ms += slots * SLOT_MS
        return self.ledger.tick()

    def balance(self, who: Pubkey, level: Level = Level.CONFIRMED) -> int:
        account = self.ledger.account(who, level)
        return 0 if account is None else account.lamports

    def send(self, *instructions: Instruction, payer: Keypair = ALICE) -> bytes:
        """Send a transaction without looking first; its signature."""
        return self.ledger.submit(self.signed(*instructions, payer=payer))

    def signed(self, *instructions: Instruction, payer: Keypair = ALICE) -> bytes:
        """A signed transaction with the latest blockhash."""
        blockhash, _ = self.ledger.latest_blockhash(Level.PROCESSED)
        message = Message.new_with_blockhash(list(instructions), payer.pubkey(), Hash(blockhash))
        return bytes(VersionedTransaction(message, [payer]))

    def landed(self, signature: bytes) -> Landed:
        """A transaction that must be in a block."""
        found = self.ledger.transaction(signature)
        assert found is not None
        return found

    def status(self, signature: bytes) -> str | None:
        """How sure the endpoint is of a transaction."""
        found = self.ledger.transaction(signature)
        level = None if found is None else self.ledger.level_of(found)
        return None if level is None else level.name.lower()


def pay(lamports: int, to: Pubkey | None = None, *, source: Keypair = ALICE) -> Instruction:
    """A transfer of SOL, to Bob unless it says to whom."""
    return transfer(
        TransferParams(
            from_pubkey=source.pubkey(), to_pubkey=to or BOB.pubkey(), lamports=lamports
        )
    )


def stranger(name: str) -> Pubkey:
    """An address that has nothing."""
    return Keypair.from_seed(local_seed(f"stranger-{name}")).pubkey()
