"""Why a job ended, who is answerable for it, and who pays for the time it took."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Side(StrEnum):
    """One side of an agreement."""

    CLIENT = "client"
    PROVIDER = "provider"


class Cause(StrEnum):
    """Why an agreement ended. The same word on the wire, in the store, in REST and on the screen."""

    EXITED = "exited"
    WALL_TIME = "wall_time"
    MEMORY = "memory"
    DISK = "disk"
    CANCELLED = "cancelled"
    CLIENT_LOST = "client_lost"
    ENVIRONMENT_FAILED = "environment_failed"
    UPLOAD_INVALID = "upload_invalid"
    CHANNEL_CLOSED = "client_closed_channel"
    SANDBOX_FAILED = "sandbox_failed"
    GPU_FAULT = "gpu_fault"
    PROVIDER_LOST = "provider_lost"
    PROVIDER_STOPPED = "provider_stopped"
    NOT_STARTED = "not_started"
    UNKNOWN = "unknown"


ANSWERABLE: Final[dict[Cause, Side]] = {
    Cause.EXITED: Side.CLIENT,
    Cause.WALL_TIME: Side.CLIENT,
    Cause.MEMORY: Side.CLIENT,
    Cause.DISK: Side.CLIENT,
    Cause.CANCELLED: Side.CLIENT,
    Cause.CLIENT_LOST: Side.CLIENT,
    Cause.ENVIRONMENT_FAILED: Side.CLIENT,
    Cause.UPLOAD_INVALID: Side.CLIENT,
    Cause.CHANNEL_CLOSED: Side.CLIENT,
    Cause.SANDBOX_FAILED: Side.PROVIDER,
    Cause.GPU_FAULT: Side.PROVIDER,
    Cause.PROVIDER_LOST: Side.PROVIDER,
    Cause.PROVIDER_STOPPED: Side.PROVIDER,
    Cause.NOT_STARTED: Side.PROVIDER,
    Cause.UNKNOWN: Side.PROVIDER,
}
"""Who ended it. The answerable side also bears the cost of the time until then."""

MEANING: Final[dict[Cause, str]] = {
    Cause.EXITED: "the program ended by itself",
    Cause.WALL_TIME: "the job ran for as long as its time limit allows",
    Cause.MEMORY: "the job used more memory than agreed",
    Cause.DISK: "the job wrote more to disk than agreed",
    Cause.CANCELLED: "the client cancelled the job",
    Cause.CLIENT_LOST: "the client's node went away and the prepaid time ran out",
    Cause.ENVIRONMENT_FAILED: "the job's requirements could not be installed",
    Cause.UPLOAD_INVALID: "the upload is not one the provider may unpack",
    Cause.CHANNEL_CLOSED: "the client began to close the payment channel",
    Cause.SANDBOX_FAILED: "the provider's sandbox failed",
    Cause.GPU_FAULT: "the provider's GPU failed",
    Cause.PROVIDER_LOST: "the provider's node went away for longer than the horizon",
    Cause.PROVIDER_STOPPED: "the provider stopped the job",
    Cause.NOT_STARTED: "the provider did not start the program in time",
    Cause.UNKNOWN: "the provider could not say why the job ended",
}
"""One sentence for a person, for every cause."""


def client_pays(cause: Cause) -> bool:
    """Whether the time until the end is billed."""
    return ANSWERABLE[cause] is Side.CLIENT
