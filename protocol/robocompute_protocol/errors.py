"""The one error tree. ``code`` is the same string in REST, on the wire and in ``--json``.

RoboComputeError
├── ProtocolError
│   ├── LocalProtocolError     we were about to break the protocol: a bug here, or a bad request
│   └── RemoteProtocolError    a peer broke it: its stream ends, nothing else does
├── ChainError
│   ├── ChainBusy              not taken; the same call may be repeated
│   ├── ChainRefused           never will be taken; repeating is useless
│   └── ChainUnknown           may or may not have been taken: look before repeating
├── StoreError
├── ConfigError
└── NoProvider, InsufficientFunds, JobFailed…  (declared beside their use)
"""

from __future__ import annotations


class RoboComputeError(Exception):
    """Base of every error a person may meet. ``str(error)`` is one line with the next step."""

    code: str = "error"
    exit_status: int = 1

    def __init__(self, message: str, *, details: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.details: dict[str, object] = dict(details or {})


class ProtocolError(RoboComputeError):
    """Bytes or messages that the protocol does not allow."""

    code = "protocol"


class LocalProtocolError(ProtocolError):
    """This side was asked to do what the protocol does not allow."""

    code = "protocol_local"


class RemoteProtocolError(ProtocolError):
    """The other side did what the protocol does not allow.

    ``code`` says which rule, as docs/protocol.md lists them.
    """

    code = "protocol_remote"

    def __init__(
        self, message: str, *, code: str | None = None, details: dict[str, object] | None = None
    ) -> None:
        super().__init__(message, details=details)
        if code is not None:
            self.code = code


class ChainError(RoboComputeError):
    """The chain did not do as asked."""

    code = "chain"


class ChainBusy(ChainError):
    """Not taken, and nothing changed: the same request may be repeated later."""

    code = "chain_busy"


class ChainRefused(ChainError):
    """Refused for good. ``number`` is the program's own error number, where it gave one."""

    code = "chain_refused"

    def __init__(
        self, message: str, *, number: int | None = None, details: dict[str, object] | None = None
    ) -> None:
        super().__init__(message, details=details)
        self.number = number


class ChainUnknown(ChainError):
    """The outcome is not known: read the account before repeating.

    Where ``signature`` is not empty, it is the transaction that may still land, in a block of at
    most ``last_valid_height``: the settlement port's ``outcome`` tells what became of it.
    """

    code = "chain_unknown"

    def __init__(
        self,
        message: str,
        *,
        signature: str = "",
        last_valid_height: int = 0,
        details: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message, details=details)
        self.signature = signature
        self.last_valid_height = last_valid_height


class StoreError(RoboComputeError):
    """The node's own store cannot be read or written."""

    code = "store"


class ConfigError(RoboComputeError):
    """A configuration file, setting or key file is missing or wrong."""

    code = "config"
    exit_status = 2
