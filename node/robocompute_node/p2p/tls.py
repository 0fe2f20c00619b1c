"""A TLS connection as a pipe of bytes, made for throughput.

trio's own stream hands out one TLS record at a time, 16 KiB, each with the cost of a scheduled
step; this one hands out all that has arrived.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Final

import trio

from .port import PeerGone

READ_BYTES: Final = 262_144
"""Asked of the socket at once: sixteen records."""
ANSWER_S: Final = 5.0
"""Seconds for an answer of TLS itself, a few bytes, to go out."""


class TlsPipe:
    """A ``BytePipe`` on a socket. ``finish`` ends both directions: Python's TLS has no half.

    One reader and one writer at a time. Nothing but the handshake raises what ``ssl`` raises.
    """

    def __init__(
        self, transport: trio.SocketStream, context: ssl.SSLContext, *, server: bool
    ) -> None:
        self._transport = transport
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._sending = trio.Lock()

    async def shake_hands(self) -> None:
        """Find out who is there. Raises: ssl.SSLError, trio.BrokenResourceError."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._refill()
            except ssl.SSLError:
                await self._flush()  # the alert that says why
                raise
            else:
                await self._flush()
                return

    def shown(self) -> bytes | None:
        """The certificate that the other side showed, as DER."""
        return self._tls.getpeercert(binary_form=True)

    async def read(self, limit: int) -> bytes:
        try:
            while True:
                data = self._decrypted(limit)
                if self._outgoing.pending:  # an answer of TLS itself
                    # Shielded: what was read must not be lost; and not for ever, because who asks
                    # for answers need not read them.
                    deadline = trio.current_time() + ANSWER_S
                    with trio.CancelScope(shield=True, deadline=deadline) as scope:
                        await self._flush()
                    if scope.cancelled_caught:
                        await self.abort()
                        raise PeerGone("the peer reads none of the answers that it asks for")
                if data is not None:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    return data
                await self._refill()
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as exc:
            raise PeerGone("the direct connection to the peer was lost") from exc

    def _decrypted(self, limit: int) -> bytes | None:
        """All that is here, at most ``limit``; nothing at the end; None where more has to come."""
        parts: list[bytes] = []
        while limit > 0:
            try:
                part = self._tls.read(limit)
            except ssl.SSLWantReadError:
                return b"".join(parts) or None
            except ssl.SSLError:
                if parts:  # said again by the next read
                    break
                raise
            if not part:
                break
            parts.append(part)
            limit -= len(part)
        return b"".join(parts)

    async def write(self, data: bytes) -> None:
        try:
            self._tls.write(data)
            await self._flush()
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as exc:
            raise PeerGone("the direct connection to the peer is broken") from exc

    async def finish(self) -> None:
        with suppress(ssl.SSLError):  # it waits for the other side's goodbye; nobody here does
            self._tls.unwrap()
        try:
            await self._flush()
            await self._transport.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise PeerGone("the direct connection to the peer is broken") from exc

    async def abort(self) -> None:
        await trio.aclose_forcefully(self._transport)

    async def _flush(self) -> None:
        async with self._sending:
            if data := self._outgoing.read():
                await self._transport.send_all(data)

    async def _refill(self) -> None:
        if data := await self._transport.receive_some(READ_BYTES):
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
