use settlement_interface::state::Config;
use settlement_tests::{World, adversary::attack};

#[test]
fn the_admin_changes_settings_and_not_itself() {
    let mut world = World::configured();
    let before: Config = world.record(world.config());
    let call = world.update_config(true);
    world.ok(&call);
    let config: Config = world.record(world.config());
    assert_eq!((config.paused, config.slot_stake()), (1, 1));
    assert_eq!((config.admin, config.pending_admin), (before.admin, before.pending_admin));
    assert_eq!((config.mints, config.domain), (before.mints, before.domain));
}

#[test]
fn every_other_account_is_refused() {
    attack("update_config", &[], |world| world.update_config(true), World::configured());
}
