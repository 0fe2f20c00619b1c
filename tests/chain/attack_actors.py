"""Many people on one chain, both mints: their calls, and the chain's books in the model's words."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from settlement_layouts import (
    SYSTEM,
    SYSVAR,
    TOKEN,
    decode_balance,
    decode_channel,
    decode_stake,
    ed25519_instruction,
    lease_bytes,
    token_data,
)
from settlement_model import OPEN, Bond, Deal, Model, Purse, Settings
from settlement_world import World
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.transaction_metadata import TransactionMetadata

if TYPE_CHECKING:
    from collections.abc import Iterable

    from settlement_model import Promise
    from solders.instruction import Instruction

MINTS = (0, 1)
LAMPORTS = 10**12


@dataclass
class Cast:
    """A world, and everybody who has keys in it."""

    world: World = field(default_factory=World)
    keys: dict[Pubkey, Keypair] = field(default_factory=dict[Pubkey, Keypair])
    token_accounts: dict[tuple[Pubkey, int], Pubkey] = field(
        default_factory=dict[tuple[Pubkey, int], Pubkey]
    )
    _known: dict[tuple[object, ...], Pubkey] = field(
        default_factory=dict[tuple[object, ...], Pubkey]
    )

    def __post_init__(self) -> None:
        self.world.init_config()
        self.key(self.world.admin)
        self.key(self.world.upgrade_authority)
        self.vaults = {one: self.world.vault(self.world.mints[one]) for one in MINTS}

    def key(self, key: Keypair | None = None) -> Pubkey:
        """Somebody who signs, and has lamports."""
        key = key or Keypair()
        self.keys[key.pubkey()] = key
        self.world.svm.airdrop(key.pubkey(), LAMPORTS)
        return key.pubkey()

    def person(self, tokens: int, key: Keypair | None = None) -> Pubkey:
        """Somebody with tokens of both mints."""
        who = self.key(key)
        for mint in MINTS:
            account = Pubkey.new_unique()
            self.token_accounts[who, mint] = account
            self.world.put(account, token_data(self.world.mints[mint], who, tokens), TOKEN)
        return who

    # Addresses, each worked out once

    def balance(self, who: Pubkey, mint: int) -> Pubkey:
        return self._once("balance", who, mint)

    def stake_of(self, who: Pubkey, mint: int) -> Pubkey:
        return self._once("stake", who, mint)

    def _once(self, kind: str, who: Pubkey, mint: int) -> Pubkey:
        found = self._known.get((kind, who, mint))
        if found is None:
            make = {"balance": self.world.balance_address, "stake": self.world.stake_address}[kind]
            found = self._known[kind, who, mint] = make(who, self.world.mints[mint])
        return found

    def channel_address(self, payer: Pubkey, payee: Pubkey, mint: int, nonce: int) -> Pubkey:
        return self.world.channel_address(payer, payee, nonce, self.world.mints[mint])

    @cached_property
    def config(self) -> Pubkey:
        return self.world.config

    @cached_property
    def authority(self) -> Pubkey:
        return self.world.vault_authority

    # Calls

    def take(self, *calls: Instruction) -> bool:
        """Send the calls, with every signature they ask for that somebody here can give."""
        wanted = {meta.pubkey for call in calls for meta in call.accounts if meta.is_signer}
        signers = tuple(self.keys[one] for one in wanted if one in self.keys)
        return isinstance(self.world.send(*calls, signers=signers), TransactionMetadata)

    def call(self, name: str, accounts: dict[str, Pubkey], **arguments: Any) -> Instruction:
        return self.world.instruction(name, accounts, **arguments)

    def deposit(self, who: Pubkey, mint: int, amount: int) -> Instruction:
        accounts = {
            "owner": who, "source": self.token_accounts[who, mint], "vault": self.vaults[mint],
            "balance": self.balance(who, mint), "mint": self.world.mints[mint],
            "config": self.config, "token_program": TOKEN, "system_program": SYSTEM,
        }  # fmt: skip
        return self.call("deposit", accounts, amount=amount)

    def withdraw(self, who: Pubkey, mint: int, to: Pubkey, amount: int) -> Instruction:
        accounts = {
            "owner": who, "balance": self.balance(who, mint), "vault": self.vaults[mint],
            "destination": self.token_accounts[to, mint], "mint": self.world.mints[mint],
            "vault_authority": self.authority, "config": self.config, "token_program": TOKEN,
        }  # fmt: skip
        return self.call("withdraw", accounts, amount=amount)

    def set_delegate(
        self, who: Pubkey, mint: int, delegate: Pubkey, allowance: int, expires: int
    ) -> Instruction:
        accounts = {"owner": who, "balance": self.balance(who, mint)}
        return self.call(
            "set_delegate", accounts, delegate=delegate, allowance=allowance, expires=expires
        )

    def open_channel(
        self,
        signer: Pubkey,
        payer: Pubkey,
        payee: Pubkey,
        mint: int,
        voucher_key: Pubkey,
        *,
        nonce: int,
        deposit: int,
        challenge_s: int,
    ) -> Instruction:
        accounts = {
            "authority": signer, "rent_payer": payer, "payer_balance": self.balance(payer, mint),
            "channel": self.channel_address(payer, payee, mint, nonce), "config": self.config,
            "system_program": SYSTEM,
        }  # fmt: skip
        return self.call(
            "open_channel", accounts, payee=payee, voucher_key=voucher_key, nonce=nonce,
            deposit=deposit, challenge_s=challenge_s,
        )  # fmt: skip

    def top_up(self, address: Pubkey, deal: Deal, signer: Pubkey, amount: int) -> Instruction:
        accounts = {
            "authority": signer, "payer_balance": self.balance(deal.payer, deal.mint),
            "channel": address,
        }  # fmt: skip
        return self.call("top_up", accounts, amount=amount)

    def settle(self, address: Pubkey, deal: Deal, claim: int) -> Instruction:
        accounts = {
            "channel": address, "payee_balance": self.balance(deal.payee, deal.mint),
            "instructions": SYSVAR,
        }  # fmt: skip
        return self.call("settle", accounts, ed_ix=0, entry=0, claim=claim)

    def close_by_payee(self, address: Pubkey, deal: Deal, signer: Pubkey) -> Instruction:
        accounts = {
            "authority": signer, "channel": address,
            "payee_balance": self.balance(deal.payee, deal.mint),
            "payer_balance": self.balance(deal.payer, deal.mint), "rent_payer": deal.payer,
        }  # fmt: skip
        return self.call("close_by_payee", accounts)

    def request_close(self, address: Pubkey, deal: Deal, signer: Pubkey) -> Instruction:
        accounts = {
            "authority": signer, "channel": address,
            "payer_balance": self.balance(deal.payer, deal.mint),
        }  # fmt: skip
        return self.call("request_close", accounts)

    def finalize_close(self, address: Pubkey, deal: Deal) -> Instruction:
        accounts = {
            "channel": address, "payer_balance": self.balance(deal.payer, deal.mint),
            "rent_payer": deal.payer,
        }  # fmt: skip
        return self.call("finalize_close", accounts)

    def register(self, who: Pubkey, mint: int, node_key: Pubkey) -> Instruction:
        accounts = {
            "owner": who, "rent_payer": who, "stake": self.stake_of(who, mint),
            "mint": self.world.mints[mint], "config": self.config, "system_program": SYSTEM,
        }  # fmt: skip
        return self.call("register", accounts, node_key=node_key)

    def stake(self, who: Pubkey, mint: int, amount: int) -> Instruction:
        accounts = {
            "owner": who, "balance": self.balance(who, mint), "stake": self.stake_of(who, mint)
        }  # fmt: skip
        return self.call("stake", accounts, amount=amount)

    def unstake(self, who: Pubkey, mint: int, amount: int) -> Instruction:
        accounts = {"owner": who, "stake": self.stake_of(who, mint), "config": self.config}
        return self.call("unstake", accounts, amount=amount)

    def claim_unbonded(self, who: Pubkey, mint: int) -> Instruction:
        accounts = {
            "owner": who, "balance": self.balance(who, mint), "stake": self.stake_of(who, mint)
        }  # fmt: skip
        return self.call("claim_unbonded", accounts)

    def rotate_key(self, who: Pubkey, mint: int, node_key: Pubkey) -> Instruction:
        accounts = {"owner": who, "stake": self.stake_of(who, mint), "config": self.config}
        return self.call("rotate_key", accounts, node_key=node_key)

    def slash(
        self, reporter: Pubkey, treasury: Pubkey, first: Promise, second: Promise
    ) -> tuple[Instruction, Instruction]:
        """The check of both leases, and the report against the first one's stake."""
        owner, mint = first.stake
        accounts = {
            "reporter": reporter, "config": self.config, "stake": self.stake_of(owner, mint),
            "reporter_balance": self.balance(reporter, mint),
            "first_balance": self.balance(first.payer, mint),
            "second_balance": self.balance(second.payer, mint),
            "treasury_balance": self.balance(treasury, mint), "instructions": SYSVAR,
        }  # fmt: skip
        check = ed25519_instruction(self.lease(first), self.lease(second))
        return check, self.call("slash", accounts, ed_ix=0, first=0, second=1)

    def lease(self, one: Promise) -> tuple[Keypair, bytes]:
        stake = self.stake_of(*one.stake)
        return self.keys[one.signer], lease_bytes(stake, one.payer, one.slots, one.start, one.end)

    def propose_admin(self, signer: Pubkey, new: Pubkey | None) -> Instruction:
        accounts = {"admin": signer, "config": self.config}
        return self.call("propose_admin", accounts, new_admin=new or SYSTEM)

    def accept_admin(self, signer: Pubkey) -> Instruction:
        return self.call("accept_admin", {"new_admin": signer, "config": self.config})

    def update_config(self, signer: Pubkey, settings: Settings) -> Instruction:
        accounts = {"admin": signer, "config": self.config}
        return self.call("update_config", accounts, **vars(settings))

    def sweep_fees(self, treasury: Pubkey, mint: int, owners: Iterable[Pubkey]) -> Instruction:
        accounts = {
            "rent_payer": self.world.fee_payer.pubkey(), "config": self.config,
            "treasury_balance": self.balance(treasury, mint), "mint": self.world.mints[mint],
            "system_program": SYSTEM,
        }  # fmt: skip
        rest = tuple(self.balance(one, mint) for one in owners)
        return self.world.instruction("sweep_fees", accounts, rest=rest)

    # The chain's books

    def purse(self, who: Pubkey, mint: int) -> Purse | None:
        data = self.world.data(self.balance(who, mint))
        if not data:
            return None
        one = decode_balance(data)
        assert (one.owner, one.mint) == (who, self.world.mints[mint])
        delegate = None if one.delegate == SYSTEM else one.delegate
        return Purse(
            one.available, one.fees_owed, one.fees_paid, one.next_nonce, delegate, one.allowance,
            one.delegate_expires,
        )  # fmt: skip

    def bond(self, who: Pubkey, mint: int) -> Bond | None:
        data = self.world.data(self.stake_of(who, mint))
        if not data:
            return None
        one = decode_stake(data)
        assert (one.owner, one.mint) == (who, self.world.mints[mint])
        prev = None if one.prev_key == SYSTEM else one.prev_key
        return Bond(
            one.node_key, prev, one.bonded, one.unbonding, one.unbond_at, one.rotated_at,
            one.watermark, one.slashed,
        )  # fmt: skip

    def deal(self, address: Pubkey) -> Deal | None:
        data = self.world.data(address)
        if not data:
            return None
        one = decode_channel(data)
        assert (one.state == 2) == (one.close_at != OPEN)
        return Deal(
            one.payer, one.payee, self.world.mints.index(one.mint), one.nonce, one.fee_bps,
            one.deposit, one.challenge_s, one.settled, one.fee_taken, one.close_at,
            one.alloc_root,
        )  # fmt: skip

    def settings(self) -> tuple[Pubkey, Pubkey | None, Settings]:
        one = self.world.read_config()
        settings = Settings(
            one.treasury, one.slot_stake, one.unbond_s, one.min_challenge_s, one.fee_bps,
            one.slash_bps, bool(one.paused),
        )  # fmt: skip
        pending = None if one.pending_admin == SYSTEM else one.pending_admin
        return one.admin, pending, settings

    def differences(self, model: Model, channels: Iterable[Pubkey]) -> list[str]:
        """Every account in which chain and model disagree."""
        found: list[str] = []
        owners = {who for who, _ in self.token_accounts} | {who for who, _ in model.purses}
        for mint in MINTS:
            if (held := self.world.tokens(self.vaults[mint])) != model.vault[mint]:
                found.append(f"vault {mint}: {held} is {model.vault[mint]} in the model")
            for who in owners:
                for kind, here, there in (
                    ("balance", self.purse(who, mint), model.purses.get((who, mint))),
                    ("stake", self.bond(who, mint), model.bonds.get((who, mint))),
                ):
                    if here != there:
                        found.append(f"{kind} {who} {mint}: {here} is {there} in the model")
        there = model.admin, model.pending_admin, model.settings
        if (here := self.settings()) != there:
            found.append(f"config: {here} is {there} in the model")
        for (who, mint), account in self.token_accounts.items():
            if (held := self.world.tokens(account)) != model.tokens[who, mint]:
                found.append(
                    f"tokens {who} {mint}: {held}, {model.tokens[who, mint]} in the model"
                )
        here_and_there = ((one, self.deal(one), model.deals.get(one)) for one in channels)
        found += [
            f"channel {address}: {here} is {there} in the model"
            for address, here, there in here_and_there
            if here != there
        ]
        return found
