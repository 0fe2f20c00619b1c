"""Fills a local network with what is no multicast DNS, and with lies that are: run until killed."""

from __future__ import annotations

import secrets
import socket
import sys
import time

from zeroconf import ServiceInfo
from zeroconf._protocol.outgoing import DNSOutgoing

GROUP = ("224.0.0.251", 5353)
SERVICE = "_p2p._udp.local."
RESPONSE = 0x8400


def lie() -> bytes:
    """An announcement, well formed, of nobody, or of what is no address."""
    name = f"{secrets.token_hex(8)}.{SERVICE}"
    dnsaddr = secrets.choice(("/ip4/127.0.0.1/tcp/22/p2p/x", "\u00e9" * 40, "/" * 200, ""))
    info = ServiceInfo(
        SERVICE, name, port=1, properties={"n": "0" * 32, "dnsaddr": dnsaddr}, server=name
    )
    packet = DNSOutgoing(RESPONSE)
    for record in (info.dns_pointer(), info.dns_service(), info.dns_text()):
        packet.add_answer_at_time(record, 0)
    return packet.packets()[0]


def main(address: str) -> None:
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    while True:
        truth = lie()
        cut = secrets.randbelow(len(truth))
        for data in (truth, truth[:cut], secrets.token_bytes(400), truth[:12] + bytes(300)):
            sender.sendto(data, GROUP)
        time.sleep(0.01)


if __name__ == "__main__":
    main(sys.argv[1])
