"""What a node needs of its machine: what is there, what is missing, and how to get it.

Nothing is changed by looking.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from robocompute_node.blobs import FileBlobStore
from robocompute_node.chain_link import chain_link
from robocompute_node.chain_probe import require_chain
from robocompute_node.chain_report import authority_text
from robocompute_node.clocks import Clock
from robocompute_node.config_file import load_config
from robocompute_node.core.chain_clock import ClockWatch, Reading, clock_text
from robocompute_node.core.deployment_policy import objection_to_deployment
from robocompute_node.executor.container import ContainerExecutor, engine_sockets
from robocompute_node.keys import load_api_key, load_key, load_wallet_address
from robocompute_node.ports import holder_of
from robocompute_protocol.errors import RoboComputeError
from robocompute_protocol.identifiers import to_base58
from robocompute_settlement.deployment import read_deployed
from robocompute_settlement.solana import SolanaSettlement

if TYPE_CHECKING:
    from collections.abc import Callable

    from robocompute_node.config import NodeConfig

PATIENCE_S: Final = 10.0
"""A sandbox starts in about 30 ms."""


class Verdict(StrEnum):
    """What a finding means for the node."""

    GOOD = "good"
    MISSING = "missing"
    """Something the node's roles need: it will not work."""
    LESS = "less"
    """It works without, but not as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    what: str
    verdict: Verdict
    text: str
    """What was found and, if it is not good, what to do."""


async def diagnose(data_dir: Path) -> list[Finding]:
    """Look at everything a node in ``data_dir`` depends on."""
    try:
        config = load_config(data_dir)
    except RoboComputeError as exc:
        return [_missing("settings", str(exc)), *_sandbox_findings(needed=False)]
    findings = [_good("settings", f"{config.path}: {', '.join(config.node.roles)}")]
    findings += [
        _checked("node key", lambda: load_key(config.node_key_path) and config.node_key_path),
        _checked("wallet", lambda: to_base58(load_wallet_address(config))),
        _checked("API key", lambda: load_api_key(config.api_key_path) and config.api_key_path),
        _api_port(config),
        *await _chain(config),
    ]
    findings += _sandbox_findings(needed=config.is_provider)
    if config.is_provider:
        findings.append(await _containers(config))
    return findings


def _good(what: str, text: str) -> Finding:
    return Finding(what=what, verdict=Verdict.GOOD, text=text)


def _missing(what: str, text: str) -> Finding:
    return Finding(what=what, verdict=Verdict.MISSING, text=text)


def _checked(what: str, look: Callable[[], object]) -> Finding:
    try:
        return _good(what, str(look()))
    except RoboComputeError as exc:
        return _missing(what, str(exc))


def _api_port(config: NodeConfig) -> Finding:
    port = config.api.port
    holder = holder_of(port) if port else ""
    if config.api_address_path.exists():
        return _good("REST port", f"{port}: the node is running{holder and ','}{holder}")
    if holder:
        text = f"{port} is taken{holder}: stop that program, or set port in [api] of {config.path}"
        return _missing("REST port", text)
    return _good("REST port", f"{port or 'a free one'} on {config.api.host}")


async def _chain(config: NodeConfig) -> list[Finding]:
    try:
        genesis = await require_chain(config)
        chain = _good("chain", f"{config.chain.where}, genesis {genesis}")
        return [chain, await _program(config), await _clock(config)]
    except RoboComputeError as exc:
        return [_missing("chain", str(exc))]


async def _program(config: NodeConfig) -> Finding:
    """Who may replace the settlement program, and whether its settings are to be trusted."""
    program_id = config.chain.program_id
    async with SolanaSettlement(**chain_link(config.chain)) as chain:
        program = await read_deployed(chain, program_id)
        settings = await chain.config()
        assert program is not None
        assert chain.genesis_hash is not None
        objection = objection_to_deployment(chain.genesis_hash, settings)
    if objection is not None:
        return _missing("settlement program", objection)
    paused = "; PAUSED: no new deposits and channels" if settings.paused else ""
    text = f"{to_base58(program_id)}, may be upgraded by {authority_text(program.authority)}"
    return _good("settlement program", f"{text}, admin {to_base58(settings.admin)}{paused}")


async def _clock(config: NodeConfig) -> Finding:
    """Whether this machine's clock agrees with the chain's."""
    async with SolanaSettlement(**chain_link(config.chain)) as chain:
        reading = Reading(Clock().now_ms(), await chain.time_s())
    told = clock_text(reading.ahead_ms)
    if ClockWatch(last=reading).off_ms == 0:
        return _good("clock", told)
    text = f"{told}: set it right, unless the chain stands still or lags behind"
    bad = Verdict.MISSING if config.is_provider else Verdict.LESS
    return Finding(what="clock", verdict=bad, text=text)


def _sandbox_findings(*, needed: bool) -> list[Finding]:
    """What running jobs takes; a client can do without all of it."""
    bad = Verdict.MISSING if needed else Verdict.LESS
    bwrap = shutil.which("bwrap")
    findings: list[Finding] = []
    if bwrap is None:
        text = "not installed: `apt-get install bubblewrap` (only providers need it)"
        findings.append(Finding(what="bubblewrap", verdict=bad, text=text))
    else:
        findings.append(_try_sandbox(bwrap, bad))
    uv = Path(sysconfig.get_path("scripts"), "uv")
    found = str(uv) if uv.exists() else shutil.which("uv")
    if found is None:
        text = "not installed, so jobs with requirements are refused: `pip install uv`"
        findings.append(Finding(what="uv", verdict=bad, text=text))
    else:
        findings.append(_good("uv", found))
    findings.append(_cgroups())
    return findings


async def _containers(config: NodeConfig) -> Finding:
    """Run a tiny container, as the node does before it offers any."""
    if config.containers.engine == "off":
        return _good("containers", "off: tasks with a docker_image go elsewhere")
    with tempfile.TemporaryDirectory(prefix="robocompute-doctor-") as folder:
        executor = ContainerExecutor(
            Path(folder),
            FileBlobStore(Path(folder) / "blobs"),
            sockets=engine_sockets(config.containers.engine, os.environ),
        )
        if not await executor.probe():
            text = (
                f"tasks with a docker_image go elsewhere: {executor.objection}; `apt-get install "
                "podman catatonit` and `systemctl enable --now podman.socket`, or name an "
                "engine's socket in [containers] engine"
            )
            return Finding(what="containers", verdict=Verdict.LESS, text=text)
        if not executor.heeds_signals:
            text = (
                f"{executor.engine} runs them, but has no process 1 to lend: jobs do not heed a "
                "stop before they are killed; `apt-get install catatonit`"
            )
            return Finding(what="containers", verdict=Verdict.LESS, text=text)
        return _good("containers", f"{executor.engine} runs them")


def _try_sandbox(bwrap: str, bad: Verdict) -> Finding:
    """Run ``true`` in the namespaces that jobs get."""
    command = [bwrap, "--unshare-all", "--uid", "1000", "--ro-bind", "/", "/", "true"]
    try:
        tried = subprocess.run(  # noqa: S603  our own words, and bwrap's path
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env={}
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return Finding(what="bubblewrap", verdict=bad, text=f"{bwrap} cannot be run: {exc}")
    if tried.returncode == 0:
        return _good("bubblewrap", f"{bwrap} makes user, pid and network namespaces")
    said = " ".join(tried.stderr.split()) or f"exit status {tried.returncode}"
    text = f"no sandbox can be made ({said}): {_namespace_advice()}"
    return Finding(what="bubblewrap", verdict=bad, text=text)


def _namespace_advice() -> str:
    for setting, wanted in (
        ("kernel/unprivileged_userns_clone", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "0"),
    ):
        path = Path("/proc/sys") / setting
        try:
            if path.read_text().strip() != wanted:
                return f"`sysctl -w {setting.replace('/', '.')}={wanted}`"
        except OSError:
            continue
    return "in a container, start it with --security-opt seccomp=unconfined, or as privileged"


def _cgroups() -> Finding:
    """Whether limits are exact, or watched at intervals."""
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        own = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2]
        folder = Path("/sys/fs/cgroup" + own)
        if os.access(folder, os.W_OK):
            return _good("cgroups", f"v2, {folder} is ours")
        advice = "`systemd-run --user --scope -p Delegate=yes robocompute-node run`"
        text = f"v2, but {folder} is not ours: limits are polled; exact with {advice}"
        return Finding(what="cgroups", verdict=Verdict.LESS, text=text)
    controllers = [
        name
        for name in ("memory", "pids", "cpu", "freezer")
        if os.access(Path("/sys/fs/cgroup") / name, os.W_OK)
    ]
    if controllers:
        return _good("cgroups", f"v1: {', '.join(controllers)}")
    text = "none to be had: memory and disk are polled, CPU is not capped"
    return Finding(what="cgroups", verdict=Verdict.LESS, text=text)


def diagnose_now(data_dir: Path) -> list[Finding]:
    """Run ``diagnose`` where no event loop is running."""
    return trio.run(diagnose, data_dir)
