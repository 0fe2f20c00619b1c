"""The settlement program in LiteSVM: what its tests need to act on it and look at it.

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
    DAY,
    ERRORS,
    GENESIS,
    IDL,
    INSTRUCTIONS,
    LOADER,
    NOW,
    PROGRAM_DIR,
    ROOT,
    SYSTEM,
    SYSVAR,
    TOKEN,
    U64,
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
    ed25519_instruction,
    encode,
    mint_data,
    snake,
    token_data,
    voucher_bytes,
)


@dataclass(frozen=True)
class User:
    """Somebody with SOL, tokens of the world's first mint and, once deposited, a Balance."""

    key: Keypair
    tokens: Pubkey

    @property
    def address(self) -> Pubkey:
        return self.key.pubkey()


@dataclass(frozen=True)
class Channel:
    """What a test must remember of a channel it opened."""

    address: Pubkey
    payer: User
    payee: User
    key: Keypair
    """Signs the vouchers."""
    nonce: int


@dataclass
class World:
    svm: LiteSVM = field(default_factory=LiteSVM)
    program: Pubkey = field(default_factory=Pubkey.new_unique)
    fee_payer: Keypair = field(default_factory=Keypair)
    upgrade_authority: Keypair = field(default_factory=Keypair)
    admin: Keypair = field(default_factory=Keypair)
    treasury: Keypair = field(default_factory=Keypair)
    mints: tuple[Pubkey, Pubkey] = field(
        default_factory=lambda: (Pubkey.new_unique(), Pubkey.new_unique())
    )
    users: list[User] = field(default_factory=list[User])
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

    # People, and what they usually do

    def user(self, tokens: int = 10**9) -> User:
        user = User(Keypair(), Pubkey.new_unique())
        self.svm.airdrop(user.address, 10**10)
        self.put(user.tokens, token_data(self.mint, user.address, tokens), TOKEN)
        self.users.append(user)
        return user

    def depositor(self, amount: int = 10**8) -> User:
        user = self.user()
        self.ok(self.deposit(user, amount), signers=(user.key,))
        return user

    def init_accounts(self) -> dict[str, Pubkey]:
        return {
            "authority": self.upgrade_authority.pubkey(),
            "config": self.config,
            "program_data": self.program_data,
            "mint0": self.mints[0],
            "vault0": self.vault(self.mints[0]),
            "mint1": self.mints[1],
            "vault1": self.vault(self.mints[1]),
            "vault_authority": self.vault_authority,
            "token_program": TOKEN,
            "system_program": SYSTEM,
        }

    def init_arguments(self) -> dict[str, Any]:
        return {
            "genesis_hash": self.genesis_hash,
            "admin": self.admin.pubkey(),
            "treasury": self.treasury.pubkey(),
            "slot_stake": 50_000_000,
            "unbond_s": 7 * DAY,
            "min_challenge_s": 60,
            "fee_bps": 250,
            "slash_bps": 2_000,
        }

    def init_config(self) -> TransactionMetadata:
        call = self.instruction("init_config", self.init_accounts(), **self.init_arguments())
        return self.ok(call, signers=(self.upgrade_authority,))

    def update_config(
        self,
        *,
        by: Pubkey | None = None,
        config: Pubkey | None = None,
        unsigned: tuple[str, ...] = (),
        **changes: Any,
    ) -> Instruction:
        arguments = self.init_arguments()
        for name in ("genesis_hash", "admin"):
            del arguments[name]
        arguments |= {"paused": False} | changes
        accounts = {"admin": by or self.admin.pubkey(), "config": config or self.config}
        return self.instruction("update_config", accounts, unsigned=unsigned, **arguments)

    def pause(self) -> None:
        self.ok(self.update_config(paused=True), signers=(self.admin,))

    def deposit(self, user: User, amount: int, **accounts: Pubkey) -> Instruction:
        named = {
            "owner": user.address,
            "source": user.tokens,
            "vault": self.vault(),
            "balance": self.balance_address(user.address),
            "mint": self.mint,
            "config": self.config,
            "token_program": TOKEN,
            "system_program": SYSTEM,
        }
        return self.instruction("deposit", named | accounts, amount=amount)

    def withdraw(self, user: User, amount: int, **accounts: Pubkey) -> Instruction:
        named = {
            "owner": user.address,
            "balance": self.balance_address(user.address),
            "vault": self.vault(),
            "destination": user.tokens,
            "mint": self.mint,
            "vault_authority": self.vault_authority,
            "config": self.config,
            "token_program": TOKEN,
        }
        return self.instruction("withdraw", named | accounts, amount=amount)

    def set_delegate(
        self, user: User, delegate: Pubkey, allowance: int = 10**9, expires: int = NOW + DAY
    ) -> Instruction:
        accounts = {"owner": user.address, "balance": self.balance_address(user.address)}
        return self.instruction(
            "set_delegate", accounts, delegate=delegate, allowance=allowance, expires=expires
        )

    def open_channel(
        self,
        payer: User,
        payee: Pubkey,
        voucher_key: Pubkey,
        *,
        nonce: int = 0,
        deposit: int = 10_000_000,
        challenge_s: int = 3_600,
        authority: Pubkey | None = None,
        rent_payer: Pubkey | None = None,
        **accounts: Pubkey,
    ) -> Instruction:
        named = {
            "authority": authority or payer.address,
            "rent_payer": rent_payer or payer.address,
            "payer_balance": self.balance_address(payer.address),
            "channel": self.channel_address(payer.address, payee, nonce),
            "config": self.config,
            "system_program": SYSTEM,
        }
        return self.instruction(
            "open_channel",
            named | accounts,
            payee=payee,
            voucher_key=voucher_key,
            nonce=nonce,
            deposit=deposit,
            challenge_s=challenge_s,
        )

    def channel(self, payer: User, payee: User, *, deposit: int = 10_000_000) -> Channel:
        """Open a channel from a depositor."""
        nonce = self.read_balance(payer.address).next_nonce
        key = Keypair()
        call = self.open_channel(payer, payee.address, key.pubkey(), nonce=nonce, deposit=deposit)
        self.ok(call, signers=(payer.key,))
        address = self.channel_address(payer.address, payee.address, nonce)
        return Channel(address, payer, payee, key, nonce)

    def top_up(self, channel: Channel, amount: int, /, **accounts: Pubkey) -> Instruction:
        named = {
            "authority": channel.payer.address,
            "payer_balance": self.balance_address(channel.payer.address),
            "channel": channel.address,
        }
        return self.instruction("top_up", named | accounts, amount=amount)

    def voucher(
        self, channel: Channel, cumulative: int, root: bytes = ROOT
    ) -> tuple[Keypair, bytes]:
        return channel.key, voucher_bytes(channel.address, cumulative, root)

    def settle(
        self,
        channel: Channel,
        claim: int = U64,
        /,
        *,
        ed_ix: int = 0,
        entry: int = 0,
        **accounts: Pubkey,
    ) -> Instruction:
        named = {
            "channel": channel.address,
            "payee_balance": self.balance_address(channel.payee.address),
            "instructions": SYSVAR,
        }
        return self.instruction("settle", named | accounts, ed_ix=ed_ix, entry=entry, claim=claim)

    def settled(self, channel: Channel, cumulative: int) -> TransactionMetadata:
        """Settle a voucher in full."""
        check = ed25519_instruction(self.voucher(channel, cumulative))
        return self.ok(check, self.settle(channel))

    def close_by_payee(self, channel: Channel, /, **accounts: Pubkey) -> Instruction:
        named = {
            "authority": channel.payee.address,
            "channel": channel.address,
            "payee_balance": self.balance_address(channel.payee.address),
            "payer_balance": self.balance_address(channel.payer.address),
            "rent_payer": channel.payer.address,
        }
        return self.instruction("close_by_payee", named | accounts)

    def request_close(self, channel: Channel, /, **accounts: Pubkey) -> Instruction:
        named = {
            "authority": channel.payer.address,
            "channel": channel.address,
            "payer_balance": self.balance_address(channel.payer.address),
        }
        return self.instruction("request_close", named | accounts)

    def finalize_close(self, channel: Channel, /, **accounts: Pubkey) -> Instruction:
        named = {
            "channel": channel.address,
            "payer_balance": self.balance_address(channel.payer.address),
            "rent_payer": channel.payer.address,
        }
        return self.instruction("finalize_close", named | accounts)

    def register(self, user: User, node_key: Pubkey, **accounts: Pubkey) -> Instruction:
        named = {
            "owner": user.address,
            "rent_payer": user.address,
            "stake": self.stake_address(user.address),
            "mint": self.mint,
            "config": self.config,
            "system_program": SYSTEM,
        }
        return self.instruction("register", named | accounts, node_key=node_key)

    def stake(self, user: User, amount: int, **accounts: Pubkey) -> Instruction:
        named = {
            "owner": user.address,
            "balance": self.balance_address(user.address),
            "stake": self.stake_address(user.address),
        }
        return self.instruction("stake", named | accounts, amount=amount)

    def sweep_fees(self, *balances: Pubkey, **accounts: Pubkey) -> Instruction:
        named = {
            "rent_payer": self.fee_payer.pubkey(),
            "config": self.config,
            "treasury_balance": self.balance_address(self.treasury.pubkey()),
            "mint": self.mint,
            "system_program": SYSTEM,
        }
        return self.instruction("sweep_fees", named | accounts, rest=balances)
