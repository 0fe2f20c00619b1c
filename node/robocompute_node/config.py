"""A node's settings: read from ``config.toml`` in its data folder, frozen from then on.

Times are numbers with their unit in the name, money is decimal strings in the file and micro-units
here. An unknown key is an error: a misspelt setting must not silently mean its default.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from robocompute_node import settings
from robocompute_node.settings import ABOUT, About, about
from robocompute_protocol import limits
from robocompute_protocol.errors import ConfigError
from robocompute_protocol.identifiers import Address, digest
from robocompute_protocol.messages import CLASSES
from robocompute_protocol.money import MicroUnits

if TYPE_CHECKING:
    from pathlib import Path


CONFIG_NAME: Final = "config.toml"
DAY_S: Final = 86_400
MAX_CHALLENGE_S: Final = 30 * DAY_S
"""The settlement program accepts no longer challenge."""
LOCAL_PROGRAM: Final = Address(digest(b"robocompute/local-world/program"))
LOCAL_USDC: Final = Address(digest(b"robocompute/local-world/usdc"))
LOCAL_USDT: Final = Address(digest(b"robocompute/local-world/usdt"))
"""Every local world has its program and its test mints at these addresses."""
MULTIADDR: Final = settings.text(prefixes=("/",))


class Role(StrEnum):
    """What a node does for its owner."""

    CLIENT = "client"
    PROVIDER = "provider"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What this node is."""

    roles: tuple[Role, ...] = field(
        default=(Role.CLIENT,),
        metadata=about(
            "client: sends jobs and pays for them. provider: runs strangers' jobs and earns. "
            "A node can be both.",
            settings.list_of(settings.one_of(Role), low=1, high=2),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class P2pSettings:
    """The open network."""

    listen: tuple[str, ...] = field(
        default=("/ip4/0.0.0.0/tcp/4001",),
        metadata=about(
            "Multiaddrs to listen on; port 0 takes a free one.",
            settings.list_of(MULTIADDR, low=1, high=8),
        ),
    )
    bootstrap: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Multiaddrs, with their /p2p/ part, of nodes to meet first. A node without any waits "
            "to be met.",
            settings.list_of(MULTIADDR),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """The REST server for this node's owner."""

    host: str = field(
        default="127.0.0.1",
        metadata=about(
            "Address to listen on. There is no TLS here: anything but loopback belongs behind a "
            "reverse proxy.",
            settings.text(high=255),
        ),
    )
    port: int = field(
        default=8000,
        metadata=about(
            "TCP port; 0 takes a free one, written to api.json in the data folder.",
            settings.integer(0, 65_535),
        ),
    )
    allowed_hosts: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Names in a request's Host header that are answered besides 127.0.0.1, localhost and "
            "[::1]. Others are refused: a web page must not reach this server by a name of its own.",
            settings.list_of(settings.text(high=255)),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSettings:
    """The cluster and the settlement program on it."""

    rpc_url: str = field(
        default="http://127.0.0.1:8899",
        metadata=about(
            "Solana JSON-RPC address.", settings.text(prefixes=("http://", "https://"))
        ),
    )
    ws_url: str = field(
        default="ws://127.0.0.1:8900",
        metadata=about(
            "Solana websocket address, for subscriptions.",
            settings.text(prefixes=("ws://", "wss://")),
        ),
    )
    program_id: Address = field(
        default=LOCAL_PROGRAM,
        metadata=about(
            "Address of the settlement program. The default is a local world's, like the mints'.",
            settings.address(),
        ),
    )
    mint: Address = field(
        default=LOCAL_USDC,
        metadata=about(
            "The mint that jobs are paid in (USDC). An agreement has one mint.", settings.address()
        ),
    )
    mint_usdt: Address = field(
        default=LOCAL_USDT,
        metadata=about(
            "The other accepted mint (USDT); its balance is shown.", settings.address()
        ),
    )


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
    challenge_s: int = field(
        default=DAY_S,
        metadata=about(
            "How long a provider has to settle after this node asks for a channel's close.",
            settings.integer(1, MAX_CHALLENGE_S),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """What this node lets, and how it is paid."""

    slots: int = field(
        default=1,
        metadata=about(
            "Jobs at once; each slot needs its stake on chain. With GPUs: at most the cards here.",
            settings.integer(1, limits.MAX_SLOTS),
        ),
    )
    price_per_hour: MicroUnits = field(
        default=MicroUnits(500_000),
        metadata=about("Price of one slot for an hour.", settings.amount()),
    )
    cpu_cores: int | None = field(
        default=None,
        metadata=about(
            "CPU cores of a slot. Not set: the machine's, split evenly.",
            settings.integer(1, 4_096),
        ),
    )
    memory_mib: int | None = field(
        default=None,
        metadata=about(
            "Memory of a slot. Not set: three quarters of the machine's, split evenly.",
            settings.integer(64, 2**30),
        ),
    )
    disk_mib: int | None = field(
        default=None,
        metadata=about(
            "Disk of a slot. Not set: half of what is free in the data folder, split evenly.",
            settings.integer(64, 2**34),
        ),
    )
    resource_class: str = field(
        default="",
        metadata=about("Offer as this class. Not set: what is found.", settings.word_of(CLASSES)),
    )
    model: str = field(
        default="",
        metadata=about(
            "Model name in the offer. Not set: what is found.", settings.text(high=256)
        ),
    )
    location: str = field(
        default="",
        metadata=about("Where this machine stands, for people.", settings.text(high=256)),
    )
    offer_ttl_s: float = field(
        default=600.0,
        metadata=about(
            "An offer that is not repeated is forgotten after this long.",
            settings.seconds(5, limits.MAX_OFFER_TTL / 1_000),
        ),
    )
    settle_after_s: float = field(
        default=DAY_S / 4,
        metadata=about(
            "Earned money is settled on chain when it is this old…",
            settings.seconds(0, MAX_CHALLENGE_S),
        ),
    )
    settle_above: MicroUnits = field(
        default=MicroUnits(5_000_000),
        metadata=about("…or when one channel owes more than this.", settings.amount()),
    )
    min_challenge_s: int = field(
        default=DAY_S,
        metadata=about(
            "Channels with a shorter challenge time are refused: this is how long an outage of "
            "this node or of the chain may last without money being lost.",
            settings.integer(1, MAX_CHALLENGE_S),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """All settings of a node, and where its files are.

    ``data_dir`` is where the file was found, not a setting in it.
    """

    data_dir: Path
    node: NodeSettings = field(default_factory=NodeSettings)
    p2p: P2pSettings = field(default_factory=P2pSettings)
    api: ApiSettings = field(default_factory=ApiSettings)
    chain: ChainSettings = field(default_factory=ChainSettings)
    client: ClientSettings = field(default_factory=ClientSettings)
    provider: ProviderSettings = field(default_factory=ProviderSettings)

    @property
    def is_client(self) -> bool:
        return Role.CLIENT in self.node.roles

    @property
    def is_provider(self) -> bool:
        return Role.PROVIDER in self.node.roles

    @property
    def path(self) -> Path:
        return self.data_dir / CONFIG_NAME

    @property
    def node_key_path(self) -> Path:
        return self.data_dir / "node.key"

    @property
    def wallet_path(self) -> Path:
        return self.data_dir / "wallet.json"

    @property
    def api_key_path(self) -> Path:
        return self.data_dir / "api_key"

    @property
    def api_address_path(self) -> Path:
        """Where a running node's REST server can be reached: {"url", "pid"}."""
        return self.data_dir / "api.json"

    @property
    def store_dir(self) -> Path:
        return self.data_dir / "store"

    @property
    def blobs_dir(self) -> Path:
        return self.data_dir / "blobs"

    @property
    def jobs_dir(self) -> Path:
        return self.data_dir / "jobs"

    @property
    def envs_dir(self) -> Path:
        return self.data_dir / "envs"

    @property
    def runtimes_dir(self) -> Path:
        return self.data_dir / "runtimes"

    @property
    def aspara_dir(self) -> Path:
        """Metrics of this node's own jobs, as they arrive."""
        return self.data_dir / "aspara"

    @property
    def log_dir(self) -> Path:
        return self.data_dir / "log"


SECTIONS: Final[Mapping[str, type[Any]]] = {
    "node": NodeSettings,
    "p2p": P2pSettings,
    "api": ApiSettings,
    "chain": ChainSettings,
    "client": ClientSettings,
    "provider": ProviderSettings,
}
"""The tables of config.toml, in the order they are written and documented."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingLine:
    """One setting as the documentation shows it."""

    section: str
    key: str
    default: str | None
    """As TOML; None: not set, or where ``required`` there is none."""
    required: bool
    bound: str
    doc: str

    def row(self) -> str:
        """Return the setting's row in the table of docs/node.md."""
        default = "must be set" if self.required else "not set"
        if self.default is not None:
            default = f"`{self.default}`"
        return f"| `[{self.section}] {self.key}` | {default} | {self.bound} | {self.doc} |"


def documented() -> Iterator[SettingLine]:
    """Every setting, in file order."""
    for section, kind in SECTIONS.items():
        for item in fields(kind):
            explained = _about(item)
            required = item.default is MISSING
            unset = required or item.default is None
            yield SettingLine(
                section=section,
                key=item.name,
                default=None if unset else explained.kind.show(item.default),
                required=required,
                bound=explained.kind.bound,
                doc=explained.doc,
            )


def load_config(data_dir: Path) -> NodeConfig:
    """Read the settings of the node in ``data_dir``.

    Raises:
        ConfigError: no such node, not TOML (with the line), an unknown key (with the nearest known
            one), or a value out of bounds. One line, with the next step.
    """
    path = data_dir / CONFIG_NAME
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"there is no node in {data_dir}: make one with `robocompute-node init --data {data_dir}`",
            details={"path": str(path)},
        ) from None
    except OSError as exc:
        raise ConfigError(
            f"{path} cannot be read ({exc.strerror}): check its owner and mode"
        ) from exc
    try:
        document = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"{path} is not TOML: {exc}. Correct that place, or move the file away and run "
            f"`robocompute-node init --data {data_dir}` for a fresh one",
            details={"path": str(path)},
        ) from None
    return parse_config(document, data_dir=data_dir, source=str(path))


def parse_config(document: Mapping[str, object], *, data_dir: Path, source: str) -> NodeConfig:
    """Turn a parsed file into settings; ``source`` names it in errors.

    Raises:
        ConfigError: as ``load_config``.
    """
    sections: dict[str, object] = {}
    for name in document:
        if name not in SECTIONS:
            raise ConfigError(f"{source}: no such section [{name}]{_nearest(name, SECTIONS)}")
    for name, kind in SECTIONS.items():
        table = document.get(name, {})
        if not isinstance(table, Mapping):
            raise ConfigError(f"{source}: {name} must be a section: write [{name}]")
        sections[name] = _read_section(name, kind, table, source)  # pyright: ignore[reportUnknownArgumentType]
    return NodeConfig(data_dir=data_dir, **sections)  # type: ignore[arg-type]


def _read_section(
    section: str, kind: type[Any], table: Mapping[str, object], source: str
) -> object:
    known = {item.name: item for item in fields(kind)}
    values: dict[str, object] = {}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(
                f"{source}: no such setting {key} in [{section}]{_nearest(key, known)}",
                details={"section": section, "key": key},
            )
        explained = _about(known[key])
        try:
            values[key] = explained.kind.read(value)
        except ValueError as exc:
            raise ConfigError(
                f"{source}: {key} in [{section}] {exc}, not {value!r}",
                details={"section": section, "key": key},
            ) from None
    for key, item in known.items():
        if item.default is MISSING and key not in values:
            raise ConfigError(
                f"{source}: {key} in [{section}] is not set: {_about(item).doc}",
                details={"section": section, "key": key},
            )
    return kind(**values)


def config_text(values: Mapping[str, Mapping[str, object]]) -> str:
    """Write a commented file with ``values`` (section → key → value as in NodeConfig).

    All other settings stand there as comments, with their defaults.
    """
    lines = ["# A RoboCompute node's settings. Lines that begin with # are the defaults.", ""]
    for section, kind in SECTIONS.items():
        chosen = values.get(section, {})
        lines += [f"[{section}]"]
        for item in fields(kind):
            explained = _about(item)
            lines += [f"# {line}" for line in _wrapped(explained.doc)]
            if item.name in chosen:
                lines.append(f"{item.name} = {explained.kind.show(chosen[item.name])}")
            elif item.default is MISSING:
                lines.append(f"# {item.name} must be set: {explained.kind.bound}")
            elif item.default is None:
                lines.append(f"# {item.name} is not set")
            else:
                lines.append(f"# {item.name} = {explained.kind.show(item.default)}")
        lines.append("")
    return "\n".join(lines)


def _about(item: Field[Any]) -> About:
    explained = item.metadata[ABOUT]
    assert isinstance(explained, About)
    return explained


def _nearest(name: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f": did you mean {close[0]}?"
    return f": there are {', '.join(known)}"


def _wrapped(doc: str) -> list[str]:
    lines: list[str] = [""]
    for word in doc.split():
        if len(lines[-1]) + len(word) > 95:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{word}"
    return lines
