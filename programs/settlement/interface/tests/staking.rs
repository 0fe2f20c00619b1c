//! The rules about stakes, at their edges.

use settlement_interface::{
    MAX_SLASH_BPS, ROTATION_GRACE_S,
    error::Error,
    rules::Verified,
    staking::{self, Penalty},
    state::{Record, Stake},
    statement::Lease,
};

const STAKE: [u8; 32] = [7; 32];

fn stake(bonded: u64, unbonding: u64) -> Stake {
    let mut data = [0u8; Stake::SIZE];
    let stake = Stake::create(&mut data, 255).expect("the data are fresh");
    stake.node_key = [1; 32];
    stake.set_bonded(bonded);
    stake.set_unbonding(unbonding);
    *stake
}

fn lease(payer: u8, slots: u64, start: i64, end: i64) -> Lease {
    Lease { stake: STAKE, agreement: [4; 32], payer: [payer; 32], slots, start, end }
}

#[test]
fn a_penalty_is_exact_and_every_unit_of_it_goes_somewhere() {
    for all in [5, 9, 10, 1_009, 9_999, 10_001, u64::MAX / 3, u64::MAX] {
        for bps in [1, 333, 2_000, 4_999, MAX_SLASH_BPS] {
            for unbonding in [0, 1, all / 2, all] {
                let exact = (u128::from(all) * u128::from(bps) / 10_000) as u64;
                let found = staking::penalty(&stake(all - unbonding, unbonding), bps);
                if exact == 0 {
                    assert_eq!(found, Err(Error::NothingToSlash));
                    continue;
                }
                let one = found.expect("there is something to take");
                let shares = one.to_reporter + 2 * one.to_payer + one.to_treasury;
                assert_eq!((one.from_bonded + one.from_unbonding, shares), (exact, exact));
                assert_eq!((one.to_reporter, one.to_payer), (exact / 10, exact / 5));
                assert_eq!(one.from_unbonding, exact.min(unbonding));
                // Whoever is reporter and both payers loses half at least.
                assert!(one.to_treasury >= exact / 2);
            }
        }
    }
    let more = staking::penalty(&stake(1, 0), MAX_SLASH_BPS + 1);
    assert_eq!(more, Err(Error::SettingOutOfRange));
    assert_eq!(staking::penalty(&stake(u64::MAX, 1), 1), Err(Error::Overflow));
    assert_eq!(staking::penalty(&stake(100, 0), 0), Err(Error::NothingToSlash));
}

#[test]
fn a_penalty_leaves_the_time_of_what_still_unbonds_alone() {
    let mut one = stake(100, 50);
    one.set_unbond_at(900);
    one.set_slashed(u64::MAX - 1);
    let mut penalty = Penalty {
        from_bonded: 0,
        from_unbonding: 40,
        to_reporter: 4,
        to_payer: 8,
        to_treasury: 20,
    };
    staking::punish(&mut one, &penalty, 800).expect("it is there");
    assert_eq!((one.bonded(), one.unbonding(), one.unbond_at()), (100, 10, 900));
    assert_eq!((one.watermark(), one.slashed()), (800, u64::MAX));
    penalty.from_unbonding = 10;
    staking::punish(&mut one, &penalty, 801).expect("it is there");
    assert_eq!((one.unbonding(), one.unbond_at(), one.watermark()), (0, 0, 801));
    assert_eq!(staking::punish(&mut one, &penalty, 802), Err(Error::Overflow));
}

#[test]
fn only_one_slot_for_two_payers_at_one_moment_is_a_double_sale() {
    let honest = Err(Error::NoDoubleSale);
    let judge = |a: (u8, u64, i64, i64), b: (u8, u64, i64, i64)| {
        let (a, b) = (lease(a.0, a.1, a.2, a.3), lease(b.0, b.1, b.2, b.3));
        assert_eq!(staking::check_double_sale(&a, &b), staking::check_double_sale(&b, &a));
        staking::check_double_sale(&a, &b)
    };
    let sold = (1, 0b0110, 100, 160);
    assert_eq!(judge(sold, (2, 0b0100, 159, 200)), Ok(()));
    assert_eq!(judge(sold, (2, 0b0100, 0, 101)), Ok(()));
    assert_eq!(judge(sold, (2, u64::MAX, i64::MIN, i64::MAX)), Ok(()));
    assert_eq!(judge(sold, (1, 0b0100, 100, 160)), honest, "one payer");
    assert_eq!(judge(sold, (2, 0b1001, 100, 160)), honest, "no slot in common");
    assert_eq!(judge(sold, (2, 0, 100, 160)), honest, "no slot at all");
    assert_eq!(judge(sold, (2, 0b0110, 160, 200)), honest, "one after the other");
    assert_eq!(judge(sold, (2, 0b0110, 120, 120)), honest, "no time at all");
    assert_eq!(judge(sold, (2, 0b0110, 130, 120)), honest, "backwards");
}

#[test]
fn a_lease_is_evidence_between_the_last_penalty_and_now_and_while_the_money_is_there() {
    let mut one = stake(1, 0);
    one.set_watermark(500);
    let judge = |start, unbond_s| {
        staking::check_lease_time(&lease(1, 1, start, start + 1), &one, unbond_s, 1_000)
    };
    let out = Err(Error::LeaseOutOfTime);
    assert_eq!((judge(1_000, 100), judge(1_001, 100)), (Ok(()), out));
    assert_eq!((judge(901, 100), judge(900, 100)), (Ok(()), out));
    assert_eq!((judge(501, 999), judge(500, 999)), (Ok(()), out));
}

#[test]
fn the_keys_of_a_stake_sign_and_the_one_before_only_until_the_grace_is_over() {
    let mut one = stake(1, 0);
    let grace = 1_000 + ROTATION_GRACE_S as i64;
    let judge = |one: &Stake, key: u8, address: [u8; 32], start: i64| {
        let message = lease(3, 1, start, start + 1).signing_bytes();
        staking::lease(&Verified { key: &[key; 32], message: &message }, &address, one).map(|_| ())
    };
    let wrong = Err(Error::WrongLease);
    assert_eq!(judge(&one, 1, STAKE, 5), Ok(()));
    assert_eq!(judge(&one, 1, [8; 32], 5), wrong);
    assert_eq!(judge(&one, 0, STAKE, 5), wrong, "no key before is no key");
    staking::rotate_key(&mut one, &[2; 32], 100, 1_000).expect("it is the first time");
    assert_eq!((judge(&one, 2, STAKE, 5), judge(&one, 2, STAKE, grace)), (Ok(()), Ok(())));
    assert_eq!((judge(&one, 1, STAKE, grace - 1), judge(&one, 1, STAKE, grace)), (Ok(()), wrong));

    // On a chain whose clock has just begun, too.
    let mut fresh = stake(1, 0);
    assert_eq!(staking::rotate_key(&mut fresh, &[2; 32], 100, 0), Ok(()));
    assert_eq!(staking::rotate_key(&mut fresh, &[0; 32], 100, 9_999), Err(Error::ZeroKey));

    let again = grace + 100;
    let early = staking::rotate_key(&mut one, &[3; 32], 100, again - 1);
    assert_eq!(early, Err(Error::RotationTooSoon));
    // Then no lease of the first key is young enough any more.
    let last = lease(3, 1, grace - 1, grace);
    assert_eq!(staking::check_lease_time(&last, &one, 100, again), Err(Error::LeaseOutOfTime));
    staking::rotate_key(&mut one, &[3; 32], 100, again).expect("it is time");
    assert_eq!((one.node_key, one.prev_key), ([3; 32], [2; 32]));
}

#[test]
fn what_leaves_waits_as_long_as_what_was_leased_before_is_evidence() {
    let mut one = stake(100, 0);
    staking::unstake(&mut one, 60, 100, 1_000).expect("it is there");
    staking::unstake(&mut one, 40, 100, 1_050).expect("it is there");
    assert_eq!((one.bonded(), one.unbonding(), one.unbond_at()), (0, 100, 1_150));
    let leased = lease(1, 1, 1_050, 1_110);
    assert_eq!(staking::check_lease_time(&leased, &one, 100, 1_149), Ok(()));
    assert_eq!(staking::claim_unbonded(&mut one, 1_149), Err(Error::UnbondingNotOver));
    assert_eq!(staking::claim_unbonded(&mut one, 1_150), Ok(100));
    assert_eq!(staking::claim_unbonded(&mut one, 1_150), Err(Error::ZeroAmount));
    assert_eq!((one.unbonding(), one.unbond_at()), (0, 0));

    let mut one = stake(5, u64::MAX);
    assert_eq!(staking::unstake(&mut one, 5, 0, 0), Err(Error::Overflow));
    assert_eq!(staking::unstake(&mut one, 6, 0, 0), Err(Error::InsufficientFunds));
    assert_eq!(staking::unstake(&mut one, 0, 0, 0), Err(Error::ZeroAmount));
    assert_eq!(one.bonded(), 5);
}
