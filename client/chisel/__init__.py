"""Run a Python script on somebody else's machine by putting one word in front of the command.

What a job imports from here needs nothing but the standard library, and the command line does not
wait for what only jobs need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chisel.gpu import GPUType
    from chisel.trace import capture_trace

__version__ = "0.1.0"
__all__ = ["GPUType", "capture_trace"]


def __getattr__(name: str) -> Any:
    if name == "capture_trace":
        from chisel.trace import capture_trace

        return capture_trace
    if name == "GPUType":
        from chisel.gpu import GPUType

        return GPUType
    raise AttributeError(f"module 'chisel' has no attribute {name!r}")
