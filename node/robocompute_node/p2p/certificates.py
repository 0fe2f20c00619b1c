"""Certificates bound to node keys, as the libp2p TLS specification has it.

A certificate is self-signed by a key of its own, and carries in an extension the node's key and its
signature over that key: whoever holds the certificate's key speaks for the node.
"""

from __future__ import annotations

import os
import ssl
from datetime import datetime
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ObjectIdentifier

from robocompute_protocol import limits
from robocompute_protocol.errors import RemoteProtocolError
from robocompute_protocol.signing import SIGNATURE_BYTES, SigningKey, verify

if TYPE_CHECKING:
    from robocompute_protocol.identifiers import NodeKey

EXTENSION: Final = ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
"""libp2p's: SEQUENCE { public key OCTET STRING, signature OCTET STRING }."""
PREFIX: Final = b"libp2p-tls-handshake:"
"""What is signed by the node's key begins so; the certificate's public key follows."""
_KEY_PROTOBUF: Final = bytes((0x08, 0x01, 0x12, 0x20))
"""libp2p's public key: type ed25519, 32 bytes."""
_HEAD: Final = bytes((0x30, 0x68, 0x04, 0x24)) + _KEY_PROTOBUF
_MIDDLE: Final = bytes((0x04, 0x40))
_FROM, _UNTIL = datetime(2000, 1, 1), datetime(4000, 1, 1)  # noqa: DTZ001 (no clock decides here)


class Certificate:
    """A certificate for one process of a node. Its private key never leaves memory."""

    def __init__(self, key: SigningKey) -> None:
        private = ec.generate_private_key(ec.SECP256R1())
        public = private.public_key()
        statement = PREFIX + public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        value = _HEAD + key.node_key + _MIDDLE + key.sign(statement)
        nobody = x509.Name([])
        made = (
            x509.CertificateBuilder()
            .subject_name(nobody)
            .issuer_name(nobody)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_FROM)
            .not_valid_after(_UNTIL)
            .add_extension(x509.UnrecognizedExtension(EXTENSION, value), critical=False)
            .sign(private, hashes.SHA256())
        )
        self.der = made.public_bytes(Encoding.DER)
        self._pem = made.public_bytes(Encoding.PEM) + private.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )

    def context(self, *, server: bool, peer: bytes) -> ssl.SSLContext:
        """TLS 1.3 as this certificate's owner, with the holder of ``peer`` and nobody else.

        Both sides show a certificate. The peer's is the only one that is trusted, so nothing that
        somebody else signed, or signed later, is accepted in its place.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
        # Else a connection that somebody cut would look like one that was ended.
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        context.check_hostname = False  # there are no names: the certificate itself is known
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=peer)
        if server:
            context.num_tickets = 0  # a resumed session would show no certificate
        file = os.memfd_create("certificate", os.MFD_CLOEXEC)  # ssl reads files only
        try:
            os.write(file, self._pem)
            context.load_cert_chain(f"/proc/self/fd/{file}")
        finally:
            os.close(file)
        return context


def check_certificate(der: bytes, owner: NodeKey) -> None:
    """Refuse a certificate that is not ``owner``'s.

    Raises:
        RemoteProtocolError: it is none, or not bound to that key.
    """
    try:
        _check(der, owner)
    except (
        ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm,
        x509.ExtensionNotFound, x509.DuplicateExtension, x509.InvalidVersion,
    ) as exc:  # fmt: skip
        raise RemoteProtocolError(
            f"not a certificate of this node: {exc or type(exc).__name__}", code="bad_certificate"
        ) from exc


def _check(der: bytes, owner: NodeKey) -> None:
    if len(der) > limits.MAX_CERTIFICATE_BYTES:
        raise ValueError(f"{len(der)} bytes, {limits.MAX_CERTIFICATE_BYTES} are allowed")
    certificate = x509.load_der_x509_certificate(der)
    public = certificate.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise TypeError("its key is not on an elliptic curve")
    certificate.verify_directly_issued_by(certificate)
    found = certificate.extensions.get_extension_for_oid(EXTENSION).value
    value = found.value if isinstance(found, x509.UnrecognizedExtension) else b""
    head = _HEAD + owner + _MIDDLE
    if not value.startswith(head) or len(value) != len(head) + SIGNATURE_BYTES:
        raise ValueError("it names another node")
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if not verify(owner, PREFIX + spki, value[len(head) :]):
        raise ValueError("the node did not sign it")
