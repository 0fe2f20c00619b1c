"""What is left of the embedded chain after SIGKILL, a full disk, and damage to its files."""

from __future__ import annotations

import base64
import random
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import lmdb
import pytest
from embedded_ledgers import ALICE, BOB, FEE, LAMPORTS, Chain, pay
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from robocompute_protocol.errors import StoreError
from robocompute_settlement.embedded.storage import ChainStore
from robocompute_settlement.localworld import local_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from settlement_chains import ChainWorld, Person

WRITER = """
import sys
from itertools import count
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from embedded_ledgers import Chain, pay
chain = Chain(Path(sys.argv[2]))
for number in count(int(sys.argv[3])):
    signature = chain.send(pay(1_000_000 + number))
    print(number, signature.hex(), flush=True)
"""
"""A chain that writes as fast as it can, and says what it has promised."""


def promises(folder: Path, first: int, many: int) -> list[tuple[int, bytes]]:
    """Let a chain write, kill it after ``many`` promises; all it said until then."""
    command = [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(folder), str(first)]
    said: list[tuple[int, bytes]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if len(said) == many:
                writer.kill()
            if line.endswith("\n"):  # the last one may be cut off
                number, signature = line.split()
                said.append((int(number), bytes.fromhex(signature)))
    assert len(said) >= many
    return said


def test_a_chain_killed_at_any_moment_keeps_every_promise_once_and_nothing_by_half(
    tmp_path: Path,
) -> None:
    folder, moments = tmp_path / "chain", random.Random(20_261_121)
    promised: dict[int, bytes] = {}
    for _ in range(8):
        first = max(promised, default=-1) + 1
        # One that landed while the process died was never promised; it may be there all the same.
        promised.update(promises(folder, first + 1, moments.randrange(1, 150)))
        chain = Chain(folder)
        listed = list(chain.ledger.touching(bytes(BOB.pubkey())))
        assert len(listed) == len(set(listed)) == chain.ledger.transaction_count
        assert set(promised.values()) <= set(listed)
        landed = [chain.landed(signature) for signature in listed]
        assert sorted(each.sequence for each in landed) == list(range(len(landed)))
        moved = sum(each.after[1] - each.before[1] for each in landed)
        assert chain.balance(BOB.pubkey()) == LAMPORTS + moved
        assert chain.balance(ALICE.pubkey()) == LAMPORTS - moved - FEE * len(landed)
        assert [each.signature for each in chain.ledger.block(1)] == listed[::-1]
        chain.close()


class Sender:
    """Sends transfers over HTTP, each of another amount."""

    def __init__(self, world: ChainWorld, person: Person, receiver: Pubkey) -> None:
        self.world, self.payer, self.receiver = world, Keypair.from_seed(person.seed), receiver
        self.amounts: dict[str, int] = {}
        """Of what was answered, by signature."""

    def wires(self, first: int, many: int) -> Iterator[tuple[int, str]]:
        answer = self.world.call("getLatestBlockhash", {"commitment": "confirmed"})
        blockhash = Hash.from_string(answer["result"]["value"]["blockhash"])
        for amount in range(first, first + many):
            instruction = pay(amount, self.receiver, source=self.payer)
            message = Message.new_with_blockhash([instruction], self.payer.pubkey(), blockhash)
            wire = bytes(VersionedTransaction(message, [self.payer]))
            yield amount, base64.b64encode(wire).decode()

    def send(self, first: int, many: int) -> bool:
        """Send; false where the chain was gone before all were answered."""
        options = {"encoding": "base64", "skipPreflight": True}
        with httpx.Client(trust_env=False, timeout=20) as client:
            for amount, wire in self.wires(first, many):
                body = {"jsonrpc": "2.0", "id": 1, "method": "sendTransaction",
                        "params": [wire, options]}  # fmt: skip
                try:
                    answer = client.post(self.world.rpc_url, json=body).json()
                except httpx.HTTPError:
                    return False
                self.amounts[answer["result"]] = amount
        return True

    def check(self) -> None:
        """Hold the chain to what it answered."""
        address = str(self.payer.pubkey())
        answer = self.world.call("getSignaturesForAddress", address, {"commitment": "confirmed"})
        listed = [each["signature"] for each in answer["result"]]
        assert len(listed) == len(set(listed))
        assert set(self.amounts) <= set(listed)
        confirmed = {"commitment": "confirmed"}
        held = self.world.call("getBalance", str(self.receiver), confirmed)["result"]["value"]
        left = self.world.call("getBalance", address, confirmed)["result"]["value"]
        assert held >= sum(self.amounts.values())
        assert held + left + FEE * len(listed) == LAMPORTS_OF_PERSON


LAMPORTS_OF_PERSON = 10_000_000_000
MANY = 60


def test_a_full_disk_ends_the_chain_with_a_clear_error_and_loses_no_answer(
    own_world: ChainWorld,
) -> None:
    world = own_world
    receiver = Pubkey.from_bytes(local_seed("receiver"))
    sender = Sender(world, world.person(), receiver)
    assert sender.send(1_000_000, 5)
    assert world.process is not None
    size = (world.folder / "chain" / "data.mdb").stat().st_size
    limit = size + 100_000
    resource.prlimit(world.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    assert not sender.send(2_000_000, 2_000)
    assert world.process.wait(20) == 1
    said = (world.folder / "chain.log").read_text()
    assert "cannot be written" in said
    assert "disk" in said
    assert "Traceback" not in said
    world.stop()
    world.start_embedded()
    sender.check()
    assert sender.send(3_000_000, 5)
    sender.check()


def test_a_killed_process_answers_its_clients_again_with_all_it_had_answered(
    own_world: ChainWorld,
) -> None:
    world = own_world
    sender = Sender(world, world.person(), Pubkey.from_bytes(local_seed("receiver")))
    early = dict(sender.wires(9_000_000, 1))
    for round_ in range(3):
        assert sender.send(1_000_000 * (round_ + 1), MANY)
        world.kill()
        world.start_embedded()
        sender.check()
    # A transaction signed before the kills is still taken: blockhashes outlive the process.
    options = {"encoding": "base64", "preflightCommitment": "confirmed"}
    answer = world.call("sendTransaction", early[9_000_000], options)
    assert "result" in answer or answer["error"]["data"]["err"] == "BlockhashNotFound"


# --- damage --------------------------------------------------------------------------------------


def started(folder: Path) -> subprocess.CompletedProcess[str]:
    """Try to start a chain on these files."""
    genesis = folder.parent / "genesis.json"
    genesis.write_text('{"faucet": ' + str(list(bytes(ALICE))) + "}")
    return subprocess.run(
        [sys.executable, "-m", "robocompute_settlement.embedded", "--dir", str(folder),
         "--config", str(genesis), "--rpc-port", "0", "--ws-port", "0"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def kept(tmp_path: Path) -> Path:
    """The folder of a chain with some history."""
    chain = Chain(tmp_path / "chain")
    for number in range(30):
        chain.send(pay(1_000_000 + number))
    chain.close()
    return tmp_path / "chain"


@pytest.mark.parametrize("damage", ["cut off", "overwritten", "emptied"])
def test_a_damaged_file_is_one_clear_line(tmp_path: Path, damage: str) -> None:
    folder = kept(tmp_path)
    file = folder / "data.mdb"
    raw = file.read_bytes()
    file.write_bytes(
        {"cut off": raw[: len(raw) // 2], "overwritten": b"x" * len(raw), "emptied": b"x"}[damage]
    )
    ended = started(folder)
    assert ended.returncode == 1
    assert "damaged" in ended.stderr
    assert ended.stderr.startswith("embedded chain: ")
    assert ended.stderr.count("\n") == 1


def record(folder: Path, table: bytes, key: bytes, value: bytes) -> None:
    """Write straight into a chain's file."""
    with lmdb.open(str(folder), max_dbs=8) as env:
        handle = env.open_db(table)
        with env.begin(write=True) as txn:
            txn.put(key, value, db=handle)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        (b"accounts", bytes(32), b"short"),
        (b"accounts", b"short", bytes(60)),
        (b"meta", b"founding", b"\xc1"),
        (b"meta", b"forks", b"\x81\x01\x02"),
        (b"undo", bytes(20), b"\xc1"),
    ],
)
def test_a_record_that_is_none_is_one_clear_line(
    tmp_path: Path, table: bytes, key: bytes, value: bytes
) -> None:
    folder = kept(tmp_path)
    record(folder, table, key, value)
    ended = started(folder)
    assert ended.returncode == 1
    assert "damaged" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_another_versions_chain_is_left_alone(tmp_path: Path) -> None:
    folder = kept(tmp_path)
    record(folder, b"meta", b"format", b"embedded-chain/1")
    with pytest.raises(StoreError, match="another version"):
        ChainStore(folder)


def test_a_folder_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "chain").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        ChainStore(tmp_path / "chain")


def test_a_bad_record_in_use_ends_the_chain_and_no_client_is_told_nonsense(
    tmp_path: Path,
) -> None:
    folder = kept(tmp_path)
    chain = Chain(folder)
    signature = next(iter(chain.ledger.touching(bytes(BOB.pubkey()))))
    chain.close()
    record(folder, b"transactions", signature, b"\xc1")
    chain.open()
    answer: Any = None
    with pytest.raises(StoreError, match="damaged"):
        answer = chain.call("getSignaturesForAddress", str(BOB.pubkey()))
    assert answer is None
    chain.close()
