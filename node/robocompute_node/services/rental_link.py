"""One rental's talk with its provider: order, payments, the job's feed, cancel.

Each conversation can break and begin again at any point; ``heard_ms`` says when the provider last
answered anything, which is what the horizon is measured from.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from robocompute_node.api.port import InsufficientFunds
from robocompute_node.p2p.port import FrameStream, Network, PeerGone
from robocompute_node.services.conversation import hear, hear_or_end, say
from robocompute_protocol import limits, terms as rules
from robocompute_protocol.agreement import ClientPhase
from robocompute_protocol.errors import ChainError, RemoteProtocolError, RoboComputeError
from robocompute_protocol.messages import (
    PROTOCOL_AGREEMENT,
    PROTOCOL_JOB,
    PROTOCOL_PAY,
    AgreementMessage,
    Appended,
    Attach,
    CancelRequest,
    Ended,
    Extend,
    Finished,
    JobMessage,
    Kept,
    Leased,
    NeverLeased,
    Output,
    PayMessage,
    Refused,
    Stage,
    Usage,
    Waiting,
)
from robocompute_protocol.money import MicroUnits, Millis
from robocompute_protocol.steps import (
    CancelRequested,
    ExtensionFellDue,
    RefusalReceived,
    ResultsStored,
    SendExtension,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from robocompute_node.clocks import Clock
    from robocompute_node.services.channels import ChannelKeeper
    from robocompute_node.services.rental_book import RentalBook, RentalRecord
    from robocompute_protocol.identifiers import AgreementId

log = logging.getLogger(__name__)

RETRY_FIRST_SECONDS: Final = 0.2
RETRY_LAST_SECONDS: Final = 3.0
"""Between tries to reach a provider: soon at first, then so that a restart is noticed quickly."""
MAX_FAULTS: Final = 5
"""Breaches of the protocol in one conversation before a provider is given up."""
ORDER_SECONDS: Final = 60.0
"""An order waits for its channel's confirmation at most half of this on the provider's side."""
WAIT_WITHIN_MS: Final = 300_000
"""A provider may answer an order or a cancel with "wait" for this long: a channel is confirmed or a
job stopped within seconds, and large results are collected in minutes."""
PAY_SECONDS: Final = 10.0
"""A voucher that is not answered by then is sent again."""
FINALITY_SECONDS: Final = 1.0
"""Between looks at a deposit that is about to become final: that takes about 13 s in all."""
FUND_AHEAD: Final = Millis(30_000)
"""A channel is topped up this long before its deposit is used up: twice what finality takes."""
FEED_HOLDS_MS: Final = 2_000
"""A feed that stays open this long is a working one; one that breaks at once, again and again, is
no better than none."""
RESULTS_WITHIN_MS: Final = 3_600_000
"""A provider that signed a receipt, and answers, but offers no results for an hour never will."""
FEED_SILENCE_SECONDS: Final = 3_600.0
"""A feed may be silent as long as a job is; whether the provider lives is seen by its ticks."""


class JobSink:
    """Where a feed's contents go. Subclassed by the service that keeps tasks."""

    def position(self) -> tuple[int, tuple[tuple[str, int], ...]]:
        """The next output number, and the live files held so far."""
        raise NotImplementedError

    def stage(self, stage: Stage) -> None:
        raise NotImplementedError

    def output(self, records: list[Output]) -> None:
        raise NotImplementedError

    def metrics(self, grown: Appended) -> None:
        raise NotImplementedError

    def usage(self, usage: Usage) -> None:
        raise NotImplementedError

    async def results(self, finished: Finished) -> None:
        """Fetch and keep everything; the provider deletes it afterwards. Raises: PeerGone."""
        raise NotImplementedError


class Retry:
    """Growing pauses between tries, short again after a success."""

    def __init__(self) -> None:
        self._pause = RETRY_FIRST_SECONDS

    async def pause(self) -> None:
        await trio.sleep(self._pause)
        self._pause = min(RETRY_LAST_SECONDS, self._pause * 1.6)

    def reset(self) -> None:
        self._pause = RETRY_FIRST_SECONDS


class RentalLink:
    """The conversations of one agreement."""

    def __init__(
        self,
        network: Network,
        clock: Clock,
        book: RentalBook,
        channels: ChannelKeeper,
        agreement: AgreementId,
        sink: JobSink,
    ) -> None:
        self._network = network
        self._clock = clock
        self._book = book
        self._channels = channels
        self._agreement = agreement
        self._sink = sink
        self.heard_ms = clock.now_ms()
        self._fed_ms = clock.now_ms()
        self._feed_opened_ms: Millis | None = None
        self._ended_ms: Millis | None = None
        self._waited_in: ClientPhase | None = None
        self._waited_since_ms = Millis(0)
        self._fetching = False

    @property
    def record(self) -> RentalRecord:
        return self._book.get(self._agreement)

    def silent_ms(self) -> Millis:
        """How long the provider has been of no use: not heard of, or no feed that holds."""
        now = self._clock.now_ms()
        if self._waits_for_ever():  # whatever else it says meanwhile, or sends of the job
            return Millis(now)
        if self.record.state.phase is ClientPhase.ENDED and not self._fetching:
            self._ended_ms = self._ended_ms or now
            if now - self._ended_ms > RESULTS_WITHIN_MS:
                return Millis(now)
        opened = self._feed_opened_ms
        if opened is not None and now - opened > FEED_HOLDS_MS:
            self._fed_ms = now
        if self.record.state.ticks == 0:
            self._fed_ms = now
        if (
            opened is not None
        ):  # it may hold yet: a provider that just came back is given that time
            return Millis(now - self.heard_ms)
        return Millis(now - min(self.heard_ms, self._fed_ms))

    def _heard(self) -> None:
        self.heard_ms = self._clock.now_ms()
        self._channels.seen(self.record.terms.channel)

    def _waits_for_ever(self) -> bool:
        """Whether the provider asked for patience for longer than what it does can take.

        From then on it counts as silent: after the horizon the first voucher is written off, the
        task is its owner's again, and the channel may be closed as a lost provider's.
        """
        phase, now = self.record.state.phase, self._clock.now_ms()
        if phase is ClientPhase.LOST:
            return True
        if phase is not self._waited_in:
            self._waited_in, self._waited_since_ms = phase, now
        waits = phase in (ClientPhase.ORDERED, ClientPhase.CANCELLING)
        return waits and now - self._waited_since_ms > WAIT_WITHIN_MS

    async def _persist(
        self, what: str, talk: Callable[[], Awaitable[bool]], *, while_: tuple[ClientPhase, ...]
    ) -> None:
        """Repeat ``talk`` until it is done (True) or the phase is none of ``while_``.

        A peer that is away is tried for as long as the horizon lasts; one that talks nonsense a few
        times over is given up.
        """
        retry, faults = Retry(), 0
        while self.record.state.phase in while_ and faults < MAX_FAULTS:
            began_ms = self._clock.now_ms()
            try:
                if await talk():
                    return
                retry.reset()
            except RemoteProtocolError as exc:
                faults += 1
                log.warning("%s, the provider broke the protocol: %s", what, exc)
            except PeerGone as exc:
                log.info("%s, will retry: %s", what, exc)
                if self.heard_ms > began_ms:  # it is there: the link was cut, not the peer lost
                    retry.reset()
            await retry.pause()

    # --- order ----------------------------------------------------------------------------------

    async def place(self, task: bytes) -> None:
        """Send the order until the agreement is active, refused or over."""

        async def talk() -> bool:
            async with self._network.open(self.record.provider, PROTOCOL_AGREEMENT) as stream:
                await say(stream, self._book.order_of(self.record, task))
                return await self._take_answer(stream)

        await self._persist("order not answered", talk, while_=(ClientPhase.ORDERED,))

    async def cancel(self, reason: str) -> None:
        """Ask for the end until there is a receipt or a never-leased statement."""
        self._book.apply(self._agreement, CancelRequested(reason=reason))
        await self._persist(
            "cancel not answered",
            self.try_cancel,
            while_=(ClientPhase.CANCELLING, ClientPhase.ORDERED),
        )

    async def try_cancel(self) -> bool:
        """Ask once; True when the agreement is over. Raises: PeerGone, RemoteProtocolError."""
        request = CancelRequest(
            agreement=self._agreement,
            reason=self.record.state.reason or "cancelled",
            terms=self.record.signed_terms,
        )
        async with self._network.open(self.record.provider, PROTOCOL_AGREEMENT) as stream:
            await say(stream, request)
            return await self._take_answer(stream)

    async def _take_answer(self, stream: FrameStream) -> bool:
        while True:
            answer = await hear(stream, AgreementMessage, timeout_s=ORDER_SECONDS)
            if not isinstance(answer, Waiting) or not self._waits_for_ever():
                self._heard()
            match answer:
                case Waiting():
                    self._sink.stage(
                        Stage(stage="ordering", detail=answer.reason.replace("_", " "))
                    )
                case Leased():
                    self._book.leased(self._agreement, answer)
                    return True
                case NeverLeased():
                    self._book.never_leased(self._agreement, answer.statement)
                    return True
                case Ended():
                    self._book.ended(self._agreement, answer.receipt)
                    return True
                case Refused():
                    log.info("provider refused: %s", answer.message)
                    self._book.apply(self._agreement, RefusalReceived(code=answer.code))
                    return answer.code != "unknown_agreement"
                case _:
                    raise RemoteProtocolError("not an answer to an order or a cancel")

    # --- payments -------------------------------------------------------------------------------

    async def keep_paid(self) -> None:
        """Sign the next voucher whenever it falls due, until the agreement is over."""
        await self._persist(
            "payment not answered",
            self._pay_over_one_stream,
            while_=(ClientPhase.ACTIVE, ClientPhase.CANCELLING),
        )

    async def _pay_over_one_stream(self) -> bool:
        async with self._network.open(self.record.provider, PROTOCOL_PAY) as stream:
            while True:
                record = self.record
                if record.state.phase is not ClientPhase.ACTIVE:
                    return True
                if record.state.resumed:  # the answer says how long the lease has run
                    await self._extend(stream, record.state.prepaid_ms)
                    continue
                due, total = rules.next_extension(
                    record.terms,
                    elapsed_ms=self._book.elapsed(record),
                    prepaid_ms=record.state.leased_ms,
                )
                wait_ms = due - self._book.elapsed(record)
                if wait_ms > 0:
                    with trio.move_on_after(wait_ms / 1000):
                        await self._book.changed(self._agreement).wait()
                    continue
                total = await self._carried(total)
                if total > record.state.leased_ms:
                    await self._extend(stream, total)
                else:
                    await trio.sleep(FINALITY_SECONDS)

    async def _carried(self, total: Millis) -> Millis:
        """Cap ``total`` at the minute that a deposit carries before it is final.

        The channel is topped up so long ahead that a job on its way is not held up by finality.
        """
        record = self.record
        try:
            await self._fund_ahead(total)
            if total <= limits.CONFIRMED_CARRIES:
                return total
            needed = self._channels.get(record.terms.channel).ledger.cumulative_with(
                self._agreement, rules.prepaid_amount(record.terms, total)
            )
            if await self._channels.is_final(record.terms.channel, needed):
                return total
        except InsufficientFunds as exc:
            self._cannot_pay(exc)
        except ChainError as exc:
            log.warning("the deposit cannot be looked after: %s", exc)
        return min(total, limits.CONFIRMED_CARRIES)

    async def _fund_ahead(self, total: Millis) -> None:
        """Lock what ``total`` costs, and where there is money, what the time after it will.

        Raises: InsufficientFunds, ChainError.
        """
        try:
            await self._cover(Millis(total + FUND_AHEAD))
        except InsufficientFunds:
            await self._cover(total)

    async def _cover(self, total: Millis) -> None:
        terms = self.record.terms
        ledger = self._channels.get(terms.channel).ledger
        amount = rules.prepaid_amount(terms, total)
        more = MicroUnits(max(0, amount - ledger.paid(self._agreement)))
        await self._channels.cover(terms.channel, more)

    def _cannot_pay(self, why: RoboComputeError) -> None:
        self._sink.stage(Stage(stage="running", detail=f"cannot pay on: {why}"))

    async def _extend(self, stream: FrameStream, total: Millis) -> None:
        _, effects = self._book.apply(self._agreement, ExtensionFellDue(prepaid_ms=total))
        for effect in effects:
            if not isinstance(effect, SendExtension):
                continue
            try:
                message = await self._voucher_for(effect.prepaid_ms)
            except RoboComputeError as exc:
                self._cannot_pay(exc)
                await trio.sleep(RETRY_LAST_SECONDS)
                return
            await say(stream, message)
            answer = await hear(stream, PayMessage, timeout_s=PAY_SECONDS)
            self._heard()
            match answer:
                case Leased():
                    self._book.leased(self._agreement, answer)
                case Ended():
                    self._book.ended(self._agreement, answer.receipt)
                case Refused():
                    self._book.apply(self._agreement, RefusalReceived(code=answer.code))
                    log.warning("payment refused, will retry: %s", answer.message)
                    await trio.sleep(1.0)
                case _:
                    raise RemoteProtocolError("not an answer to a voucher")

    async def _voucher_for(self, prepaid_ms: Millis) -> Extend:
        """Raise the ledger to ``prepaid_ms``, topping the channel up first where it is short.

        Raises: InsufficientFunds, ChainError.
        """
        terms = self.record.terms
        amount = rules.prepaid_amount(terms, prepaid_ms)
        await self._cover(prepaid_ms)
        voucher = self._channels.promise(terms.channel, self._agreement, amount)
        return Extend(agreement=self._agreement, prepaid_ms=prepaid_ms, voucher=voucher)

    # --- the job's feed -------------------------------------------------------------------------

    async def follow(self) -> None:
        """Take in everything the job says until its results are stored, or the provider is lost."""
        await self._persist(
            "job feed cut",
            self._feed_once,
            while_=(ClientPhase.ACTIVE, ClientPhase.CANCELLING, ClientPhase.ENDED),
        )

    async def _feed_once(self) -> bool:
        next_output, files = self._sink.position()
        self._feed_opened_ms = self._clock.now_ms()
        try:
            return await self._feed_from(next_output, files)
        finally:
            self._feed_opened_ms, self._fetching = None, False

    async def _feed_from(self, next_output: int, files: tuple[tuple[str, int], ...]) -> bool:
        async with self._network.open(self.record.provider, PROTOCOL_JOB) as stream:
            await say(
                stream,
                Attach(agreement=self._agreement, next_sequence=next_output, files=files),
            )
            while True:
                message = await hear_or_end(stream, JobMessage, timeout_s=FEED_SILENCE_SECONDS)
                self._heard()
                match message:
                    case None if self.record.state.phase is ClientPhase.ENDED:
                        raise RemoteProtocolError("a feed of an ended job without its results")
                    case None:
                        raise PeerGone("the job's feed ended before the job did")
                    case Output():
                        self._sink.output([message])
                        if message.sequence >= next_output:
                            # Of use, however often the link is cut meanwhile.
                            self._fed_ms = self._clock.now_ms()
                    case Stage():
                        self._sink.stage(message)
                    case Appended():
                        self._sink.metrics(message)
                    case Usage():
                        self._sink.usage(message)
                    case Finished():
                        receipt = self._book.ended(self._agreement, message.receipt)
                        if receipt.artifacts != message.artifacts:
                            raise RemoteProtocolError("other results than the receipt names")
                        self._fetching = True
                        await self._sink.results(message)
                        self._book.apply(self._agreement, ResultsStored())
                        await say(stream, Kept(agreement=self._agreement))
                        return True
                    case Refused():
                        raise RemoteProtocolError(f"no feed of this job: {message.message}")
                    case _:
                        raise RemoteProtocolError("not a message of a job's feed")
