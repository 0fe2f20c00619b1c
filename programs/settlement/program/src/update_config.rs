use settlement_interface::{
    error::Error, event::ConfigChanged, instruction::UpdateConfig, rules, state::Config,
};

use crate::{
    Call,
    access::{load_mut, signed},
    chain::emit,
    fault::Outcome,
};

/// Replace every setting.
///
/// # Accounts expected
/// 0. `[signer]` admin
/// 1. `[writable]` config
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    let args = UpdateConfig::read(call.arguments)?;
    let [admin, config, ..] = &mut *call.accounts else {
        return Err(Error::MissingAccount.into());
    };
    signed(admin)?;
    rules::check_settings(args.fee_bps, args.slash_bps, args.unbond_s, args.min_challenge_s)?;
    if args.treasury == [0; 32] {
        return Err(Error::ZeroKey.into());
    }
    let mut record = load_mut::<Config>(config, call.program)?;
    if record.admin != *admin.address().as_array() {
        return Err(Error::NotAuthorized.into());
    }
    record.header.set_fee_bps(args.fee_bps);
    record.treasury = args.treasury;
    record.set_slot_stake(args.slot_stake);
    record.set_unbond_s(args.unbond_s);
    record.set_min_challenge_s(args.min_challenge_s);
    record.set_slash_bps(args.slash_bps);
    record.paused = args.paused as u8;
    emit(
        &ConfigChanged {
            admin: record.admin,
            treasury: args.treasury,
            slot_stake: args.slot_stake,
            unbond_s: args.unbond_s,
            min_challenge_s: args.min_challenge_s,
            fee_bps: args.fee_bps,
            slash_bps: args.slash_bps,
            paused: args.paused,
        }
        .bytes(),
    );
    Ok(())
}
