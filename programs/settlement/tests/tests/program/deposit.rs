use settlement_interface::event::Deposited;
use settlement_tests::{World, adversary::attack, world::events};

#[test]
fn tokens_become_balance() {
    let mut world = World::configured();
    let owner = world.wallet(20);
    let held = world.tokens(owner.tokens());
    let call = world.deposit(&owner, 700);
    let result = world.ok(&call);
    assert_eq!((world.tokens(world.vault()), world.tokens(owner.tokens())), (700, held - 700));
    let balance = world.balance(&owner);
    assert_eq!((balance.owner, balance.available()), (owner.key(), 700));
    assert_eq!((balance.delegate, balance.next_nonce(), balance.fees_owed()), ([0; 32], 0, 0));
    let mint = world.mints[0].to_bytes();
    let told = Deposited { owner: owner.key(), mint, amount: 700, available: 700 };
    assert_eq!(events(&result), [told.bytes()]);
}

#[test]
fn a_pause_keeps_money_out_and_balances_possible() {
    let mut world = World::configured();
    let owner = world.wallet(20);
    let pause = world.update_config(true);
    world.ok(&pause);
    let call = world.deposit(&owner, 1);
    assert_eq!(world.refused(&call), "Paused 6017");
    let call = world.deposit(&owner, 0);
    world.ok(&call);
    assert_eq!(world.balance(&owner).available(), 0);
}

#[test]
fn every_other_account_is_refused() {
    let prepare = |world: &mut World| {
        let owner = world.wallet(20);
        world.deposit(&owner, 700)
    };
    attack("deposit", &[], prepare, World::configured());
}
