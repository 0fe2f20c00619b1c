"""Two private networks behind two routers that translate addresses, and the internet between them.

    house-a 10.1.0.2 ── router-a ─┐                       ┌─ router-b ── house-b 10.2.0.2
              10.1.0.1   11.0.0.2 ┴── internet 11.0.0.x ──┴ 11.0.0.3   10.2.0.1
                                       server 11.0.0.10

Network namespaces of their own, so nothing of the machine's own network is touched. The addresses
between the routers are ones of the real internet's kind, because nodes treat private ones otherwise.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

SERVER_IP = "11.0.0.10"
MASQUERADE = """
table ip nat {
  chain out { type nat hook postrouting priority 100; oifname "wan" masquerade; }
}
table ip guard {
  chain through {
    type filter hook forward priority 0; policy drop;
    iifname "lan" accept
    ct state established,related accept
  }
}
"""
"""As a router at home: who is inside may call out, and only answers come in."""
FORWARD = """
table ip nat {
  chain inward { type nat hook prerouting priority -100; iifname "wan" tcp dport 4001 dnat to %(house)s; }
}
table ip guard {
  chain through { iifname "wan" tcp dport 4001 accept; }
}
"""


def why_not() -> str | None:
    """Say why this machine cannot do it, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "nft") if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: iproute2, nftables)"
    probe = f"rc-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False)
    if made.returncode != 0:
        return f"no network namespaces: {made.stderr.decode().strip()}"
    nat = _nft(probe, MASQUERADE, check=False)
    subprocess.run(["ip", "netns", "del", probe], check=False)
    if nat.returncode != 0:
        return f"no address translation: {nat.stderr.strip()}"
    return None


def _nft(namespace: str, rules: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = ["ip", "netns", "exec", namespace, "nft", "-f", "-"]
    return subprocess.run(command, input=rules, text=True, capture_output=True, check=check)


@contextmanager
def forwarded_port(router: str, house: str) -> Generator[None]:
    """Let TCP port 4001 of ``router`` be the one of ``house``, as its owner would set it up."""
    _nft(router, FORWARD % {"house": house})
    try:
        yield
    finally:
        _nft(router, "delete chain ip nat inward")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _cable(
    one: str, one_name: str, one_ip: str, other: str, other_name: str, other_ip: str
) -> None:
    """Join two namespaces by a cable; an end without an address is left bare."""
    first, second = f"v{os.getpid() % 10**6}a{one_name}"[:15], f"v{os.getpid() % 10**6}b"[:15]
    _ip("link", "add", first, "type", "veth", "peer", "name", second)
    for end, namespace, name, ip in (
        (first, one, one_name, one_ip),
        (second, other, other_name, other_ip),
    ):
        _ip("link", "set", end, "netns", namespace, "name", name)
        if ip:
            _ip("-n", namespace, "address", "add", f"{ip}/24", "dev", name)
        _ip("-n", namespace, "link", "set", name, "up")


@contextmanager
def two_houses() -> Generator[dict[str, str]]:
    """Yield the namespaces by name: house-a, house-b, server. All are gone afterwards."""
    tag = os.getpid()
    names = {
        each: f"rc{tag}-{each}"
        for each in ("house-a", "house-b", "router-a", "router-b", "server", "switch")
    }
    try:
        for namespace in names.values():
            _ip("netns", "add", namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", names["switch"], "link", "add", "bridge", "type", "bridge")
        _ip("-n", names["switch"], "link", "set", "bridge", "up")
        for port, (where, name, ip) in enumerate(
            (
                ("router-a", "wan", "11.0.0.2"),
                ("router-b", "wan", "11.0.0.3"),
                ("server", "eth0", SERVER_IP),
            )
        ):
            _cable(names[where], name, ip, names["switch"], f"port{port}", "")
            _ip("-n", names["switch"], "link", "set", f"port{port}", "master", "bridge")
        _ip("-n", names["server"], "route", "add", "default", "dev", "eth0")
        for letter, net in (("a", "10.1.0"), ("b", "10.2.0")):
            house, router = names[f"house-{letter}"], names[f"router-{letter}"]
            _cable(house, "eth0", f"{net}.2", router, "lan", f"{net}.1")
            _ip("-n", house, "route", "add", "default", "via", f"{net}.1")
            forward = ["sysctl", "-q", "net.ipv4.ip_forward=1"]
            subprocess.run(["ip", "netns", "exec", router, *forward], check=True)
            _nft(router, MASQUERADE)
        yield names
    finally:
        for namespace in names.values():
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


@contextmanager
def one_house() -> Generator[tuple[str, str]]:
    """Yield two namespaces that one cable joins: a local network, 10.9.0.1 and 10.9.0.2."""
    names = (f"rc{os.getpid()}-desk", f"rc{os.getpid()}-shelf")
    try:
        for namespace in names:
            _ip("netns", "add", namespace)
            _ip("-n", namespace, "link", "set", "lo", "up")
        _cable(names[0], "eth0", "10.9.0.1", names[1], "eth0", "10.9.0.2")
        for namespace in names:
            _ip("-n", namespace, "route", "add", "default", "dev", "eth0")
        yield names
    finally:
        for namespace in names:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)
