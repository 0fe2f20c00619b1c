"""The settlement program in LiteSVM: its addresses, its accounts, and sending to it.

Independent of the product's own adapter: it reads the IDL and ``docs/settlement.md``'s layouts.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from solders.account import Account
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import Transaction
from solders.transaction_metadata import FailedTransactionMetadata, TransactionMetadata

if TYPE_CHECKING:
    from collections.abc import Callable

from settlement_layouts import (
    ERRORS,
    GENESIS,
    IDL,
    INSTRUCTIONS,
    LOADER,
    NOW,
    PROGRAM_DIR,
    TOKEN,
    BalanceAccount,
    ChannelAccount,
    ConfigAccount,
    StakeAccount,
    decode,
    decode_balance,
    decode_channel,
    decode_config,
    decode_stake,
    discriminator,
    encode,
    mint_data,
    snake,
)


@dataclass
class Chain:
    """One deployment: where its accounts are, how it is called, what it told."""

    svm: LiteSVM = field(default_factory=LiteSVM)
    program: Pubkey = field(default_factory=Pubkey.new_unique)
    fee_payer: Keypair = field(default_factory=Keypair)
    upgrade_authority: Keypair = field(default_factory=Keypair)
    admin: Keypair = field(default_factory=Keypair)
    treasury: Keypair = field(default_factory=Keypair)
    mints: tuple[Pubkey, Pubkey] = field(
        default_factory=lambda: (Pubkey.new_unique(), Pubkey.new_unique())
    )
    genesis_hash: bytes = GENESIS
    source: Callable[[Pubkey], bytes | None] | None = None
    """Where accounts are read, if not from the in-process chain."""

    def __post_init__(self) -> None:
        self.svm.add_program_from_file(self.program, PROGRAM_DIR / "settlement.so")
        for key in (self.fee_payer, self.upgrade_authority, self.admin, self.treasury):
            self.svm.airdrop(key.pubkey(), 10**11)
        for mint in self.mints:
            self.put(mint, mint_data(), TOKEN)
        self.put_program_data(self.upgrade_authority.pubkey())
        self.set_time(NOW)

    # Addresses

    @property
    def mint(self) -> Pubkey:
        return self.mints[0]

    @property
    def domain(self) -> bytes:
        tagged = b"robocompute/domain/1" + self.genesis_hash + bytes(self.program)
        return hashlib.sha256(tagged).digest()

    def pda(self, *seeds: bytes) -> Pubkey:
        return Pubkey.find_program_address(list(seeds), self.program)[0]

    @property
    def config(self) -> Pubkey:
        return self.pda(b"config")

    @property
    def program_data(self) -> Pubkey:
        return Pubkey.find_program_address([bytes(self.program)], LOADER)[0]

    @property
    def vault_authority(self) -> Pubkey:
        return self.pda(b"auth", self.domain)

    def vault(self, mint: Pubkey | None = None) -> Pubkey:
        return self.pda(b"vault", self.domain, bytes(mint or self.mint))

    def balance_address(self, owner: Pubkey, mint: Pubkey | None = None) -> Pubkey:
        return self.pda(b"balance", self.domain, bytes(owner), bytes(mint or self.mint))

    def stake_address(self, owner: Pubkey, mint: Pubkey | None = None) -> Pubkey:
        return self.pda(b"stake", self.domain, bytes(owner), bytes(mint or self.mint))

    def channel_address(
        self, payer: Pubkey, payee: Pubkey, nonce: int, mint: Pubkey | None = None
    ) -> Pubkey:
        parts = (bytes(payer), bytes(payee), bytes(mint or self.mint), struct.pack("<Q", nonce))
        return self.pda(b"channel", self.domain, *parts)

    # The chain

    def put(self, address: Pubkey, data: bytes, owner: Pubkey, lamports: int = 10**9) -> None:
        self.svm.set_account(address, Account(lamports, data, owner))

    def put_program_data(self, authority: Pubkey | None) -> None:
        option = b"\0" + bytes(32) if authority is None else b"\1" + bytes(authority)
        self.put(self.program_data, struct.pack("<IQ", 3, 0) + option, LOADER)

    def set_time(self, unix: int) -> None:
        clock = self.svm.get_clock()
        clock.unix_timestamp = unix
        self.svm.set_clock(clock)

    def data(self, address: Pubkey) -> bytes | None:
        """An account's data, or None where there is no account."""
        if self.source is not None:
            return self.source(address)
        account = self.svm.get_account(address)
        return None if account is None else bytes(account.data)

    def tokens(self, address: Pubkey) -> int:
        data = self.data(address)
        assert data is not None
        return int(struct.unpack_from("<Q", data, 64)[0])

    def lamports(self, address: Pubkey) -> int:
        return self.svm.get_balance(address) or 0

    # Calls

    def instruction(
        self,
        name: str,
        accounts: dict[str, Pubkey],
        *,
        rest: tuple[Pubkey, ...] = (),
        unsigned: tuple[str, ...] = (),
        **arguments: Any,
    ) -> Instruction:
        """An instruction as the IDL says; names are in snake case."""
        camel = re.sub(r"_(\w)", lambda match: match[1].upper(), name)
        spec = INSTRUCTIONS[camel]
        names = [snake(one["name"]) for one in spec["accounts"]]
        assert set(names) == set(accounts), (names, sorted(accounts))
        metas = [
            AccountMeta(
                accounts[one], meta["isSigner"] and one not in unsigned, bool(meta["isMut"])
            )
            for one, meta in zip(names, spec["accounts"], strict=True)
        ]
        metas += [AccountMeta(one, False, True) for one in rest]
        data = discriminator("global", name)
        fields = [(snake(one["name"]), one["type"]) for one in spec["args"]]
        assert {one for one, _ in fields} == set(arguments), (fields, sorted(arguments))
        for one, kind in fields:
            data += encode(kind, arguments[one])
        return Instruction(self.program, data, metas)

    def send(
        self, *instructions: Instruction, signers: tuple[Keypair, ...] = ()
    ) -> TransactionMetadata | FailedTransactionMetadata:
        self.svm.expire_blockhash()
        message = Message(list(instructions), self.fee_payer.pubkey())
        keys = {key.pubkey(): key for key in (*signers, self.fee_payer)}
        wanted = list(message.account_keys)[: message.header.num_required_signatures]
        transaction = Transaction(
            [keys[one] for one in wanted if one in keys], message, self.svm.latest_blockhash()
        )
        return self.svm.send_transaction(transaction)

    def ok(
        self, *instructions: Instruction, signers: tuple[Keypair, ...] = ()
    ) -> TransactionMetadata:
        result = self.send(*instructions, signers=signers)
        assert isinstance(result, TransactionMetadata), (result.err(), result.meta().logs())
        return result

    def refusal(self, *instructions: Instruction, signers: tuple[Keypair, ...] = ()) -> str:
        """The name of the error that the program refuses with, or the runtime's own words."""
        result = self.send(*instructions, signers=signers)
        assert isinstance(result, FailedTransactionMetadata), "it was taken"
        inner = getattr(result.err(), "err", None)
        number = getattr(inner, "code", None)
        if number is None:
            return str(inner or result.err())
        return ERRORS.get(number, f"Custom({number})")

    @staticmethod
    def units(result: TransactionMetadata) -> int:
        return result.compute_units_consumed()

    def events(self, result: TransactionMetadata) -> list[tuple[str, dict[str, Any]]]:
        found: list[tuple[str, dict[str, Any]]] = []
        for line in result.logs():
            if not line.startswith("Program data: "):
                continue
            data = base64.b64decode(line.split()[2])
            spec = next(e for e in IDL["events"] if discriminator("event", e["name"]) == data[:8])
            rest, values = data[8:], dict[str, Any]()
            for one in spec["fields"]:
                values[snake(one["name"])], rest = decode(one["type"], rest)
            assert not rest
            found.append((spec["name"], values))
        return found

    # Accounts

    def read_config(self) -> ConfigAccount:
        return decode_config(self.data(self.config))

    def read_balance(self, owner: Pubkey, mint: Pubkey | None = None) -> BalanceAccount:
        return decode_balance(self.data(self.balance_address(owner, mint)))

    def read_stake(self, owner: Pubkey) -> StakeAccount:
        return decode_stake(self.data(self.stake_address(owner)))

    def read_channel(self, address: Pubkey) -> ChannelAccount:
        return decode_channel(self.data(address))
