"""Everything the SDK raises.

RoboComputeError            code, details, status_code
├── AuthenticationError     no key, or one the node does not know
├── InsufficientFundsError  required, available, currency
├── TaskNotFoundError       task_id
├── ProviderUnavailableError    provider_id; the text says which requirement nobody meets
├── InvalidResourceRequirementsError    requirements
├── WalletSignatureError
├── RateLimitError          retry_after, in seconds
└── NetworkError            the node was not reached, or went away; nothing says what it did
    └── NodeUnreachableError    nothing listens there at all
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

DEFAULT_RETRY_AFTER: Final = 60.0
"""Seconds to wait after a 429 that does not say how long: a whole rate-limit window."""


class RoboComputeError(Exception):
    """Base of all errors here. ``str(error)`` is one line; ``code`` is the node's own word for it."""

    default_code: ClassVar[str] = "ERROR"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: Mapping[str, Any] | None = None,
        status_code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.details: dict[str, Any] = dict(details or {})
        self.status_code = status_code


class AuthenticationError(RoboComputeError):
    """The node does not know the API key, or got none."""

    default_code = "AUTHENTICATION_FAILED"


class InsufficientFundsError(RoboComputeError):
    """The balance does not cover the task; the text names the command that deposits."""

    default_code = "INSUFFICIENT_FUNDS"

    @property
    def required(self) -> str | None:
        return self.details.get("required")

    @property
    def available(self) -> str | None:
        return self.details.get("available")

    @property
    def currency(self) -> str | None:
        return self.details.get("currency")


class TaskNotFoundError(RoboComputeError):
    """The node has no such task."""

    default_code = "TASK_NOT_FOUND"

    @property
    def task_id(self) -> str | None:
        return self.details.get("task_id")


class ProviderUnavailableError(RoboComputeError):
    """No provider can take the task, or the one insisted on cannot."""

    default_code = "PROVIDER_UNAVAILABLE"

    @property
    def provider_id(self) -> str | None:
        return self.details.get("provider_id")


class InvalidResourceRequirementsError(RoboComputeError):
    """The resources asked for make no sense; repeating the request is useless."""

    default_code = "INVALID_RESOURCE_REQUIREMENTS"

    @property
    def requirements(self) -> Any:
        return self.details.get("requirements")


class WalletSignatureError(RoboComputeError):
    """The wallet's signature does not fit the request."""

    default_code = "WALLET_SIGNATURE_INVALID"


class RateLimitError(RoboComputeError):
    """Too many requests. Nothing was done; ask again after ``retry_after`` seconds."""

    default_code = "RATE_LIMIT_EXCEEDED"

    @property
    def retry_after(self) -> float:
        return float(self.details.get("retry_after", DEFAULT_RETRY_AFTER))


class NetworkError(RoboComputeError):
    """The node was not reached or did not answer; whether it acted is not known."""

    default_code = "NETWORK_ERROR"


class NodeUnreachableError(NetworkError):
    """The connection was refused or the host is unknown: nothing was sent, so nothing happened."""


_BY_CODE: Final[dict[str, type[RoboComputeError]]] = {
    kind.default_code: kind
    for kind in (
        AuthenticationError,
        InsufficientFundsError,
        TaskNotFoundError,
        ProviderUnavailableError,
        InvalidResourceRequirementsError,
        WalletSignatureError,
        RateLimitError,
    )
}


def is_stated(body: Any) -> bool:
    """Whether an error's body says something that repeating the request would not change."""
    stated: Any = body.get("error") if isinstance(body, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    return isinstance(stated, dict) and stated.get("code") in _BY_CODE  # pyright: ignore[reportUnknownMemberType]


def error_of(status: int, body: Any, *, retry_after: str | None) -> RoboComputeError:
    """The exception for an answer with an error status; ``body`` is its JSON, or None."""
    stated: Any = body.get("error") if isinstance(body, Mapping) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    fields: dict[str, Any] = dict(stated) if isinstance(stated, Mapping) else {}  # pyright: ignore[reportUnknownArgumentType]
    code = str(fields.get("code") or "")
    message = str(fields.get("message") or f"the node answered with HTTP status {status}")
    raw_details = fields.get("details")
    details: dict[str, Any] = dict(raw_details) if isinstance(raw_details, Mapping) else {}  # pyright: ignore[reportUnknownArgumentType]
    if status == 429:
        try:
            details["retry_after"] = max(0.0, float(retry_after or DEFAULT_RETRY_AFTER))
        except ValueError:
            details["retry_after"] = DEFAULT_RETRY_AFTER
        return RateLimitError(message, code=code or None, details=details, status_code=status)
    kind = _BY_CODE.get(code)
    if kind is None:
        kind = AuthenticationError if status == 401 else RoboComputeError
    return kind(message, code=code or None, details=details, status_code=status)
