"""The composition root: makes every service of a node and runs them under one nursery.

Order of the start is the order of dependence: store, chain, network, then what earns and what
rents, and last the owner's REST server, so that whoever can reach the node finds it whole. The stop
is the reverse: services first, then an orderly goodbye (offers withdrawn, money settled), then the
network.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

import trio

from robocompute_node.api.server import serve
from robocompute_node.blobs import FileBlobStore
from robocompute_node.chain_link import chain_link
from robocompute_node.clocks import Clock
from robocompute_node.core.offer_book import OfferBook
from robocompute_node.core.quiet import QUIET
from robocompute_node.executor.bubblewrap import BubblewrapExecutor
from robocompute_node.executor.choice import ChosenExecutor
from robocompute_node.executor.container import ContainerExecutor, engine_sockets
from robocompute_node.executor.images import Allowed
from robocompute_node.executor.supervised import Caps
from robocompute_node.finding import network_summary, relay_bounds, start_finding
from robocompute_node.inventory import take_inventory
from robocompute_node.keys import load_key, load_wallet_address
from robocompute_node.p2p.bulk import Bulk
from robocompute_node.p2p.host import Libp2pNetwork
from robocompute_node.p2p.peerstore import PeerStore
from robocompute_node.services.accounts import Accounts, Paid
from robocompute_node.services.bidding import BidDesk, BidRelay, Bids
from robocompute_node.services.blob_access import BlobAccess
from robocompute_node.services.blob_collection import BlobCollection
from robocompute_node.services.blob_exchange import BlobExchange, in_thread
from robocompute_node.services.card_watch import CardWatch
from robocompute_node.services.channels import ChannelKeeper
from robocompute_node.services.earnings import Earnings
from robocompute_node.services.front_desk import FrontDesk
from robocompute_node.services.job_feed import JobFeed
from robocompute_node.services.job_runs import JobRuns
from robocompute_node.services.lease_watch import LeaseWatch
from robocompute_node.services.lettings import Lettings
from robocompute_node.services.market import Market
from robocompute_node.services.matchmaking import Matchmaking
from robocompute_node.services.metrics_inbox import MetricsInbox
from robocompute_node.services.offering import Offering, Standing, offer_of
from robocompute_node.services.owner_api import OwnerApi, Parts
from robocompute_node.services.pay_desk import PayDesk
from robocompute_node.services.program_view import ProgramView
from robocompute_node.services.quiet_time import QuietTime
from robocompute_node.services.reconciler import Reconciler
from robocompute_node.services.rental_book import RentalBook
from robocompute_node.services.rentals import Rentals
from robocompute_node.services.settler import Settler
from robocompute_node.services.stake_mirror import StakeMirror
from robocompute_node.services.standings import Standings
from robocompute_node.services.task_book import TaskBook
from robocompute_node.services.tunnels import TunnelDesk, Tunnels
from robocompute_node.services.voucher_deposits import VoucherDeposits
from robocompute_node.services.watchtower import Watchtower
from robocompute_node.store import Store, Table
from robocompute_protocol.errors import ChainError, ConfigError
from robocompute_protocol.identifiers import Digest
from robocompute_protocol.money import Millis
from robocompute_protocol.signing import SigningKey
from robocompute_settlement.clusters import MAINNET
from robocompute_settlement.solana import SolanaSettlement

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from robocompute_node.config import NodeConfig
    from robocompute_node.p2p.discovery.service import Discovery
    from robocompute_node.services.market import OfferSource
    from robocompute_protocol.identifiers import Address, NodeKey
    from robocompute_protocol.messages import Offer

log = logging.getLogger(__name__)

CLUSTER: Final = Table("cluster/1", bytes)
"""The chain this node's books are of. One record."""
GENESIS: Final = b"genesis"
GOODBYE_SECONDS: Final = 8.0
"""An ordered stop withdraws offers and settles what is owed, for at most this long."""


async def run_node(
    config: NodeConfig, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a node until cancelled; started once its REST server answers.

    A chain that does not answer stops nothing: what runs goes on, nothing new is let or rented, and
    the status says what is waited for. The wallet's secret is never read.

    Raises:
        ConfigError: keys, settings, ports or sandbox are not as they must be.
    """
    key_file = load_key(config.node_key_path)
    wallet = load_wallet_address(config)
    store = Store(config.store_dir)
    store.declare(CLUSTER)
    known = store.get(CLUSTER, GENESIS)
    try:
        async with SolanaSettlement(
            **chain_link(config.chain),
            ws_urls=config.chain.ws_url,
            signer_seed=key_file.seed,
            genesis_hash=None if known is None else Digest(known),
        ) as chain:
            node = _Node(config, store, chain, SigningKey(key_file.seed), wallet)
            await node.run(key_file.seed, task_status)
    finally:
        store.close()


class _Node:
    """The services of one running node, and how they hang together."""

    def __init__(
        self,
        config: NodeConfig,
        store: Store,
        chain: SolanaSettlement,
        key: SigningKey,
        wallet: Address,
    ) -> None:
        self._config = config
        self._store = store
        self._chain = chain
        self._key = key
        self._wallet = wallet
        self._clock = Clock()
        self._blobs = FileBlobStore(config.blobs_dir)
        self._access = BlobAccess(store, self._blobs)
        self._program = ProgramView(
            chain,
            self._clock,
            wallet,
            config.chain.mint,
            genesis=lambda: chain.genesis_hash,
            told=self._chain_answered,
        )
        self._goodbyes: list[Callable[[], Awaitable[None]]] = []
        self._offering: Offering | None = None
        self._lettings: Lettings | None = None
        self._offer_source: OfferSource | None = None
        self._may_store: Callable[[NodeKey, int], bool] = lambda _peer, _size: False
        self._provider_status: Callable[[], Mapping[str, object]] = dict[str, object]
        self._paid: Paid | None = None
        self._clients: Callable[[], Iterable[NodeKey]] = lambda: ()

    async def run(self, seed: bytes, task_status: trio.TaskStatus[None]) -> None:
        remembered = PeerStore(self._config.peers_path, self._clock.now_ms)
        network = Libp2pNetwork(
            seed,
            listen=self._config.p2p.listen,
            announce=self._config.p2p.announce,
            bootstrap=self._config.p2p.bootstrap,
            remembered=remembered,
            relay=relay_bounds(self._config.p2p),
        )
        async with trio.open_nursery() as ground:
            below = trio.CancelScope(shield=True)
            ground.start_soon(self._chain.run)
            ground.start_soon(remembered.run)
            await ground.start(_below, below, network.run)
            try:
                async with trio.open_nursery() as services:
                    discovery = await start_finding(
                        services,
                        network,
                        remembered,
                        self._chain,
                        self._key,
                        self._clock,
                        self._config,
                    )
                    await self._start(services, network, discovery)
                    task_status.started()
            finally:
                with trio.CancelScope(shield=True), trio.move_on_after(GOODBYE_SECONDS):
                    for goodbye in self._goodbyes:
                        await goodbye()
                below.cancel()
                ground.cancel_scope.cancel()

    async def _start(
        self, services: trio.Nursery, network: Libp2pNetwork, discovery: Discovery
    ) -> None:
        config, store, clock = self._config, self._store, self._clock
        stakes = StakeMirror(self._chain, config.chain.mint)
        book = OfferBook(backed=stakes.backs)
        stakes.told = book.reassess
        market = Market(network, store, clock, self._key, book)
        services.start_soon(stakes.run)
        bulk = Bulk(network, self._key, listen=config.p2p.listen, port=config.p2p.direct_port)
        exchange = BlobExchange(
            network,
            self._blobs,
            self._access,
            may_store=lambda peer, size: self._may_store(peer, size),
            direct=bulk,
            work=in_thread,
        )
        exchange.register()
        await services.start(bulk.run)
        tunnels = Tunnels(network)
        await services.start(tunnels.run)
        await services.start(self._program.run)
        if config.is_provider:
            await self._start_provider(services, network, market)
        channels = ChannelKeeper(store, self._chain, clock, self._key, self._wallet, config)
        tasks = TaskBook(store, config.data_dir / "tasks", clock)
        network.protect(
            lambda: {
                *self._clients(),
                *(each.provider for each in tasks.unfinished() if each.provider is not None),
            }
        )
        rental_book = RentalBook(store, clock, self._key, channels)
        watch = LeaseWatch(
            network, store, self._chain, clock, stakes, share=config.client.share_leases
        )
        rental_book.heed = watch.heed
        rental_book.ahead_ms = lambda: self._program.ahead_ms
        await services.start(watch.run)
        bids = Bids(network, store, clock, self._key, market, config.chain.mint)
        bids.register()
        if not config.is_provider:  # a provider passes on those that it may answer
            relay = BidRelay(network, clock)
            for resource_class in self._classes():
                services.start_soon(relay.run, resource_class)
        matchmaking = Matchmaking(
            network,
            market,
            bids,
            Standings(store, clock, self._chain, stakes, config.chain.mint),
            self._chain,
            clock,
            self._wallet,
            config,
            unsafe=lambda: self._program.unsafe,
        )
        rentals = Rentals(
            network,
            clock,
            config,
            self._wallet,
            tasks,
            rental_book,
            channels,
            self._blobs,
            exchange,
            market,
            matchmaking,
            MetricsInbox(store, config.aspara_dir),
        )
        await services.start(
            partial(market.run, classes=self._classes(), source=self._offer_source)
        )
        if config.is_client:
            await services.start(channels.run)
        await services.start(rentals.run)
        collection = BlobCollection(
            self._blobs,
            self._access,
            tasks,
            rental_book,
            keep_bytes=config.node.spare_chunks_mib << 20,
            work=in_thread,
        )
        collection.lettings = self._lettings
        await services.start(collection.run)
        earnings = None if self._paid is None else self._paid.earnings
        reconciler = Reconciler(
            store, self._chain, clock, config, self._wallet, self._key.node_key, channels, earnings
        )
        channels.alarm_on = reconciler.stands_on
        if earnings is not None:
            earnings.alarm_on = reconciler.stands_on
        await services.start(reconciler.run)
        tower = Watchtower(store, self._chain, clock, config)
        if config.watchtower.serve:
            tower.register(network)
            await services.start(tower.run)
        if earnings is not None and config.watchtower.of:
            await services.start(VoucherDeposits(network, earnings, config).run)
        api = OwnerApi(
            Parts(
                config=config,
                clock=clock,
                network=network,
                blobs=self._blobs,
                chain=self._chain,
                market=market,
                matchmaking=matchmaking,
                wallet=self._wallet,
                tasks=tasks,
                tunnels=tunnels,
                channels=channels,
                rentals=rentals,
                provider_status=self._provider_status,
                waits_for=lambda: self._program.missing,
                alarms=reconciler.summary,
                version=_version(),
                money=Accounts(
                    store,
                    self._chain,
                    clock,
                    self._wallet,
                    config,
                    channels,
                    self._paid,
                    reconciler.accept,
                ),
                network_status=lambda: network_summary(network, discovery),
            )
        )
        port = await services.start(serve, api, config)
        log.info("node up: REST on %s:%s, p2p on %s", config.api.host, port, network.addresses)

    def _classes(self) -> tuple[str, ...]:
        """Classes whose offers this node follows from its start: those it may rent, and its own."""
        own = () if self._offering is None else (self._offering.resource_class,)
        wanted = self._config.client.classes if self._config.is_client else ()
        return tuple(each for each in dict.fromkeys((*wanted, *own)) if each)

    async def _start_provider(
        self, services: trio.Nursery, network: Libp2pNetwork, market: Market
    ) -> None:
        config, clock = self._config, self._clock
        sandboxes = BubblewrapExecutor(
            data=config.data_dir, blobs=self._blobs, environment=dict(os.environ)
        )
        containers = ContainerExecutor(
            data=config.containers_dir,
            blobs=self._blobs,
            caps=Caps(image_bytes=config.containers.room_gib << 30),
            sockets=engine_sockets(config.containers.engine, os.environ),
            allowed=Allowed(
                registries=config.containers.registries, local=config.containers.local_images
            ),
        )
        executor = ChosenExecutor({"bubblewrap": sandboxes, "container": containers})
        executors = await executor.probe()
        if not executors:
            raise ConfigError(
                "this machine cannot run jobs: `robocompute-node doctor` says what is missing; "
                "or take the role provider out of [node] roles"
            )
        machine = take_inventory(config.data_dir, sandboxes.cards)
        standing = Standing(
            provider=self._key.node_key,
            payee=self._wallet,
            executors=executors,
            runtimes=sandboxes.runtime.offered(),
        )
        offer = offer_of(config, machine, standing)(clock.now_ms(), network.addresses)
        earnings = Earnings(self._store, clock)
        settler = Settler(earnings, self._chain, clock, config, self._key.node_key)
        self._paid = Paid(earnings, settler)
        quiet = QuietTime(
            self._store, clock, self._key.node_key, config.data_dir, wait=self._quiet_wait()
        )
        uuids = tuple(
            gpu.uuid for gpu in machine.gpus if gpu.resource_class == offer.resource_class
        )
        runs = JobRuns(executor, self._blobs, clock, uuids)
        lettings = Lettings(
            self._store,
            clock,
            self._key,
            executor,
            runs,
            earnings,
            self._access,
            quiet,
            slots=offer.slots,
        )
        watch = CardWatch(sandboxes.cards, uuids[: offer.slots], lambda: lettings.slots)
        await services.start(watch.run)
        offering = Offering(
            offer,
            self._program,
            quiet,
            clock,
            min_challenge_s=config.provider.min_challenge_s,
            leases=lambda: len(lettings.running()),
            withheld=watch.withheld,
        )
        self._offering = offering
        self._lettings = lettings
        offering.look()
        desk = FrontDesk(
            network,
            self._chain,
            clock,
            self._blobs,
            self._access,
            lettings,
            earnings,
            offering,
        )
        self._may_store = desk.may_store
        self._clients = lambda: (each.terms.payer_node for each in lettings.running())
        self._provider_status = lambda: {
            **offering.summary(),
            **lettings.summary(),
            "earnings": {**earnings.summary(), **settler.summary()},
        }
        await services.start(settler.run)
        await services.start(lettings.run)
        await services.start(lettings.never.run, self._chain)
        desk.register()
        PayDesk(network, self._chain, self._store, lettings, earnings, offering).register()
        JobFeed(network, executor, lettings, runs).register()
        TunnelDesk(network, executor, lettings).register()

        bid_desk = BidDesk(
            network,
            clock,
            market,
            offering,
            desk,
            free=lambda: lettings.slots.open(clock.now_ms()),
        )
        await services.start(bid_desk.run, offer.resource_class)

        def source(sequence: Millis) -> Offer | None:
            return offering.announced(sequence, network.addresses)

        self._offer_source = source
        self._goodbyes += [lambda: market.withdraw(source), lambda: _settle_last(settler)]

    def _quiet_wait(self) -> Millis:
        """As set, but on mainnet, and where the chain is not known yet, not less than is safe."""
        genesis = self._chain.genesis_hash
        wait = Millis(int(self._config.provider.restored_wait_s * 1000))
        known = genesis is not None and genesis != MAINNET
        return wait if known else max(wait, QUIET)

    def _chain_answered(self, _program: ProgramView) -> None:
        genesis = self._chain.genesis_hash
        if genesis is not None and self._store.get(CLUSTER, GENESIS) != genesis:
            with self._store.transaction() as txn:
                txn.put(CLUSTER, GENESIS, genesis)
        if self._offering is not None:
            self._offering.look()


async def _below(
    scope: trio.CancelScope,
    run: Callable[..., Awaitable[None]],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a service that outlives the others: until ``scope`` is cancelled, whatever is above it."""
    with scope:
        await run(task_status=task_status)


async def _settle_last(settler: Settler) -> None:
    try:
        await settler.settle_everything()
    except ChainError as exc:
        log.warning("not settled at the end; it stays in the outbox: %s", exc)


def _version() -> str:
    try:
        return version("robocompute")
    except PackageNotFoundError:
        return "unknown"
