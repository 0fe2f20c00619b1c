"""Events and effects of an agreement: what happened, and what the shell must do about it.

``agreement.advance`` turns one into the other. Both are storable: an outbox may hold effects.
Each effect is safe to repeat; those about a ledger belong into the transaction that stores the
state they came with.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from robocompute_protocol.causes import Cause
from robocompute_protocol.identifiers import Digest
from robocompute_protocol.messages import Signed
from robocompute_protocol.money import MicroUnits, Millis


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """Base of events and effects, which are stored as members of a union."""


# --- events of both sides -----------------------------------------------------------------------


class Restarted(Step, frozen=True, kw_only=True):
    """This node started, and found the agreement in its store."""


# --- events of the client -----------------------------------------------------------------------


class TickReceived(Step, frozen=True, kw_only=True):
    """The provider signed a tick. Its signature was checked."""

    prepaid_ms: Millis
    elapsed_ms: Millis
    at_ms: Millis


class RefusalReceived(Step, frozen=True, kw_only=True):
    """The provider said no to an order or an extension."""

    code: str


class NeverLeasedReceived(Step, frozen=True, kw_only=True):
    """The provider stated for ever that there was no lease. The statement was checked."""


class ReceiptReceived(Step, frozen=True, kw_only=True):
    """The end, by ``receipts.verify_receipt``."""

    receipt: Signed
    amount: MicroUnits


class ExtensionFellDue(Step, frozen=True, kw_only=True):
    """``terms.next_extension`` says that more should be prepaid now."""

    prepaid_ms: Millis


class CancelRequested(Step, frozen=True, kw_only=True):
    """The user, or a rule of this node, wants the agreement to end."""

    reason: str = "cancelled"


class HorizonPassed(Step, frozen=True, kw_only=True):
    """Nothing was heard of the provider for the horizon."""


class ResultsStored(Step, frozen=True, kw_only=True):
    """All output and artifacts are on this node's disk."""


ClientEvent: TypeAlias = (
    TickReceived
    | RefusalReceived
    | NeverLeasedReceived
    | ReceiptReceived
    | ExtensionFellDue
    | CancelRequested
    | HorizonPassed
    | ResultsStored
    | Restarted
)

# --- events of the provider ---------------------------------------------------------------------


class OrderReceived(Step, frozen=True, kw_only=True):
    """The same order came again."""


class LeaseGranted(Step, frozen=True, kw_only=True):
    """Channel and slots are there: the lease begins now. ``PayeeLedger.lease`` goes with it."""

    at_ms: Millis
    prepaid_ms: Millis


class OrderDeclined(Step, frozen=True, kw_only=True):
    """There will be no lease: the channel did not come, or the slot is not free."""

    reason: str


class VoucherAccepted(Step, frozen=True, kw_only=True):
    """A voucher in the ledger covers ``prepaid_ms``."""

    prepaid_ms: Millis


class CancelReceived(Step, frozen=True, kw_only=True):
    """The client wants it to end."""

    reason: str


class ChannelClosing(Step, frozen=True, kw_only=True):
    """The payer began to close the channel."""


class PrepaidRanOut(Step, frozen=True, kw_only=True):
    """The prepaid time passed, and no voucher came."""


class StopOrdered(Step, frozen=True, kw_only=True):
    """This node stops the job: its operator, a fault, a deadline."""

    cause: Cause
    detail: str


class JobEnded(Step, frozen=True, kw_only=True):
    """The executor recorded the job's end, or could not start it."""

    cause: Cause
    detail: str


class ReceiptSigned(Step, frozen=True, kw_only=True):
    """Results are collected and the receipt is made."""

    receipt: Signed
    amount: MicroUnits


class KeptReceived(Step, frozen=True, kw_only=True):
    """The client has everything."""


class RetentionPassed(Step, frozen=True, kw_only=True):
    """The client did not come for its results for as long as they are kept."""


ProviderEvent: TypeAlias = (
    OrderReceived
    | LeaseGranted
    | OrderDeclined
    | VoucherAccepted
    | CancelReceived
    | ChannelClosing
    | PrepaidRanOut
    | StopOrdered
    | JobEnded
    | ReceiptSigned
    | KeptReceived
    | RetentionPassed
    | Restarted
)

FROM_PEER: Final = (
    TickReceived,
    NeverLeasedReceived,
    ReceiptReceived,
    OrderReceived,
    CancelReceived,
    KeptReceived,
)
"""Events that a peer causes: where they are illegal, it is at fault."""

# --- effects ------------------------------------------------------------------------------------


class SendOrder(Step, frozen=True, kw_only=True):
    """Send the stored order, until something comes back."""


class SendExtension(Step, frozen=True, kw_only=True):
    """Allocate for ``prepaid_ms`` in the ledger if that is not done yet, and send the voucher."""

    prepaid_ms: Millis


class SendCancel(Step, frozen=True, kw_only=True):
    """Send a cancel request, until a receipt or a never-leased statement comes back."""

    reason: str


class AttachJob(Step, frozen=True, kw_only=True):
    """Exchange highest vouchers and follow the job's output, progress and files."""


class CloseAllocation(Step, frozen=True, kw_only=True):
    """Close the agreement in the channel's ledger, in the transaction that stores the state."""

    receipt: Digest
    amount: MicroUnits


class ReleaseAllocation(Step, frozen=True, kw_only=True):
    """Release the agreement in the channel's ledger, in the transaction that stores the state."""


class FetchResults(Step, frozen=True, kw_only=True):
    """Fetch what is missing of output and artifacts."""


class SendKept(Step, frozen=True, kw_only=True):
    """Tell the provider that it may delete the job."""


class WriteOff(Step, frozen=True, kw_only=True):
    """Tell the user that the provider is gone; what it was promised stays allocated to it."""


class SendWaiting(Step, frozen=True, kw_only=True):
    """Say what the lease waits for, and go on waiting for it."""


class SignTick(Step, frozen=True, kw_only=True):
    """Store the window of tick number ``tick`` (from 0), then sign and send it."""

    tick: int
    prepaid_ms: Millis


class SendTick(Step, frozen=True, kw_only=True):
    """Send the last signed tick again."""


class StartJob(Step, frozen=True, kw_only=True):
    """Prepare and start the job, which has ``prepaid_ms`` from lease start."""

    prepaid_ms: Millis


class ExtendJob(Step, frozen=True, kw_only=True):
    """Give the job prepaid time, with the reserve that belongs to tick number ``tick``."""

    tick: int
    prepaid_ms: Millis


class WatchJob(Step, frozen=True, kw_only=True):
    """Find the job again, start it if it was not, and wait for its end."""


class StopJob(Step, frozen=True, kw_only=True):
    """Stop the job if it runs, and wait for its end."""

    cause: Cause
    detail: str


class SignReceipt(Step, frozen=True, kw_only=True):
    """Collect the results, build and sign the receipt, and say so with ``ReceiptSigned``."""

    cause: Cause
    detail: str


class SendReceipt(Step, frozen=True, kw_only=True):
    """Send the stored receipt to the client if it is there."""


class SendNeverLeased(Step, frozen=True, kw_only=True):
    """Sign (the bytes are the same each time) and send the never-leased statement."""


class ReleaseSlots(Step, frozen=True, kw_only=True):
    """Free the slots; those let until a tick's end stay out of other payers' reach until then."""


class RemoveJob(Step, frozen=True, kw_only=True):
    """Delete the job's folder and results."""


ClientEffect: TypeAlias = (
    SendOrder
    | SendExtension
    | SendCancel
    | AttachJob
    | CloseAllocation
    | ReleaseAllocation
    | FetchResults
    | SendKept
    | WriteOff
)
ProviderEffect: TypeAlias = (
    SendWaiting
    | SignTick
    | SendTick
    | StartJob
    | ExtendJob
    | WatchJob
    | StopJob
    | SignReceipt
    | SendReceipt
    | SendNeverLeased
    | CloseAllocation
    | ReleaseSlots
    | RemoveJob
)
