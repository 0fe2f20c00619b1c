use settlement_interface::{ROTATION_GRACE_S, event::Slashed};
use settlement_tests::{
    Call, Person, Provider, World,
    adversary::{Attack, attack},
    world::{NOW, UNBOND_S, check, events, lease},
};

/// A provider, a reporter and two payers; the treasury has a Balance.
struct Scene {
    world: World,
    provider: Provider,
    reporter: Person,
    payers: [Person; 2],
}

impl Scene {
    fn new(bonded: u64) -> Self {
        let mut world = World::configured();
        let provider = world.provider(20, bonded);
        let reporter = world.depositor(30, 0);
        let payers = [world.depositor(31, 0), world.depositor(32, 0)];
        let call = world.sweep_fees(&[]);
        world.ok(&call);
        Self { world, provider, reporter, payers }
    }

    fn both(&self) -> [&Person; 2] {
        [&self.payers[0], &self.payers[1]]
    }

    /// A report of two leases from and to these times.
    fn report(&self, times: [(i64, i64); 2]) -> Call {
        let leases = [0, 1].map(|i| lease(&self.provider, &self.payers[i], times[i].0, times[i].1));
        self.world.slash_entries(&self.provider, &self.reporter, self.both()).after(check(&leases))
    }

    fn available(&self, person: &Person) -> u64 {
        self.world.balance(person).available()
    }
}

#[test]
fn a_double_sale_costs_a_fifth_and_every_unit_goes_somewhere() {
    // 20 % of 1,009 is 201; a tenth of it is 20, a fifth 40, and 101 are left.
    let mut scene = Scene::new(1_009);
    let call = scene.world.slash(&scene.provider, &scene.reporter, scene.both(), NOW);
    let result = scene.world.ok(&call);
    let stake = scene.world.stake_record(&scene.provider.owner);
    assert_eq!((stake.bonded(), stake.slashed(), stake.watermark()), (808, 201, NOW));
    let got = [scene.reporter, scene.payers[0], scene.payers[1], scene.world.treasury];
    assert_eq!(got.map(|one| scene.available(&one)), [20, 40, 40, 101]);
    let told = Slashed {
        stake: scene.provider.stake.to_bytes(),
        mint: scene.world.mints[0].to_bytes(),
        reporter: scene.reporter.key(),
        first_payer: scene.payers[0].key(),
        second_payer: scene.payers[1].key(),
        treasury: scene.world.treasury.key(),
        from_bonded: 201,
        from_unbonding: 0,
        to_reporter: 20,
        to_first: 40,
        to_second: 40,
        to_treasury: 101,
        watermark: NOW,
    };
    assert_eq!(events(&result), [told.bytes()]);
}

#[test]
fn one_double_sale_is_one_penalty_in_whatever_order_it_is_told() {
    let mut scene = Scene::new(1_000);
    let call = scene.world.slash(&scene.provider, &scene.reporter, scene.both(), NOW);
    scene.world.ok(&call);
    assert_eq!(scene.world.refused(&call), "LeaseOutOfTime 6031");
    let turned = [scene.both()[1], scene.both()[0]];
    let call = scene.world.slash(&scene.provider, &scene.reporter, turned, NOW);
    assert_eq!(scene.world.refused(&call), "LeaseOutOfTime 6031");
    scene.world.set_time(NOW + 60);
    let call = scene.report([(NOW, NOW + 60), (NOW + 1, NOW + 60)]);
    assert_eq!(scene.world.refused(&call), "LeaseOutOfTime 6031");
    let call = scene.report([(NOW + 1, NOW + 60), (NOW + 1, NOW + 60)]);
    scene.world.ok(&call);
}

#[test]
fn what_is_unbonding_pays_first_until_it_is_claimed() {
    let mut scene = Scene::new(1_000);
    let owner = scene.provider.owner;
    let call = scene.world.unstake(&owner, 150);
    scene.world.ok(&call);
    let now = NOW + UNBOND_S as i64 + 1_000;
    scene.world.set_time(now);
    // Its time is over, and it was not claimed.
    let call = scene.world.slash(&scene.provider, &scene.reporter, scene.both(), now);
    scene.world.ok(&call);
    let stake = scene.world.stake_record(&owner);
    assert_eq!((stake.bonded(), stake.unbonding(), stake.unbond_at()), (800, 0, 0));
    let call = scene.world.claim_unbonded(&owner);
    assert_eq!(scene.world.refused(&call), "ZeroAmount 6013");
}

#[test]
fn unstaking_everything_dodges_no_penalty() {
    let mut scene = Scene::new(1_000);
    let owner = scene.provider.owner;
    let call = scene.world.unstake(&owner, 1_000);
    scene.world.ok(&call);
    // The last moment at which a lease that began when the money began to leave is evidence.
    scene.world.set_time(NOW + UNBOND_S as i64 - 1);
    let claim = scene.world.claim_unbonded(&owner);
    assert_eq!(scene.world.refused(&claim), "UnbondingNotOver 6033");
    let call = scene.report([(NOW, NOW + 60), (NOW, NOW + 60)]);
    scene.world.ok(&call);
    assert_eq!(scene.world.stake_record(&owner).unbonding(), 800);
    scene.world.set_time(NOW + UNBOND_S as i64);
    scene.world.ok(&claim);
    assert_eq!(scene.available(&owner), 800);
}

#[test]
fn evidence_is_as_old_as_the_unbonding_time_at_most() {
    let mut scene = Scene::new(1_000);
    let oldest = NOW - UNBOND_S as i64;
    let call = scene.report([(oldest, NOW), (oldest + 1, NOW)]);
    assert_eq!(scene.world.refused(&call), "LeaseOutOfTime 6031");
    let call = scene.report([(oldest + 1, NOW), (oldest + 1, NOW)]);
    scene.world.ok(&call);
}

#[test]
fn a_lease_that_has_not_begun_is_no_evidence_yet() {
    let mut scene = Scene::new(1_000);
    let call = scene.report([(NOW, NOW + 60), (NOW + 1, NOW + 60)]);
    assert_eq!(scene.world.refused(&call), "LeaseOutOfTime 6031");
    scene.world.set_time(NOW + 1);
    scene.world.ok(&call);
}

#[test]
fn leases_that_follow_one_another_are_honest() {
    let mut scene = Scene::new(1_000);
    for times in [
        [(NOW - 60, NOW - 30), (NOW - 30, NOW)],
        [(NOW - 60, NOW - 60), (NOW - 60, NOW)],
        [(NOW - 30, NOW - 60), (NOW - 60, NOW)],
        [(NOW - 60, NOW), (NOW - 20, NOW - 40)],
    ] {
        let call = scene.report(times);
        assert_eq!(scene.world.refused(&call), "NoDoubleSale 6030", "{times:?}");
    }
}

/// Two overlapping leases whose second statement was changed before it was signed.
fn second_changed(scene: &Scene, change: impl Fn(&mut (Person, Vec<u8>))) -> Call {
    let [first, mut second] =
        [0, 1].map(|i| lease(&scene.provider, &scene.payers[i], NOW - 60, NOW));
    change(&mut second);
    let call = scene.world.slash_entries(&scene.provider, &scene.reporter, scene.both());
    call.after(check(&[first, second]))
}

#[test]
fn only_leases_of_this_stake_by_its_key_count() {
    let mut scene = Scene::new(1_000);
    let stranger = scene.world.wallet(40);
    let cases: [(&str, &dyn Fn(&mut (Person, Vec<u8>))); 5] = [
        ("WrongLease 6029", &|one| one.0 = stranger),
        ("WrongLease 6029", &|one| one.1[7] ^= 1),
        ("WrongLease 6029", &|one| one.1[8] ^= 1),
        ("NoDoubleSale 6030", &|one| one.1[104] = 2),
        ("NoSignatureCheck 6024", &|one| one.1.push(0)),
    ];
    for (why, change) in cases {
        let call = second_changed(&scene, change);
        assert_eq!(scene.world.refused(&call), why);
    }
    let call = second_changed(&scene, |_| {});
    scene.world.ok(&call);
}

#[test]
fn one_payers_leases_may_overlap() {
    let mut scene = Scene::new(1_000);
    let payer = scene.payers[0];
    scene.payers = [payer, payer];
    let call = scene.report([(NOW - 60, NOW), (NOW - 30, NOW)]);
    assert_eq!(scene.world.refused(&call), "NoDoubleSale 6030");
}

#[test]
fn the_key_before_answers_for_what_it_signed_until_the_grace_is_over() {
    let mut scene = Scene::new(1_000);
    let before = scene.provider.node;
    let after = scene.world.wallet(40);
    let call = scene.world.rotate_key(&scene.provider.owner, &after);
    scene.world.ok(&call);
    let grace = NOW + ROTATION_GRACE_S as i64;
    scene.world.set_time(grace + 60);
    let by = |scene: &Scene, keys: [Person; 2], start: i64| {
        let leases = [0, 1]
            .map(|i| (keys[i], lease(&scene.provider, &scene.payers[i], start, start + 60).1));
        let call = scene.world.slash_entries(&scene.provider, &scene.reporter, scene.both());
        call.after(check(&leases))
    };
    let call = by(&scene, [before, after], grace);
    assert_eq!(scene.world.refused(&call), "WrongLease 6029");
    for keys in [[before, before], [before, after], [after, after]] {
        let call = by(&scene, keys, grace - 1);
        scene.world.clone().ok(&call);
    }
}

#[test]
fn a_payer_without_a_balance_is_proved_absent_and_the_treasury_has_its_share() {
    let mut scene = Scene::new(1_009);
    let absent = scene.world.wallet(50);
    scene.payers[0] = absent;
    let call = scene.world.slash(&scene.provider, &scene.reporter, scene.both(), NOW);
    let elsewhere =
        call.clone().with("first_balance", scene.world.balance_of(&Person::numbered(51)));
    assert_eq!(scene.world.refused(&elsewhere), "WrongAddress 6006");
    scene.world.ok(&call);
    let got = [scene.reporter, scene.payers[1], scene.world.treasury];
    assert_eq!(got.map(|one| scene.available(&one)), [20, 40, 141]);
}

#[test]
fn everybody_may_be_the_same_and_no_unit_is_lost() {
    // The reporter is a payer, and the other payer is the treasury.
    let mut scene = Scene::new(1_009);
    let treasury = scene.world.treasury;
    scene.reporter = scene.payers[0];
    scene.payers[1] = treasury;
    let call = scene.world.slash(&scene.provider, &scene.reporter, scene.both(), NOW);
    scene.world.ok(&call);
    assert_eq!([scene.available(&scene.reporter), scene.available(&treasury)], [60, 141]);
}

#[test]
fn who_reports_itself_to_itself_loses_half_of_the_penalty() {
    let mut scene = Scene::new(1_000);
    scene.reporter = scene.provider.owner;
    let call = scene.world.slash(&scene.provider, &scene.reporter, scene.both(), NOW);
    scene.world.ok(&call);
    let own = [scene.provider.owner, scene.payers[0], scene.payers[1]];
    let back: u64 = own.iter().map(|one| scene.available(one)).sum();
    assert_eq!((back, scene.available(&scene.world.treasury)), (100, 100));
}

#[test]
fn a_stake_too_small_for_a_penalty_keeps_its_watermark() {
    let mut scene = Scene::new(4);
    let call = scene.world.slash(&scene.provider, &scene.reporter, scene.both(), NOW);
    assert_eq!(scene.world.refused(&call), "NothingToSlash 6032");
    assert_eq!(scene.world.stake_record(&scene.provider.owner).watermark(), 0);
}

#[test]
fn a_pause_protects_no_double_sale() {
    let mut scene = Scene::new(1_000);
    let pause = scene.world.update_config(true);
    scene.world.ok(&pause);
    let call = scene.world.slash(&scene.provider, &scene.reporter, scene.both(), NOW);
    scene.world.ok(&call);
}

#[test]
fn a_reporter_without_a_balance_is_told_so() {
    let mut scene = Scene::new(1_000);
    scene.reporter = scene.world.wallet(50);
    let call = scene.world.slash(&scene.provider, &scene.reporter, scene.both(), NOW);
    assert_eq!(scene.world.refused(&call), "ForeignAccount 6004");
}

#[test]
fn every_other_account_is_refused() {
    let scene = Scene::new(1_000);
    let call = scene.world.slash(&scene.provider, &scene.reporter, scene.both(), NOW);
    attack("slash", &[], |_| call.clone(), scene.world);
}

#[test]
fn every_other_account_of_an_absent_payer_is_refused() {
    let mut scene = Scene::new(1_000);
    scene.payers[0] = scene.world.wallet(50);
    let call = scene.world.slash(&scene.provider, &scene.reporter, scene.both(), NOW);
    let allowed =
        [("first_balance", Attack::Readonly, "an account that is not there is not changed")];
    attack("slash_absent_payer", &allowed, |_| call.clone(), scene.world);
}
