"""What calls cost, held against the table in docs/settlement.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from settlement_layouts import NOW, ed25519_instruction
from settlement_world import World
from solders.keypair import Keypair
from solders.message import Message

if TYPE_CHECKING:
    from solders.pubkey import Pubkey

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "settlement.md"
PER_BUMP: Final = 1_500
"""Each bump that is tried in vain while an address is derived costs this."""
SETTLE_GOAL: Final = 3_000


def tried_in_vain(world: World, *addresses: Pubkey) -> int:
    """How many bumps were tried in vain for accounts of the program."""
    datas = [world.data(one) for one in addresses]
    return sum(255 - data[2] for data in datas if data)


def measure() -> dict[str, int]:
    """Compute units of each instruction where every bump is the first one."""
    world = World()
    world.init_config()
    payer, payee, node = world.user(), world.user(), Keypair()
    balance = world.balance_address(payer.address)
    costs: dict[str, int] = {}

    def take(name: str, units: int, *created: Pubkey) -> None:
        costs[name] = units - PER_BUMP * tried_in_vain(world, *created)

    result = world.ok(world.deposit(payer, 10**8), signers=(payer.key,))
    take("deposit (first)", world.units(result), balance)
    take("deposit", world.units(world.ok(world.deposit(payer, 5), signers=(payer.key,))))
    take("withdraw", world.units(world.ok(world.withdraw(payer, 5), signers=(payer.key,))))
    world.ok(world.deposit(payee, 10**7), signers=(payee.key,))
    result = world.ok(world.set_delegate(payer, node.pubkey()), signers=(payer.key,))
    take("set_delegate", world.units(result))
    result = world.ok(world.update_config(), signers=(world.admin,))
    take("update_config", world.units(result))
    call = world.open_channel(
        payer, payee.address, node.pubkey(), authority=node.pubkey(), deposit=10**7
    )
    result = world.ok(call, signers=(node, payer.key))
    address = world.channel_address(payer.address, payee.address, 0)
    take("open_channel", world.units(result), address)

    channel = world.channel(payer, payee)
    result = world.ok(world.top_up(channel, 5), signers=(payer.key,))
    take("top_up", world.units(result))
    take("settle", world.units(world.settled(channel, 1_000_001)))
    take("settle (nothing due)", world.units(world.settled(channel, 1_000_001)))
    others = [world.channel(payer, payee) for _ in range(3)]
    check = ed25519_instruction(*(world.voucher(one, 100) for one in others))
    batch = [world.settle(one, entry=i) for i, one in enumerate(others)]
    take("settle (three in one transaction)", world.units(world.ok(check, *batch)))
    result = world.ok(world.request_close(channel), signers=(payer.key,))
    take("request_close", world.units(result))
    world.set_time(NOW + 3_600)
    take("finalize_close", world.units(world.ok(world.finalize_close(channel))))
    result = world.ok(world.close_by_payee(others[0]), signers=(payee.key,))
    take("close_by_payee", world.units(result))
    result = world.ok(world.register(payee, node.pubkey()), signers=(payee.key,))
    take("register", world.units(result), world.stake_address(payee.address))
    take("stake", world.units(world.ok(world.stake(payee, 5), signers=(payee.key,))))
    world.ok(world.sweep_fees())
    swept = world.ok(world.sweep_fees(world.balance_address(payee.address)))
    take("sweep_fees (one)", world.units(swept))
    return costs


def test_calls_cost_what_the_document_says() -> None:
    rows = re.findall(r"^\| `(\w+)`( \(.+?\))? \| ([\d,]+) \|", DOCUMENT.read_text(), re.MULTILINE)
    documented = {name + more: int(units.replace(",", "")) for name, more, units in rows}
    measured = measure()
    assert set(documented) == set(measured)
    for name, units in measured.items():
        assert 0.97 * documented[name] <= units <= 1.03 * documented[name], (name, units)


def test_settling_stays_within_its_goal() -> None:
    assert measure()["settle"] <= SETTLE_GOAL


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
    document = DOCUMENT.read_text()
    for name, one in sizes.items():
        assert one <= 1_232
        assert f"| {name} | {one:,} |" in document, (name, one)
