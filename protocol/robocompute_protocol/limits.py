"""Bounds on everything a peer can send. Each says its unit and its reason."""

from __future__ import annotations

from typing import Final

from robocompute_protocol.money import Millis

MAX_GOSSIP_BYTES: Final = 16_384
"""One gossip payload: an offer with 64 slots is about 4 kB, and relays pay for every byte."""
MAX_FRAME_BYTES: Final = 262_144
"""One frame on a direct stream: four 64 KiB transport frames, so a stream is shared fairly."""
MAX_CHUNK_BYTES: Final = 1_048_576
"""One content-addressed chunk: small enough to resume cheaply, large enough to hash fast."""
MIN_CREDIT_BYTES: Final = 1_048_576
"""What a receiver allows at least before it speaks again: a chunk."""
MAX_CREDIT_BYTES: Final = 4_194_304
"""Sent and not yet stored, at most: a second of a fast line, and what one transfer may cost in memory."""
MAX_CERTIFICATE_BYTES: Final = 2_048
"""One certificate of a direct connection: one of ours has 450 bytes, an RSA key would add 300."""
MAX_MANIFEST_BYTES: Final = 16_777_216
"""One upload or artifact manifest, all its parts: about 100,000 files with their chunks."""
MAX_PARTS: Final = 32
"""Chunks of one manifest beside the first: twice what its bytes fill when they are packed well."""
MAX_FILES: Final = 100_000
"""Files in one upload or artifact set: more is a mistake (an unignored cache), and costs inodes."""
MAX_PATH_BYTES: Final = 1_024
"""One relative path."""
MAX_ARGV: Final = 4_096
"""Words in a command."""
MAX_ARG_BYTES: Final = 131_072
"""One word of a command or one environment value: Linux refuses longer ones at exec."""
MAX_SLOTS: Final = 62
"""Slots of one provider: bits of the chain's u64 that a signed 64-bit integer holds too."""
MAX_OPEN_AGREEMENTS: Final = 64
"""Open agreements on one channel: the allocation root lists them all."""
MAX_SHOWN_RECEIPTS: Final = 8
"""Receipts in one ``Sync``: with the longest of details they fit half a frame."""
MAX_OFFER_TTL: Final = Millis(1_800_000)
"""An offer lives at most half an hour: a vanished provider must not be advertised for longer."""
MAX_CLOCK_AHEAD: Final = Millis(30_000)
"""A sequence or time stamp further in the future than this is refused."""
TOMBSTONE_EXTRA: Final = Millis(60_000)
"""A withdrawal is remembered for the offer's TTL and this much more, so gossip cannot revive it."""
MAX_PEER_TTL: Final = Millis(7_200_000)
"""A node's record of its addresses lives at most two hours: a laptop moves on by then."""
MAX_PEER_RECORDS: Final = 32
"""Records in one answer: a node wants eight connections, and 32 records are 20 kB."""
QUOTE_HOLD: Final = Millis(5_000)
"""A quote keeps its slots for at most this long."""
FIRST_TICK_MIN: Final = Millis(2_000)
FIRST_TICK_MAX: Final = Millis(10_000)
"""The first prepaid tick: short, because a slot is not let to another payer before its end."""
MAX_TICK: Final = Millis(300_000)
"""No later tick is longer."""
DEFAULT_HORIZON: Final = Millis(60_000)
"""The outage an agreement survives unless it names another: also the most either side can lose."""
MIN_HORIZON: Final = Millis(4_000)
"""A horizon below this would be used up by one reconnect."""
MAX_HORIZON: Final = Millis(86_400_000)
"""A horizon above a day is a detached job that should be paid by a larger deposit knowingly."""
RESERVE_MAX: Final = Millis(15_000)
"""The reserve at the end of prepaid time is a quarter of the horizon, and at most this."""
CONFIRMED_CARRIES: Final = Millis(60_000)
"""A deposit that is confirmed but not yet final carries ticks up to this much prepaid time."""
