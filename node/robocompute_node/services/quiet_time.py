"""Signs no ticks for a while where some may have been forgotten: after a lost or restored store.

The store counts the ticks it knows, in the transaction that stores each; the mark beside the node's
key follows before the tick is sent. At the start the two are compared.
"""

from __future__ import annotations

import logging
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from robocompute_node.core.quiet import (
    Kept,
    Mark,
    quiet_after_clock,
    quiet_after_rotation,
    what_was_lost,
)
from robocompute_node.node_mark import machine_start, read_mark, write_mark
from robocompute_node.store import Store, Table, Transaction
from robocompute_protocol.money import Millis

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_node.clocks import Clock
    from robocompute_protocol.identifiers import NodeKey
    from robocompute_settlement.port import StakeView

log = logging.getLogger(__name__)

KEPT: Final = Table("lease-memory/1", Kept)
KEPT_KEY: Final = b"kept"
KEYS_KNOWN: Final = 8
"""Former node keys remembered: one rotation in an unbonding period, and ticks last minutes."""


class QuietTime:
    """What this node remembers of the ticks it signed, and until when it signs none."""

    def __init__(
        self, store: Store, clock: Clock, key: NodeKey, folder: Path, *, wait: Millis
    ) -> None:
        """Compare store and mark, and note that the node was started again.

        Args:
            store: the node's store.
            clock: the node's clock.
            key: what signs ticks now.
            folder: where the mark is.
            wait: how long nothing is signed after ticks may have been forgotten.

        Raises:
            StoreError: the store or the mark cannot be written.
        """
        self._store = store
        self._clock = clock
        self._folder = folder
        self._wait = wait
        store.declare(KEPT)
        kept, found = store.get(KEPT, KEPT_KEY), read_mark(folder)
        self._machine = machine_start()
        self.reason = what_was_lost(
            kept,
            None if found is None else found.mark,
            machine=self._machine,
            changed_ms=Millis(0) if found is None else found.changed_ms,
        )
        quiet_until = Millis(0) if kept is None else kept.quiet_until_ms
        if self.reason is not None:
            quiet_until = Millis(max(quiet_until, clock.now_ms() + wait))
            log.warning("%s: no leases before %s", self.reason, _time(quiet_until))
        set_back = quiet_after_clock(kept, now_ms=clock.now_ms())
        if set_back > quiet_until:
            quiet_until = set_back
            self.reason = self.reason or "the machine's clock was set back"
            log.warning("%s: no leases before %s", self.reason, _time(quiet_until))
        known = () if kept is None else kept.keys
        self._kept = Kept(
            instance=secrets.token_hex(16) if kept is None else kept.instance,
            starts=max(
                0 if kept is None else kept.starts, 0 if found is None else found.mark.starts
            )
            + 1,
            ticks=max(0 if kept is None else kept.ticks, 0 if found is None else found.mark.ticks),
            keys=known if known[-1:] == (key,) else (*known, key)[-KEYS_KNOWN:],
            quiet_until_ms=quiet_until,
            latest_ms=Millis(0) if kept is None else kept.latest_ms,
            signed_ms=Millis(0) if kept is None else kept.signed_ms,
        )
        self._marked = -1
        """Ticks that the mark tells of; none was written by this process yet."""
        with store.transaction() as txn:
            txn.put(KEPT, KEPT_KEY, self._kept)
        self.mark()

    @property
    def ticks(self) -> int:
        """Signed so far, as far as is known."""
        return self._kept.ticks

    @property
    def until_ms(self) -> Millis:
        """Until when nothing is signed; a time that is over where there is nothing to wait for."""
        return self._kept.quiet_until_ms

    def objection(self) -> str | None:
        """Return why no tick is signed now, with the time from which on one may be; or None."""
        if self._clock.now_ms() >= self.until_ms:
            return None
        why = self.reason or "ticks of this node may not be known to it"
        return f"just restored ({why}): leases again at {_time(self.until_ms)}"

    def note(self, txn: Transaction, *, signed: bool) -> None:
        """Note the time in a transaction that stores a letting, and one more tick where one is.

        ``mark`` before a tick is sent.
        """
        now = self._clock.now_ms()
        before = txn.get(KEPT, KEPT_KEY)  # others in this transaction may have noted theirs
        assert before is not None
        kept = replace(
            before,
            ticks=before.ticks + signed,
            latest_ms=Millis(max(before.latest_ms, now)),
            signed_ms=Millis(max(before.signed_ms, now)) if signed else before.signed_ms,
        )
        txn.put(KEPT, KEPT_KEY, kept)
        txn.after(lambda: setattr(self, "_kept", kept))

    def mark(self) -> None:
        """Let the mark say what the store does, unless it does already: ticks may share a mark.

        Raises: StoreError; then nothing may be sent.
        """
        if self._marked == self._kept.ticks:
            return
        ticks = self._kept.ticks
        write_mark(
            self._folder,
            Mark(
                instance=self._kept.instance,
                starts=self._kept.starts,
                ticks=ticks,
                machine=self._machine,
                written_ms=Millis(0),
            ),
        )
        self._marked = ticks

    def heed(self, stake: StakeView) -> None:
        """Wait out the ticks of a key that this stake was for before, unless they are known here."""
        until = quiet_after_rotation(
            rotated_at_s=stake.rotated_at_s, prev_key=stake.prev_key, keys=self._kept.keys[:-1]
        )
        if until <= max(self.until_ms, self._clock.now_ms()):
            return
        self.reason = "the stake was another node's"
        log.warning("%s: no leases before %s", self.reason, _time(until))
        kept = replace(self._kept, quiet_until_ms=until)
        with self._store.transaction() as txn:
            txn.put(KEPT, KEPT_KEY, kept)
            txn.after(lambda: setattr(self, "_kept", kept))


def _time(moment: Millis) -> str:
    return datetime.fromtimestamp(moment / 1_000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
