"""What this provider lets: from its settings, what the machine really has, and what its stake carries."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from robocompute_node.core.channel_policy import ChannelDemand, Objection
from robocompute_node.core.stake_report import StakeReport, report_on
from robocompute_protocol.identifiers import Address
from robocompute_protocol.messages import Offer
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from robocompute_node.clocks import Clock
    from robocompute_node.config import NodeConfig
    from robocompute_node.inventory import Inventory
    from robocompute_node.services.program_view import ProgramView
    from robocompute_node.services.quiet_time import QuietTime
    from robocompute_protocol.identifiers import NodeKey

log = logging.getLogger(__name__)

NO_STAKE: Final = Address(bytes(32))
"""Stands in an offer that is not made yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What an offer needs besides the machine: who lets, and what runs jobs here."""

    provider: NodeKey
    payee: Address
    executors: tuple[str, ...]
    runtimes: tuple[str, ...]


def offer_of(
    config: NodeConfig, machine: Inventory, standing: Standing
) -> Callable[[Millis, tuple[str, ...]], Offer]:
    """Return a maker of this node's offer: (sequence, addresses) → offer.

    Slots are cards where there are cards of the class that is offered; otherwise as set.
    """
    provider = config.provider
    card = machine.gpus[0] if machine.gpus else None
    found = "cpu" if card is None else card.resource_class
    resource_class = provider.resource_class or found
    gpus = [gpu for gpu in machine.gpus if gpu.resource_class == resource_class]
    slots = min(provider.slots, len(gpus)) if gpus else provider.slots
    model = machine.cpu_model if not gpus else gpus[0].model

    def make(sequence: Millis, addresses: tuple[str, ...]) -> Offer:
        return Offer(
            provider=standing.provider,
            sequence=sequence,
            ttl_ms=Millis(int(provider.offer_ttl_s * 1000)),
            resource_class=resource_class,
            model=(provider.model or model)[:256],
            slots=slots,
            gpu_memory_mib=gpus[0].memory_mib if gpus else 0,
            cpu_cores=provider.cpu_cores or max(1, machine.cpu_cores // slots),
            memory_mib=provider.memory_mib or machine.memory_mib * 3 // 4 // slots,
            disk_mib=provider.disk_mib or machine.disk_mib // 2 // slots,
            price_per_hour=provider.price_per_hour,
            mint=config.chain.mint,
            payee=standing.payee,
            stake=NO_STAKE,
            executors=standing.executors,
            runtimes=standing.runtimes,
            location=provider.location,
            addresses=addresses[:8],
        )

    return make


class Offering:
    """What is let at this moment, and what stands against letting anything."""

    def __init__(
        self,
        full: Offer,
        program: ProgramView,
        quiet: QuietTime,
        clock: Clock,
        *,
        min_challenge_s: int,
        leases: Callable[[], int],
        withheld: Callable[[], Mapping[int, str]] = dict[int, str],
    ) -> None:
        """Put together what decides.

        ``full`` is the offer with all slots of the machine; ``leases`` tells how many jobs run now,
        ``withheld`` which slots nobody may have now, and why.
        """
        self._full = full
        self._program = program
        self._quiet = quiet
        self._clock = clock
        self._min_challenge_s = min_challenge_s
        self._leases = leases
        self.withheld = withheld
        self._told: object = None

    @property
    def slots(self) -> int:
        """Of the machine, whatever the stake carries."""
        return self._full.slots

    @property
    def resource_class(self) -> str:
        """Of all that is let here."""
        return self._full.resource_class

    def offer(self) -> Offer | None:
        """Return the offer as it is now; None while nothing new is let."""
        stake = self._program.stake
        if self.objection() is not None or stake is None:
            return None
        return msgspec.structs.replace(self._full, slots=self._carried(), stake=stake.stake)

    def announced(self, sequence: Millis, addresses: tuple[str, ...]) -> Offer | None:
        """Return the offer for the market, or None."""
        offer = self.offer()
        if offer is None:
            return None
        slots = offer.slots - sum(index < offer.slots for index in self.withheld())
        if slots == 0:
            return None
        return msgspec.structs.replace(
            offer, slots=slots, sequence=sequence, addresses=addresses[:8]
        )

    def demand(self) -> ChannelDemand:
        """What is asked of a channel: its fee must be the program's own."""
        config = self._program.config
        return ChannelDemand(
            min_challenge_s=self._min_challenge_s,
            max_fee_bps=0 if config is None else config.fee_bps,
        )

    def objection(self) -> Objection | None:
        """Return why nothing new is let now, or None."""
        quiet = self.objection_to_ticks()
        if quiet is not None:
            return quiet
        if self._program.config is None:
            return Objection(
                "waits_for_chain", f"this provider waits for {self._program.waits_for}"
            )
        if self._program.unsafe is not None:
            return Objection("unsafe_deployment", self._program.unsafe)
        if self._program.clock_off is not None:
            return Objection("clock_off", f"this provider does not let: {self._program.clock_off}")
        if self._carried() == 0:
            return Objection("no_stake", "this provider's stake carries no slot")
        return None

    def objection_to_ticks(self) -> Objection | None:
        """Return why not even a running lease is extended now, or None.

        Ticks of a key that another one took over from could be held against those that the new
        one's node signs.
        """
        quiet = self._quiet.objection()
        if quiet is not None:
            return Objection("just_restored", quiet)
        stake = self._program.stake
        if stake is not None and stake.node_key != self._full.provider:
            return Objection("no_stake", "this provider's stake is for another node's key")
        return None

    def _carried(self) -> int:
        """How many slots the stake carries."""
        stake, report = self._program.stake, self._report()
        if report is None or stake is None or stake.node_key != self._full.provider:
            return 0
        if report.slots_covered is None:
            return self._full.slots
        return min(report.slots_covered, self._full.slots)

    def _report(self) -> StakeReport | None:
        config, stake = self._program.config, self._program.stake
        if config is None or stake is None:
            return None
        return report_on(
            stake,
            slot_stake=config.slot_stake,
            slash_bps=config.slash_bps,
            node_key=self._full.provider,
            slots_wanted=self._full.slots,
            now_s=self._clock.now_ms() // 1000,
        )

    def look(self) -> None:
        """Warn once of each new thing that is wrong with the stake."""
        stake, report = self._program.stake, self._report()
        if report is None or stake is None:
            if self._program.config is not None:
                log.warning("this wallet has no stake: `robocompute-node stake register`")
            return
        self._quiet.heed(stake)
        state = (report.missing, stake.node_key, stake.unbonding, stake.slashed)
        wrong = report.missing or stake.unbonding or stake.slashed
        if state != self._told and (wrong or stake.node_key != self._full.provider):
            log.warning("%s", "; ".join(report.threats))
            if stake.unbonding and self._leases():
                log.warning(
                    "stake is on its way out while %d leases run: they go on, and clients "
                    "refuse slots that it no longer carries",
                    self._leases(),
                )
        self._told = state

    def summary(self) -> Mapping[str, object]:
        """JSON-ready: what stands against letting, and what the owner should know of the stake."""
        objection, report = self.objection(), self._report()
        return {
            "not_letting": None if objection is None else objection.message,
            "stake": [] if report is None else list(report.threats),
            "withheld": [f"slot {index}: {why}" for index, why in self.withheld().items()],
        }
