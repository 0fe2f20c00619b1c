use settlement_interface::{
    error::Error,
    event::Staked,
    instruction, rules,
    state::{Balance, Stake},
};

use crate::{
    Call,
    access::{check_balance, load_mut, signed},
    chain::emit,
    fault::Outcome,
};

/// Bond some of the owner's Balance.
///
/// # Accounts expected
/// 0. `[signer]` owner
/// 1. `[writable]` balance: the owner's, of the stake's mint
/// 2. `[writable]` stake: the owner's
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    let args = instruction::Stake::read(call.arguments)?;
    let [owner, balance, stake, ..] = &mut *call.accounts else {
        return Err(Error::MissingAccount.into());
    };
    signed(owner)?;
    if args.amount == 0 {
        return Err(Error::ZeroAmount.into());
    }
    let address = stake.address().to_bytes();
    let mut record = load_mut::<Stake>(stake, call.program)?;
    if record.owner != *owner.address().as_array() {
        return Err(Error::NotAuthorized.into());
    }
    let mut balance = load_mut::<Balance>(balance, call.program)?;
    check_balance(&balance, &record.owner, &record.mint)?;
    rules::spend(&mut balance, args.amount)?;
    let bonded = rules::add(record.bonded(), args.amount)?;
    record.set_bonded(bonded);
    emit(&Staked { stake: address, amount: args.amount, bonded }.bytes());
    Ok(())
}
