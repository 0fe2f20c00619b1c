"""Runs in a sandbox, beside its program: lets what knows only TCP reach the proxy's unix socket.

    python forwarder.py SOCKET PORT PROGRAM [ARGUMENT…]

listens on 127.0.0.1:PORT, starts the program, and ends with its exit status. Standard library only.
"""

from __future__ import annotations

import os
import socket
import sys
import threading

_CHUNK = 65_536
_BACKLOG = 64


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(_CHUNK):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for each in (source, sink):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


def _join(client: socket.socket, path: str) -> None:
    with client, socket.socket(socket.AF_UNIX) as proxy:
        try:
            proxy.connect(path)
        except OSError:
            return
        back = threading.Thread(target=_pump, args=(proxy, client), daemon=True)
        back.start()
        _pump(client, proxy)
        back.join()


def _serve(listener: socket.socket, path: str) -> None:
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_join, args=(client, path), daemon=True).start()


def main(path: str, port: str, *program: str) -> None:
    """Listen, then run ``program`` to its end."""
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=_BACKLOG)
    # Before the first thread: only one thread lives on in a forked process.
    child = os.fork()
    if not child:
        listener.close()
        os.execvp(program[0], program)  # noqa: S606 (no shell is the point)
    threading.Thread(target=_serve, args=(listener, path), daemon=True).start()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main(*sys.argv[1:])
