"""The fake adapter's stakes, slashing, fees and administration."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from robocompute_protocol.errors import ChainRefused
from robocompute_protocol.identifiers import Address, NodeKey
from robocompute_protocol.leases import overlaps, signing_bytes
from robocompute_protocol.money import MicroUnits
from robocompute_protocol.signing import verify
from robocompute_settlement import events
from robocompute_settlement.fake_chain import NOBODY, ZERO
from robocompute_settlement.fake_reading import FakeReader, refused
from robocompute_settlement.instructions import MAX_SWEPT
from robocompute_settlement.port import Sent, StakeView

if TYPE_CHECKING:
    from robocompute_protocol.messages import LeaseTick

ROTATION_GRACE_S: Final = 300
"""How long after a rotation leases by the key before it may begin."""
NO_KEY: Final = NodeKey(bytes(32))


class FakeStaking(FakeReader):
    """Stakes, and what may be taken from them."""

    async def register_wallet(self, *, mint: Address, node_key: NodeKey) -> Sent:
        await self._begin("register")
        if (self._signer, mint) in self._ledger.stakes:
            raise refused(6007)
        balance = self._balance(self._signer, mint)
        self._set(balance)
        stake = self.stake_address(self._signer, mint)
        self._bond(
            StakeView(
                stake=stake, owner=self._signer, mint=mint, node_key=node_key, prev_key=NO_KEY,
                bonded=ZERO, unbonding=ZERO, unbond_at_s=0, rotated_at_s=0, watermark_s=0,
                slashed=ZERO,
            )
        )  # fmt: skip
        balance_address = self.balance_address(self._signer, mint)
        register = self._build.register(owner=self._signer, mint=mint, node_key=node_key)
        touched = {Address(bytes(meta.pubkey)) for meta in register.accounts}
        told = (
            events.Deposited(
                owner=self._signer, mint=mint, amount=ZERO, available=balance.available
            ),
            events.Registered(stake=stake, owner=self._signer, mint=mint, node_key=node_key),
        )
        return await self._chain.took("register", {*touched, balance_address}, told)

    async def stake_wallet(self, *, mint: Address, amount: MicroUnits) -> Sent:
        await self._begin("stake")
        stake, balance = self._stake(mint), self._balance(self._signer, mint)
        if amount == 0:
            raise refused(6013)
        if balance.available < amount:
            raise refused(6011)
        self._set(replace(balance, available=MicroUnits(balance.available - amount)))
        bonded = MicroUnits(stake.bonded + amount)
        self._bond(replace(stake, bonded=bonded))
        return await self._note(
            "stake",
            self._build.stake(owner=self._signer, mint=mint, amount=amount),
            events.Staked(stake=stake.stake, amount=amount, bonded=bonded),
        )

    async def unstake_wallet(self, *, mint: Address, amount: MicroUnits) -> Sent:
        await self._begin("unstake")
        stake = self._stake(mint)
        if amount == 0:
            raise refused(6013)
        if stake.bonded < amount:
            raise refused(6011)
        after = replace(
            stake,
            bonded=MicroUnits(stake.bonded - amount),
            unbonding=MicroUnits(stake.unbonding + amount),
            unbond_at_s=self._now_s + self._chain.settings.unbond_s,
        )
        self._bond(after)
        return await self._note(
            "unstake",
            self._build.unstake(owner=self._signer, mint=mint, amount=amount),
            events.Unstaked(
                stake=stake.stake, amount=amount, bonded=after.bonded, unbonding=after.unbonding,
                unbond_at=after.unbond_at_s,
            ),
        )  # fmt: skip

    async def claim_unbonded_wallet(self, *, mint: Address) -> Sent:
        await self._begin("claim_unbonded")
        stake, balance = self._stake(mint), self._balance(self._signer, mint)
        if stake.unbonding == 0:
            raise refused(6013)
        if self._chain.now_s() < stake.unbond_at_s:
            raise refused(6033)
        available = MicroUnits(balance.available + stake.unbonding)
        self._set(replace(balance, available=available))
        self._bond(replace(stake, unbonding=ZERO, unbond_at_s=0))
        return await self._note(
            "claim_unbonded",
            self._build.claim_unbonded(owner=self._signer, mint=mint),
            events.UnbondedClaimed(
                stake=stake.stake, owner=self._signer, mint=mint, amount=stake.unbonding,
                available=available,
            ),
        )  # fmt: skip

    async def rotate_key_wallet(self, *, mint: Address, node_key: NodeKey) -> Sent:
        await self._begin("rotate_key")
        stake, now = self._stake(mint), self._now_s
        if node_key == NO_KEY:
            raise refused(6028)
        again_at = stake.rotated_at_s + self._chain.settings.unbond_s + ROTATION_GRACE_S
        if stake.prev_key != NO_KEY and now < again_at:
            raise refused(6034)
        self._bond(replace(stake, node_key=node_key, prev_key=stake.node_key, rotated_at_s=now))
        return await self._note(
            "rotate_key",
            self._build.rotate_key(owner=self._signer, mint=mint, node_key=node_key),
            events.KeyRotated(
                stake=stake.stake, node_key=node_key, prev_key=stake.node_key, rotated_at=now
            ),
        )

    async def slash(self, *, stake: StakeView, first: LeaseTick, second: LeaseTick) -> Sent:
        await self._begin("slash")
        held, now, mint = self._found(stake), self._now_s, stake.mint
        for lease in (first, second):
            self._check_lease(held, lease)
        if not overlaps(first, second):
            raise refused(6030)
        oldest = max(held.watermark_s, now - self._chain.settings.unbond_s)
        if not all(oldest < each.start_s <= now for each in (first, second)):
            raise refused(6031)
        taken = (held.bonded + held.unbonding) * self._chain.settings.slash_bps // 10_000
        if taken == 0:
            raise refused(6032)
        from_unbonding = min(taken, held.unbonding)
        self._bond(
            replace(
                held,
                bonded=MicroUnits(held.bonded - taken + from_unbonding),
                unbonding=MicroUnits(held.unbonding - from_unbonding),
                unbond_at_s=0 if from_unbonding == held.unbonding else held.unbond_at_s,
                watermark_s=now,
                slashed=MicroUnits(held.slashed + taken),
            )
        )
        shares = [self._victim(each.payer, mint, taken // 5) for each in (first, second)]
        reward = MicroUnits(taken // 10)
        rest = MicroUnits(taken - reward - sum(shares))
        treasury = self._chain.settings.treasury
        self._credit(self._signer, mint, reward)
        self._credit(treasury, mint, rest)
        return await self._note(
            "slash",
            self._build.slash(
                reporter=self._signer, stake=stake, payers=(first.payer, second.payer),
                treasury=treasury, ed_ix=0,
            ),
            events.Slashed(
                stake=held.stake, mint=mint, reporter=self._signer, first_payer=first.payer,
                second_payer=second.payer, treasury=treasury,
                from_bonded=MicroUnits(taken - from_unbonding),
                from_unbonding=MicroUnits(from_unbonding), to_reporter=reward, to_first=shares[0],
                to_second=shares[1], to_treasury=rest, watermark=now,
            ),
        )  # fmt: skip

    def _found(self, stake: StakeView) -> StakeView:
        held = self._ledger.stakes.get((stake.owner, stake.mint))
        if held is None:
            raise refused(6004)
        return held

    def _check_lease(self, stake: StakeView, lease: LeaseTick) -> None:
        message = signing_bytes(lease)
        now_key = verify(stake.node_key, message, lease.signature)
        old_key = verify(stake.prev_key, message, lease.signature)
        if not now_key and not old_key:
            raise ChainRefused("a lease was not signed by a key of this stake")
        in_time = lease.start_s < stake.rotated_at_s + ROTATION_GRACE_S
        if lease.stake != stake.stake or not (now_key or in_time):
            raise refused(6029)

    def _victim(self, payer: Address, mint: Address, share: int) -> MicroUnits:
        if (payer, mint) not in self._ledger.balances:
            return ZERO
        self._credit(payer, mint, MicroUnits(share))
        return MicroUnits(share)

    def _credit(self, owner: Address, mint: Address, amount: MicroUnits) -> None:
        balance = self._balance(owner, mint)
        self._set(replace(balance, available=MicroUnits(balance.available + amount)))

    async def sweep_fees(self, *, mint: Address, owners: tuple[Address, ...]) -> Sent:
        if len(owners) > MAX_SWEPT:
            raise ChainRefused(f"one transaction sweeps the fees of up to {MAX_SWEPT} owners")
        await self._begin("sweep_fees")
        treasury = self._chain.settings.treasury
        swept = ZERO
        for owner in owners:
            balance = self._balance(owner, mint)
            fees, paid = balance.fees_owed, MicroUnits(balance.fees_paid + balance.fees_owed)
            self._set(replace(balance, fees_owed=ZERO, fees_paid=paid))
            swept = MicroUnits(swept + fees)
        self._credit(treasury, mint, swept)
        return await self._note(
            "sweep_fees",
            self._build.sweep_fees(
                rent_payer=self._signer, treasury=treasury, mint=mint, owners=owners
            ),
            events.FeesSwept(treasury=treasury, mint=mint, amount=swept),
        )


class FakeAdministration(FakeReader):
    """What ``administration.Administration`` does, on a chain that is set up already."""

    async def update_config(
        self, *, treasury: Address, slot_stake: MicroUnits, unbond_s: int, min_challenge_s: int,
        fee_bps: int, slash_bps: int, paused: bool,
    ) -> Sent:  # fmt: skip
        await self._begin("update_config")
        self._require_admin()
        if fee_bps > 500 or slash_bps > 5_000 or min_challenge_s > 30 * 86_400:
            raise refused(6026)
        self._chain.settings = replace(
            self._chain.settings, treasury=treasury, slot_stake=slot_stake, unbond_s=unbond_s,
            min_challenge_s=min_challenge_s, fee_bps=fee_bps, slash_bps=slash_bps, paused=paused,
        )  # fmt: skip
        told = events.ConfigChanged(
            admin=self._chain.settings.admin, treasury=treasury, slot_stake=slot_stake,
            unbond_s=unbond_s, min_challenge_s=min_challenge_s, fee_bps=fee_bps,
            slash_bps=slash_bps, paused=paused,
        )  # fmt: skip
        return await self._chain.took(
            "update_config", {self._signer, self.addresses.config}, (told,)
        )

    async def propose_admin(self, new_admin: Address) -> Sent:
        await self._begin("propose_admin")
        self._require_admin()
        self._chain.settings = replace(self._chain.settings, pending_admin=new_admin)
        told = events.AdminProposed(admin=self._signer, pending_admin=new_admin)
        return await self._chain.took(
            "propose_admin", {self._signer, self.addresses.config}, (told,)
        )

    async def accept_admin(self) -> Sent:
        await self._begin("accept_admin")
        settings = self._chain.settings
        if self._signer != settings.pending_admin:
            raise refused(6008)
        told = events.AdminChanged(previous=settings.admin, admin=self._signer)
        self._chain.settings = replace(settings, admin=self._signer, pending_admin=NOBODY)
        return await self._chain.took(
            "accept_admin", {self._signer, self.addresses.config}, (told,)
        )

    def _require_admin(self) -> None:
        if self._signer != self._chain.settings.admin:
            raise refused(6008)
