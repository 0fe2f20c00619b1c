"""What calls cost, held against the table in docs/settlement.md."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from settlement_layouts import DAY, INSTRUCTIONS, LOADER, NOW, ed25519_instruction, snake
from settlement_world import Provider, World
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey

if TYPE_CHECKING:
    from collections.abc import Callable

    from solders.transaction_metadata import TransactionMetadata

    Take = Callable[..., None]

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "settlement.md"
PER_BUMP: Final = 1_500
"""Each bump that is tried in vain while an address is derived costs this."""
SETTLE_GOAL: Final = 3_000
TOLERANCE: Final = 0.05
"""How far a cost may be from the documented one: a change beyond that has to be meant."""
ROW: Final = r"^\| `(\w+)`( \(.+?\))? \| ([\d,]+) \|"


def tried_in_vain(world: World, *addresses: Pubkey) -> int:
    """How many bumps were tried in vain for accounts of the program."""
    datas = [world.data(one) for one in addresses]
    return sum(255 - data[2] for data in datas if data)


def nobody(world: World) -> Pubkey:
    """Somebody without a Balance, whose Balance's address would take no bump in vain."""
    while True:
        key = Keypair().pubkey()
        seeds = [b"balance", world.domain, bytes(key), bytes(world.mint)]
        if Pubkey.find_program_address(seeds, world.program)[1] == 255:
            return key


def measure() -> dict[str, int]:
    """Compute units of each instruction where every bump is the first one."""
    world = World()
    costs: dict[str, int] = {}

    def take(name: str, result: TransactionMetadata, *created: Pubkey) -> None:
        costs[name] = world.units(result) - PER_BUMP * tried_in_vain(world, *created)

    result = world.init_config()
    seeds = [
        [b"config"],
        [b"auth", world.domain],
        *([b"vault", world.domain, bytes(one)] for one in world.mints),
    ]
    vain = sum(255 - Pubkey.find_program_address(one, world.program)[1] for one in seeds)
    vain += 255 - Pubkey.find_program_address([bytes(world.program)], LOADER)[1]
    costs["init_config"] = world.units(result) - PER_BUMP * vain
    take("update_config", world.ok(world.update_config(), signers=(world.admin,)))
    other = Keypair()
    take("propose_admin", world.ok(world.propose_admin(other.pubkey()), signers=(world.admin,)))
    take("accept_admin", world.ok(world.accept_admin(other.pubkey()), signers=(other,)))
    take_channels(world, take)
    take_stakes(world, take)
    return costs


def take_channels(world: World, take: Take) -> None:
    payer, payee, node = world.user(), world.user(), Keypair()
    signers = (payer.key,)
    balance = world.balance_address(payer.address)
    take("deposit (first)", world.ok(world.deposit(payer, 10**8), signers=signers), balance)
    take("deposit", world.ok(world.deposit(payer, 5), signers=signers))
    take("withdraw", world.ok(world.withdraw(payer, 5), signers=signers))
    world.ok(world.deposit(payee, 10**7), signers=(payee.key,))
    take("set_delegate", world.ok(world.set_delegate(payer, node.pubkey()), signers=signers))
    call = world.open_channel(
        payer, payee.address, node.pubkey(), authority=node.pubkey(), deposit=10**7
    )
    address = world.channel_address(payer.address, payee.address, 0)
    take("open_channel", world.ok(call, signers=(node, payer.key)), address)

    channel = world.channel(payer, payee)
    take("top_up", world.ok(world.top_up(channel, 5), signers=signers))
    take("settle", world.settled(channel, 1_000_001))
    take("settle (nothing due)", world.settled(channel, 1_000_001))
    others = [world.channel(payer, payee) for _ in range(3)]
    check = ed25519_instruction(*(world.voucher(one, 100) for one in others))
    batch = [world.settle(one, entry=i) for i, one in enumerate(others)]
    take("settle (three in one transaction)", world.ok(check, *batch))
    take("request_close", world.ok(world.request_close(channel), signers=signers))
    world.set_time(NOW + 3_600)
    take("finalize_close", world.ok(world.finalize_close(channel)))
    take("close_by_payee", world.ok(world.close_by_payee(others[0]), signers=(payee.key,)))
    treasury = world.balance_address(world.treasury.pubkey())
    take("sweep_fees (first)", world.ok(world.sweep_fees()), treasury)
    take("sweep_fees (one)", world.ok(world.sweep_fees(world.balance_address(payee.address))))


def take_stakes(world: World, take: Take) -> None:
    owner, node = world.depositor(), Keypair()
    signers = (owner.key,)
    stake = world.stake_address(owner.address)
    take("register", world.ok(world.register(owner, node.pubkey()), signers=signers), stake)
    take("stake", world.ok(world.stake(owner, 1_000), signers=signers))
    take("unstake", world.ok(world.unstake(owner, 5), signers=signers))
    now = NOW + 8 * DAY
    world.set_time(now)
    take("claim_unbonded", world.ok(world.claim_unbonded(owner), signers=signers))
    take("rotate_key", world.ok(world.rotate_key(owner, Keypair().pubkey()), signers=signers))
    provider = Provider(owner, node, stake)
    reporter, first, second = (world.depositor(0) for _ in range(3))
    absent = [nobody(world), nobody(world)]
    for name, (one, other) in {
        "slash": (first.address, second.address),
        "slash (payers without a Balance)": (absent[0], absent[1]),
    }.items():
        leases = [provider.lease(payer, now - 20, now + 20) for payer in (one, other)]
        call = world.slash(provider, one, other, reporter=reporter.address)
        result = world.ok(ed25519_instruction(*leases), call, signers=(reporter.key,))
        take(name, result)
        now += 100
        world.set_time(now)


def parted() -> tuple[str, str, str]:
    """The document before the section about costs, that section, and what follows."""
    before, heading, rest = DOCUMENT.read_text().partition("What it costs")
    section, end, after = rest.partition("\n## ")
    return before + heading, section, end + after


def documented() -> dict[str, int]:
    rows = re.findall(ROW, parted()[1], re.MULTILINE)
    return {name + more: int(units.replace(",", "")) for name, more, units in rows}


def write_down(costs: dict[str, int]) -> None:
    """Put these figures into the document's table, which must have a row for each."""
    before, section, after = parted()
    for name, units in costs.items():
        word, _, more = name.partition(" ")
        row = f"| `{word}`{more and ' ' + more} |"
        assert f"\n{row} " in section, f"add a row for {name} to {DOCUMENT.name}"
        figure = re.compile(rf"^{re.escape(row)} [\d,]+ \|", re.MULTILINE)
        section = figure.sub(f"{row} {units:,} |", section)
    DOCUMENT.write_text(before + section + after)


def test_calls_cost_what_the_document_says() -> None:
    measured = measure()
    if os.environ.get("UPDATE_COSTS"):
        write_down(measured)
    table = documented()
    assert set(table) == set(measured)
    off = {
        name: f"{units:,} instead of {table[name]:,}"
        for name, units in measured.items()
        if abs(units - table[name]) > TOLERANCE * table[name]
    }
    assert not off, f"{off}: if that is meant, run this test with UPDATE_COSTS=1 and say why"


def test_every_instruction_has_its_cost_documented() -> None:
    names = {name.partition(" ")[0] for name in documented()}
    assert names == {snake(one) for one in INSTRUCTIONS}


def test_settling_stays_within_its_goal() -> None:
    measured = measure()
    assert measured["settle"] <= SETTLE_GOAL
    assert measured["settle (three in one transaction)"] <= 3 * SETTLE_GOAL


def size(*calls: object, fee_payer: Pubkey, signatures: int) -> int:
    """A transaction's bytes, with the two compute-budget instructions that wallets add."""
    from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
    from solders.instruction import Instruction

    listed = [one for one in calls if isinstance(one, Instruction)]
    message = Message([set_compute_unit_limit(1), set_compute_unit_price(1), *listed], fee_payer)
    return len(bytes(message)) + 1 + 64 * signatures


def test_transactions_fit(world: World) -> None:
    payer, payee = world.depositor(), world.depositor()
    channels = [world.channel(payer, world.depositor(0)) for _ in range(3)]
    node = payee.address
    vouchers = [world.voucher(one, 5) for one in channels]
    calls = [world.settle(one, entry=i) for i, one in enumerate(channels)]
    sizes = {
        "settle": size(ed25519_instruction(vouchers[0]), calls[0], fee_payer=node, signatures=1),
        "settle, two": size(
            ed25519_instruction(*vouchers[:2]), *calls[:2], fee_payer=node, signatures=1
        ),
        "settle, three": size(
            ed25519_instruction(*vouchers), *calls, fee_payer=node, signatures=1
        ),
        "open_channel": size(
            world.open_channel(payer, node, node, authority=payer.address),
            fee_payer=payer.address,
            signatures=1,
        ),
        "settle + close_by_payee": size(
            ed25519_instruction(vouchers[0]),
            calls[0],
            world.close_by_payee(channels[0]),
            fee_payer=channels[0].payee.address,
            signatures=1,
        ),
    }
    provider, reporter = world.provider(), world.depositor(0)
    leases = [provider.lease(one.payee.address, NOW, NOW + 9) for one in channels[:2]]
    slash = world.slash(
        provider,
        channels[0].payee.address,
        channels[1].payee.address,
        reporter=reporter.address,
    )
    report = [ed25519_instruction(*leases), slash]
    sizes["slash"] = size(*report, fee_payer=reporter.address, signatures=1)
    sizes["slash, by a reporter and for a treasury without Balances"] = size(
        world.deposit(reporter, 0),
        world.sweep_fees(rent_payer=reporter.address),
        *report,
        fee_payer=reporter.address,
        signatures=1,
    )
    document = DOCUMENT.read_text()
    for name, one in sizes.items():
        assert one <= 1_232
        assert f"| {name} | {one:,} |" in document, (name, one)
