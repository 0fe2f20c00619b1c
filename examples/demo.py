"""One real job, end to end, on a local world: `make demo`.

    python examples/demo.py [FOLDER]

Founds a world below FOLDER (default .demo: a chain, a provider and a client, on free ports), runs
`chisel python examples/train.py` on it, shows what the job made and what it cost, waits until the
provider has settled on chain, and checks that the money adds up to the unit. Ends everything it
started; what the job made stays, and so do the logs.

With TORCH=1 in the environment torch is put into the jobs' base runtime first (about 5 GB, once).
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
DEMO = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / ".demo"
WORLD = DEMO / "world"
OUT = DEMO / "chisel-out"
TORCH_HOME = ROOT / ".cache" / "torch"
NODE = [sys.executable, "-m", "robocompute_node"]
CHISEL = [sys.executable, "-c", "from chisel.cli import main; raise SystemExit(main())"]
JOB_WITHIN_S = 600
"""The training takes seconds; on torch its first import on a cold disk takes a minute more."""
SETTLED_WITHIN_S = 60
"""The local world's provider settles a second after a job's end; a busy machine takes longer."""


def main() -> int:
    """Run the demo; return its exit status."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, stopped)
    start_afresh()
    if os.environ.get("TORCH") == "1":
        put_torch_in()
    try:
        run_job(bring_up())
    finally:
        heading("Ending the world")
        run([*NODE, "localnet", "down", "--dir", str(WORLD)], "the world was not ended in order")
    left = processes_of(DEMO)
    if left:
        fail("these processes are left: " + "; ".join(left))
    say(f"No process is left. The demo took {time.monotonic() - began:.0f} s.")
    heading("Where everything lies")
    say(f"  the job's results and traces  {OUT}")
    say(f"  its metrics                   {WORLD / 'client-1' / 'aspara'}")
    say(f"  the world, asleep             {WORLD}   (logs in {WORLD / 'log'})")
    say(f"  wake it:                      robocompute-node localnet up --free-ports --dir {WORLD}")
    return 0


def start_afresh() -> None:
    """End and forget the world of an earlier run; one demo at a time has the folder."""
    DEMO.mkdir(parents=True, exist_ok=True)
    try:
        fcntl.flock(os.open(DEMO, os.O_RDONLY | os.O_CLOEXEC), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fail(f"another demo is running in {DEMO}: wait for its end, or name another folder")
    if WORLD.exists():
        run(
            [*NODE, "localnet", "reset", "--dir", str(WORLD)],
            "the last demo's world is in the way",
        )
    shutil.rmtree(OUT, ignore_errors=True)


def put_torch_in() -> None:
    """Fill the provider's base runtime, which is kept outside of the world for the next time."""
    heading("Torch for the jobs' base runtime (about 5 GB the first time)")
    command = [*NODE, "runtime", "add", "torch", "numpy", "--data", str(TORCH_HOME)]
    run(command, "torch could not be installed")
    provider = WORLD / "provider-1"
    provider.mkdir(parents=True, mode=0o700)
    (provider / "runtimes").symlink_to(TORCH_HOME / "runtimes")


def bring_up() -> dict[str, Any]:
    """Found the world and return what `localnet status --json` says of it."""
    heading("A world: one chain, one provider, one client")
    command = [*NODE, "localnet", "up", "--detach", "--free-ports", "--dir", str(WORLD)]
    run([*command, "--config", str(ROOT / "localnet.toml")], "the world did not come up")
    return status()


def run_job(world: dict[str, Any]) -> None:
    """Run the job and show everything about it."""
    client = next(node for node in world["nodes"] if "client" in node["roles"])
    key = Path(client["api_key_file"]).read_text().strip()
    flags = ["--upload-dir", "examples", "--out", os.path.relpath(OUT, ROOT), "--yes"]
    command = [*flags, "python", "examples/train.py"]
    heading(f"chisel {' '.join(command)}")
    began = time.monotonic()
    try:
        ended = subprocess.run(
            [*CHISEL, *command],
            cwd=ROOT,
            env={**os.environ, "CHISEL_BACKEND_URL": client["url"], "CHISEL_API_KEY": key},
            check=False,
            timeout=JOB_WITHIN_S,
        )
    except subprocess.TimeoutExpired:
        fail(f"the job did not end within {JOB_WITHIN_S} s: see {WORLD / 'log'}")
    if ended.returncode != 0:
        fail(f"the job ended with exit status {ended.returncode}")
    say(f"(exit status 0 after {time.monotonic() - began:.1f} s)")
    task = ask(client["url"], key, "/tasks?limit=1")["tasks"][0]
    show_results(task, client)
    receipt = show_receipt(client["url"], key, task["task_id"])
    show_money(world, settled_status(client["name"], world, receipt), receipt)


def show_results(task: dict[str, Any], client: dict[str, Any]) -> None:
    """Name the files that came home."""
    heading("What came home")
    out = OUT / task["task_id"]
    traces = sorted(out.glob("traces/*.json"))
    if not traces:
        fail(f"no trace came home to {out}")
    for trace in traces:
        events = len(json.loads(trace.read_text())["traceEvents"])
        say(f"  trace    {trace}  ({events} events; opens in Perfetto)")
    metrics = [path for path in Path(client["data"], "aspara").rglob("*.jsonl") if path.is_file()]
    if not metrics:
        fail(f"no metrics arrived below {client['data']}/aspara")
    for path in metrics:
        say(f"  metrics  {path}  ({len(path.read_text().splitlines())} records)")
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.parent.name != "traces":
            say(f"  file     {path}  ({path.stat().st_size} bytes)")


def show_receipt(url: str, key: str, task_id: str) -> dict[str, Any]:
    """Print the receipt, and wait for the provider's settlement."""
    heading("The receipt, signed by the provider")
    receipt = ask(url, key, f"/tasks/{task_id}/receipt")
    say(f"  ended      {receipt['cause']}, exit status {receipt['exit_code']}")
    say(f"  metered    {receipt['metered_ms']} ms at {receipt['price_per_hour']} USDC an hour")
    say(f"  cost       {receipt['amount']} USDC of {receipt['prepaid']} prepaid")
    for name in ("task_hash", "terms_hash", "agreement", "output_hash", "artifacts_hash"):
        say(f"  {name:<15}{receipt[name]}")
    say(f"  signature      {receipt['signature']}")
    heading("Settlement on chain")
    deadline = time.monotonic() + SETTLED_WITHIN_S
    while not receipt["settlement"]["signature"]:
        if time.monotonic() > deadline:
            fail(f"the provider did not settle within {SETTLED_WITHIN_S} s; see {WORLD / 'log'}")
        time.sleep(0.2)
        receipt = ask(url, key, f"/tasks/{task_id}/receipt")
    say(f"  channel      {receipt['channel']['address']}")
    say(f"  transaction  {receipt['settlement']['signature']}")
    return receipt


def settled_status(client: str, before: dict[str, Any], receipt: dict[str, Any]) -> dict[str, Any]:
    """Return the world's status once its books show the settlement."""
    deadline = time.monotonic() + SETTLED_WITHIN_S
    while True:
        now = status()
        if total(now, client) == total(before, client) - Decimal(receipt["amount"]):
            return now
        if time.monotonic() > deadline:
            return now
        time.sleep(0.2)


def show_money(before: dict[str, Any], after: dict[str, Any], receipt: dict[str, Any]) -> None:
    """Print both balances, and check every unit of them."""
    heading("Money, in USDC")
    columns = ("usdc_balance", "available", "locked", "staked", "fees_owed")
    head = ("in wallet", "in program", "in channels", "staked", "fees owed")
    say(f"  {'':<24}" + "".join(f"{name:>16}" for name in head))
    for node in before["nodes"]:
        for word, world in (("before", before), ("after", after)):
            wallet = wallet_of(world, node["name"])
            cells = "".join(f"{wallet[column]:>16}" for column in columns)
            say(f"  {node['name'] + ' ' + word:<24}{cells}")
    charged = total(before, "client-1") - total(after, "client-1")
    earned = total(after, "provider-1") - total(before, "provider-1")
    fee = fees(after) - fees(before)
    say(f"  client paid {charged} = provider earned {earned} + fee {fee}")
    books = {name: Decimal(value) for name, value in after["books"].items()}
    say(
        "  vault {vault} = in program {available} + fees owed {fees_owed} + in channels {channels}"
        " + staked {staked}".format(**books)
    )
    if charged != Decimal(receipt["amount"]):
        fail(f"the client paid {charged}, but its receipt says {receipt['amount']}")
    if charged != earned + fee:
        fail("what was paid is not what was earned and owed as fee")
    if books["surplus"] != 0:
        fail(f"the vault holds {books['surplus']} that nobody owns")
    say("  It adds up, to the unit.")


def wallet_of(world: dict[str, Any], name: str) -> dict[str, str]:
    """Return a node's balances as it told them."""
    return next(node for node in world["nodes"] if node["name"] == name)["wallet"]


def total(world: dict[str, Any], name: str) -> Decimal:
    """Return all a node owns, fees it owes apart."""
    wallet = wallet_of(world, name)
    owned = ("usdc_balance", "available", "locked", "staked")
    return sum((Decimal(wallet[part]) for part in owned), Decimal(0))


def fees(world: dict[str, Any]) -> Decimal:
    """Return what all nodes owe in fees."""
    return sum((Decimal(node["wallet"]["fees_owed"]) for node in world["nodes"]), Decimal(0))


def status() -> dict[str, Any]:
    """Return what the world says of itself."""
    command = [*NODE, "localnet", "status", "--json", "--dir", str(WORLD)]
    told = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    world: dict[str, Any] = json.loads(told.stdout)
    if not world["up"] or not world["books"]:
        fail(f"the world is not all up: see {WORLD / 'log'}")
    return world


def ask(url: str, key: str, path: str) -> Any:
    """GET from a node's REST server."""
    request = urllib.request.Request(
        f"{url}/api/v1{path}", headers={"Authorization": f"Bearer {key}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.URLError as exc:
        fail(f"the client node did not answer {path}: {exc}")


def processes_of(folder: Path) -> list[str]:
    """Return the processes whose command line names ``folder``; zombies and our parents left out."""
    found: list[str] = []
    ours = ancestors()
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) in ours:
            continue
        try:
            words = (
                (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except OSError:
            continue
        if str(folder) in words:
            found.append(f"{process.name} {words.strip()}")
    return found


def ancestors() -> set[int]:
    """Return this process and all above it: whoever started the demo may name its folder too."""
    found: set[int] = set()
    pid = os.getpid()
    while pid:
        found.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def run(command: list[str], otherwise: str) -> None:
    """Run a command whose failure ends the demo."""
    if subprocess.run(command, check=False).returncode != 0:
        fail(otherwise)


def heading(text: str) -> None:
    """Print what comes next."""
    say(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}")


def say(text: str) -> None:
    """Print at once: what the commands print stands between."""
    print(text, flush=True)


def stopped(_number: int, _frame: object) -> NoReturn:
    """End the demo in order. Whoever asks again, as make and timeout do, interrupts no ending."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    fail("stopped by SIGTERM")


def fail(reason: str) -> NoReturn:
    """End the demo with words and exit status 1."""
    raise SystemExit(f"demo: {reason}")


if __name__ == "__main__":
    sys.exit(main())
