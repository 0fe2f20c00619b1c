//! The rules about money and time, at their edges.

use settlement_interface::{
    MAX_CHALLENGE_S, MAX_FEE_BPS,
    error::Error,
    rules::{self, Actor, Due},
    state::{Balance, CLOSING, Channel, OPEN, Record},
    statement::Voucher,
};

fn channel(deposit: u64, settled: u64, fee_taken: u64, bps: u16) -> Channel {
    let mut data = [0u8; Channel::SIZE];
    let channel = Channel::create(&mut data, 255).expect("the data are fresh");
    channel.header.state = OPEN;
    channel.header.set_fee_bps(bps);
    channel.set_deposit(deposit);
    channel.set_settled(settled);
    channel.set_fee_taken(fee_taken);
    *channel
}

fn balance(available: u64) -> Balance {
    let mut data = [0u8; Balance::SIZE];
    let balance = Balance::create(&mut data, 255).expect("the data are fresh");
    balance.owner = [1; 32];
    balance.set_available(available);
    *balance
}

#[test]
fn the_fee_is_rounded_up_and_never_overflows() {
    assert_eq!(rules::fee(0, 250), Ok(0));
    assert_eq!(rules::fee(1, 250), Ok(1));
    assert_eq!(rules::fee(40, 250), Ok(1));
    assert_eq!(rules::fee(41, 250), Ok(2));
    assert_eq!(rules::fee(1_000_000, 0), Ok(0));
    for amount in [1, 9_999, 10_000, 10_001, u64::MAX / 3, u64::MAX - 1, u64::MAX] {
        for bps in [1, 3, 250, 499, MAX_FEE_BPS] {
            let exact = (u128::from(amount) * u128::from(bps)).div_ceil(10_000);
            assert_eq!(rules::fee(amount, bps).map(u128::from), Ok(exact));
        }
    }
    assert_eq!(rules::fee(1, MAX_FEE_BPS + 1), Err(Error::SettingOutOfRange));
}

#[test]
fn a_claim_is_bounded_by_the_voucher_and_by_the_deposit() {
    let channel = channel(100, 0, 0, 0);
    let due = |cumulative, claim| rules::due(&channel, cumulative, claim).expect("it fits");
    assert_eq!(due(80, 90), Some(Due { settled: 80, paid: 80, fee: 0 }));
    assert_eq!(due(90, 80), Some(Due { settled: 80, paid: 80, fee: 0 }));
    assert_eq!(due(500, 400), Some(Due { settled: 100, paid: 100, fee: 0 }));
}

#[test]
fn what_is_settled_already_is_no_error_and_moves_nothing() {
    let channel = channel(100, 50, 0, 0);
    for (cumulative, claim) in [(50, 50), (50, 100), (100, 50), (0, 0), (49, u64::MAX)] {
        assert_eq!(rules::due(&channel, cumulative, claim), Ok(None));
    }
}

#[test]
fn splitting_a_claim_changes_no_fee() {
    for bps in [0, 1, 250, MAX_FEE_BPS] {
        let mut split = channel(1_000, 0, 0, bps);
        let mut payee = balance(0);
        for target in 1..=1_000 {
            let due = rules::due(&split, target, target).expect("it fits").expect("it grows");
            rules::credit(&mut split, &mut payee, &due, &[0; 32]).expect("it fits");
            assert_eq!(payee.fees_owed(), rules::fee(target, bps).expect("it fits"));
            assert_eq!(payee.available() + payee.fees_owed(), target);
        }
    }
}

#[test]
fn a_credit_that_does_not_fit_is_refused() {
    let mut from = channel(10, 0, 0, 0);
    let mut payee = balance(u64::MAX - 5);
    let due = rules::due(&from, 10, 10).expect("it fits").expect("it grows");
    assert_eq!(rules::credit(&mut from, &mut payee, &due, &[0; 32]), Err(Error::Overflow));
}

#[test]
fn only_the_owner_and_an_unexpired_delegate_act() {
    let mut balance = balance(0);
    let (owner, delegate, zero) = ([1; 32], [2; 32], [0; 32]);
    assert_eq!(rules::actor(&balance, &owner, 0), Ok(Actor::Owner));
    assert_eq!(rules::actor(&balance, &delegate, 0), Err(Error::NotAuthorized));
    assert_eq!(rules::actor(&balance, &zero, -1), Err(Error::NotAuthorized));
    balance.delegate = delegate;
    balance.set_delegate_expires(100);
    assert_eq!(rules::actor(&balance, &delegate, 99), Ok(Actor::Delegate));
    assert_eq!(rules::actor(&balance, &delegate, 100), Err(Error::DelegationExpired));
    assert_eq!(rules::actor(&balance, &owner, 100), Ok(Actor::Owner));
}

#[test]
fn a_delegate_spends_its_allowance_and_the_owner_does_not() {
    let mut balance = balance(100);
    balance.set_allowance(30);
    assert_eq!(rules::commit(&mut balance, Actor::Delegate, 31), Err(Error::AllowanceExceeded));
    assert_eq!(rules::commit(&mut balance, Actor::Delegate, 30), Ok(()));
    assert_eq!((balance.available(), balance.allowance()), (70, 0));
    assert_eq!(rules::commit(&mut balance, Actor::Owner, 71), Err(Error::InsufficientFunds));
    assert_eq!(rules::commit(&mut balance, Actor::Owner, 70), Ok(()));
    assert_eq!((balance.available(), balance.allowance()), (0, 0));
    assert_eq!(rules::commit(&mut balance, Actor::Owner, 0), Err(Error::ZeroAmount));
}

#[test]
fn only_the_first_request_starts_the_challenge_time() {
    let mut channel = channel(1, 0, 0, 0);
    channel.set_challenge_s(60);
    assert_eq!(rules::check_challenge_over(&channel, i64::MAX), Err(Error::ChannelNotClosing));
    assert_eq!(rules::request_close(&mut channel, 1_000), Ok(true));
    assert_eq!((channel.close_at(), channel.header.state), (1_060, CLOSING));
    assert_eq!(rules::request_close(&mut channel, 2_000), Ok(false));
    assert_eq!(channel.close_at(), 1_060);
    assert_eq!(rules::check_challenge_over(&channel, 1_059), Err(Error::ChallengeNotOver));
    assert_eq!(rules::check_challenge_over(&channel, 1_060), Ok(()));
}

#[test]
fn challenge_times_are_bounded_on_both_sides() {
    assert_eq!(rules::check_challenge(60, 60), Ok(()));
    assert_eq!(rules::check_challenge(59, 60), Err(Error::ChallengeOutOfRange));
    assert_eq!(rules::check_challenge(MAX_CHALLENGE_S, 0), Ok(()));
    assert_eq!(rules::check_challenge(MAX_CHALLENGE_S + 1, 0), Err(Error::ChallengeOutOfRange));
}

/// The canonical data of an Ed25519 instruction; signatures are not looked at here.
fn check(entries: &[([u8; 32], &[u8])]) -> Vec<u8> {
    let mut head = vec![entries.len() as u8, 0];
    let mut body = Vec::new();
    for (key, message) in entries {
        let at = 2 + 14 * entries.len() + body.len();
        for field in [at, 0xffff, at + 64, 0xffff, at + 96, message.len(), 0xffff] {
            head.extend((field as u16).to_le_bytes());
        }
        body.extend([7; 64]);
        body.extend(key);
        body.extend(*message);
    }
    head.extend(body);
    head
}

#[test]
fn every_entry_of_a_canonical_check_is_found() {
    let messages: Vec<_> = (0..3u8).map(|i| [i; Voucher::SIZE]).collect();
    let entries: Vec<_> = messages.iter().map(|m| ([m[0] + 1; 32], &m[..])).collect();
    let data = check(&entries);
    for (i, (key, message)) in entries.iter().enumerate() {
        let found = rules::verified(&data, i as u8, Voucher::SIZE).expect("it is canonical");
        assert_eq!((found.key, found.message), (&key[..], *message));
    }
    assert_eq!(rules::verified(&data, 3, Voucher::SIZE), Err(Error::NoSignatureCheck));
}

#[test]
fn no_changed_offset_byte_and_no_other_length_is_canonical() {
    let message = [9; Voucher::SIZE];
    let data = check(&[([1; 32], &message)]);
    for at in 0..16 {
        for bit in 0..8 {
            let mut changed = data.clone();
            changed[at] ^= 1 << bit;
            let found = rules::verified(&changed, 0, Voucher::SIZE);
            assert_eq!(found, Err(Error::NoSignatureCheck), "byte {at}, bit {bit}");
        }
    }
    for end in 0..data.len() {
        assert!(rules::verified(&data[..end], 0, Voucher::SIZE).is_err());
    }
    let longer = [&data[..], &[0]].concat();
    assert!(rules::verified(&longer, 0, Voucher::SIZE).is_err());
}

#[test]
fn a_voucher_counts_only_for_its_channel_and_by_its_key() {
    let mut channel = channel(1, 0, 0, 0);
    channel.voucher_key = [5; 32];
    let voucher = Voucher { channel: [6; 32], cumulative: 7, alloc_root: [8; 32] };
    let message = voucher.signing_bytes();
    let by = |key: &[u8], address: [u8; 32], message: &[u8]| {
        rules::voucher(&rules::Verified { key, message }, &address, &channel)
    };
    assert_eq!(by(&[5; 32], [6; 32], &message), Ok(voucher));
    assert_eq!(by(&[4; 32], [6; 32], &message), Err(Error::WrongVoucher));
    assert_eq!(by(&[5; 32], [7; 32], &message), Err(Error::WrongVoucher));
    assert_eq!(by(&[5; 32], [6; 32], &message[..79]), Err(Error::WrongVoucher));
    let mut other = message;
    other[7] ^= 1;
    assert_eq!(by(&[5; 32], [6; 32], &other), Err(Error::WrongVoucher));
}
