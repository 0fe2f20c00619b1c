use settlement_interface::{event::AdminChanged, state::Config};
use settlement_tests::{Call, World, adversary::attack, world::events};

fn offered(world: &mut World) -> Call {
    let person = world.wallet(20);
    let call = world.propose_admin(&person);
    world.ok(&call);
    world.accept_admin(&person)
}

#[test]
fn whom_it_was_offered_takes_the_administration_over_once() {
    let mut world = World::configured();
    let old = world.admin;
    let call = offered(&mut world);
    let result = world.ok(&call);
    let (address, new) = (call.accounts[0], call.accounts[0].to_bytes());
    assert_eq!(events(&result), [AdminChanged { previous: old.key(), admin: new }.bytes()]);
    let config: Config = world.record(world.config());
    assert_eq!((config.admin, config.pending_admin), (new, [0; 32]));
    assert_eq!(world.refused(&call), "NotAuthorized 6008");
    let call = world.update_config(false);
    assert_eq!(world.refused(&call), "NotAuthorized 6008");
    world.ok(&call.with("admin", address));
}

#[test]
fn nobody_accepts_what_nobody_offered() {
    let mut world = World::configured();
    for person in [world.admin, world.wallet(20)] {
        let call = world.accept_admin(&person);
        assert_eq!(world.refused(&call), "NotAuthorized 6008");
    }
}

#[test]
fn every_other_account_is_refused() {
    attack("accept_admin", &[], offered, World::configured());
}
