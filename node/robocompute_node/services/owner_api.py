"""What the owner's clients can ask of this node: the REST server's view of all services."""

from __future__ import annotations

import heapq
import secrets
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from robocompute_node.api.port import (
    InvalidRequest,
    MissingChunks,
    NewTask,
    NoProvider,
    TaskEvent,
    TaskStatus,
    TaskView,
)
from robocompute_node.api.views import log_json
from robocompute_node.core.tasks import TaskRecord
from robocompute_node.file_sets import chunks_of, keep_files, read_files
from robocompute_node.services.channels import ChannelKeeper, ChannelPhase
from robocompute_protocol import codec, limits
from robocompute_protocol.errors import ChainError
from robocompute_protocol.identifiers import (
    Address,
    Digest,
    NodeKey,
    address_from_base58,
    digest,
    to_base58,
)
from robocompute_protocol.manifests import TooManyFiles
from robocompute_protocol.messages import CLASSES, Manifest, Receipt, TaskSpec
from robocompute_protocol.money import MicroUnits, Millis, charge, format_amount

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from robocompute_node.api.port import MoneyApi
    from robocompute_node.clocks import Clock
    from robocompute_node.config import NodeConfig
    from robocompute_node.core.offer_book import BookEntry
    from robocompute_node.executor.port import BlobStore
    from robocompute_node.p2p.port import Network
    from robocompute_node.services.market import Market
    from robocompute_node.services.matchmaking import Matchmaking
    from robocompute_node.services.rentals import Rentals
    from robocompute_node.services.task_book import TaskBook
    from robocompute_node.services.tunnels import Tunnel, Tunnels
    from robocompute_settlement.port import Settlement

LAMPORTS_PLACES: Final = 9
"""Decimals of SOL."""
START_GRACE_MS: Final = 3_000
"""A node that just started may not have met anybody: for this long a task may wait for offers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The services the owner's requests reach."""

    config: NodeConfig
    clock: Clock
    network: Network
    blobs: BlobStore
    chain: Settlement
    market: Market
    matchmaking: Matchmaking
    wallet: Address
    tasks: TaskBook
    tunnels: Tunnels
    channels: ChannelKeeper
    rentals: Rentals
    provider_status: Callable[[], Mapping[str, object]]
    waits_for: Callable[[], str]
    """What of the chain is missing, in words; "" while it answers."""
    alarms: Callable[[], list[Mapping[str, object]]]
    """Where books and chain differ in a way that nothing explains."""
    version: str
    money: MoneyApi
    network_status: Callable[[], Mapping[str, object]] = dict[str, object]
    """What the network counts."""


class OwnerApi:
    """Implements ``api.port.NodeApi``."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.money = parts.money
        self._started_ms = parts.clock.now_ms()
        self._read_last: tuple[Digest | None, Manifest] = (None, Manifest(files=()))

    # --- node and market ------------------------------------------------------------------------

    def node_status(self) -> Mapping[str, object]:
        parts = self._parts
        offers = sum(1 for _ in parts.market.book.live(parts.clock.now_ms()))
        return {
            "node": to_base58(parts.network.key),
            "version": parts.version,
            "roles": [role.value for role in parts.config.node.roles],
            "addresses": list(parts.network.addresses),
            "peers": [to_base58(peer) for peer in parts.network.peers()],
            "offers": offers,
            "tasks_unfinished": len(parts.tasks.unfinished()),
            "chain": {
                "rpc_url": parts.config.chain.where,
                "program_id": to_base58(parts.config.chain.program_id),
                "waits_for": parts.waits_for(),
            },
            "wallet_address": to_base58(parts.wallet),
            "alarms": parts.alarms(),
            "provider": dict(parts.provider_status()),
            "network": dict(parts.network_status()),
        }

    async def offers(
        self, *, resource_class: str | None, limit: int
    ) -> list[Mapping[str, object]]:
        market, clock = self._parts.market, self._parts.clock
        if resource_class is not None:
            if resource_class not in CLASSES:
                raise InvalidRequest(f"resource_class is one of {', '.join(CLASSES)}")
            await market.follow(resource_class)
        now = clock.now_ms()
        entries = heapq.nsmallest(
            limit,
            (
                entry
                for entry in market.book.live(now)
                if resource_class in (None, entry.offer.resource_class)
            ),
            key=lambda entry: (entry.offer.price_per_hour, entry.offer.provider),
        )
        return [_offer_json(entry, now) for entry in entries]

    async def wallet_balance(self) -> Mapping[str, object]:
        parts = self._parts
        mint = parts.config.chain.mint
        balance = await parts.chain.balance(parts.wallet, mint)
        locked = 0
        for record in parts.channels.all():
            if record.phase in (ChannelPhase.OPEN, ChannelPhase.CLOSING):
                view = await parts.chain.channel(record.channel)
                locked += 0 if view is None else view.deposit - view.settled
        stake = await parts.chain.stake_of(parts.wallet, mint)
        usdt = parts.config.chain.mint_usdt
        return {
            "wallet_address": to_base58(parts.wallet),
            "usdc_balance": format_amount(await parts.chain.token_balance(parts.wallet, mint)),
            "usdt_balance": format_amount(await parts.chain.token_balance(parts.wallet, usdt)),
            "sol_balance": _sol(await parts.chain.lamports(parts.wallet)),
            "node_sol_balance": _sol(await parts.chain.lamports(Address(parts.network.key))),
            "available": format_amount(0 if balance is None else balance.available),
            "fees_owed": format_amount(0 if balance is None else balance.fees_owed),
            "locked": format_amount(locked),
            "staked": format_amount(0 if stake is None else stake.bonded),
            "currency": "USDC",
        }

    # --- blobs ----------------------------------------------------------------------------------

    def missing_chunks(self, chunks: tuple[Digest, ...]) -> tuple[Digest, ...]:
        return self._parts.blobs.missing(chunks)

    async def put_chunk(self, data: bytes) -> Digest:
        return self._parts.blobs.put(data)

    def chunk(self, chunk: Digest) -> bytes:
        return self._parts.blobs.get(chunk)

    # --- tasks ----------------------------------------------------------------------------------

    async def create_task(self, task: NewTask) -> TaskView:
        parts = self._parts
        if not parts.config.is_client:
            raise InvalidRequest(
                "this node does not rent: add the role client to [node] roles in its config.toml"
            )
        if task.idempotency_key is not None:
            known = parts.tasks.by_idempotency_key(task.idempotency_key)
            if known is not None:
                return self._view(known)
        missing = parts.blobs.missing(chunks_of(task.upload))
        if missing:
            raise MissingChunks(
                f"{len(missing)} chunks of the upload are not here",
                details={"missing": [chunk.hex() for chunk in missing]},
            )
        try:
            upload = keep_files(parts.blobs, task.upload.files)
        except TooManyFiles as exc:
            raise InvalidRequest(f"{exc}; leave some out in .chiselignore") from exc
        spec = TaskSpec(
            app_name=task.name,
            argv=task.argv,
            env=task.env,
            requirements=task.requirements,
            upload=upload,
            requirements_file=task.requirements_file,
            wall_ms=task.timeout,
            image=task.image,
        )
        max_price = task.max_price_per_hour
        if max_price is None:
            max_price = parts.config.client.max_price_per_hour
        only = None if task.provider is None else _node_key(task.provider)
        await self._check_it_can_run(spec, max_price, only, wait=task.wait)
        record = TaskRecord(
            task_id=secrets.token_hex(16),
            spec=spec,
            spec_digest=digest(codec.encode(spec)),
            max_price_per_hour=max_price,
            only=only,
            wait=task.wait,
            created_ms=parts.clock.now_ms(),
            idempotency_key=task.idempotency_key,
        )
        if task.idempotency_key is not None:
            # The chain was waited for: the same request may have come in again meanwhile.
            known = parts.tasks.by_idempotency_key(task.idempotency_key)
            if known is not None:
                return self._view(known)
        parts.tasks.add(record)
        parts.rentals.begin(record.task_id)
        return self._view(record)

    async def _check_it_can_run(
        self, spec: TaskSpec, max_price: MicroUnits, only: NodeKey | None, *, wait: bool
    ) -> None:
        parts = self._parts
        match, why = await parts.matchmaking.likely(
            spec.requirements, max_price=max_price, only=only
        )
        young = parts.clock.now_ms() - self._started_ms < START_GRACE_MS
        nobody = next(parts.market.book.live(parts.clock.now_ms()), None) is None
        if match is None and not wait and not (young and nobody):
            raise NoProvider(why)
        price = max_price if match is None else match.price
        first = charge(price, Millis(int(parts.config.client.first_tick_s * 1000)))
        try:
            await parts.channels.check_funds(first)
        except ChainError as exc:
            exc.details.setdefault("hint", "the task was not created")
            raise

    def task(self, task_id: str) -> TaskView:
        return self._view(self._parts.tasks.get(task_id))

    def tasks(self, *, status: TaskStatus | None, limit: int, offset: int) -> list[TaskView]:
        records = self._parts.tasks.listed(status=status, limit=limit, offset=offset)
        return [self._view(record) for record in records]

    def _view(self, record: TaskRecord) -> TaskView:
        return self._parts.rentals.view(record)

    async def cancel_task(self, task_id: str) -> TaskView:
        parts = self._parts
        if not parts.tasks.get(task_id).ended:
            parts.tasks.update(task_id, cancel_requested=True)
            parts.tasks.cancelled(task_id).set()
        return self.task(task_id)

    def events(self, task_id: str, *, after: int) -> AsyncGenerator[TaskEvent]:
        return self._parts.tasks.events(task_id, after=after)

    def logs(self, task_id: str, *, lines: int, start: int | None) -> list[Mapping[str, object]]:
        log = self._parts.tasks.log(task_id)
        events = log.last_outputs(lines) if start is None else log.outputs_from(start, lines)
        return [log_json(event.data) for event in events]

    def artifacts(self, task_id: str) -> Manifest:
        record = self._parts.tasks.get(task_id)
        if record.artifacts is None:
            return Manifest(files=())
        name, files = self._read_last
        if name != record.artifacts:
            files = read_files(self._parts.blobs, record.artifacts)
            self._read_last = (record.artifacts, files)
        return files

    def tunnels(self, task_id: str) -> list[Mapping[str, object]]:
        self._parts.tasks.get(task_id)
        return [_tunnel_json(one) for one in self._parts.tunnels.of(task_id)]

    async def open_tunnel(self, task_id: str, port: int, local_port: int) -> Mapping[str, object]:
        tasks = self._parts.tasks
        task = tasks.get(task_id)
        if task.ended or task.agreement is None or task.provider is None:
            raise InvalidRequest("only a task that runs has ports to lead to")

        async def until_ended() -> None:
            after = tasks.log(task_id).count
            async with aclosing(tasks.events(task_id, after=after)) as events:
                async for _ in events:
                    pass

        tunnel = await self._parts.tunnels.open(
            task_id,
            task.provider,
            task.agreement,
            port,
            local_port=local_port,
            until=until_ended,
        )
        return _tunnel_json(tunnel)

    def close_tunnel(self, task_id: str, port: int) -> None:
        self._parts.tasks.get(task_id)
        self._parts.tunnels.close(task_id, port)

    async def receipt(self, task_id: str) -> Mapping[str, object] | None:
        parts = self._parts
        record = parts.tasks.get(task_id)
        if record.receipt is None or record.agreement is None:
            return None
        receipt = codec.decode(Receipt, record.receipt.body, limit=limits.MAX_FRAME_BYTES)
        channel = parts.channels.get(receipt.channel)
        view = await parts.chain.channel(receipt.channel)
        settled = 0 if view is None else view.settled
        paid = view is None or settled >= channel.ledger.closed_total
        signatures = await parts.chain.signatures(Address(receipt.channel), limit=1)
        return {
            "task_id": task_id,
            "provider": to_base58(record.receipt.key),
            "agreement": receipt.agreement.hex(),
            "task_hash": receipt.task.hex(),
            "terms_hash": receipt.terms.hex(),
            "started_ms": receipt.started_ms,
            "metered_ms": receipt.metered_ms,
            "frozen_ms": receipt.frozen_ms,
            "exit_code": receipt.exit_code,
            "cause": receipt.cause.value,
            "output_records": receipt.output_records,
            "output_hash": receipt.output.hex(),
            "artifacts_hash": receipt.artifacts.hex(),
            "price_per_hour": format_amount(record.price_per_hour or 0),
            "prepaid": format_amount(receipt.prepaid),
            "amount": format_amount(receipt.amount),
            "signature": record.receipt.signature.hex(),
            "signed_bytes": record.receipt.body.hex(),
            "channel": {
                "address": to_base58(receipt.channel),
                "deposit": format_amount(channel.deposit),
                "cumulative": format_amount(channel.ledger.cumulative),
                "credit": format_amount(channel.ledger.credit),
                "settled": format_amount(settled),
            },
            "settlement": {"signature": signatures[0] if signatures and paid else None},
        }


def _node_key(text: str) -> NodeKey:
    try:
        return NodeKey(bytes(address_from_base58(text)))
    except ValueError as exc:
        raise InvalidRequest(f"provider: {exc}") from exc


def _sol(lamports: int) -> str:
    return f"{lamports // 10**LAMPORTS_PLACES}.{lamports % 10**LAMPORTS_PLACES:09d}"


def _offer_json(entry: BookEntry, now: Millis) -> Mapping[str, object]:
    offer = entry.offer
    body = msgspec.to_builtins(offer, builtin_types=(bytes,))
    for field in ("provider", "mint", "payee", "stake"):
        body[field] = to_base58(body[field])
    body["price_per_hour"] = format_amount(offer.price_per_hour)
    body["age_s"] = max(0, now - offer.sequence) // 1000
    body["staked"] = entry.backed
    return body


def _tunnel_json(tunnel: Tunnel) -> Mapping[str, object]:
    return {"port": tunnel.port, "host": "127.0.0.1", "local_port": tunnel.local_port}
