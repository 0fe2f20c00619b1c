"""RoboCompute for Python programs: hand tasks to your node, follow them, see what they cost."""

from robocompute.client import Record, RoboComputeClient
from robocompute.exceptions import (
    AuthenticationError,
    InsufficientFundsError,
    InvalidResourceRequirementsError,
    NetworkError,
    NodeUnreachableError,
    ProviderUnavailableError,
    RateLimitError,
    RoboComputeError,
    TaskNotFoundError,
    WalletSignatureError,
)

__all__ = [
    "AuthenticationError",
    "InsufficientFundsError",
    "InvalidResourceRequirementsError",
    "NetworkError",
    "NodeUnreachableError",
    "ProviderUnavailableError",
    "RateLimitError",
    "Record",
    "RoboComputeClient",
    "RoboComputeError",
    "TaskNotFoundError",
    "WalletSignatureError",
]
