use settlement_interface::{event::AdminProposed, state::Config};
use settlement_tests::{
    Person, World,
    adversary::attack,
    world::{SYSTEM, events},
};

#[test]
fn an_offer_changes_nothing_but_the_offer_and_can_be_replaced_and_taken_back() {
    let mut world = World::configured();
    let (first, second) = (world.wallet(20), world.wallet(21));
    let admin = world.admin.key();
    let nobody = Person { seed: [0; 32], address: SYSTEM };
    for offered in [first, second, nobody] {
        let call = world.propose_admin(&offered);
        let result = world.ok(&call);
        let told = AdminProposed { admin, pending_admin: offered.key() };
        assert_eq!(events(&result), [told.bytes()]);
        let config: Config = world.record(world.config());
        assert_eq!((config.admin, config.pending_admin), (admin, offered.key()));
    }
    for late in [first, second] {
        let call = world.accept_admin(&late);
        assert_eq!(world.refused(&call), "NotAuthorized 6008");
    }
}

#[test]
fn every_other_account_is_refused() {
    let prepare = |world: &mut World| {
        let person = world.wallet(20);
        world.propose_admin(&person)
    };
    attack("propose_admin", &[], prepare, World::configured());
}
