"""Strangers at the port of direct connections, and nodes that lie about theirs."""

from __future__ import annotations

import datetime
import os
import secrets
import socket
import ssl
import struct
from typing import TYPE_CHECKING

import pytest
import trio
from bulk_pair import ECHO, Node, bulk_nodes, port_of
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from robocompute_node.p2p.bulk import MAX_HALF_OPEN_PER_HOST, NAME_BYTES, _name_of
from robocompute_node.p2p.certificates import EXTENSION, Certificate, check_certificate
from robocompute_node.p2p.port import PeerGone
from robocompute_protocol import codec
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.messages import PROTOCOL_BULK, BulkAt
from robocompute_protocol.signing import SigningKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_node.p2p.port import FrameStream

pytestmark = pytest.mark.net
PATIENCE_S = 60.0
# pyright: reportPrivateUsage=false

KEY, OTHER_KEY = SigningKey(bytes(31) + b"\1"), SigningKey(bytes(31) + b"\2")


async def tcp(answer: BulkAt) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", port_of(answer))


async def agreed(one: Node, other: Node) -> tuple[Certificate, BulkAt]:
    certificate = Certificate(SigningKey(one.seed))
    answer = await one.ask(other, certificate.der)
    assert isinstance(answer, BulkAt)
    return certificate, answer


async def is_shut(stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> bool:
    """Whether the other side ends a connection without another word."""
    try:
        return await stream.receive_some(1) == b""
    except (trio.BrokenResourceError, ssl.SSLError, OSError):
        return True


async def enter(answer: BulkAt, context: ssl.SSLContext, *, token: bytes | None = None) -> bool:
    """Whether somebody with ``context`` gets an echo."""
    stream = await tcp(answer)
    async with stream:
        tls = trio.SSLStream(stream, context)
        try:
            await stream.send_all(_name_of(answer.token))
            await tls.do_handshake()
            await tls.send_all(answer.token if token is None else token)
            await tls.send_all(b"\0\0\0\4echo")
            received = await tls.receive_some(8)
        except (trio.BrokenResourceError, OSError):
            return False
        return received == b"\0\0\0\4echo"


async def serves(one: Node, other: Node) -> None:
    async with one.bulk.open(other.network.key, ECHO) as stream:
        await stream.send(b"hello")
        assert await stream.receive(timeout_s=PATIENCE_S) == b"hello"


async def test_a_token_is_good_for_one_connection_by_its_holder() -> None:
    with trio.fail_after(PATIENCE_S):
        async with bulk_nodes("one", "other") as (one, other):
            certificate, answer = await agreed(one, other)
            context = certificate.context(server=False, peer=answer.certificate)
            assert await enter(answer, context)
            assert not await enter(answer, context)
            await serves(one, other)


async def test_another_node_that_saw_the_name_and_the_token_is_not_let_in() -> None:
    with trio.fail_after(PATIENCE_S):
        async with bulk_nodes("one", "other", "mallory") as (one, other, mallory):
            _, answer = await agreed(one, other)
            hers = Certificate(SigningKey(mallory.seed))
            assert not await enter(answer, hers.context(server=False, peer=answer.certificate))
            # Nor with a second certificate of the right key: only the one that was agreed upon.
            _, answer = await agreed(one, other)
            second = Certificate(SigningKey(one.seed))
            assert not await enter(answer, second.context(server=False, peer=answer.certificate))
            await serves(one, other)


async def test_a_wrong_token_behind_the_right_handshake_is_not_let_in() -> None:
    with trio.fail_after(PATIENCE_S):
        async with bulk_nodes("one", "other") as (one, other):
            certificate, answer = await agreed(one, other)
            context = certificate.context(server=False, peer=answer.certificate)
            assert not await enter(answer, context, token=secrets.token_bytes(32))
            await serves(one, other)


def _bare(change: Callable[[ssl.SSLContext], object]) -> Callable[[Certificate, BulkAt], object]:
    def make(_certificate: Certificate, answer: BulkAt) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=answer.certificate)
        change(context)
        return context

    return make


def _old(certificate: Certificate, answer: BulkAt) -> ssl.SSLContext:
    context = certificate.context(server=False, peer=answer.certificate)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.parametrize("make", [_bare(lambda _: None), _old], ids=["no certificate", "TLS 1.2"])
async def test_a_weaker_handshake_is_refused(
    make: Callable[[Certificate, BulkAt], ssl.SSLContext],
) -> None:
    with trio.fail_after(PATIENCE_S):
        async with bulk_nodes("one", "other") as (one, other):
            certificate, answer = await agreed(one, other)
            assert not await enter(answer, make(certificate, answer))
            await serves(one, other)


@pytest.mark.parametrize(
    "said",
    [
        os.urandom(4_096),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01" * 200,
        b"",
        bytes(NAME_BYTES),
    ],
    ids=["noise", "http", "tls first", "nothing", "a name nobody was given"],
)
async def test_garbage_ends_its_own_connection(said: bytes) -> None:
    with trio.fail_after(PATIENCE_S):
        async with bulk_nodes("one", "other") as (one, other):
            _, answer = await agreed(one, other)
            stream = await tcp(answer)
            async with stream:
                if said:
                    await stream.send_all(said)
                else:
                    await stream.send_eof()
                assert await is_shut(stream)
            _, answer = await agreed(one, other)
            stream = await tcp(answer)
            async with stream:  # the same behind a good name, where TLS is due
                await stream.send_all(_name_of(answer.token) + (said or b"\0"))
                await stream.send_eof()
                while not await is_shut(stream):
                    pass
            await serves(one, other)


async def test_who_is_slow_to_say_who_it_is_is_hung_up_on_and_a_few_of_them_are_all() -> None:
    with trio.fail_after(PATIENCE_S):
        async with bulk_nodes("one", "other") as (one, other):
            _, answer = await agreed(one, other)
            slow = [await tcp(answer) for _ in range(MAX_HALF_OPEN_PER_HOST)]
            for stream in slow:
                await stream.send_all(b"x")
            surplus = [await tcp(answer) for _ in range(64)]
            assert other.bulk.strangers() <= MAX_HALF_OPEN_PER_HOST
            for stream in surplus:
                assert await is_shut(stream)
            with pytest.raises(PeerGone):  # an honest one behind the same address does without
                await serves(one, other)
            for stream in slow:
                assert await is_shut(stream)
            assert not other.bulk.strangers()
            for stream in (*slow, *surplus):
                await stream.aclose()
            assert not other.bulk.connections()


async def test_a_server_in_the_middle_with_a_certificate_of_its_own_gets_nothing() -> None:
    with trio.fail_after(PATIENCE_S):
        async with bulk_nodes("one", "other", "mallory") as (one, other, mallory):
            heard = bytearray()

            async def impersonate(stream: trio.SocketStream) -> None:
                async with stream:
                    await stream.receive_some(NAME_BYTES)
                    hers = Certificate(SigningKey(mallory.seed))
                    context = hers.context(server=True, peer=hers.der)
                    context.verify_mode = ssl.CERT_NONE
                    tls = trio.SSLStream(stream, context, server_side=True)
                    try:
                        await tls.do_handshake()
                        heard.extend(await tls.receive_some(64))
                    except (trio.BrokenResourceError, OSError):
                        return

            async with trio.open_nursery() as nursery:
                listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
                nursery.start_soon(trio.serve_listeners, impersonate, [listener])
                port = listener.socket.getsockname()[1]

                async def lead_astray(stream: FrameStream) -> None:
                    await stream.receive()
                    await stream.send(
                        codec.encode(
                            BulkAt(
                                addresses=(f"/ip4/127.0.0.1/tcp/{port}",),
                                token=bytes(32),
                                certificate=Certificate(SigningKey(other.seed)).der,
                            )
                        )
                    )

                other.network.serve(PROTOCOL_BULK, lead_astray)
                with pytest.raises(PeerGone):
                    await serves(one, other)
                assert not heard
                nursery.cancel_scope.cancel()


async def test_a_node_that_shows_somebody_else_s_certificate_is_not_connected_to() -> None:
    with trio.fail_after(PATIENCE_S):
        async with bulk_nodes("one", "other", "mallory") as (one, other, mallory):

            async def show_another(stream: FrameStream) -> None:
                await stream.receive()
                answer = await mallory.ask(one, Certificate(SigningKey(mallory.seed)).der)
                await stream.send(codec.encode(answer))

            other.network.serve(PROTOCOL_BULK, show_another)
            with pytest.raises(RemoteProtocolError, match="names another node"):
                await serves(one, other)
            with pytest.raises(PeerGone):  # and the same the other way round: the stream is ended
                await mallory.ask(one, Certificate(SigningKey(other.seed)).der)


# --- certificates alone --------------------------------------------------------------------------


def _made(
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    *extensions: x509.ExtensionType,
    signed_by: ec.EllipticCurvePrivateKey | None = None,
) -> bytes:
    now = datetime.datetime(2026, 1, 1)  # noqa: DTZ001
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signed_by or private, hashes.SHA256()).public_bytes(Encoding.DER)


def _extension_of(der: bytes) -> x509.UnrecognizedExtension:
    found = x509.load_der_x509_certificate(der).extensions.get_extension_for_oid(EXTENSION).value
    assert isinstance(found, x509.UnrecognizedExtension)
    return found


def _curve() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def test_a_certificate_names_its_node_and_no_other() -> None:
    der = Certificate(KEY).der
    check_certificate(der, KEY.node_key)
    with pytest.raises(RemoteProtocolError, match="names another node"):
        check_certificate(der, OTHER_KEY.node_key)


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"",
        lambda: os.urandom(500),
        lambda: Certificate(KEY).der[:-1],
        lambda: Certificate(KEY).der + bytes(2_048),
        lambda: _made(_curve()),
        lambda: _made(_curve(), x509.UnrecognizedExtension(EXTENSION, b"")),
        lambda: _made(_curve(), _extension_of(Certificate(KEY).der)),
        lambda: _made(rsa.generate_private_key(65_537, 2_048), _extension_of(Certificate(KEY).der)),
        lambda: _made(_curve(), _extension_of(Certificate(KEY).der), signed_by=_curve()),
    ],
    ids=[
        "nothing", "noise", "cut", "long", "no extension", "empty extension",
        "another key's extension", "RSA", "signed by another key",
    ],
)  # fmt: skip
def test_what_is_not_bound_to_the_node_is_refused(make: Callable[[], bytes]) -> None:
    with pytest.raises(RemoteProtocolError):
        check_certificate(make(), KEY.node_key)


async def test_a_stranger_that_resets_before_it_is_looked_at_ends_nobody() -> None:
    with trio.fail_after(PATIENCE_S):
        async with bulk_nodes("one", "other") as (one, other):
            _, answer = await agreed(one, other)
            for _ in range(3):
                # Without a turn of the scheduler: it is gone when it is accepted.
                stranger = socket.create_connection(("127.0.0.1", port_of(answer)))
                stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                stranger.close()
                await trio.sleep(0.05)
            await serves(one, other)


async def test_who_shakes_hands_and_then_talks_nonsense_ends_nobody() -> None:
    with trio.fail_after(PATIENCE_S):
        async with bulk_nodes("one", "other") as (one, other):
            certificate, answer = await agreed(one, other)
            context = certificate.context(server=False, peer=answer.certificate)
            stream = await tcp(answer)
            async with stream:
                await stream.send_all(_name_of(answer.token))
                await trio.SSLStream(stream, context).do_handshake()
                await stream.send_all(b"\x17\x03\x03\0\x20" + bytes(32))
                while await stream.receive_some():
                    pass
            await serves(one, other)
