"""The committed program on Solana's own validator: its loader, verifier, token program and rent."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
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
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message
from solders.system_program import TransferParams, transfer
from solders.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from settlement_world import User
    from solders.instruction import Instruction
    from solders.pubkey import Pubkey

pytestmark = pytest.mark.chain

START_S: Final = 60
"""A validator on a busy machine has been seen to need 15 s."""
CONFIRM_S: Final = 30
PORTS: Final = 64
"""RPC and its websocket, faucet, gossip, and the range the validator takes more from."""


def validator_binary() -> str | None:
    folder = os.environ.get("ROBOCOMPUTE_TOOLS", "")
    return shutil.which("solana-test-validator", path=folder or None) or shutil.which(
        "solana-test-validator"
    )


def free_ports() -> int:
    """The first of `PORTS` neighbouring ports that nobody listens on."""
    for base in range(20_000 + os.getpid() % 97 * 64, 32_000, PORTS):
        with ExitStack() as stack:
            try:
                for port in range(base, base + PORTS):
                    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                        one = stack.enter_context(socket.socket(socket.AF_INET, kind))
                        one.bind(("127.0.0.1", port))
            except OSError:
                continue
        return base
    pytest.fail("no free ports")


class Validator:
    """A validator with the program, two mints and funded users at its genesis."""

    def __init__(self, binary: str, folder: Path) -> None:
        self.world = World(source=self.data)
        self.users = [self.world.user() for _ in range(2)]
        self._folder = folder
        ports = free_ports()
        self._rpc = httpx.Client(base_url=f"http://127.0.0.1:{ports}", timeout=20)
        command = [
            binary, "--bind-address", "127.0.0.1", "--ledger", str(folder / "ledger"), "--reset",
            "--quiet", "--rpc-port", str(ports), "--faucet-port", str(ports + 2), "--gossip-port",
            str(ports + 3), "--dynamic-port-range", f"{ports + 4}-{ports + PORTS - 1}",
            "--upgradeable-program", str(self.world.program), str(PROGRAM_DIR / "settlement.so"),
            str(self.world.upgrade_authority.pubkey()), *self._genesis_accounts(),
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def _genesis_accounts(self) -> list[str]:
        world, options = self.world, list[str]()

        def add(address: Pubkey, data: bytes, owner: Pubkey) -> None:
            path = self._folder / f"{address}.json"
            content = [base64.b64encode(data).decode(), "base64"]
            account = {
                "lamports": 10**10, "data": content, "owner": str(owner), "executable": False,
                "rentEpoch": 0,
            }  # fmt: skip
            path.write_text(json.dumps({"pubkey": str(address), "account": account}))
            options.extend(("--account", str(address), str(path)))

        for mint in world.mints:
            add(mint, mint_data(), TOKEN)
        for user in self.users:
            add(user.tokens, token_data(world.mint, user.address, 10**9), TOKEN)
            add(user.address, b"", SYSTEM)
        for key in (world.fee_payer, world.upgrade_authority, world.admin):
            add(key.pubkey(), b"", SYSTEM)
        return options

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                # A program at genesis can be called from the next slots on.
                if self.call("getHealth") == "ok" and self.call("getSlot") >= 2:
                    break
            except (httpx.HTTPError, ValueError):
                pass
            assert self._process.poll() is None, "the validator ended"
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
def validator(tmp_path: Path) -> Iterator[Validator]:
    binary = validator_binary()
    if binary is None:
        pytest.skip("solana-test-validator is neither on the path nor in ROBOCOMPUTE_TOOLS")
    validator = Validator(binary, tmp_path)
    yield validator
    validator.stop()


def test_a_channels_whole_life_on_a_real_validator(validator: Validator) -> None:
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
    validator.ok(check, world.settle(channel))
    assert world.read_channel(address).settled == 400_001
    assert world.read_balance(payee.address).available == 10**7 + 390_000

    validator.ok(world.sweep_fees(world.balance_address(payee.address)))
    validator.ok(world.request_close(channel), signers=(payer.key,))
    deadline = time.monotonic() + CONFIRM_S
    while validator.chain_time() <= world.read_channel(address).close_at:
        assert time.monotonic() < deadline, "the chain's clock stands still"
        time.sleep(0.2)
    validator.ok(world.finalize_close(channel))
    assert validator.data(address) is None
    everything = world.read_balance(payer.address).available
    assert everything == 10**7 - 400_001
    validator.ok(world.withdraw(payer, everything), signers=(payer.key,))
    assert world.tokens(payer.tokens) == 10**9 - 400_001

    sell_twice_and_leave(validator, payee, payer)


def sell_twice_and_leave(validator: Validator, owner: User, reporter: User) -> None:
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
