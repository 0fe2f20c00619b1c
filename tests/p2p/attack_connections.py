"""Attacks at the door: on listening, on handshakes, and on who somebody is."""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack, suppress

import trio
from attack_kit import (
    ECHO,
    Target,
    attacker,
    connection,
    forged_keys,
    new_keys,
    noise_only,
    raw_socket,
    stream_to,
)
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.secio.transport import ID as SECIO, Transport as Secio

from robocompute_node.p2p.identity import node_key_of

HELLO = b"\x13/multistream/1.0.0\n"
NOISE_HELLO = HELLO + b"\x07/noise\n"


async def half_open(target: Target) -> None:
    """Three hundred connections that never shake hands, a third with garbage."""
    async with AsyncExitStack() as stack:
        for number in range(300):
            with suppress(OSError, trio.BrokenResourceError):
                stream = await stack.enter_async_context(await raw_socket(target))
                if number % 3 == 0:
                    await stream.send_all(secrets.token_bytes(500))
                elif number % 3 == 1:
                    await stream.send_all(NOISE_HELLO + b"\xff\xff" + secrets.token_bytes(99))
        await trio.sleep(1.0)


async def rapid_connects(target: Target) -> None:
    """A thousand connections, one after the other, each closed at once."""
    for _ in range(1_000):
        with suppress(OSError, trio.BrokenResourceError):
            async with await raw_socket(target) as stream:
                await stream.send_all(HELLO)


async def syns(target: Target) -> None:
    """Connections opened as fast as the kernel does, many at a time, saying nothing."""

    async def one() -> None:
        with suppress(OSError):
            async with await raw_socket(target):
                pass

    for _ in range(20):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one)


async def slow_handshakes(target: Target) -> None:
    """Handshakes of a byte at a time."""
    async with AsyncExitStack() as stack:
        streams: list[trio.SocketStream] = []
        for _ in range(20):
            with suppress(OSError):
                streams.append(await stack.enter_async_context(await raw_socket(target)))
        for byte in NOISE_HELLO[:20]:
            for stream in streams:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(bytes([byte]))
            await trio.sleep(0.1)


async def identities_without_end(target: Target) -> None:
    """One newcomer after the other, each with a key of its own and nothing to say."""
    for _ in range(10):
        async with attacker() as host:
            await connection(host, target)


async def plaintext(target: Target) -> None:
    """Dials without encryption, and with secio; under a false name, too."""
    victim = node_key_of(target.peer_id)
    for keys in (new_keys(), forged_keys(victim)):
        for security in (
            {PLAINTEXT_PROTOCOL_ID: InsecureTransport(keys)},
            {SECIO: Secio(keys)},
        ):
            async with attacker(keys, security) as host:
                with trio.move_on_after(5.0), suppress(Exception):
                    await connection(host, target)
                assert not host.get_network().get_connections()


async def false_names(target: Target) -> None:
    """A handshake with somebody else's public key."""
    keys = forged_keys(node_key_of(target.peer_id))
    async with attacker(keys, noise_only(keys)) as host:
        with trio.move_on_after(5.0), suppress(Exception):
            stream = await stream_to(host, target, ECHO)
            await stream.write(b"\0\0\0\x01x")
            assert await stream.read(5) == b""


ATTACKS = (
    half_open,
    rapid_connects,
    syns,
    slow_handshakes,
    identities_without_end,
    plaintext,
    false_names,
)
