"""Attacks inside a connection: on streams, on yamux, and on every protocol served."""

from __future__ import annotations

import secrets

import trio
from attack_kit import (
    DATA,
    DEAF,
    ECHO,
    GO_AWAY,
    PING,
    SYN,
    WINDOW,
    Target,
    attacker,
    connection,
    send_raw,
    stream_to,
    until_cut,
    yamux,
)

from robocompute_protocol import limits

MULTISTREAM = b"\x13/multistream/1.0.0\n"


async def garbage_on_every_protocol(target: Target) -> None:
    """A length and half of what it promises, and bytes that are no message, on each protocol."""
    noise = secrets.token_bytes(200)
    async with attacker() as host:
        for protocol in target.protocols:
            for payload in (b"\xc8\x01" + noise, b"\xc8\x01" + noise[:50], b"\xff" * 64, b"\0"):
                stream = await stream_to(host, target, protocol)
                await stream.write(payload)
                await stream.close()


async def nonsense_for_a_protocol(target: Target) -> None:
    """Bytes in place of a protocol's name; some streams say nothing at all."""
    async with attacker() as host:
        conn = await connection(host, target)
        for payload in (
            b"\xff" * 32,
            b"\x02\xff\n",
            MULTISTREAM + b"\x04\xfe\xff\xfd\n",
            MULTISTREAM + b"\xff\x7f" + bytes(20_000),
            MULTISTREAM,
            b"",
        ):
            stream = await conn.new_stream()
            if payload:
                await stream.write(payload)
        await until_cut(stream)


async def oversized_frames(target: Target) -> None:
    """Frames that announce more than is allowed."""
    async with attacker() as host:
        for size in (limits.MAX_FRAME_BYTES + 1, 1 << 31, (1 << 32) - 1):
            stream = await stream_to(host, target, ECHO)
            await stream.write(size.to_bytes(4, "big") + bytes(1_000))
            await until_cut(stream)


async def torn_frames(target: Target) -> None:
    """Frames that end in the middle, by a close or by a reset."""
    async with attacker() as host:
        for number in range(20):
            stream = await stream_to(host, target, ECHO)
            await stream.write((1_000).to_bytes(4, "big") + bytes(number * 40))
            await (stream.close() if number % 2 else stream.reset())


async def drop_by_drop(target: Target) -> None:
    """Streams that send a byte now and then: slow loris."""
    async with attacker() as host:
        streams = [await stream_to(host, target, ECHO) for _ in range(8)]
        for _ in range(10):
            for stream in streams:
                await stream.write(b"\0")
            await trio.sleep(0.1)


async def never_reading(target: Target) -> None:
    """Ask for echoes, and read none of them."""
    async with attacker() as host:
        stream = await stream_to(host, target, ECHO)
        muxed = stream.muxed_stream
        frame = (100_000).to_bytes(4, "big") + bytes(100_000)
        with trio.move_on_after(2.0):
            while not muxed.closed:
                await stream.write(frame)


async def ignoring_the_window(target: Target) -> None:
    """Send on where the window is used up."""
    async with attacker() as host:
        stream = await stream_to(host, target, DEAF)
        with trio.move_on_after(10.0):
            while True:
                stream.muxed_stream.send_window = 1 << 30
                await stream.write(bytes(60_000))


async def filling_every_window(target: Target) -> None:
    """A hundred streams that nobody reads, each filled up to its window."""
    async with attacker() as host:
        streams = [await stream_to(host, target, DEAF) for _ in range(100)]

        async def fill() -> None:
            for stream in streams:
                await stream.write(bytes(200_000))

        with trio.move_on_after(10.0):
            await fill()


async def streams_without_end(target: Target) -> None:
    """A thousand streams opened in one breath."""
    async with attacker() as host:
        opened = (yamux(WINDOW, SYN, each, 0) for each in range(100_001, 102_001, 2))
        await send_raw(host, target, *opened)
        await trio.sleep(1.0)


async def yamux_nonsense(target: Target) -> None:
    """Frames of unknown kinds, for unknown streams, of impossible lengths."""
    for frame in (
        yamux(77, 0xFFFF, 5, 1_000) * 3,
        yamux(DATA, 0, 999_999, 10) + bytes(10),
        yamux(DATA, SYN, 11, 0xFFFFFFFF),
        yamux(WINDOW, 0xFFFF, 13, 0xFFFFFFFF) * 3,
        yamux(GO_AWAY, 0, 0, 99),
        secrets.token_bytes(5_000),
    ):
        async with attacker() as host:
            await send_raw(host, target, frame)
            await trio.sleep(0.1)


async def pings_without_end(target: Target) -> None:
    """Ten thousand pings, and no answer is read."""
    async with attacker() as host:
        await send_raw(host, target, *[yamux(PING, SYN, 0, 7) * 500] * 20)
        await trio.sleep(0.5)


async def half_a_data_frame(target: Target) -> None:
    """Announce two megabytes on many connections, and send next to nothing of them."""
    async with attacker() as host, attacker() as other:
        for each in (host, other):
            await send_raw(each, target, yamux(DATA, SYN, 21, 2_000_000) + bytes(100))
        await trio.sleep(1.0)


ATTACKS = (
    garbage_on_every_protocol,
    nonsense_for_a_protocol,
    oversized_frames,
    torn_frames,
    drop_by_drop,
    never_reading,
    ignoring_the_window,
    filling_every_window,
    streams_without_end,
    yamux_nonsense,
    pings_without_end,
    half_a_data_frame,
)
