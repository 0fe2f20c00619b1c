"""May this provider have signed lease ticks that it no longer knows of?

Two ticks of one key for two payers that overlap on a slot cost a fifth of the stake. A node knows
what it signed from its store; one whose store was lost, or replaced by an older copy, does not, and
must sign nothing until every tick it may have forgotten is over.
"""

from __future__ import annotations

from typing import Final

import msgspec

from robocompute_protocol import limits
from robocompute_protocol.identifiers import NodeKey
from robocompute_protocol.money import Millis

QUIET: Final = Millis(limits.MAX_TICK + limits.MAX_CLOCK_AHEAD)
"""A tick signed a moment before the store was lost ends within ``MAX_TICK``; the machine that takes
over may count differently by ``MAX_CLOCK_AHEAD``."""
COPY_SLACK: Final = Millis(5_000)
"""A file system tells when a file was last changed to within this: what a copy or a backup brings
back is changed later than it says of itself."""
HANDOVER: Final = Millis(limits.MAX_TICK + QUIET)
"""After a stake passed to another key: ticks of the former one count as evidence when they begin up
to ``MAX_TICK`` after that, and such a tick may last as long again."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What the store says of itself. Written with every tick, in the tick's own transaction."""

    instance: str
    """Drawn when the store was made."""
    starts: int
    ticks: int
    """Signed with this store so far."""
    keys: tuple[NodeKey, ...]
    """The node keys that signed, newest last."""
    quiet_until_ms: Millis = Millis(0)
    latest_ms: Millis = Millis(0)
    """The latest the node's clock showed when anything about a letting was stored."""
    signed_ms: Millis = Millis(0)
    """The same for what was signed: no tick ends later than ``QUIET`` after it."""


class Mark(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file beside the node's key says of the store. Never newer than the store."""

    instance: str
    """"" until a node ran on this key."""
    starts: int
    ticks: int
    machine: str
    """Which start of the machine it was written in."""
    written_ms: Millis


def what_was_lost(
    kept: Kept | None, mark: Mark | None, *, machine: str, changed_ms: Millis
) -> str | None:
    """Return why ticks may be forgotten, as a person would be told; None when none can be.

    ``changed_ms`` is when the file system says the mark was last changed. A process that was
    killed at any instant and started again is told None: the store is written before the mark, and
    both before a tick is sent.
    """
    if mark is None:
        return "there is no mark beside the node's key: its folder may be a copy"
    if abs(changed_ms - mark.written_ms) > COPY_SLACK:
        return "the node's folder was copied or restored"
    if mark.machine != machine:
        return "the machine was started anew, perhaps from an older disk"
    if kept is None:
        return None if mark.instance == "" else "the node's store was lost"
    if kept.instance != mark.instance and mark.instance:
        return "the node's store is another than its mark's"
    if kept.ticks < mark.ticks or kept.starts < mark.starts:
        return "the node's store was replaced by an older copy"
    return None


def quiet_after_clock(kept: Kept | None, *, now_ms: Millis) -> Millis:
    """Return until when nothing is signed by a clock that shows less than it once did; or 0.

    Of a client that was served, the node keeps only what is not over yet by its clock. Set back, the
    clock would run a second time through moments that were let already: until the last of them is
    over. A clock that was ahead while nothing was signed is nothing to wait for, however far.
    """
    if kept is None or now_ms >= kept.latest_ms:
        return Millis(0)
    until = Millis(min(kept.latest_ms, kept.signed_ms + QUIET))
    return until if until > now_ms else Millis(0)


def quiet_after_rotation(
    *, rotated_at_s: int, prev_key: NodeKey, keys: tuple[NodeKey, ...], window: Millis = HANDOVER
) -> Millis:
    """Return until when a key that took over a stake signs nothing, in Unix milliseconds.

    0 where this store knows the former key's ticks, or there was no rotation.
    """
    if rotated_at_s == 0 or prev_key in keys:
        return Millis(0)
    return Millis(rotated_at_s * 1_000 + window)
