"""Run a Python script on somebody else's machine by putting one word in front of the command.

What a job imports from here needs nothing but the standard library.
"""

from chisel.gpu import GPUType
from chisel.trace import capture_trace

__version__ = "0.1.0"
__all__ = ["GPUType", "capture_trace"]
