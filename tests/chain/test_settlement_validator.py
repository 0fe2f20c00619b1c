"""The committed program on Solana's own validator: its loader, verifier, token program and rent."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
from settlement_layouts import (
    PROGRAM_DIR,
    SYSTEM,
    TOKEN,
    ed25519_instruction,
    mint_data,
    token_data,
)
from settlement_world import Channel, Provider, World
from solders.account import Account
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import Transaction

from robocompute_protocol.errors import ConfigError
from robocompute_settlement.program_errors import PROGRAM_ERRORS
from robocompute_settlement.validator import READY_S, Validator, find_validator, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from settlement_world import User

pytestmark = pytest.mark.chain

CONFIRM_S: Final = 30
NUMBERS: Final = {name: number for number, (name, _) in PROGRAM_ERRORS.items()}


class Cluster:
    """A validator with the program, two mints and funded users at its genesis."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self.world = World(source=self.data)
        self.users = [self.world.user() for _ in range(2)]
        genesis = folder / "genesis.json"
        genesis.write_text(json.dumps(self._genesis()))
        self._validator = Validator(binary=binary, folder=folder, rpc_port=free_ports(2))
        self._rpc = httpx.Client(base_url=self._validator.rpc_url, timeout=20)
        command = self._validator.command(genesis, also=self._genesis_accounts())
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self._validator.environment(os.environ)
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def _genesis(self) -> dict[str, Any]:
        program = {
            "address": str(self.world.program),
            "upgrade_authority": str(self.world.upgrade_authority.pubkey()),
            "binary": str(PROGRAM_DIR / "settlement.so"),
        }
        return {"faucet": list(bytes(Keypair())), "programs": [program]}

    def _genesis_accounts(self) -> list[tuple[Pubkey, Account]]:
        world, found = self.world, list[tuple[Pubkey, Account]]()

        def add(address: Pubkey, data: bytes, owner: Pubkey) -> None:
            found.append((address, Account(10**10, data, owner)))

        for mint in world.mints:
            add(mint, mint_data(), TOKEN)
        for user in self.users:
            add(user.tokens, token_data(world.mint, user.address, 10**9), TOKEN)
            add(user.address, b"", SYSTEM)
        for key in (world.fee_payer, world.upgrade_authority, world.admin):
            add(key.pubkey(), b"", SYSTEM)
        return found

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        while not self._validator.ready():
            assert self._process.poll() is None, self._validator.last_words()
            assert time.monotonic() < deadline, "the validator did not start"
            time.sleep(0.2)
        self.world.genesis_hash = bytes(Hash.from_string(self.call("getGenesisHash")))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._rpc.close()

    def call(self, method: str, *parameters: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(parameters)}
        answer = self._rpc.post("/", json=body).json()
        if "error" in answer:
            raise ValueError(str(answer["error"]))
        return answer["result"]

    def data(self, address: Pubkey) -> bytes | None:
        options = {"encoding": "base64", "commitment": "confirmed"}
        value = self.call("getAccountInfo", str(address), options)["value"]
        return None if value is None else base64.b64decode(value["data"][0])

    def _signed(self, calls: tuple[Instruction, ...], signers: tuple[Keypair, ...]) -> str:
        world = self.world
        latest = self.call("getLatestBlockhash", {"commitment": "confirmed"})["value"]
        message = Message(list(calls), world.fee_payer.pubkey())
        keys = {key.pubkey(): key for key in (*signers, world.fee_payer)}
        wanted = list(message.account_keys)[: message.header.num_required_signatures]
        blockhash = Hash.from_string(latest["blockhash"])
        transaction = Transaction([keys[one] for one in wanted], message, blockhash)
        return base64.b64encode(bytes(transaction)).decode()

    def error(self, *calls: Instruction, signers: tuple[Keypair, ...] = ()) -> Any:
        """What the validator's simulation says."""
        options = {"encoding": "base64", "commitment": "confirmed"}
        signed = self._signed(calls, signers)
        return self.call("simulateTransaction", signed, options)["value"]["err"]

    def ok(self, *calls: Instruction, signers: tuple[Keypair, ...] = ()) -> None:
        """Return when it is confirmed."""
        options = {"encoding": "base64", "preflightCommitment": "confirmed"}
        signature = self.call("sendTransaction", self._signed(calls, signers), options)
        deadline = time.monotonic() + CONFIRM_S
        while True:
            status = self.call("getSignatureStatuses", [signature])["value"][0]
            if status and status["confirmationStatus"] in ("confirmed", "finalized"):
                assert status["err"] is None, status
                return
            assert time.monotonic() < deadline, "not confirmed"
            time.sleep(0.1)

    def chain_time(self) -> int:
        slot = self.call("getSlot", {"commitment": "confirmed"})
        return int(self.call("getBlockTime", slot))


@pytest.fixture
def validator(tmp_path: Path) -> Iterator[Cluster]:
    try:
        binary = find_validator(None, os.environ)
    except ConfigError as exc:
        pytest.skip(str(exc))
    cluster = Cluster(binary, tmp_path)
    yield cluster
    cluster.stop()


def test_a_channels_whole_life_on_a_real_validator(validator: Cluster) -> None:
    world = validator.world
    payer, payee = validator.users
    accounts = world.init_accounts()
    arguments: dict[str, Any] = world.init_arguments() | {"min_challenge_s": 0}

    thief = accounts | {"authority": payer.address}
    call = world.instruction("init_config", thief, **arguments)
    assert validator.error(call, signers=(payer.key,)) == {
        "InstructionError": [0, {"Custom": 6027}]
    }
    call = world.instruction("init_config", accounts, **arguments)
    validator.ok(call, signers=(world.upgrade_authority,))
    for user in validator.users:
        validator.ok(world.deposit(user, 10**7), signers=(user.key,))

    # The address is prefunded, so CreateAccount would fail.
    key = Keypair()
    address = world.channel_address(payer.address, payee.address, 0)
    gift = TransferParams(
        from_pubkey=world.fee_payer.pubkey(), to_pubkey=address, lamports=1_000_000
    )
    validator.ok(transfer(gift))
    call = world.open_channel(payer, payee.address, key.pubkey(), deposit=10**6, challenge_s=1)
    validator.ok(call, signers=(payer.key,))
    channel = Channel(address, payer, payee, key, 0)

    check = ed25519_instruction(world.voucher(channel, 400_001))
    wrong = ed25519_instruction((payee.key, world.voucher(channel, 400_001)[1]))
    assert validator.error(wrong, world.settle(channel)) == {
        "InstructionError": [1, {"Custom": 6025}]
    }
    attack(validator, channel)
    validator.ok(check, world.settle(channel))
    assert world.read_channel(address).settled == 400_001
    # Said again, it changes nothing, and nothing less undoes it.
    before = world.read_channel(address)
    validator.ok(check, world.settle(channel))
    validator.ok(ed25519_instruction(world.voucher(channel, 400_000)), world.settle(channel))
    assert world.read_channel(address) == before
    assert world.read_balance(payee.address).available == 10**7 + 390_000

    validator.ok(world.sweep_fees(world.balance_address(payee.address)))
    validator.ok(world.request_close(channel), signers=(payer.key,))
    deadline = time.monotonic() + CONFIRM_S
    while validator.chain_time() <= world.read_channel(address).close_at:
        assert time.monotonic() < deadline, "the chain's clock stands still"
        time.sleep(0.2)
    validator.ok(world.finalize_close(channel))
    assert validator.data(address) is None
    revive(validator, channel)
    everything = world.read_balance(payer.address).available
    assert everything == 10**7 - 400_001
    validator.ok(world.withdraw(payer, everything), signers=(payer.key,))
    assert world.tokens(payer.tokens) == 10**9 - 400_001

    sell_twice_and_leave(validator, payee, payer)


def attack(validator: Cluster, channel: Channel) -> None:
    """What `tests/chain/test_attack_*.py` does in-process, once of each kind on a real runtime."""
    world, payer, payee = validator.world, channel.payer, channel.payee
    check = ed25519_instruction(world.voucher(channel, 400_001))
    other = Channel(world.channel_address(payer.address, payee.address, 1), payer, payee,
                    channel.key, 1)  # fmt: skip
    shared = bytearray(bytes(ed25519_instruction(*[world.voucher(channel, 1)] * 2).data))
    shared[16:30] = shared[2:16]  # the second entry is said to lie where the first one does
    overlap = Instruction(check.program_id, bytes(shared), [])
    theirs = world.balance_address(payer.address)
    stranger = (world.fee_payer,)
    me = world.fee_payer.pubkey()
    attempts: list[tuple[int, str, tuple[Instruction, ...], tuple[Keypair, ...]]] = [
        (0, "NoSignatureCheck", (world.settle(channel),), ()),
        (1, "NoSignatureCheck", (overlap, world.settle(channel, entry=1)), ()),
        (1, "WrongVoucher", (ed25519_instruction(world.voucher(other, 5)), world.settle(channel)),
         ()),
        (1, "WrongBalance", (check, world.settle(channel, payee_balance=theirs)), ()),
        (1, "ForeignAccount", (check, world.settle(channel, channel=payer.tokens)), ()),
        (0, "NotAuthorized", (world.close_by_payee(channel, authority=me),), stranger),
        (0, "NotAuthorized", (world.request_close(channel, authority=me),), stranger),
        (0, "ChannelNotClosing", (world.finalize_close(channel),), ()),
        (0, "NotAuthorized", (world.top_up(channel, 1, authority=me),), stranger),
        (0, "WrongNonce",
         (world.open_channel(payer, payee.address, channel.key.pubkey(), nonce=0),),
         (payer.key,)),
        (0, "WrongBalance", (world.withdraw(payer, 1, owner=me),), stranger),
        (0, "InsufficientFunds", (world.withdraw(payer, 10**9),), (payer.key,)),
    ]  # fmt: skip
    for at, name, calls, signers in attempts:
        refused = validator.error(*calls, signers=signers)
        assert refused == {"InstructionError": [at, {"Custom": NUMBERS[name]}]}, (name, refused)


def revive(validator: Cluster, channel: Channel) -> None:
    """A closed channel stays closed: its vouchers are worth nothing, its nonce is used up."""
    world, payer, payee = validator.world, channel.payer, channel.payee
    check = ed25519_instruction(world.voucher(channel, 10**6))
    refused = validator.error(check, world.settle(channel))
    assert refused == {"InstructionError": [1, {"Custom": NUMBERS["ForeignAccount"]}]}
    call = world.open_channel(payer, payee.address, channel.key.pubkey(), nonce=0)
    refused = validator.error(call, signers=(payer.key,))
    assert refused == {"InstructionError": [0, {"Custom": NUMBERS["WrongNonce"]}]}


def sell_twice_and_leave(validator: Cluster, owner: User, reporter: User) -> None:
    """A stake's life: bonded, its key changed, slashed by the old key's leases, taken out."""
    world, old, new = validator.world, Keypair(), Keypair()
    signers = (owner.key,)
    validator.ok(
        world.register(owner, old.pubkey()),
        world.stake(owner, 1_009),
        world.rotate_key(owner, new.pubkey()),
        world.unstake(owner, 9),
        signers=signers,
    )
    provider = Provider(owner, old, world.stake_address(owner.address))
    now = validator.chain_time()
    leases = [provider.lease(one.address, now - 1, now + 60) for one in (owner, reporter)]
    call = world.slash(provider, owner.address, reporter.address, reporter=reporter.address)
    # The reporter is one of the payers, the provider the other, and the treasury has nothing yet.
    before = world.read_balance(reporter.address).available
    validator.ok(ed25519_instruction(*leases), call, signers=(reporter.key,))
    stake = world.read_stake(owner.address)
    assert (stake.bonded, stake.unbonding, stake.slashed) == (808, 0, 201)
    assert world.read_balance(reporter.address).available == before + 20 + 40
    again = validator.error(ed25519_instruction(*leases), call, signers=(reporter.key,))
    assert again == {"InstructionError": [1, {"Custom": 6031}]}

    short = world.update_config(unbond_s=1)
    validator.ok(short, world.unstake(owner, 808), signers=(world.admin, owner.key))
    deadline = time.monotonic() + CONFIRM_S
    while validator.chain_time() <= world.read_stake(owner.address).unbond_at:
        assert time.monotonic() < deadline, "the chain's clock stands still"
        time.sleep(0.2)
    validator.ok(world.claim_unbonded(owner), signers=signers)
    stake = world.read_stake(owner.address)
    assert (stake.bonded, stake.unbonding, stake.unbond_at) == (0, 0, 0)
