"""The daemon's peer-to-peer shell against go-libp2p, in turns in one run.

Streams: connect, round trip, open, MB/s up and down (also on the direct bulk path) between two
processes. Gossip: time to arrive, core time for each delivery and loss, with 2, 8 and 24 nodes in
up to four processes. Go's side is built from ``bench/go``; without Go only ours is measured.

    .venv/bin/python bench/p2p.py [--quick] [--runs 3] [--only streams,gossip] [--nodes 2,8,24]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Generator

ROOT: Final = Path(__file__).parents[1]
PARTS: Final = ("streams", "gossip")
OURS: Final = "python"
THEIRS: Final = "go"
BULK: Final = "bulk"
"""Our direct path beside libp2p's streams, compared with Go's stream."""
PROCESSES: Final = 4
NEIGHBOURS: Final = (1, 3, 7)
"""Each node dials these many places further round: connected, and six neighbours for 24 nodes."""
MESSAGES_PER_SECOND: Final = {2: 100.0, 8: 25.0, 24: 10.0}
"""In all, so that both sides keep up on two cores and deliveries a second are alike."""
MESSAGE_BYTES: Final = 512
BURST: Final = 200
FRAME_BYTES: Final = 65_400
"""A frame of ours with its header fits one yamux frame, as parts of chunks do."""
WARM_LIMIT_S: Final = 60.0
"""A mesh that does not deliver everything by then will not."""
IDLE_S: Final = 3.0
"""Nothing more comes after so long without a message: what is missing is lost."""

Answer = dict[str, Any]


class Peer:
    """One process that does what it is told, a line at a time."""

    def __init__(self, command: list[str], stack: ExitStack) -> None:
        self._process = stack.enter_context(
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
        )
        stack.callback(self._process.kill)

    def hear(self) -> Answer:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit(f"a peer ended with {self._process.wait()}")
        return json.loads(line)

    def say(self, op: str, **rest: object) -> None:
        if self._process.stdin is None:
            raise AssertionError("unreachable")
        self._process.stdin.write(json.dumps({"op": op, **rest}) + "\n")
        self._process.stdin.flush()

    def ask(self, op: str, **rest: object) -> Answer:
        self.say(op, **rest)
        return self.hear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    runs: int
    connects: int
    round_trips: int
    opens: int
    megabytes: int
    transfers: int
    gossip_s: float
    nodes: tuple[int, ...]


def build_go(folder: Path) -> list[str] | None:
    """Build Go's side; None, with a word, where that cannot be done."""
    go = shutil.which("go")
    if go is None:
        print("go is not installed: only ours is measured", file=sys.stderr)
        return None
    program = folder / "p2p-go"
    built = subprocess.run(
        [go, "build", "-o", str(program), "."], cwd=ROOT / "bench/go", check=False
    )
    if built.returncode:
        print("bench/go does not build here: only ours is measured", file=sys.stderr)
        return None
    return [str(program)]


@contextmanager
def pair(command: list[str]) -> Generator[tuple[Peer, Peer, Answer]]:
    """A server and a client; the answer holds the server's address."""
    with ExitStack() as stack:
        server = Peer([*command, "streams"], stack)
        client = Peer([*command, "streams"], stack)
        address = server.hear()
        client.hear()
        yield server, client, address


def measure_streams(sides: dict[str, list[str]], plan: Plan) -> dict[str, dict[str, list[float]]]:
    """Every try of every measure, in seconds (transfers: MB/s and core milliseconds a MB)."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    counts = {"connect": plan.connects, "round-trip": plan.round_trips, "open": plan.opens}
    megabytes = plan.megabytes
    size = megabytes * 1_000_000 // FRAME_BYTES * FRAME_BYTES
    for _ in range(plan.runs):
        with ExitStack() as stack:
            pairs = {name: stack.enter_context(pair(command)) for name, command in sides.items()}
            for op, count in counts.items():
                for name, (_, client, answer) in pairs.items():
                    seconds = client.ask(op, address=answer["address"], count=count)["seconds"]
                    found[op][name] += seconds
            for op in ("up", "down"):
                for name, (server, client, answer) in pairs.items():
                    paths = (name, BULK) if name == OURS else (name,)
                    for path in paths:
                        before = server.ask("cpu")["cpu"] + client.ask("cpu")["cpu"]
                        seconds = client.ask(
                            op,
                            address=answer["address"],
                            count=plan.transfers,
                            bytes=size,
                            frame=FRAME_BYTES,
                            bulk=path == BULK,
                        )["seconds"]
                        after = server.ask("cpu")["cpu"] + client.ask("cpu")["cpu"]
                        found[op][path] += [size / 1e6 / each for each in seconds]
                        spent = (after - before) * 1000 / (size / 1e6 * plan.transfers)
                        found[op + " core"][path].append(spent)
    return found


@dataclass(slots=True)
class Mesh:
    """Gossip nodes in a few processes, all on one topic."""

    peers: list[Peer]
    home: list[int]
    """Which process a node lives in."""
    round: int = 0

    @property
    def nodes(self) -> int:
        return len(self.home)

    def begin(self) -> float:
        self.round += 1
        return sum(peer.ask("begin", round=self.round)["cpu"] for peer in self.peers)

    def publish(self, node: int, *, count: int, rate: float) -> None:
        self.peers[self.home[node]].ask(
            "publish", node=node, count=count, rate=rate, bytes=MESSAGE_BYTES, round=self.round
        )

    def settle(self, expected: int) -> int:
        """Wait until all came, or nothing more does; how many came."""
        seen, since = -1, time.monotonic()
        while time.monotonic() - since < IDLE_S:
            count = sum(peer.ask("count")["count"] for peer in self.peers)
            if count == expected:
                return count
            if count != seen:
                seen, since = count, time.monotonic()
            time.sleep(0.2)
        return seen

    def report(self) -> tuple[list[float], int, float]:
        """Seconds that deliveries took, deliveries that came twice, core seconds so far."""
        reports = [peer.ask("report") for peer in self.peers]
        waits = [wait for each in reports for wait in each["waits"]]
        return waits, sum(r["doubles"] for r in reports), sum(r["cpu"] for r in reports)


@contextmanager
def mesh_of(command: list[str], nodes: int) -> Generator[Mesh]:
    """Connected and warm: everything published at last reached everybody."""
    with ExitStack() as stack:
        count = min(PROCESSES, nodes)
        share = nodes // count
        peers = [Peer([*command, "gossip"], stack) for _ in range(count)]
        addresses: list[str] = []
        for number, peer in enumerate(peers):
            seeds = [
                hashlib.sha256(f"bench-{number}-{each}".encode()).hexdigest()
                for each in range(share)
            ]
            addresses += peer.ask("start", first=number * share, seeds=seeds)["addresses"]
        home = [number // share for number in range(nodes)]
        for node in range(nodes):
            others = sorted({(node + step) % nodes for step in NEIGHBOURS} - {node})
            peers[home[node]].ask("dial", node=node, dial=[addresses[each] for each in others])
        mesh = Mesh(peers, home)
        limit = time.monotonic() + WARM_LIMIT_S
        while True:
            mesh.begin()
            for node in range(nodes):
                mesh.publish(node, count=2, rate=2.0)
            if mesh.settle(2 * nodes * (nodes - 1)) == 2 * nodes * (nodes - 1):
                break
            if time.monotonic() > limit:
                raise SystemExit(f"{nodes} nodes of {command} form no mesh")
        yield mesh


def measure_gossip(sides: dict[str, list[str]], plan: Plan) -> dict[str, dict[str, list[float]]]:
    """Medians of each run: arrival and core time at a steady rate, then a burst from one node."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(plan.runs):
        for nodes in plan.nodes:
            for name, command in sides.items():
                with mesh_of(command, nodes) as mesh:
                    publishers = min(PROCESSES, nodes)
                    rate = MESSAGES_PER_SECOND.get(nodes, 240 / nodes) / publishers
                    count = max(1, round(rate * plan.gossip_s))
                    before = mesh.begin()
                    for publisher in range(publishers):
                        node = publisher * nodes // publishers
                        mesh.publish(node, count=count, rate=rate)
                    time.sleep(plan.gossip_s)
                    expected = publishers * count * (nodes - 1)
                    mesh.settle(expected)
                    waits, doubles, after = mesh.report()
                    waits.sort()
                    key = f"gossip {nodes}"
                    found[key + " p50"][name].append(waits[len(waits) // 2])
                    found[key + " p99"][name].append(waits[len(waits) * 99 // 100])
                    found[key + " core"][name].append((after - before) / len(waits))
                    found[key + " lost"][name].append(1 - len(waits) / expected)
                    found[key + " doubles"][name].append(doubles)
                    mesh.begin()
                    mesh.publish(0, count=BURST, rate=0)
                    mesh.settle(BURST * (nodes - 1))
                    waits, _, _ = mesh.report()
                    waits.sort()
                    found[key + " burst lost"][name].append(1 - len(waits) / (BURST * (nodes - 1)))
                    found[key + " burst p50"][name].append(waits[len(waits) // 2])
    return found


UNITS: Final = {
    "connect": ("ms", 1e3),
    "round-trip": ("us", 1e6),
    "open": ("ms", 1e3),
    "up": ("MB/s", 1.0),
    "down": ("MB/s", 1.0),
    "up core": ("core ms a MB, both sides", 1.0),
    "down core": ("core ms a MB, both sides", 1.0),
    "p50": ("ms", 1e3),
    "p99": ("ms", 1e3),
    "core": ("core us a delivery", 1e6),
    "lost": ("%", 1e2),
    "doubles": ("delivered twice", 1.0),
}


def table(results: dict[str, dict[str, list[float]]]) -> list[str]:
    """Lines of Markdown: medians, and ours as a multiple of Go's."""
    lines = [
        "| | python | bulk | go | python / go | bulk / go |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for what, sides in results.items():
        unit, scale = UNITS.get(what) or UNITS[what.split()[-1]]
        medians = {name: statistics.median(tries) * scale for name, tries in sides.items()}
        if unit == "%":  # the worst of all runs: one that loses is one too many
            medians = {name: max(tries) * scale for name, tries in sides.items()}
        cells = [f"{what}, {unit}"]
        cells += [f"{medians[n]:.4g}" if n in medians else "" for n in (OURS, BULK, THEIRS)]
        go = medians.get(THEIRS)
        cells += [f"{medians[n] / go:.2f}" if go and n in medians else "" for n in (OURS, BULK)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measure, print the table and the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short run, for a look")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--nodes", default="2,8,24")
    parser.add_argument("--sides", default=f"{OURS},{THEIRS}")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()

    quick = bool(options.quick)
    plan = Plan(
        runs=1 if quick else options.runs,
        connects=5 if quick else 15,
        round_trips=300 if quick else 1_000,
        opens=50 if quick else 200,
        megabytes=32 if quick else 128,
        transfers=2 if quick else 3,
        gossip_s=5.0 if quick else 15.0,
        nodes=tuple(int(each) for each in options.nodes.split(",")),
    )
    folder = ROOT / ".cache"
    folder.mkdir(exist_ok=True)
    wanted = options.sides.split(",")
    sides = {OURS: [sys.executable, str(ROOT / "bench/p2p_peer.py")]} if OURS in wanted else {}
    go = build_go(folder) if THEIRS in wanted else None
    if go is not None:
        sides[THEIRS] = go
    load_before = os.getloadavg()[0]
    results: dict[str, dict[str, list[float]]] = {}
    parts = options.only.split(",")
    if "streams" in parts:
        results |= measure_streams(sides, plan)
    if "gossip" in parts:
        results |= measure_gossip(sides, plan)
    report = {
        "command": " ".join(["bench/p2p.py", *sys.argv[1:]]),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.platform()}, "
        f"Python {platform.python_version()}",
        "load": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        "medians": {
            what: {name: statistics.median(tries) for name, tries in by.items()}
            for what, by in results.items()
        },
    }
    print("\n".join(table(results)))
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
