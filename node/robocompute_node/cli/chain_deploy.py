"""``chain deploy``: the committed program onto a cluster, or in place of an older one there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from robocompute_node.cli.chain_options import (
    Place,
    key_option,
    place_of,
    place_options,
    read_address,
    read_key,
    settings_options,
)
from robocompute_node.cli.money import ask
from robocompute_node.cli.output import say, say_json, say_progress

if TYPE_CHECKING:
    from robocompute_node.keys import KeyFile
    from robocompute_protocol.identifiers import Address
    from robocompute_settlement.deployment import DeploymentPlan
    from robocompute_settlement.solana import SolanaSettlement

CONFIG_BYTES: Final = 232
TOKEN_ACCOUNT_BYTES: Final = 165
DEFAULTS: Final[dict[str, Any]] = {
    "slot_stake": 100_000_000,
    "unbond_s": 604_800,
    "min_challenge_s": 86_400,
    "fee_bps": 100,
    "slash_bps": 2_000,
}
"""What nodes insist on on mainnet: a week and a day; a stake of 100 a slot, 1 % and a fifth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """All that one ``chain deploy`` was asked to do."""

    place: Place
    seed: bytes
    program_key: KeyFile | None
    """Of the program's address; None for an upgrade."""
    made: bool
    """That key is new, and not in a file yet: nothing is written before the payer agreed."""
    elf: bytes
    room: int | None
    mints: tuple[Address, ...]
    """Set the program up for these; none: do not set it up."""
    settings: dict[str, Any]
    yes: bool


DEFAULTS_TEXT: Final = (
    "Settings of a new Config, where nothing else is said: --slot-stake 100.00, --unbond-s 604800, "
    "--min-challenge-s 86400, --fee-bps 100, --slash-bps 2000, --treasury the key's own. Where a "
    "Config is, it is left as it is: `chain admin set` changes it."
)


@click.command("deploy", epilog=DEFAULTS_TEXT)
@place_options
@key_option
@click.option(
    "--program-key",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Key of the program's address, made where there is none. Default: program.json in DIR.",
)
@click.option(
    "--binary",
    metavar="FILE",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="The program. Default: the committed build that this package came with.",
)
@click.option("--room", metavar="BYTES", type=click.IntRange(1, 10_000_000),
              help="Room for larger programs to come. Default: as large as this one.")  # fmt: skip
@click.option("--mint", "mints", multiple=True, metavar="ADDRESS",
              help="A mint to accept, USDC first; twice at most. None: no Config is made.")  # fmt: skip
@settings_options
@click.option("--yes", is_flag=True, help="Do not ask whether to pay.")
def deploy_command(
    data: Path, rpc: str | None, program: str | None, as_json: bool, key: Path | None,
    program_key: Path | None, binary: Path | None, room: int | None, mints: tuple[str, ...],
    settings: dict[str, Any], yes: bool,
) -> None:  # fmt: skip
    """Deploy or upgrade the settlement program, then set it up where it is not.

    May be interrupted and repeated: it goes on with what is missing. The cost is shown and asked
    for first.
    """
    import trio

    from robocompute_node.keys import load_key
    from robocompute_protocol.identifiers import to_base58
    from robocompute_settlement.localworld import program_path

    if len(mints) > 2:
        raise click.BadParameter("one or two mints, USDC first", param_hint="--mint")
    pair: KeyFile | None = None
    made = False
    if program is None or program_key is not None:
        path = program_key or data / "program.json"
        made = not path.exists()
        pair = _new_key(path) if made else load_key(path)
        if program is not None and read_address(program, "--program") != pair.address:
            raise click.BadParameter(f"{path} is the key of {to_base58(pair.address)}",
                                     param_hint="--program")  # fmt: skip
        program = to_base58(pair.address)
    task = Task(
        place=place_of(data, rpc, program),
        seed=read_key(data, key).seed,
        program_key=pair,
        made=made,
        elf=(binary or program_path()).read_bytes(),
        room=room,
        mints=tuple(read_address(mint, "--mint") for mint in mints),
        settings=DEFAULTS | settings,
        yes=yes,
    )
    done = trio.run(_deploy, task)
    if as_json:
        say_json(done)
        return
    say(f"Program {done['program_id']}")
    say(f"  {'deployed' if done['signature'] else 'was there already, the very same'}")
    if done["config_signature"]:
        say("  set up")
    elif done["set_up"]:
        say("  Config was left as it is")
    else:
        say("  no Config is there, and no node works without: repeat this with --mint ADDRESS, the "
            "one of USDC first")  # fmt: skip
    say(f"Check it: robocompute-node chain verify --rpc {task.place.chain.rpc_url[0]} --program "
        f"{done['program_id']}")  # fmt: skip


def _new_key(path: Path) -> KeyFile:
    """Think a key up that is to be kept at ``path``."""
    import secrets

    from robocompute_node.keys import SEED_BYTES, KeyFile, public_of

    seed = secrets.token_bytes(SEED_BYTES)
    return KeyFile(path=path, seed=seed, public=public_of(seed))


async def _deploy(task: Task) -> dict[str, Any]:
    from solders.keypair import Keypair

    from robocompute_node.chain_probe import require_answer
    from robocompute_node.keys import make_key
    from robocompute_protocol.identifiers import to_base58
    from robocompute_settlement.administration import Administration
    from robocompute_settlement.deployment import Deployer

    await require_answer(task.place.chain)
    async with task.place.open(seed=task.seed) as chain:
        await chain.connect()
        deployer = Deployer(chain, Keypair.from_seed(task.seed))
        program_id = task.place.program_id
        plan = await deployer.plan(task.elf, program_id, room=task.room)
        set_up = await chain.is_set_up()
        sets_up = bool(task.mints) and not set_up
        if sets_up:
            _refuse_unsafe(chain, task.settings)
        if plan is not None or sets_up:
            _agree(plan, task, sets_up=sets_up)
        pair = task.program_key
        if pair is not None and task.made:
            pair.path.parent.mkdir(parents=True, exist_ok=True)
            make_key(pair.path, seed=pair.seed)
        signature = ""
        if plan is not None:
            key = None if pair is None else Keypair.from_seed(pair.seed)
            signature = await deployer.carry_out(plan, program_key=key, tell=say_progress)
        config_signature = ""
        if sets_up:
            say_progress("setting the program up")
            mints = (*task.mints, type(task.mints[0])(bytes(32)))[:2]
            settings: dict[str, Any] = {"treasury": chain.signer, **task.settings}
            sent = await Administration(chain).init_config(mints=(mints[0], mints[1]), **settings)
            config_signature = sent.signature
        return {
            "program_id": to_base58(program_id),
            "signature": signature,
            "config_signature": config_signature,
            "set_up": set_up or sets_up,
            "cost_lamports": 0 if plan is None else plan.cost_lamports,
        }


def _refuse_unsafe(chain: SolanaSettlement, settings: dict[str, Any]) -> None:
    from robocompute_node.core.deployment_policy import objection_to_times
    from robocompute_protocol.errors import ConfigError

    assert chain.genesis_hash is not None
    objection = objection_to_times(
        chain.genesis_hash,
        unbond_s=settings["unbond_s"],
        min_challenge_s=settings["min_challenge_s"],
    )
    if objection is not None:
        raise ConfigError(objection)


def _agree(plan: DeploymentPlan | None, task: Task, *, sets_up: bool) -> None:
    """Say what it will cost, and return once the payer wants that.

    Raises:
        NotConfirmed: no, or there is no terminal to ask on.
    """
    from robocompute_protocol.identifiers import to_base58
    from robocompute_settlement.clusters import sol_text
    from robocompute_settlement.embedded.genesis import rent_exempt

    setting_up = rent_exempt(CONFIG_BYTES) + len(task.mints) * rent_exempt(TOKEN_ACCOUNT_BYTES)
    cost = (0 if plan is None else plan.cost_lamports) + (setting_up if sets_up else 0)
    needed = (0 if plan is None else plan.needed_lamports) + (setting_up if sets_up else 0)
    if plan is not None:
        verb = "Deploy" if plan.replaces is None else "Upgrade"
        say_progress(f"{verb} {to_base58(plan.program_id)} on {task.place.chain.where}:")
        say_progress(f"  {len(plan.elf)} bytes, room for {plan.room}, "
                     f"{len(plan.missing)} pieces to write")  # fmt: skip
    say_progress(f"  costs {sol_text(cost)} SOL; {sol_text(needed)} SOL are needed for it now")
    ask(f"Pay {sol_text(cost)} SOL for that", yes=task.yes)
