use settlement_interface::{event::ConfigChanged, state::Config};
use settlement_tests::{
    World,
    adversary::{Attack, attack},
    world::events,
};

#[test]
fn the_upgrade_authority_creates_config_and_vaults() {
    let mut world = World::bare();
    let call = world.init_config();
    let result = world.ok(&call);
    let config: Config = world.record(world.config());
    assert_eq!((config.admin, config.treasury), (world.admin.key(), world.treasury.key()));
    assert_eq!(config.mints, world.mints.map(|one| one.to_bytes()));
    assert_eq!((config.header.fee_bps(), config.slash_bps(), config.paused), (250, 2_000, 0));
    assert_eq!(config.pending_admin, [0; 32]);
    for (mint, vault) in [(3, 4), (5, 6)].map(|(i, j)| (call.accounts[i], call.accounts[j])) {
        let account = world.svm.get_account(&vault).expect("it was created");
        assert_eq!(account.data[..32], mint.to_bytes());
        assert_eq!(account.data[32..64], call.accounts[7].to_bytes());
        assert_eq!(world.tokens(vault), 0);
    }
    let told = ConfigChanged {
        admin: config.admin,
        treasury: config.treasury,
        slot_stake: config.slot_stake(),
        unbond_s: config.unbond_s(),
        min_challenge_s: config.min_challenge_s(),
        fee_bps: 250,
        slash_bps: 2_000,
        paused: false,
    };
    assert_eq!(events(&result), [told.bytes()]);
    assert_eq!(world.refused(&call), "AlreadyExists 6007");
}

#[test]
fn every_other_account_is_refused() {
    let allowed = [(
        "mint1",
        Attack::Alias("system_program"),
        "the zero address says that there is one mint",
    )];
    attack("init_config", &allowed, |world| world.init_config(), World::bare());
}
