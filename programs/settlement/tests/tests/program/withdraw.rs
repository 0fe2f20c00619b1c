use settlement_interface::event::Withdrawn;
use settlement_tests::{
    World,
    adversary::{Attack, attack},
    world::events,
};

#[test]
fn balance_becomes_tokens_whatever_is_paused() {
    let mut world = World::configured();
    let owner = world.depositor(20, 700);
    let pause = world.update_config(true);
    world.ok(&pause);
    let held = world.tokens(owner.tokens());
    let call = world.withdraw(&owner, 300);
    let result = world.ok(&call);
    assert_eq!(world.tokens(owner.tokens()), held + 300);
    assert_eq!((world.balance(&owner).available(), world.tokens(world.vault())), (400, 400));
    let told = Withdrawn {
        owner: owner.key(),
        mint: world.mints[0].to_bytes(),
        destination: owner.tokens().to_bytes(),
        amount: 300,
        available: 400,
    };
    assert_eq!(events(&result), [told.bytes()]);
}

#[test]
fn every_other_account_is_refused() {
    let allowed = [("destination", Attack::Stranger, "an owner pays out to whomever it wants")];
    let prepare = |world: &mut World| {
        let owner = world.depositor(20, 700);
        world.withdraw(&owner, 300)
    };
    attack("withdraw", &allowed, prepare, World::configured());
}
