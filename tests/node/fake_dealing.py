"""How a node of a fake world finds whom to deal with: the same parts as in ``daemon.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robocompute_node.core.offer_book import OfferBook
from robocompute_node.services.bidding import BidDesk, BidRelay, Bids
from robocompute_node.services.lease_watch import LeaseWatch
from robocompute_node.services.market import Market
from robocompute_node.services.matchmaking import Matchmaking
from robocompute_node.services.stake_mirror import StakeMirror
from robocompute_node.services.standings import Standings

if TYPE_CHECKING:
    import trio
    from fake_world import FakeNode


class Dealing:
    """The market as one process of a node sees it."""

    def __init__(self, node: FakeNode) -> None:
        network, store, clock = node.network, node.store, node.world.clock
        mint = node.config.chain.mint
        self.classes = node.config.client.classes if node.config.is_client else ("cpu",)
        self.stakes = StakeMirror(node.chain, mint)
        book = OfferBook(backed=self.stakes.backs)
        self.stakes.told = book.reassess
        self.market = Market(network, store, clock, node.key, book)
        self.bids = Bids(network, store, clock, node.key, self.market, mint)
        self.bids.register()
        self.standings = Standings(store, clock, node.chain, self.stakes, mint)
        self.matchmaking = Matchmaking(
            network,
            self.market,
            self.bids,
            self.standings,
            node.chain,
            clock,
            node.wallet,
            node.config,
            unsafe=lambda: node.program.unsafe,
        )
        self.watch = LeaseWatch(
            network, store, node.chain, clock, self.stakes,
            share=node.config.client.share_leases,
        )  # fmt: skip

        self._relay = None if node.config.is_provider else BidRelay(network, clock)

    def start(self, services: trio.Nursery) -> None:
        """Begin what runs beside the market from its start."""
        services.start_soon(self.stakes.run)
        if self._relay is not None:
            services.start_soon(self._relay.run, "cpu")

    def bid_desk(self, node: FakeNode) -> BidDesk:
        """A provider's ear for bids."""
        clock = node.world.clock
        return BidDesk(
            node.network, clock, self.market, node.offering, node.desk,
            free=lambda: node.lettings.slots.open(clock.now_ms()),
        )  # fmt: skip
