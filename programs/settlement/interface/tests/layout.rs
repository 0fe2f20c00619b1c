//! Where every field of an account lies, and that tables and numbers are what others rely on.

use settlement_interface::{
    error::{ERRORS, Error},
    event::{EVENTS, Settled},
    instruction::{INSTRUCTIONS, OpenChannel, Settle},
    layout::Digest,
    state::{Balance, Channel, Config, Record, Stake},
};

macro_rules! offsets {
    ($type:ident { $($field:ident: $at:literal),* $(,)? }) => {
        $(assert_eq!(core::mem::offset_of!($type, $field), $at, stringify!($type.$field));)*
    };
}

#[test]
fn public_fields_lie_where_the_specification_says() {
    offsets!(Config {
        header: 0,
        admin: 8,
        treasury: 40,
        mints: 72,
        domain: 136,
        pending_admin: 168,
        paused: 226,
        auth_bump: 227,
        vault_bumps: 228,
    });
    offsets!(Balance { owner: 8, mint: 40, delegate: 72 });
    offsets!(Stake { owner: 8, mint: 40, node_key: 72, prev_key: 104, rent_payer: 136 });
    offsets!(Channel {
        payer: 8,
        payee: 40,
        voucher_key: 72,
        mint: 104,
        rent_payer: 136,
        alloc_root: 216,
    });
}

/// Where the only set eight bytes are.
fn set_at<R: Record>(set: impl Fn(&mut R)) -> usize {
    let mut data = vec![0u8; R::SIZE];
    set(R::create(&mut data, 0).expect("the data are fresh"));
    let at = (8..data.len()).find(|i| data[*i] != 0).expect("something was set");
    assert_eq!(data[at..at + 8], 0x0807_0605_0403_0201u64.to_le_bytes());
    at
}

#[test]
fn numbers_lie_where_the_specification_says() {
    const N: u64 = 0x0807_0605_0403_0201;
    const I: i64 = N as i64;
    assert_eq!(set_at::<Config>(|r| r.set_slot_stake(N)), 200);
    assert_eq!(set_at::<Config>(|r| r.set_unbond_s(N)), 208);
    assert_eq!(set_at::<Config>(|r| r.set_min_challenge_s(N)), 216);
    assert_eq!(set_at::<Balance>(|r| r.set_available(N)), 104);
    assert_eq!(set_at::<Balance>(|r| r.set_fees_owed(N)), 112);
    assert_eq!(set_at::<Balance>(|r| r.set_fees_paid(N)), 120);
    assert_eq!(set_at::<Balance>(|r| r.set_next_nonce(N)), 128);
    assert_eq!(set_at::<Balance>(|r| r.set_allowance(N)), 136);
    assert_eq!(set_at::<Balance>(|r| r.set_delegate_expires(I)), 144);
    assert_eq!(set_at::<Stake>(|r| r.set_bonded(N)), 168);
    assert_eq!(set_at::<Stake>(|r| r.set_unbonding(N)), 176);
    assert_eq!(set_at::<Stake>(|r| r.set_unbond_at(I)), 184);
    assert_eq!(set_at::<Stake>(|r| r.set_rotated_at(I)), 192);
    assert_eq!(set_at::<Stake>(|r| r.set_watermark(I)), 200);
    assert_eq!(set_at::<Stake>(|r| r.set_slashed(N)), 208);
    assert_eq!(set_at::<Channel>(|r| r.set_nonce(N)), 168);
    assert_eq!(set_at::<Channel>(|r| r.set_deposit(N)), 176);
    assert_eq!(set_at::<Channel>(|r| r.set_settled(N)), 184);
    assert_eq!(set_at::<Channel>(|r| r.set_fee_taken(N)), 192);
    assert_eq!(set_at::<Channel>(|r| r.set_challenge_s(N)), 200);
    assert_eq!(set_at::<Channel>(|r| r.set_close_at(I)), 208);
}

#[test]
fn an_account_of_another_kind_version_or_size_is_not_loaded() {
    let mut data = [0u8; Channel::SIZE];
    assert_eq!(Channel::load(&data).err(), Some(Error::WrongAccountKind));
    Channel::create(&mut data, 7).expect("the data are fresh");
    assert!(Channel::load(&data).is_ok());
    assert_eq!(Channel::create(&mut data, 7).err(), Some(Error::AlreadyExists));
    assert!(Channel::load(&data[..Channel::SIZE - 1]).is_err());
    assert!(Balance::load(&data[..Balance::SIZE]).is_err());
    data[1] = 2;
    assert!(Channel::load(&data).is_err());
}

#[test]
fn arguments_and_events_are_their_fields_one_after_another() {
    let mut bytes = [0u8; Settle::SIZE];
    let settle = Settle { ed_ix: 1, entry: 2, claim: 3 };
    settle.write(&mut bytes);
    assert_eq!(bytes, [1, 2, 3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Settle::read(&bytes), Ok(settle));
    assert_eq!(Settle::read(&bytes[..9]), Err(Error::BadArguments));
    assert_eq!(Settle::read(&[0; 11]), Err(Error::BadArguments));
    assert_eq!(OpenChannel::SIZE, 88);

    let settled = Settled {
        channel: [1; 32],
        payee: [2; 32],
        settled: 3,
        paid: 4,
        fee: 5,
        alloc_root: Digest([6; 32]),
    };
    let bytes = settled.bytes();
    assert_eq!(bytes.len(), 8 + 120);
    assert_eq!(bytes[..8], Settled::DISCRIMINATOR);
    assert_eq!(bytes[72..80], 3u64.to_le_bytes());
    assert_eq!(bytes[96..], [6; 32]);
}

#[test]
fn error_numbers_are_consecutive_from_6000_and_discriminators_differ() {
    for (i, (number, _, _)) in ERRORS.iter().enumerate() {
        assert_eq!(*number, 6000 + i as u32);
    }
    let mut all: Vec<_> = INSTRUCTIONS.iter().map(|one| one.discriminator).collect();
    all.extend(EVENTS.iter().map(|one| one.discriminator));
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[cfg(feature = "idl")]
#[test]
fn the_committed_idl_is_what_this_crate_says() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../idl/settlement.json");
    let committed = std::fs::read_to_string(path).expect("idl/settlement.json is there");
    assert_eq!(committed, settlement_interface::idl::json(), "run scripts/program/build.sh");
}
