from __future__ import annotations

from typing import TYPE_CHECKING

from settlement_layouts import TOKEN, token_data
from solders.pubkey import Pubkey

if TYPE_CHECKING:
    from settlement_world import World


def test_fees_of_many_payees_reach_the_treasury(world: World) -> None:
    payer = world.depositor()
    payees = [world.depositor(0) for _ in range(3)]
    for payee in payees:
        world.settled(world.channel(payer, payee, deposit=1_000_000), 1_000_000)
    balances = [world.balance_address(one.address) for one in payees]
    result = world.ok(world.sweep_fees(*balances))
    treasury = world.treasury.pubkey()
    assert world.read_balance(treasury).available == 75_000
    for payee in payees:
        balance = world.read_balance(payee.address)
        assert (balance.available, balance.fees_owed, balance.fees_paid) == (975_000, 0, 25_000)
    assert world.events(result) == [
        ("FeesSwept", {"treasury": treasury, "mint": world.mint, "amount": 75_000})
    ]
    world.ok(world.sweep_fees(*balances))
    assert world.read_balance(treasury).available == 75_000


def test_the_treasury_can_spend_what_it_got(world: World) -> None:
    payer, payee = world.depositor(), world.depositor(0)
    world.settled(world.channel(payer, payee, deposit=1_000_000), 1_000_000)
    world.ok(world.sweep_fees(world.balance_address(payee.address)))
    tokens = Pubkey.new_unique()
    world.put(tokens, token_data(world.mint, world.treasury.pubkey(), 0), TOKEN)
    call = world.withdraw(
        payee, 25_000, owner=world.treasury.pubkey(), destination=tokens,
        balance=world.balance_address(world.treasury.pubkey()),
    )  # fmt: skip
    world.ok(call, signers=(world.treasury,))
    assert world.tokens(tokens) == 25_000


def test_a_balance_named_twice_pays_once(world: World) -> None:
    payer, payee = world.depositor(), world.depositor(0)
    world.settled(world.channel(payer, payee, deposit=1_000_000), 1_000_000)
    balance = world.balance_address(payee.address)
    world.ok(world.sweep_fees(balance, balance, balance))
    assert world.read_balance(world.treasury.pubkey()).available == 25_000
    assert world.read_balance(payee.address).fees_paid == 25_000


def test_the_treasury_pays_its_own_fees_too(world: World) -> None:
    payer, payee = world.depositor(), world.depositor(0)
    call = world.update_config(treasury=payee.address)
    world.ok(call, signers=(world.admin,))
    world.settled(world.channel(payer, payee, deposit=1_000_000), 1_000_000)
    balance = world.balance_address(payee.address)
    world.ok(world.sweep_fees(balance, treasury_balance=balance))
    after = world.read_balance(payee.address)
    assert (after.available, after.fees_owed, after.fees_paid) == (1_000_000, 0, 25_000)


def test_balances_of_another_mint_or_program_are_refused(world: World) -> None:
    payee, mint = world.depositor(0), world.mints[1]
    balance = world.balance_address(payee.address)
    call = world.sweep_fees(
        balance,
        mint=mint,
        treasury_balance=world.balance_address(world.treasury.pubkey(), mint),
    )
    assert world.refusal(call) == "WrongBalance"
    assert world.refusal(world.sweep_fees(Pubkey.new_unique())) == "ForeignAccount"
    assert world.refusal(world.sweep_fees(world.config)) == "WrongAccountKind"
    call = world.sweep_fees(balance, mint=Pubkey.new_unique())
    assert world.refusal(call) == "WrongMint"
