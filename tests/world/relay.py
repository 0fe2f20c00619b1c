"""A cable between nodes and their chain: it can be pulled out, and what went through is known."""

from __future__ import annotations

import base64
import re
import socket
import threading

SENT = re.compile(rb'"method":\s*"sendTransaction",\s*"params":\s*\[\s*"([A-Za-z0-9+/=]+)"')
READ_BYTES = 65_536


class Relay:
    """Forwards TCP from a port of its own to ``target``, and keeps what clients sent."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self._target = target
        self._lock = threading.Lock()
        self._requests: list[bytearray] = []
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self.plug()

    def plug(self) -> None:
        """Forward again."""
        listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self._listener = listener
        self._go(self._accept, listener)

    def pull(self) -> None:
        """Refuse connections, and end those that there are. Repeatable."""
        if self._listener is not None:
            _end(self._listener)
            self._listener = None
        with self._lock:
            ends = list(self._open)
        for end in ends:
            _end(end)
        for thread in self._threads:
            thread.join(10)
        self._threads.clear()

    def transactions(self) -> list[bytes]:
        """The transactions that went through, each once, in their order."""
        with self._lock:
            streams = [bytes(stream) for stream in self._requests]
        found = [base64.b64decode(one) for stream in streams for one in SENT.findall(stream)]
        return list(dict.fromkeys(found))

    def _go(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                break
            try:
                far = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            stream = bytearray()
            with self._lock:
                self._open |= {near, far}
                self._requests.append(stream)
            self._go(self._pump, near, far, stream)
            self._go(self._pump, far, near, None)
        listener.close()

    def _pump(self, source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
        try:
            while piece := source.recv(READ_BYTES):
                if kept is not None:
                    with self._lock:
                        kept += piece
                sink.sendall(piece)
        except OSError:
            pass
        _end(source)
        _end(sink)
        with self._lock:
            # Each of the two directions gets here; the second one closes both ends.
            if source in self._open and sink in self._open:
                self._open -= {source, sink}
                return
        source.close()
        sink.close()


def _end(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
