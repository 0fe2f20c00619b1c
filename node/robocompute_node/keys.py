"""Key files: who this node is, what it owns, and the word that lets its owner in.

Keys are in the form Solana's tools use, a JSON list of 64 numbers: the 32 bytes of the seed, then
the 32 of the public key. A file is made once, whole, readable by its owner alone, and never
overwritten.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from robocompute_protocol.errors import ConfigError
from robocompute_protocol.identifiers import Address, NodeKey

if TYPE_CHECKING:
    from pathlib import Path

    from robocompute_node.config import NodeConfig

SEED_BYTES: Final = 32
PAIR_BYTES: Final = 64
API_KEY_PREFIX: Final = "rc_live_"
"""What the published SDK's keys begin with."""
API_KEY_BYTES: Final = 32
"""Random bytes behind the prefix: not guessable, and never compared byte by byte."""
OWNER_ONLY: Final = 0o600
MAX_SECRET_BYTES: Final = 65_536
"""A key file is a few hundred bytes."""
NAME_A_KEY: Final = "name the file of the key itself with --key KEYFILE"
PUT_WALLET_BACK: Final = "put the backup of this wallet there; a key made anew would be another wallet, with nothing in it"
"""What to do where a key file is missing, and another would not do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFile:
    """One ed25519 key pair and where it is kept. The seed stays out of ``repr``."""

    path: Path
    seed: bytes = field(repr=False)
    public: bytes

    @property
    def node_key(self) -> NodeKey:
        return NodeKey(self.public)

    @property
    def address(self) -> Address:
        return Address(self.public)

    @property
    def pair(self) -> bytes:
        """Seed and public key, as solders' ``Keypair.from_bytes`` reads them."""
        return self.seed + self.public


def public_of(seed: bytes) -> bytes:
    """Return the public key of an ed25519 seed."""
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def make_key(path: Path, *, seed: bytes | None = None) -> KeyFile:
    """Write a new key file, of ``seed`` or of fresh randomness.

    Raises:
        ConfigError: there is one already; it is left as it is.
    """
    chosen = secrets.token_bytes(SEED_BYTES) if seed is None else seed
    public = public_of(chosen)
    write_secret(path, json.dumps(list(chosen + public)).encode() + b"\n")
    return KeyFile(path=path, seed=chosen, public=public)


def load_key(path: Path, *, otherwise: str = "") -> KeyFile:
    """Read a key file. ``otherwise`` is what to do where there is none; else, to make one.

    Raises:
        ConfigError: missing, readable by others, or not a key pair. One line, with the next step.
    """
    raw = read_secret(path, otherwise=otherwise)
    try:
        pair = _pair(json.loads(raw))
    except (ValueError, TypeError):
        raise ConfigError(
            f"{path} is not a key file (a JSON list of {PAIR_BYTES} numbers): put your backup in "
            "its place",
            details={"path": str(path)},
        ) from None
    return KeyFile(path=path, seed=pair[:SEED_BYTES], public=pair[SEED_BYTES:])


def load_wallet_address(config: NodeConfig) -> Address:
    """Return whose node this is: the wallet of the settings or, where they name none, its key's.

    Raises:
        ConfigError: no wallet is there, or the settings and the key file are of different ones.
    """
    named = config.chain.wallet
    if named is None:
        return load_key(config.wallet_path, otherwise=PUT_WALLET_BACK).address
    if config.wallet_path.exists() and load_key(config.wallet_path).address != named:
        raise ConfigError(
            f"{config.wallet_path} is not the wallet that [chain] wallet of {config.path} names: "
            "move it away, or correct the setting",
            details={"path": str(config.wallet_path)},
        )
    return named


def load_wallet(config: NodeConfig) -> KeyFile:
    """Read the wallet's own key, which moves the money.

    Raises:
        ConfigError: it is not here, or cannot be used; the text says how to sign elsewhere.
    """
    if config.chain.wallet is not None and not config.wallet_path.exists():
        raise ConfigError(
            "this node has no wallet secret: add --unsigned FILE, sign that file where the "
            "wallet's key is, with `robocompute-node wallet sign FILE --key KEYFILE`, and send it "
            "with `robocompute-node wallet send FILE.signed`",
            details={"path": str(config.wallet_path)},
        )
    load_wallet_address(config)
    return load_key(config.wallet_path)


def _pair(numbers: object) -> bytes:
    if not isinstance(numbers, list):
        raise TypeError(numbers)
    pair = bytes(cast("list[int]", numbers))
    if len(pair) != PAIR_BYTES or public_of(pair[:SEED_BYTES]) != pair[SEED_BYTES:]:
        raise ValueError(len(pair))
    return pair


def make_api_key(path: Path) -> str:
    """Write a new API key.

    Raises:
        ConfigError: there is one already; it is left as it is.
    """
    key = API_KEY_PREFIX + secrets.token_hex(API_KEY_BYTES)
    write_secret(path, key.encode() + b"\n")
    return key


def load_api_key(path: Path) -> str:
    """Read the API key.

    Raises:
        ConfigError: missing, readable by others, or not an API key.
    """
    key = read_secret(path).decode("ascii", errors="replace").strip()
    if len(key) < len(API_KEY_PREFIX) + 16 or not key.isprintable() or " " in key:
        raise ConfigError(
            f"{path} holds no API key: remove it and run `robocompute-node init --data "
            f"{path.parent}` for a new one",
            details={"path": str(path)},
        )
    return key


def write_secret(path: Path, content: bytes) -> None:
    """Create ``path`` whole, for its owner alone; never replaces a file, not even in a race.

    Raises:
        ConfigError: there is one already, or the folder cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError:
        raise ConfigError(
            f"{path} is there already and is never overwritten: move it away first",
            details={"path": str(path)},
        ) from None
    except OSError as exc:
        raise ConfigError(
            f"{path} cannot be written ({exc.strerror}): choose another folder"
        ) from exc


def read_secret(path: Path, *, otherwise: str = "") -> bytes:
    """Read a file that must belong to its owner alone; ``otherwise`` as in ``load_key``.

    Raises:
        ConfigError: missing, not a plain file, or open to others.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        made = (
            f"put your backup there, or run `robocompute-node init --data {path.parent}` for a new "
            "one"
        )
        raise ConfigError(
            f"{path} is missing: {otherwise or made}",
            details={"path": str(path)},
        ) from None
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read ({exc.strerror}): check its owner") from exc
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{path} is not a plain file: put the key file itself there")
        if stat.S_IMODE(mode) & 0o077:
            raise ConfigError(
                f"{path} can be read by others (mode {stat.S_IMODE(mode):04o}): chmod 600 {path}",
                details={"path": str(path), "mode": f"{stat.S_IMODE(mode):04o}"},
            )
        return os.read(handle, MAX_SECRET_BYTES)
    finally:
        os.close(handle)
