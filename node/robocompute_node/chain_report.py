"""What is deployed on a cluster, and whether a node should trust it with money."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from solders.pubkey import Pubkey

from robocompute_node.core.deployment_policy import objection_to_deployment
from robocompute_protocol.errors import ChainRefused
from robocompute_protocol.identifiers import to_base58
from robocompute_protocol.money import format_amount
from robocompute_settlement.audit import read_books
from robocompute_settlement.clusters import MAINNET, cluster_name
from robocompute_settlement.deployment import is_same, read_deployed
from robocompute_settlement.port import Commitment

if TYPE_CHECKING:
    from robocompute_protocol.identifiers import Address, Digest
    from robocompute_settlement.audit import MintBooks
    from robocompute_settlement.loader import DeployedProgram
    from robocompute_settlement.port import ConfigView
    from robocompute_settlement.solana import SolanaSettlement


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainReport:
    """A cluster and the deployment on it, at one look."""

    rpc_url: str
    genesis_hash: Digest
    slot: int
    program_id: Address
    program: DeployedProgram | None
    config: ConfigView | None
    why_no_config: str
    books: tuple[MintBooks, ...]

    @property
    def sound(self) -> bool:
        """Whether program and Config are there and every vault holds what it owes."""
        there = self.program is not None and self.config is not None
        return there and all(books.surplus >= 0 for books in self.books)

    def json(self) -> dict[str, object]:
        """Return it for programs."""
        return {
            "rpc_url": self.rpc_url,
            "cluster": cluster_name(self.genesis_hash),
            "genesis_hash": to_base58(self.genesis_hash),
            "slot": self.slot,
            "program_id": to_base58(self.program_id),
            "program": None if self.program is None else _program_json(self.program),
            "config": None if self.config is None else config_json(self.config),
            "books": [{"mint": to_base58(one.mint), **one.json()} for one in self.books],
            "sound": self.sound,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that ``verify`` looked at."""

    what: str
    good: bool
    text: str


async def report_chain(chain: SolanaSettlement, program_id: Address) -> ChainReport:
    """Look at a cluster.

    Raises:
        ChainBusy: it does not answer.
    """
    await chain.connect()
    assert chain.genesis_hash is not None
    slot = int(await chain.rpc.endpoints.ask("getSlot", at=Commitment.CONFIRMED))
    program, config, why, books = None, None, "", tuple["MintBooks", ...]()
    try:
        program = await read_deployed(chain, program_id)
        config = await chain.config()
        books = await read_books(chain)
    except ChainRefused as exc:
        why = str(exc)
    return ChainReport(
        rpc_url=chain.rpc.url,
        genesis_hash=chain.genesis_hash,
        slot=slot,
        program_id=program_id,
        program=program,
        config=config,
        why_no_config=why,
        books=books,
    )


def verify(report: ChainReport, elf: bytes, *, authority: Address | None = None) -> list[Check]:
    """Hold a deployment against the committed program ``elf`` and what nodes insist on.

    ``authority`` is who must be able to upgrade it, where that matters to whoever asks.
    """
    program = report.program
    if program is None:
        return [
            Check(
                what="program", good=False, text=f"none: {report.why_no_config or 'nothing there'}"
            )
        ]
    same = is_same(program.code, elf)
    wanted = sha256(elf).hexdigest()
    if same:
        text = f"the committed build, sha256 {wanted}"
    else:
        found = program.binary
        text = f"another program: {len(found)} bytes, sha256 {sha256(found).hexdigest()}, not {wanted}"
    checks = [Check(what="program", good=same, text=text), _authority(program, report, authority)]
    config = report.config
    if config is None:
        return [*checks, Check(what="Config", good=False, text=report.why_no_config)]
    # One of another cluster or program was refused when it was read.
    checks.append(Check(what="domain", good=True, text=f"{config.domain.hex()}: this cluster's"))
    objection = objection_to_deployment(report.genesis_hash, config)
    times = f"unbonding {config.unbond_s} s, challenge {config.min_challenge_s} s at least"
    checks.append(Check(what="times", good=objection is None, text=objection or times))
    checks += [
        Check(
            what="vault",
            good=books.surplus >= 0,
            text=f"{to_base58(books.mint)}: {format_amount(books.vault)}, surplus "
            f"{format_amount(books.surplus)}",
        )
        for books in report.books
    ]
    return checks


def _authority(program: DeployedProgram, report: ChainReport, wanted: Address | None) -> Check:
    held = program.authority
    text = authority_text(held)
    if report.genesis_hash == MAINNET and held is not None and Pubkey(held).is_on_curve():
        text += "; on mainnet a multisig with a time lock should hold it"
    if wanted is not None and held != wanted:
        text += f", not {to_base58(wanted)}"
    return Check(what="upgrade authority", good=wanted is None or held == wanted, text=text)


def authority_text(authority: Address | None) -> str:
    """Say who may replace the program, in words."""
    if authority is None:
        return "nobody: the program stays as it is for ever"
    kind = "a single key" if Pubkey(authority).is_on_curve() else "a program's address"
    return f"{to_base58(authority)} ({kind})"


def config_json(config: ConfigView) -> dict[str, object]:
    """Return the deployment's settings for programs."""
    return {
        "admin": to_base58(config.admin),
        "pending_admin": to_base58(config.pending_admin) if any(config.pending_admin) else None,
        "treasury": to_base58(config.treasury),
        "mints": [to_base58(mint) for mint in config.mints if any(mint)],
        "slot_stake": format_amount(config.slot_stake),
        "unbond_s": config.unbond_s,
        "min_challenge_s": config.min_challenge_s,
        "fee_bps": config.fee_bps,
        "slash_bps": config.slash_bps,
        "paused": config.paused,
    }


def _program_json(program: DeployedProgram) -> dict[str, object]:
    authority = program.authority
    return {
        "upgrade_authority": None if authority is None else to_base58(authority),
        "deployed_in_slot": program.slot,
        "room": len(program.code),
        "sha256": sha256(program.binary).hexdigest(),
    }
