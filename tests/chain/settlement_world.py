"""The settlement program in LiteSVM: what its tests need to act on it and look at it.

Independent of the product's own adapter: it reads the IDL and ``docs/settlement.md``'s layouts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from settlement_chain import Chain
from settlement_layouts import (
    DAY,
    NOW,
    ROOT,
    SYSTEM,
    SYSVAR,
    TOKEN,
    U64,
    ed25519_instruction,
    lease_bytes,
    token_data,
    voucher_bytes,
)
from solders.keypair import Keypair
from solders.pubkey import Pubkey

if TYPE_CHECKING:
    from solders.instruction import Instruction
    from solders.transaction_metadata import TransactionMetadata


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


@dataclass(frozen=True)
class Provider:
    """Somebody with a stake, and the key its leases are signed with."""

    user: User
    node: Keypair
    stake: Pubkey

    def lease(
        self,
        payer: Pubkey,
        start: int,
        end: int,
        *,
        slots: int = 1,
        key: Keypair | None = None,
        stake: Pubkey | None = None,
    ) -> tuple[Keypair, bytes]:
        """A lease and who signs it, as ``ed25519_instruction`` takes them."""
        return key or self.node, lease_bytes(stake or self.stake, payer, slots, start, end)


@dataclass
class World(Chain):
    """A deployment with people on it. Every call names the accounts it needs, and takes others."""

    users: list[User] = field(default_factory=list[User])

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

    def unstake(self, user: User, amount: int, **accounts: Pubkey) -> Instruction:
        named = {
            "owner": user.address,
            "stake": self.stake_address(user.address),
            "config": self.config,
        }
        return self.instruction("unstake", named | accounts, amount=amount)

    def claim_unbonded(self, user: User, **accounts: Pubkey) -> Instruction:
        named = {
            "owner": user.address,
            "balance": self.balance_address(user.address),
            "stake": self.stake_address(user.address),
        }
        return self.instruction("claim_unbonded", named | accounts)

    def rotate_key(self, user: User, node_key: Pubkey, **accounts: Pubkey) -> Instruction:
        named = {
            "owner": user.address,
            "stake": self.stake_address(user.address),
            "config": self.config,
        }
        return self.instruction("rotate_key", named | accounts, node_key=node_key)

    def provider(self, bonded: int = 10**8) -> Provider:
        """Somebody with a stake, and with nothing else in its Balance."""
        user, node = self.depositor(bonded), Keypair()
        calls = [self.register(user, node.pubkey()), self.stake(user, bonded)]
        self.ok(*calls, signers=(user.key,))
        return Provider(user, node, self.stake_address(user.address))

    def slash(
        self,
        provider: Provider,
        first: Pubkey,
        second: Pubkey,
        *,
        reporter: Pubkey,
        ed_ix: int = 0,
        entries: tuple[int, int] = (0, 1),
        **accounts: Pubkey,
    ) -> Instruction:
        """Report leases to the payers ``first`` and ``second``."""
        named = {
            "reporter": reporter,
            "config": self.config,
            "stake": provider.stake,
            "reporter_balance": self.balance_address(reporter),
            "first_balance": self.balance_address(first),
            "second_balance": self.balance_address(second),
            "treasury_balance": self.balance_address(self.treasury.pubkey()),
            "instructions": SYSVAR,
        }
        return self.instruction(
            "slash", named | accounts, ed_ix=ed_ix, first=entries[0], second=entries[1]
        )

    def propose_admin(self, new_admin: Pubkey, **accounts: Pubkey) -> Instruction:
        named = {"admin": self.admin.pubkey(), "config": self.config}
        return self.instruction("propose_admin", named | accounts, new_admin=new_admin)

    def accept_admin(self, new_admin: Pubkey, **accounts: Pubkey) -> Instruction:
        named = {"new_admin": new_admin, "config": self.config}
        return self.instruction("accept_admin", named | accounts)

    def sweep_fees(self, *balances: Pubkey, **accounts: Pubkey) -> Instruction:
        named = {
            "rent_payer": self.fee_payer.pubkey(),
            "config": self.config,
            "treasury_balance": self.balance_address(self.treasury.pubkey()),
            "mint": self.mint,
            "system_program": SYSTEM,
        }
        return self.instruction("sweep_fees", named | accounts, rest=balances)
