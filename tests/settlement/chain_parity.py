"""Requests that two chains must answer in the same shape, and what a shape is.

Used against the embedded chain and Solana's own test validator: names, types and error codes must
be the same; values are compared only where they do not depend on time.
"""

from __future__ import annotations

import base64
import json
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from settlement_chains import deposit
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.token import ID as TOKEN_PROGRAM
from solders.transaction import VersionedTransaction

from robocompute_settlement.localworld import local_address

if TYPE_CHECKING:
    from settlement_chains import ChainWorld, Person

CONFIRMED: Final = {"commitment": "confirmed"}
BASE64: Final = {"encoding": "base64", "commitment": "confirmed"}
WAIT_S: Final = 90.0
"""A transfer is confirmed in under a second; on a busy machine the validator drops some, and
sends them again when it sees that."""
LOADER: Final = "BPFLoaderUpgradeab1e11111111111111111111111"
VOTE: Final = "Vote111111111111111111111111111111111111111"
MIN_ADDRESS_CHARS: Final = 32
CLOCK: Final = "SysvarC1ock11111111111111111111111111111111"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request. ``same_value`` where the whole answer must be equal, not only its shape."""

    method: str
    params: tuple[Any, ...] = ()
    same_value: bool = False
    loose: bool = False
    """Whether a list may be empty on one chain only."""
    note: str = ""

    @property
    def name(self) -> str:
        return f"{self.method} {self.note}".strip()


@dataclass(slots=True, kw_only=True)
class Stage:
    """A chain on which the same few things have happened as on the other."""

    world: ChainWorld
    sender: Person
    receiver: Person
    deposited: str = ""
    """Signature of a deposit into the program."""
    transferred: str = ""
    failed: str = ""
    """Signature of a transaction that landed and failed."""
    versioned: str = ""
    recent: str = ""
    """Signature of a transfer that is not final; all others are."""
    slots: dict[str, int] = field(default_factory=dict[str, int])

    def call(self, method: str, *params: Any) -> Any:
        answer = self.world.call(method, *params)
        assert "result" in answer, (method, answer)
        return answer["result"]

    def blockhash(self, level: str = "confirmed") -> Hash:
        answer = self.call("getLatestBlockhash", {"commitment": level})
        return Hash.from_string(answer["value"]["blockhash"])

    def wait(self, signature: str) -> int:
        """Wait until a transaction is confirmed; its slot."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            status = self.call("getSignatureStatuses", [signature])["value"][0]
            if status is not None and status["confirmationStatus"] != "processed":
                return int(status["slot"])
            time.sleep(0.05)  # another process, and nothing to wait on
        raise AssertionError(f"{signature} is not confirmed")

    # --- transactions ---------------------------------------------------------------------------

    def pay(self, lamports: int) -> Instruction:
        return transfer(
            TransferParams(
                from_pubkey=Pubkey.from_bytes(self.sender.address),
                to_pubkey=Pubkey.from_bytes(self.receiver.address),
                lamports=lamports,
            )
        )

    def legacy(self, *instructions: Instruction, blockhash: Hash | None = None) -> str:
        payer = Keypair.from_seed(self.sender.seed)
        message = Message.new_with_blockhash(
            list(instructions), payer.pubkey(), blockhash or self.blockhash()
        )
        return encoded(VersionedTransaction(message, [payer]))

    def v0(self, *instructions: Instruction) -> str:
        payer = Keypair.from_seed(self.sender.seed)
        message = MessageV0.try_compile(payer.pubkey(), list(instructions), [], self.blockhash())
        return encoded(VersionedTransaction(message, [payer]))

    def land(self, wire: str) -> str:
        """Send without looking first, and wait for it."""
        options = {**BASE64, "skipPreflight": True}
        signature = str(self.call("sendTransaction", wire, options))
        self.slots[signature] = self.wait(signature)
        self.wait_for_slot(self.slots[signature] + 1, "processed")  # a block for each
        return signature

    def wait_for_slot(self, slot: int, level: str) -> None:
        """Wait until a slot is this sure."""
        deadline = time.monotonic() + WAIT_S
        while self.call("getSlot", {"commitment": level}) < slot:
            assert time.monotonic() < deadline, f"slot {slot} is not {level}"
            time.sleep(0.05)  # another process, and nothing to wait on


def encoded(transaction: VersionedTransaction) -> str:
    """A transaction as ``sendTransaction`` takes it."""
    return base64.b64encode(bytes(transaction)).decode("ascii")


def nonsense() -> Instruction:
    """An instruction that the settlement program refuses."""
    program = Pubkey.from_bytes(local_address("program"))
    return Instruction(program, b"\xff", [AccountMeta(TOKEN_PROGRAM, False, False)])


def bad_voucher() -> Instruction:
    """An instruction of the Ed25519 precompile with a signature of nothing."""
    program = Pubkey.from_string("Ed25519SigVerify111111111111111111111111111")
    return Instruction(program, b"\x01\x00" + bytes(100), [])


def set_stage(world: ChainWorld) -> Stage:
    """Let the same things happen on either chain."""
    stage = Stage(world=world, sender=world.person(), receiver=world.person())
    stage.deposited = deposit(world, stage.sender, 1_000)
    # A quick chain may have put all since its start into one block; the transfer has its own.
    stage.wait_for_slot(stage.wait(stage.deposited) + 1, "processed")
    stage.transferred = stage.land(stage.legacy(stage.pay(1_000_000)))
    stage.failed = stage.land(stage.legacy(stage.pay(1), nonsense()))
    stage.versioned = stage.land(stage.v0(stage.pay(2_000_000)))
    if world.name == "embedded":
        world.call("embeddedSkip", 20)
    stage.wait_for_slot(stage.slots[stage.versioned], "finalized")
    return stage


def shape(value: Any) -> Any:
    """Names and types of an answer, without its values."""
    match value:
        case dict():
            return {_name(str(key)): shape(each) for key, each in sorted(value.items())}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case list():
            found: list[Any] = []
            for each in value:  # pyright: ignore[reportUnknownVariableType]
                one = shape(each)
                if one not in found:
                    found.append(one)
            return sorted(found, key=repr)
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case None:
            return "null"
        case _:
            return "text"


def _name(key: str) -> str:
    """A key as it is, unless it is somebody's address."""
    return "(address)" if len(key) >= MIN_ADDRESS_CHARS else key


def form(answer: Any) -> Any:
    """What must be the same of an answer: an error's code and sentence, a result's shape."""
    if "error" in answer:
        error = answer["error"]
        sentence = re.sub(r"\d+", "N", error["message"])
        return {"code": error["code"], "message": sentence, "data": shape(error.get("data"))}
    return shape(without_votes(answer["result"]))


def without_votes(result: Any) -> Any:
    """A block without its votes, which only a cluster has."""
    match result:
        case {"transactions": list(listed), **rest}:  # pyright: ignore[reportUnknownVariableType]
            kept: list[Any] = [each for each in listed if VOTE not in json.dumps(each)]  # pyright: ignore[reportUnknownVariableType]
            out: dict[str, Any] = {**rest, "transactions": kept}
            return out
        case _:
            return result


def alike(first: Any, second: Any) -> bool:
    """Whether two shapes are the same where an empty list is like any other."""
    match first, second:
        case dict(), dict():
            return first.keys() == second.keys() and all(
                alike(first[key], second[key])
                for key in first  # pyright: ignore[reportUnknownVariableType]
            )
        case (list(), []) | ([], list()):
            return True
        case _:
            return bool(first == second)
