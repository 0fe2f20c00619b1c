use settlement_interface::event::Staked;
use settlement_tests::{World, adversary::attack, world::events};

#[test]
fn money_of_the_balance_is_bonded_whatever_is_paused() {
    let mut world = World::configured();
    let provider = world.provider(20, 100);
    for call in [world.deposit(&provider.owner, 50), world.update_config(true)] {
        world.ok(&call);
    }
    let call = world.stake(&provider.owner, 30);
    let result = world.ok(&call);
    assert_eq!(world.stake_record(&provider.owner).bonded(), 130);
    assert_eq!(world.balance(&provider.owner).available(), 20);
    let told = Staked { stake: provider.stake.to_bytes(), amount: 30, bonded: 130 };
    assert_eq!(events(&result), [told.bytes()]);
}

#[test]
fn every_other_account_is_refused() {
    let prepare = |world: &mut World| {
        let provider = world.provider(20, 100);
        let call = world.deposit(&provider.owner, 50);
        world.ok(&call);
        world.stake(&provider.owner, 30)
    };
    attack("stake", &[], prepare, World::configured());
}
