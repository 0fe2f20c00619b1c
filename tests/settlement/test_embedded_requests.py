"""What the embedded chain answers: to Solana's own client, to sense and to nonsense."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from settlement_chains import LAMPORTS, POOL, TOKENS, ChainWorld, Person, deposit
from solana.rpc.api import Client
from solana.rpc.commitment import Confirmed, Finalized
from solana.rpc.types import MemcmpOpts, TokenAccountOpts
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.system_program import TransferParams, transfer
from solders.token import ID as TOKEN_PROGRAM
from solders.transaction import VersionedTransaction

from robocompute_protocol.identifiers import to_base58
from robocompute_settlement.addresses import associated_token_account
from robocompute_settlement.localworld import local_address, local_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AMOUNT = 1_000


def key_of(person: Person) -> Keypair:
    return Keypair.from_seed(person.seed)


# --- Solana's own Python client ------------------------------------------------------------------


@pytest.fixture
def solana_client() -> Iterator[Callable[[ChainWorld], Client]]:
    """Makes clients whose connections, which they have no method for, are closed afterwards."""
    made: list[Client] = []

    def make(world: ChainWorld) -> Client:
        made.append(Client(world.rpc_url, commitment=Confirmed, timeout=20))
        return made[-1]

    yield make
    for client in made:
        client._provider.session.close()  # pyright: ignore[reportPrivateUsage]


def test_solana_py_reads_balances_and_sends_a_transfer(
    own_world: ChainWorld, solana_client: Callable[[ChainWorld], Client]
) -> None:
    world, sender, receiver = own_world, own_world.person(), own_world.person()
    client = solana_client(world)
    assert client.is_connected()
    assert client.get_balance(Pubkey.from_bytes(sender.address)).value == LAMPORTS
    latest = client.get_latest_blockhash().value
    instruction = transfer(
        TransferParams(
            from_pubkey=Pubkey.from_bytes(sender.address),
            to_pubkey=Pubkey.from_bytes(receiver.address),
            lamports=1_000_000,
        )
    )
    message = MessageV0.try_compile(
        Pubkey.from_bytes(sender.address), [instruction], [], latest.blockhash
    )
    assert client.get_fee_for_message(message).value == 5_000
    transaction = VersionedTransaction(message, [key_of(sender)])
    assert client.simulate_transaction(transaction).value.err is None
    signature = client.send_transaction(transaction).value
    confirmed = client.confirm_transaction(
        signature, Confirmed, sleep_seconds=0.01,
        last_valid_block_height=latest.last_valid_block_height,
    )  # fmt: skip
    assert confirmed.value[0] is not None
    assert confirmed.value[0].err is None
    assert client.get_balance(Pubkey.from_bytes(receiver.address)).value == LAMPORTS + 1_000_000
    assert client.get_balance(Pubkey.from_bytes(sender.address)).value == LAMPORTS - 1_005_000
    # Not final yet, so a reader who asks for finality sees the balance before it.
    old = client.get_balance(Pubkey.from_bytes(receiver.address), commitment=Finalized)
    assert old.value == LAMPORTS


def test_solana_py_reads_what_its_tools_show(
    own_world: ChainWorld, solana_client: Callable[[ChainWorld], Client]
) -> None:
    world, person = own_world, own_world.person()
    owner = Pubkey.from_bytes(person.address)
    signature = Signature.from_string(deposit(world, person))
    client = solana_client(world)
    mint = Pubkey.from_bytes(world.usdc)
    wallet = Pubkey.from_bytes(associated_token_account(person.address, world.usdc))
    assert client.get_token_account_balance(wallet).value.amount == str(TOKENS - AMOUNT)
    assert client.get_token_supply(mint).value.amount == str(POOL * TOKENS)
    listed = client.get_token_accounts_by_owner(owner, TokenAccountOpts(mint=mint)).value
    assert [each.pubkey for each in listed] == [wallet]
    parsed = client.get_token_accounts_by_owner_json_parsed(
        owner, TokenAccountOpts(program_id=TOKEN_PROGRAM)
    ).value
    info: Any = parsed[0].account.data.parsed["info"]
    assert info["tokenAmount"]["uiAmountString"] == "999.999"
    program = Pubkey.from_bytes(world.plan.program_id)
    kind_and_owner = [152, MemcmpOpts(offset=8, bytes=str(owner))]
    balances = client.get_program_accounts(program, filters=kind_and_owner).value
    assert len(balances) == 1
    assert struct.unpack_from("<Q", balances[0].account.data, 104)[0] == AMOUNT
    shown = client.get_transaction(signature, max_supported_transaction_version=0).value
    assert shown is not None
    assert shown.transaction.meta is not None
    assert shown.transaction.meta.err is None
    assert shown.transaction.meta.fee >= 5_000
    assert shown.transaction.meta.inner_instructions
    assert any("success" in line for line in shown.transaction.meta.log_messages or [])
    spelled = client.get_transaction(signature, encoding="jsonParsed").value
    assert spelled is not None
    assert client.get_signatures_for_address(owner).value[0].signature == signature
    assert client.get_signature_statuses([signature]).value[0] is not None
    assert client.get_account_info(program).value is not None
    assert client.get_multiple_accounts([owner, program]).value[1] is not None
    assert client.get_account_info(Pubkey.from_bytes(local_seed("nobody"))).value is None
    assert client.get_minimum_balance_for_rent_exemption(165).value == 2_039_280
    assert client.get_block_time(client.get_slot().value).value is not None
    assert client.get_epoch_info().value.slots_in_epoch == 432_000
    assert client.get_version().value.solana_core
    assert client.get_genesis_hash().value != Hash.default()
    assert client.get_identity().value
    assert client.get_cluster_nodes().value
    assert client.get_block_height().value >= 0
    assert client.get_transaction_count().value >= 2


def test_the_faucet_gives_sol_to_anybody(
    own_world: ChainWorld, solana_client: Callable[[ChainWorld], Client]
) -> None:
    stranger = Pubkey.from_bytes(local_address("stranger"))
    client = solana_client(own_world)
    signature = client.request_airdrop(stranger, 7_000_000_000).value
    client.confirm_transaction(signature, Confirmed, sleep_seconds=0.01)
    assert client.get_balance(stranger).value == 7_000_000_000


# --- transactions and refusals -------------------------------------------------------------------


def signed_transfer(
    world: ChainWorld, sender: Person, lamports: int, blockhash: str | None = None
) -> str:
    if blockhash is None:
        latest = world.call("getLatestBlockhash", {"commitment": "confirmed"})
        blockhash = latest["result"]["value"]["blockhash"]
    owner = Pubkey.from_bytes(sender.address)
    instruction = transfer(
        TransferParams(
            from_pubkey=owner,
            to_pubkey=Pubkey.from_bytes(world.person().address),
            lamports=lamports,
        )
    )
    message = Message.new_with_blockhash([instruction], owner, Hash.from_string(blockhash or ""))
    return base64.b64encode(bytes(VersionedTransaction(message, [key_of(sender)]))).decode()


def test_a_transaction_larger_than_a_packet_is_refused(own_world: ChainWorld) -> None:
    world, sender = own_world, own_world.person()
    latest = world.call("getLatestBlockhash")["result"]["value"]["blockhash"]
    memo = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")

    def sized(length: int) -> dict[str, Any]:
        message = Message.new_with_blockhash(
            [Instruction(memo, b"x" * length, [])],
            Pubkey.from_bytes(sender.address),
            Hash.from_string(latest),
        )
        wire = bytes(VersionedTransaction(message, [key_of(sender)]))
        text = base64.b64encode(wire).decode()
        options = {"encoding": "base64", "skipPreflight": True}
        answer: dict[str, Any] = world.call("sendTransaction", text, options)
        return answer | {"size": len(wire)}

    small = sized(1_000)
    fits = sized(1_000 + 1_232 - small["size"])
    assert fits["size"] == 1_232
    assert "result" in fits
    large = sized(1_000 + 1_233 - small["size"])
    assert "max: 1232" in large["error"]["message"]


def test_a_bad_signature_and_an_unknown_blockhash_are_refused(own_world: ChainWorld) -> None:
    world, sender = own_world, own_world.person()
    wire = bytearray(base64.b64decode(signed_transfer(world, sender, 5)))
    wire[10] ^= 1
    bad = base64.b64encode(wire).decode()
    old = signed_transfer(world, sender, 5, to_base58(local_seed("no-such-block")))
    looked_at = {"encoding": "base64", "preflightCommitment": "confirmed"}
    for refused, error in ((bad, "SignatureFailure"), (old, "BlockhashNotFound")):
        answer = world.call("sendTransaction", refused, looked_at)["error"]
        assert (answer["code"], answer["data"]["err"]) == (-32002, error)
        # Unseen, a node passes anything on, and no block takes it.
        unseen = {**looked_at, "skipPreflight": True}
        signature = world.call("sendTransaction", refused, unseen)["result"]
        assert world.call("getSignatureStatuses", [signature])["result"]["value"] == [None]
    assert balance_of(world, sender) == LAMPORTS


def balance_of(world: ChainWorld, person: Person) -> int:
    answer = world.call("getBalance", to_base58(person.address), {"commitment": "confirmed"})
    return int(answer["result"]["value"])


def test_a_blockhash_expires_after_a_hundred_and_fifty_slots(own_world: ChainWorld) -> None:
    world, sender = own_world, own_world.person()
    early, late = signed_transfer(world, sender, 5), signed_transfer(world, sender, 6)
    options = {"encoding": "base64", "preflightCommitment": "confirmed"}
    world.call("embeddedSkip", 50)
    assert "result" in world.call("sendTransaction", early, options)
    world.call("embeddedSkip", 11)
    assert "error" in world.call("sendTransaction", late, options)


@pytest.mark.parametrize(
    "request_",
    [
        {"method": "getBalance", "params": ["not an address"]},
        {"method": "getBalance", "params": []},
        {"method": "getBalance", "params": {"a": 1}},
        {"method": "getAccountInfo", "params": ["1" * 32, {"minContextSlot": "x"}]},
        {"method": "getAccountInfo", "params": ["1" * 32, {"encoding": 5}]},
        {"method": "getAccountInfo", "params": ["1" * 32, {"dataSlice": {"offset": "x"}}]},
        {"method": "getMultipleAccounts", "params": [["1" * 32] * 101]},
        {"method": "getProgramAccounts", "params": ["1" * 32, {"filters": 5}]},
        {"method": "getProgramAccounts", "params": ["1" * 32, {"filters": [{"memcmp": 1}]}]},
        {"method": "getSignatureStatuses", "params": [["zzz"]]},
        {"method": "sendTransaction", "params": ["AAAA", {"encoding": "base64"}]},
        {"method": "sendTransaction", "params": ["!", {"encoding": "base64"}]},
        {"method": "simulateTransaction", "params": [7]},
        {"method": "getFeeForMessage", "params": ["AAAA"]},
        {"method": "noSuchMethod", "params": []},
        {"nothing": True},
        [],
        "text",
    ],
    ids=str,
)
def test_a_request_that_makes_no_sense_is_answered_with_an_error(
    hardened_world: ChainWorld, request_: Any
) -> None:
    with httpx.Client(trust_env=False) as client:
        answer = client.post(hardened_world.rpc_url, json=request_).json()
        assert "error" in answer
        assert client.post(hardened_world.rpc_url, content=b"{").json()["error"]["code"] == -32700
        assert client.get(hardened_world.rpc_url + "/health").text == "ok"


def test_a_request_body_without_end_is_cut_off(hardened_world: ChainWorld) -> None:
    with httpx.Client(trust_env=False) as client:
        answer = client.post(hardened_world.rpc_url, content=b" " * 1_100_000)
        assert answer.status_code == 413
        assert client.get(hardened_world.rpc_url + "/health").text == "ok"


def test_a_batch_is_answered_in_order(hardened_world: ChainWorld) -> None:
    batch = [
        {"jsonrpc": "2.0", "id": 7, "method": "getHealth"},
        {"jsonrpc": "2.0", "id": 8, "method": "nope"},
    ]
    with httpx.Client(trust_env=False) as client:
        answers = client.post(hardened_world.rpc_url, json=batch).json()
    assert [each["id"] for each in answers] == [7, 8]
    assert answers[0]["result"] == "ok"
    assert answers[1]["error"]["code"] == -32601


def test_a_replayed_transaction_is_taken_once_even_over_a_restart(own_world: ChainWorld) -> None:
    world, sender = own_world, own_world.person()
    wire = signed_transfer(world, sender, 1_000_000)
    options = {"encoding": "base64", "skipPreflight": True}
    first = world.call("sendTransaction", wire, options)["result"]
    assert world.call("sendTransaction", wire, options)["result"] == first
    world.kill()
    world.start_embedded()
    assert world.call("sendTransaction", wire, options)["result"] == first
    assert balance_of(world, sender) == LAMPORTS - 1_005_000
    looked_at = {"encoding": "base64", "preflightCommitment": "confirmed"}
    refused = world.call("sendTransaction", wire, looked_at)["error"]
    assert refused["data"]["err"] == "AlreadyProcessed"
