use settlement_interface::{
    error::Error,
    event::Unstaked,
    instruction::Unstake,
    staking,
    state::{Config, Stake},
};

use crate::{
    Call,
    access::{load, load_mut, signed},
    chain::{emit, now},
    fault::Outcome,
};

/// Begin to take money out of a stake. No pause stops it.
///
/// # Accounts expected
/// 0. `[signer]` owner
/// 1. `[writable]` stake: the owner's
/// 2. `[]` config
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    let args = Unstake::read(call.arguments)?;
    let [owner, stake, config, ..] = &mut *call.accounts else {
        return Err(Error::MissingAccount.into());
    };
    signed(owner)?;
    let address = stake.address().to_bytes();
    let unbond_s = load::<Config>(config, call.program)?.unbond_s();
    let mut record = load_mut::<Stake>(stake, call.program)?;
    if record.owner != *owner.address().as_array() {
        return Err(Error::NotAuthorized.into());
    }
    staking::unstake(&mut record, args.amount, unbond_s, now()?)?;
    emit(
        &Unstaked {
            stake: address,
            amount: args.amount,
            bonded: record.bonded(),
            unbonding: record.unbonding(),
            unbond_at: record.unbond_at(),
        }
        .bytes(),
    );
    Ok(())
}
