"""A client's and providers' nodes in one trio run, over a fake network, executor and chain.

The services are the real ones, put together as ``daemon.py`` does; a node can be killed at any
moment, also right after any of its writes to disk, and started again on what it wrote.
"""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from cuttable import CuttableSettlement, CuttableStore, PowerCut
from fake_dealing import Dealing

from robocompute_node.api.port import NewTask, TaskView
from robocompute_node.blobs import FileBlobStore
from robocompute_node.clocks import Clock
from robocompute_node.config import (
    ChainSettings,
    ClientSettings,
    NodeConfig,
    NodeSettings,
    ProviderSettings,
    Role,
)
from robocompute_node.executor.fake import FakeExecutor, Script
from robocompute_node.inventory import Inventory
from robocompute_node.node_mark import first_mark, write_mark
from robocompute_node.p2p.fake import FakeHub, FakeNetwork
from robocompute_node.services.accounts import Accounts, Paid
from robocompute_node.services.blob_access import BlobAccess
from robocompute_node.services.blob_exchange import BlobExchange
from robocompute_node.services.channels import ChannelKeeper, ChannelRecord
from robocompute_node.services.earnings import EarningRecord, Earnings
from robocompute_node.services.front_desk import FrontDesk
from robocompute_node.services.job_feed import JobFeed
from robocompute_node.services.job_runs import JobRuns
from robocompute_node.services.lettings import Lettings
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
from robocompute_node.services.task_book import TaskBook
from robocompute_node.services.tunnels import TunnelDesk, Tunnels
from robocompute_node.services.voucher_deposits import VoucherDeposits
from robocompute_node.services.watchtower import Watchtower
from robocompute_protocol.errors import RoboComputeError
from robocompute_protocol.identifiers import Address, Digest, NodeKey, digest
from robocompute_protocol.messages import FileEntry, Manifest, Offer, Requirements
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.signing import SigningKey
from robocompute_settlement.fake import FakeChain, FakeSettlement

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

    from robocompute_node.services.market import Market

PRICE = MicroUnits(3_600_000)
"""A micro-unit a millisecond."""
FUNDS = MicroUnits(1_000_000_000)
SOL = 10**10
FAR_S = 2**40
SMALL = Requirements(cpu_cores=1, memory_mib=64, disk_mib=64)
MACHINE = Inventory(
    cpu_model="a processor", cpu_cores=8, memory_mib=16_384, disk_mib=100_000, gpus=()
)
USDC, USDT = Address(digest(b"fake usdc")), Address(digest(b"fake usdt"))


class FakeNode:
    """One node: what stays when its process dies, and the services of the process that runs now."""

    store: CuttableStore
    network: FakeNetwork
    blobs: FileBlobStore
    channels: ChannelKeeper
    tasks: TaskBook
    book: RentalBook
    rentals: Rentals
    market: Market
    inbox: MetricsInbox
    money: Accounts
    api: OwnerApi
    earnings: Earnings
    settler: Settler
    quiet: QuietTime
    offering: Offering
    program: ProgramView
    reconciler: Reconciler
    tower: Watchtower
    dealing: Dealing
    lettings: Lettings
    desk: FrontDesk
    exchange: BlobExchange
    tunnels: Tunnels
    access: BlobAccess
    _ground: trio.Nursery

    def __init__(
        self, world: World, name: str, settings: ClientSettings | ProviderSettings, script: Script
    ) -> None:
        self.world = world
        self.name = name
        self.key = SigningKey(digest(name.encode(), b"node"))
        self.wallet = Address(SigningKey(digest(name.encode(), b"wallet")).node_key)
        self.reach = CuttableSettlement(world.chain, Address(self.key.node_key))
        self.chain: FakeSettlement = self.reach
        self.folder = world.folder / name
        chain = ChainSettings(mint=USDC, mint_usdt=USDT)
        if isinstance(settings, ProviderSettings):
            node = NodeSettings(roles=(Role.PROVIDER,))
            self.config = NodeConfig(
                data_dir=self.folder, node=node, chain=chain, provider=settings
            )
        else:
            self.config = NodeConfig(data_dir=self.folder, chain=chain, client=settings)
        self.folder.mkdir(exist_ok=True)
        write_mark(self.folder, first_mark())
        self.blobs = FileBlobStore(self.folder / "blobs")
        self.executor = FakeExecutor(self.blobs, script=script)
        self.down = trio.Event()
        self.was_cut = False

    async def found(self) -> None:
        """Fund, register and stake, as `init` and `wallet` do."""
        wallet = FakeSettlement(self.world.chain, self.wallet)
        self.world.chain.found(self.wallet, lamports=SOL, tokens=FUNDS)
        self.world.chain.found(Address(self.key.node_key), lamports=SOL)
        await wallet.deposit_wallet(mint=USDC, amount=FUNDS)
        if self.config.is_provider:
            await wallet.register_wallet(mint=USDC, node_key=self.key.node_key)
            await wallet.stake_wallet(mint=USDC, amount=MicroUnits(FUNDS // 2))
        else:
            await wallet.set_delegate_wallet(
                mint=USDC, delegate=self.key.node_key, allowance=FUNDS, expires_s=FAR_S
            )

    async def run(
        self,
        *,
        cut_after: int | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run until killed, or until power is cut after the ``cut_after``-th write to the store."""
        self.store = CuttableStore(self.folder / "store", after=cut_after)
        self.down, self.was_cut, started = trio.Event(), False, False
        try:
            async with trio.open_nursery() as self._ground:
                self.network = FakeNetwork(self.world.hub, self.key.node_key)
                await self._ground.start(self.network.run)
                self.world.introduce(self.network)
                await self._start(self._ground)
                started = True
                task_status.started()
        except* PowerCut:
            self.was_cut = True
        finally:
            if hasattr(self, "tasks"):
                self.tasks.close()
            self.store.close()
            self.down.set()
        if not started:
            task_status.started()

    async def kill(self) -> None:
        """End the process, as SIGKILL would."""
        self._ground.cancel_scope.cancel()
        await self.down.wait()

    async def _start(self, services: trio.Nursery) -> None:
        config, store, clock, network = self.config, self.store, self.world.clock, self.network
        self.dealing = dealing = Dealing(self)
        self.market = market = dealing.market
        dealing.start(services)
        self.access = access = BlobAccess(store, self.blobs)
        self.exchange = BlobExchange(network, self.blobs, access, may_store=self._may_store)
        self.exchange.register()
        self.tunnels = Tunnels(network)
        await services.start(self.tunnels.run)
        source = None
        self.program = ProgramView(
            self.chain,
            self.world.clock,
            self.wallet,
            USDC,
            genesis=lambda: self.world.genesis,
            told=self._chain_answered,
        )
        await services.start(self.program.run)
        if config.is_provider:
            source = await self._start_provider(services, access)
        self.channels = ChannelKeeper(store, self.chain, clock, self.key, self.wallet, config)
        self.tasks = TaskBook(store, config.data_dir / "tasks", clock)
        self.book = RentalBook(store, clock, self.key, self.channels)
        self.book.heed = dealing.watch.heed
        self.book.ahead_ms = lambda: self.program.ahead_ms
        await services.start(dealing.watch.run)
        self.inbox = MetricsInbox(store, config.aspara_dir)
        self.rentals = Rentals(
            network,
            clock,
            config,
            self.wallet,
            self.tasks,
            self.book,
            self.channels,
            self.blobs,
            self.exchange,
            market,
            dealing.matchmaking,
            self.inbox,
        )
        await services.start(partial(market.run, classes=dealing.classes, source=source))
        if config.is_client:
            await services.start(self.channels.run)
        await services.start(self.rentals.run)
        earnings = self.earnings if config.is_provider else None
        self.reconciler = Reconciler(
            store, self.chain, clock, config, self.wallet, self.key.node_key, self.channels,
            earnings,
        )  # fmt: skip
        paid = Paid(self.earnings, self.settler) if config.is_provider else None
        self.money = Accounts(
            store, self.chain, clock, self.wallet, config, self.channels, paid,
            self.reconciler.accept,
        )  # fmt: skip
        self.channels.alarm_on = self.reconciler.stands_on
        if earnings is not None:
            earnings.alarm_on = self.reconciler.stands_on
        await services.start(self.reconciler.run)
        self.tower = Watchtower(store, self.chain, clock, config)
        if config.watchtower.serve:
            self.tower.register(network)
            await services.start(self.tower.run)
        if earnings is not None and config.watchtower.of:
            await services.start(VoucherDeposits(network, earnings, config).run)
        self.api = OwnerApi(
            Parts(
                config=config,
                clock=clock,
                network=network,
                blobs=self.blobs,
                chain=self.chain,
                market=market,
                matchmaking=dealing.matchmaking,
                wallet=self.wallet,
                tasks=self.tasks,
                tunnels=self.tunnels,
                channels=self.channels,
                rentals=self.rentals,
                provider_status=dict[str, object],
                waits_for=lambda: self.program.missing,
                alarms=self.reconciler.summary,
                version="test",
                money=self.money,
            )
        )

    def _may_store(self, peer: NodeKey, size: int) -> bool:
        return self.config.is_provider and self.desk.may_store(peer, size)

    async def _start_provider(
        self, services: trio.Nursery, access: BlobAccess
    ) -> Callable[[Millis], Offer | None]:
        config, clock, network = self.config, self.world.clock, self.network
        standing = Standing(
            provider=self.key.node_key,
            payee=self.wallet,
            executors=await self.executor.probe(),
            runtimes=(),
        )
        full = offer_of(config, MACHINE, standing)(clock.now_ms(), network.addresses)
        self.earnings = Earnings(self.store, clock)
        self.settler = Settler(self.earnings, self.chain, clock, config, self.key.node_key)
        self.quiet = QuietTime(
            self.store,
            clock,
            self.key.node_key,
            self.folder,
            wait=Millis(int(config.provider.restored_wait_s * 1000)),
        )
        runs = JobRuns(self.executor, self.blobs, clock, ())
        self.lettings = Lettings(
            self.store,
            clock,
            self.key,
            self.executor,
            runs,
            self.earnings,
            access,
            self.quiet,
            slots=config.provider.slots,
        )
        self.offering = Offering(
            full,
            self.program,
            self.quiet,
            clock,
            min_challenge_s=config.provider.min_challenge_s,
            leases=lambda: len(self.lettings.running()),
        )
        self.offering.look()
        self.desk = FrontDesk(
            network,
            self.chain,
            clock,
            self.blobs,
            access,
            self.lettings,
            self.earnings,
            self.offering,
        )
        await services.start(self.settler.run)
        await services.start(self.lettings.run)
        await services.start(self.lettings.never.run, self.chain)
        self.desk.register()
        PayDesk(
            network, self.chain, self.store, self.lettings, self.earnings, self.offering
        ).register()
        JobFeed(network, self.executor, self.lettings, runs).register()
        TunnelDesk(network, self.executor, self.lettings).register()
        await services.start(self.dealing.bid_desk(self).run, "cpu")
        return lambda sequence: self.offering.announced(sequence, network.addresses)

    def _chain_answered(self, _program: ProgramView) -> None:
        if hasattr(self, "offering"):
            self.offering.look()

    # --- what an owner does ---------------------------------------------------------------------

    async def submit(
        self,
        *argv: str,
        wait: bool = False,
        files: Sequence[tuple[str, bytes]] = (),
        key: str = "",
    ) -> str:
        """Create a task; return its id, or "" where the power was cut meanwhile."""
        entries = tuple(
            FileEntry(path=path, mode=0o644, size=len(data), chunks=(self.blobs.put(data),))
            for path, data in files
        )
        task = NewTask(
            name="job",
            argv=argv or ("true",),
            env=(),
            requirements=SMALL,
            upload=Manifest(files=entries),
            requirements_file=None,
            max_price_per_hour=None,
            timeout=Millis(3_600_000),
            wait=wait,
            idempotency_key=key or None,
        )
        created: list[TaskView] = []
        failed: list[RoboComputeError] = []
        answered = trio.Event()

        async def create() -> None:
            try:
                created.append(await self.api.create_task(task))
            except RoboComputeError as exc:
                failed.append(exc)
            answered.set()

        self._ground.start_soon(create)  # in the node's process: a power cut ends it there
        async with trio.open_nursery() as nursery:

            async def until_down() -> None:
                await self.down.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_down)
            await answered.wait()
            nursery.cancel_scope.cancel()
        for exc in failed:
            raise exc
        return created[0].task_id if created else ""

    async def until_ended(self, task_id: str, *, within_s: float = 3_600) -> TaskView:
        with trio.fail_after(within_s):
            async with aclosing(self.api.events(task_id, after=0)) as events:
                async for _ in events:
                    pass
        return self.api.task(task_id)

    async def until_stage(self, task_id: str, stage: str, *, within_s: float = 3_600) -> None:
        with trio.fail_after(within_s):
            async with aclosing(self.api.events(task_id, after=0)) as events:
                async for event in events:
                    if event.kind == "stage" and event.data["stage"] == stage:
                        return
        raise AssertionError(f"the task ended without being {stage}")

    def printed(self, task_id: str) -> list[str]:
        """Every line of the job's own output, in order."""
        events = self.tasks.log(task_id).read(after=0, limit=100_000)
        return [
            str(event.data["text"])
            for event in events
            if event.kind == "output" and event.data["stream"] != "supervisor"
        ]

    def channel_with(self, provider: FakeNode) -> ChannelRecord:
        (record,) = [r for r in self.channels.all() if r.payee_node == provider.key.node_key]
        return record


class World:
    """What the nodes of one test share."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.folder = folder
        self.nursery = nursery
        self.hub = FakeHub()
        self.clock = clock = Clock()
        self.chain = FakeChain(now_s=lambda: clock.now_ms() / 1000, mints=(USDC, USDT))
        self.nodes: list[FakeNode] = []
        self.cheats = False
        self.genesis: Digest | None = None

    def introduce(self, newcomer: FakeNetwork) -> None:
        """Connect a node that just started to all the others, as bootstrap addresses would."""
        for key, other in self.hub.nodes.items():
            if key != newcomer.key:
                newcomer.add_addresses(key, other.addresses)
                other.add_addresses(newcomer.key, newcomer.addresses)
                newcomer.link_to(key)
                other.link_to(newcomer.key)

    async def client(self, name: str = "client", **settings: Any) -> FakeNode:
        """A funded client, not running yet."""
        given: dict[str, Any] = {"horizon_s": 30.0, "challenge_s": 600} | settings
        return await self._node(name, ClientSettings(**given), lambda _task: ())

    async def provider(
        self, name: str = "provider", *, script: Script = lambda _task: (), **settings: Any
    ) -> FakeNode:
        """A staked provider, not running yet."""
        given: dict[str, Any] = {
            "price_per_hour": PRICE, "min_challenge_s": 600, "settle_above": MicroUnits(10**9),
            "settle_min": MicroUnits(0),
        } | settings  # fmt: skip
        return await self._node(name, ProviderSettings(**given), script)

    async def _node(
        self, name: str, settings: ClientSettings | ProviderSettings, script: Script
    ) -> FakeNode:
        node = FakeNode(self, name, settings, script)
        await node.found()
        self.nodes.append(node)
        return node

    async def start(self, node: FakeNode, *, cut_after: int | None = None) -> FakeNode:
        await self.nursery.start(partial(node.run, cut_after=cut_after))
        return node

    def check_money(self) -> None:
        """Every unit in the vault is somebody's: none was made, none was lost."""
        ledger = self.chain.ledger
        owned = sum(b.available + b.fees_owed for b in ledger.balances.values())
        staked = sum(s.bonded + s.unbonding for s in ledger.stakes.values())
        locked = sum(c.deposit - c.settled for c in ledger.channels.values())
        assert ledger.vaults[USDC] == owned + staked + locked

    def check_agreed(self, client: FakeNode, provider: FakeNode) -> EarningRecord:
        """Both sides' ledgers say the same once nothing is open between them."""
        payer = client.channel_with(provider)
        payee = provider.earnings.get(payer.channel)
        assert payee is not None
        assert payer.ledger.open == ()
        assert payer.ledger.closed_total == payee.ledger.owed
        assert payer.ledger.cumulative >= payee.ledger.cumulative
        assert payer.ledger.cumulative == payer.ledger.closed_total + payer.ledger.credit
        assert payee.ledger.claimable == payee.ledger.owed
        assert payer.deposit >= payer.ledger.cumulative
        self.check_money()
        return payee


@asynccontextmanager
async def fake_world(folder: Path) -> AsyncGenerator[World]:
    """A world whose nodes all end with it."""
    async with trio.open_nursery() as nursery:
        world = World(folder, nursery)
        yield world
        nursery.cancel_scope.cancel()
    # Whatever happened to it: two leases of an honest provider never contradict each other.
    assert world.cheats or not any(s.watermark_s for s in world.chain.ledger.stakes.values())
