"""A node's settings: what there is to set, with default, bound and meaning of each.

Frozen once they are read. Times are numbers with their unit in the name, money is decimal strings
in the file and micro-units here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from robocompute_node import settings
from robocompute_node.config_client import DAY_S, MAX_CHALLENGE_S, ClientSettings
from robocompute_node.config_containers import ContainerSettings
from robocompute_node.core.quiet import QUIET
from robocompute_node.settings import about
from robocompute_protocol import limits
from robocompute_protocol.identifiers import Address, NodeKey, digest
from robocompute_protocol.messages import CLASSES
from robocompute_protocol.money import MicroUnits
from robocompute_settlement.endpoint import REQUESTS_PER_S
from robocompute_settlement.transactions import Priority

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


CONFIG_NAME: Final = "config.toml"
WALLET_NAME: Final = "wallet.json"
MAX_ENDPOINTS: Final = 8
"""Addresses of one chain: each more is asked for its slot every few seconds, and sent to."""
MAX_REQUESTS_PER_S: Final = 10_000
"""To one address: more than a validator of one's own answers."""
MAX_PRIORITY_FEE: Final = 100_000_000
"""Micro-lamports a compute unit: 0.02 SOL for a transaction of 200,000 units. More is a slip."""
MAX_IDLE_S: Final = 3_650 * DAY_S
"""Ten years: longer than anybody waits for a client."""
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
    spare_chunks_mib: int = field(
        default=20_480,
        metadata=about(
            "MiB of files that no task or job needs any more and that are kept for the next one, "
            "which then need not be sent again. Beyond this the oldest are removed.",
            settings.integer(0, 2**40),
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class P2pSettings:
    """The open network."""

    listen: tuple[str, ...] = field(
        default=("/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001"),
        metadata=about(
            "Multiaddrs to listen on; port 0 takes a free one. A family that this machine does not "
            "have is left out, with a warning.",
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
    announce: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Multiaddrs to name to others in place of those listened on, such as a router's with a "
            "forwarded port. Not set: those listened on, and what peers reached this node at.",
            settings.list_of(MULTIADDR, high=8),
        ),
    )
    peers: int = field(
        default=8,
        metadata=about(
            "Nodes to stay connected to, as far as there are so many. Gossip wants six.",
            settings.integer(1, 64),
        ),
    )
    lan: bool = field(
        default=False,
        metadata=about(
            "Find nodes of the local network by multicast DNS. Off, because it tells everybody "
            "there that a node runs here.",
            settings.yes_or_no(),
        ),
    )
    rendezvous: bool = field(
        default=False,
        metadata=about(
            "Speak libp2p's rendezvous protocol: keep a list of who registers here, and register "
            "with bootstrap nodes that do. Off: nodes introduce each other in any case, with "
            "records that are signed and were tried out.",
            settings.yes_or_no(),
        ),
    )
    relay: bool = field(
        default=False,
        metadata=about(
            "Carry connections for nodes that nobody can dial. For one that can be dialled, and "
            "has traffic to give away; what it carries it cannot read.",
            settings.yes_or_no(),
        ),
    )
    relay_kib_per_s: int = field(
        default=1_024,
        metadata=about(
            "What it carries at most, all circuits together, both ways together.",
            settings.integer(16, 1_048_576),
        ),
    )
    direct_port: int = field(
        default=0,
        metadata=about(
            "TCP port for direct connections that carry much data, on the hosts of `listen`; 0 "
            "takes a free one. Behind a router forward it too; where it cannot be reached, the "
            "data takes the slower way that everything else takes.",
            settings.integer(0, 65_535),
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

    rpc_url: tuple[str, ...] = field(
        default=("http://127.0.0.1:8899",),
        metadata=about(
            "Solana JSON-RPC address. Of several, all of one chain, the first that is well is "
            "asked, and transactions go to all.",
            settings.one_or_several(
                settings.text(prefixes=("http://", "https://")), high=MAX_ENDPOINTS
            ),
        ),
    )
    ws_url: tuple[str, ...] = field(
        default=("ws://127.0.0.1:8900",),
        metadata=about(
            "Solana websocket address, for subscriptions. Of several, one is used while it is up.",
            settings.one_or_several(
                settings.text(prefixes=("ws://", "wss://")), high=MAX_ENDPOINTS
            ),
        ),
    )
    requests_per_s: float = field(
        default=REQUESTS_PER_S,
        metadata=about(
            "What each JSON-RPC address is asked at most, over a while. Public ones want less than "
            "one of your own.",
            settings.number(1, MAX_REQUESTS_PER_S),
        ),
    )
    max_priority_fee: int = field(
        default=Priority().most_micro_lamports,
        metadata=about(
            "The most a transaction offers for being taken early, in micro-lamports for each of "
            "its compute units (there are some 20,000 to 200,000). Up to that it offers what "
            "others pay.",
            settings.integer(0, MAX_PRIORITY_FEE),
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
    wallet: Address | None = field(
        default=None,
        metadata=about(
            "The owner's wallet, where its secret is not on this machine: transactions that need "
            "it are then drafted here and signed elsewhere. Not set: wallet.json is the wallet.",
            settings.address(),
        ),
    )

    @property
    def where(self) -> str:
        """The JSON-RPC addresses, for people."""
        return " or ".join(self.rpc_url)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchtowerSettings:
    """Vouchers left with other nodes, which settle them where this one is away for good."""

    of: tuple[NodeKey, ...] = field(
        default=(),
        metadata=about(
            "Node keys, in base58, of nodes that a provider leaves its newest vouchers with. They "
            "could claim all that a voucher promises: name nodes you trust.",
            settings.list_of(settings.node_key(), high=4),
        ),
    )
    serve: bool = field(
        default=False,
        metadata=about(
            "Keep other providers' vouchers, and settle them when their payers close. Each costs "
            "10,000 lamports of this node's SOL.",
            settings.yes_or_no(),
        ),
    )
    min_claim: MicroUnits = field(
        default=MicroUnits(10_000),
        metadata=about(
            "Less than this is not settled for others: it would cost about as much.",
            settings.amount(),
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
        metadata=about("…or when one channel owes at least this.", settings.amount()),
    )
    settle_min: MicroUnits = field(
        default=MicroUnits(2_000),
        metadata=about(
            "Less is not worth the 10,000 lamports a settlement costs: it waits for more, for the "
            "channel's close, or for the node's stop.",
            settings.amount(),
        ),
    )
    close_idle_after_s: float = field(
        default=0.0,
        metadata=about(
            "A channel that no voucher came over for so long is settled and closed, its rest back "
            "with its payer: for payers that are gone for good. The wallet's delegate, this node's "
            "key, signs it (`robocompute-node wallet delegate set`). 0: never.",
            settings.seconds(0, MAX_IDLE_S),
        ),
    )
    min_challenge_s: int = field(
        default=DAY_S,
        metadata=about(
            "Channels with a shorter challenge time are refused: this is how long an outage of "
            "this node or of the chain may last without money being lost.",
            settings.integer(1, MAX_CHALLENGE_S),
        ),
    )
    restored_wait_s: float = field(
        default=QUIET / 1_000,
        metadata=about(
            "No lease for this long after the node's store was lost, restored or moved, or the "
            "machine started anew: leases that are forgotten could cost the stake. On mainnet at "
            f"least {QUIET // 1_000}.",
            settings.seconds(0, DAY_S),
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
    containers: ContainerSettings = field(default_factory=ContainerSettings)
    watchtower: WatchtowerSettings = field(default_factory=WatchtowerSettings)

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
    def peers_path(self) -> Path:
        """Peers that were reached, to be tried again after a restart."""
        return self.data_dir / "peers.json"

    @property
    def wallet_path(self) -> Path:
        return self.data_dir / WALLET_NAME

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
    def containers_dir(self) -> Path:
        """Jobs that run in containers, and what is known of their images."""
        return self.data_dir / "containers"

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
    "containers": ContainerSettings,
    "watchtower": WatchtowerSettings,
}
"""The tables of config.toml, in the order they are written and documented."""
