"""The settings of a node that rents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from robocompute_node import settings
from robocompute_node.settings import about
from robocompute_protocol import limits
from robocompute_protocol.messages import CLASSES
from robocompute_protocol.money import MicroUnits

DAY_S: Final = 86_400
MAX_CHALLENGE_S: Final = 30 * DAY_S
"""The settlement program accepts no longer challenge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """How this node rents."""

    horizon_s: float = field(
        default=limits.DEFAULT_HORIZON / 1_000,
        metadata=about(
            "The longest outage a job survives, and never more than this much work is prepaid: "
            "the most a vanished provider can cost.",
            settings.seconds(limits.MIN_HORIZON / 1_000, limits.MAX_HORIZON / 1_000),
        ),
    )
    first_tick_s: float = field(
        default=limits.FIRST_TICK_MAX / 1_000,
        metadata=about(
            "Prepaid with the order itself. Short jobs on one slot follow each other this fast.",
            settings.seconds(limits.FIRST_TICK_MIN / 1_000, limits.FIRST_TICK_MAX / 1_000),
        ),
    )
    start_deadline_s: float = field(
        default=900.0,
        metadata=about(
            "The provider must have the program running this long after the lease began, "
            "requirements installed; otherwise the time is not paid.",
            settings.seconds(1, DAY_S),
        ),
    )
    channel_deposit: MicroUnits = field(
        default=MicroUnits(5_000_000),
        metadata=about(
            "Locked for a provider when a payment channel with it is opened or topped up; a job "
            "that needs more locks more. The rest comes back when the channel closes.",
            settings.amount(),
        ),
    )
    max_price_per_hour: MicroUnits = field(
        default=MicroUnits(10_000_000),
        metadata=about(
            "Budget of a task that names none: dearer offers are not considered.",
            settings.amount(),
        ),
    )
    classes: tuple[str, ...] = field(
        default=CLASSES,
        metadata=about(
            "Classes whose offers this node follows from its start. Others it follows once a task "
            "asks for one; fewer are fewer messages.",
            settings.list_of(settings.word_of(CLASSES), high=len(CLASSES)),
        ),
    )
    share_leases: bool = field(
        default=True,
        metadata=about(
            "Tell the network of leases this node is given, so that a card that is sold twice is "
            "found. They say who rents from whom and when, never what runs.",
            settings.yes_or_no(),
        ),
    )
    challenge_s: int = field(
        default=DAY_S,
        metadata=about(
            "How long a provider has to settle after this node asks for a channel's close.",
            settings.integer(1, MAX_CHALLENGE_S),
        ),
    )
    max_challenge_s: int = field(
        default=7 * DAY_S,
        metadata=about(
            "Providers that ask for a longer challenge time are left out: so long money would be "
            "locked after a channel's close was asked for.",
            settings.integer(1, MAX_CHALLENGE_S),
        ),
    )
    close_idle_after_s: float = field(
        default=float(7 * DAY_S),
        metadata=about(
            "A channel that nothing was promised on for this long, and that no job is open on, is "
            "closed: its deposit comes back.",
            settings.seconds(1, MAX_CHALLENGE_S),
        ),
    )
    close_lost_after_s: float = field(
        default=float(DAY_S),
        metadata=about(
            "A channel with a provider that was not seen for this long is closed, so that its "
            "rest comes back.",
            settings.seconds(1, MAX_CHALLENGE_S),
        ),
    )
