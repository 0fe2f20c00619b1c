"""The requests of Solana's command line, in its order and with its options.

The binary is not at hand everywhere; what it sends was read from its sources (``cli/src`` and
``rpc-client/src`` of Agave 3.1), and the shapes of the answers are compared with the validator's
in ``test_embedded_parity``.
"""

from __future__ import annotations

import base64
import ctypes
import ctypes.util
import os
from typing import TYPE_CHECKING, Any, Final

import pytest
from settlement_chains import LAMPORTS, ChainWorld
from solders.compute_budget import set_compute_unit_limit
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from robocompute_protocol.identifiers import to_base58
from robocompute_settlement.embedded.account_json import zstd_frame

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIRMED: Final = {"commitment": "confirmed"}
ZSTD: Final = {"encoding": "base64+zstd", "commitment": "confirmed"}


def ask(world: ChainWorld, method: str, *params: Any) -> Any:
    answer = world.call(method, *params)
    assert "result" in answer, answer
    return answer["result"]


def text(transaction: VersionedTransaction) -> str:
    return base64.b64encode(bytes(transaction)).decode()


def plain(data: list[str]) -> bytes:
    """What is in an account's data; the frame's head is 9 bytes and each block's 3."""
    frame, encoding = base64.b64decode(data[0]), data[1]
    assert encoding == "base64+zstd"
    raw = frame[9 + 3 :]
    assert zstd_frame(raw) == frame, "an account of one block"
    return raw


def test_balance_and_account(own_world: ChainWorld) -> None:
    person = own_world.person()
    address = to_base58(person.address)
    assert ask(own_world, "getBalance", address, CONFIRMED)["value"] == LAMPORTS
    account = ask(own_world, "getAccountInfo", address, ZSTD)["value"]
    assert plain(account["data"]) == b""
    mint = ask(own_world, "getAccountInfo", to_base58(own_world.usdc), ZSTD)["value"]
    assert len(plain(mint["data"])) == 82


def test_transfer_and_confirm(own_world: ChainWorld) -> None:
    sender, receiver = own_world.person(), own_world.person()
    payer = Keypair.from_seed(sender.seed)
    to = Pubkey.from_bytes(receiver.address)
    latest = ask(own_world, "getLatestBlockhash", CONFIRMED)["value"]
    assert ask(own_world, "isBlockhashValid", latest["blockhash"], CONFIRMED)["value"] is True
    assert ask(own_world, "getBalance", str(to), CONFIRMED)["value"] > 0
    pay = transfer(TransferParams(from_pubkey=payer.pubkey(), to_pubkey=to, lamports=5_000_000))
    # How many units it takes, asked with a transaction that nobody has signed.
    guess = Message([set_compute_unit_limit(1_400_000), pay], payer.pubkey())
    unsigned = VersionedTransaction.populate(guess, [Signature.default()])
    options = {**CONFIRMED, "encoding": "base64", "sigVerify": False,
               "replaceRecentBlockhash": True, "innerInstructions": False}  # fmt: skip
    simulated = ask(own_world, "simulateTransaction", text(unsigned), options)["value"]
    assert simulated["err"] is None
    units = simulated["unitsConsumed"]
    message = Message.new_with_blockhash(
        [set_compute_unit_limit(units), pay],
        payer.pubkey(),
        Hash.from_string(latest["blockhash"]),
    )
    raw = base64.b64encode(bytes(message)).decode()
    assert ask(own_world, "getFeeForMessage", raw, CONFIRMED)["value"] == 5_000
    assert ask(own_world, "getBalance", str(payer.pubkey()), CONFIRMED)["value"] == LAMPORTS
    options = {"encoding": "base64", "preflightCommitment": "confirmed"}
    wire = text(VersionedTransaction(message, [payer]))
    signature = ask(own_world, "sendTransaction", wire, options)
    assert ask(own_world, "getSignatureStatuses", [signature])["value"][0]["err"] is None
    assert ask(own_world, "getBlockHeight", CONFIRMED) <= latest["lastValidBlockHeight"]
    # solana confirm -v
    history = {"searchTransactionHistory": True}
    found = ask(own_world, "getSignatureStatuses", [signature], history)["value"][0]
    assert found["confirmationStatus"] == "confirmed"
    options = {**CONFIRMED, "encoding": "base64", "maxSupportedTransactionVersion": 0}
    shown = ask(own_world, "getTransaction", signature, options)
    assert shown["transaction"] == [wire, "base64"]
    assert shown["version"] == "legacy"
    assert ask(own_world, "getBalance", str(to), CONFIRMED)["value"] == LAMPORTS + 5_000_000


def test_airdrop(own_world: ChainWorld) -> None:
    address = str(Keypair().pubkey())
    before = ask(own_world, "getBalance", address, CONFIRMED)["value"]
    blockhash = ask(own_world, "getLatestBlockhash", CONFIRMED)["value"]["blockhash"]
    options = {"recentBlockhash": blockhash, **CONFIRMED}
    signature = ask(own_world, "requestAirdrop", address, 2_000_000_000, options)
    assert ask(own_world, "getSignatureStatuses", [signature])["value"][0]["err"] is None
    assert before == 0
    assert ask(own_world, "getBalance", address, CONFIRMED)["value"] == 2_000_000_000


def test_program_show(own_world: ChainWorld) -> None:
    program = to_base58(own_world.plan.program_id)
    account = ask(own_world, "getAccountInfo", program, ZSTD)["value"]
    assert account["owner"] == "BPFLoaderUpgradeab1e11111111111111111111111"
    assert account["executable"]
    pointer = plain(account["data"])
    assert pointer[:4] == b"\x02\0\0\0"
    data = str(Pubkey.from_bytes(pointer[4:36]))
    head = {**ZSTD, "dataSlice": {"offset": 0, "length": 45}}
    metadata = ask(own_world, "getAccountInfo", data, head)["value"]
    raw = plain(metadata["data"])
    assert (raw[:4], raw[12]) == (b"\x03\0\0\0", 1)
    assert raw[13:45] == own_world.plan.faucet
    elf = (own_world.plan.program_binary).read_bytes()
    assert metadata["space"] == 45 + len(elf)


@pytest.fixture
def decompress() -> Callable[[bytes, int], bytes]:
    """Zstandard itself, where the machine has it."""
    name = ctypes.util.find_library("zstd")
    if name is None:
        pytest.skip("no libzstd on this machine")
    library = ctypes.CDLL(name)
    library.ZSTD_decompress.restype = ctypes.c_size_t
    library.ZSTD_decompress.argtypes = [
        ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t,
    ]  # fmt: skip

    def decompressed(frame: bytes, size: int) -> bytes:
        room = ctypes.create_string_buffer(max(size, 1))
        assert library.ZSTD_decompress(room, size, frame, len(frame)) == size
        return room.raw[:size]

    return decompressed


@pytest.mark.parametrize("size", [0, 1, 165, 131_071, 131_072, 131_073, 400_000])
def test_zstandard_reads_the_frames_that_accounts_are_sent_in(
    decompress: Callable[[bytes, int], bytes], size: int
) -> None:
    raw = os.urandom(size)
    assert decompress(zstd_frame(raw), size) == raw
