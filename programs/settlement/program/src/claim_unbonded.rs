use settlement_interface::{
    error::Error,
    event::UnbondedClaimed,
    instruction::ClaimUnbonded,
    rules, staking,
    state::{Balance, Stake},
};

use crate::{
    Call,
    access::{check_balance, load_mut, signed},
    chain::{emit, now},
    fault::Outcome,
};

/// Move what has been unbonding for its whole time to the owner's Balance. No pause stops it.
///
/// # Accounts expected
/// 0. `[signer]` owner
/// 1. `[writable]` balance: the owner's, of the stake's mint
/// 2. `[writable]` stake: the owner's
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    ClaimUnbonded::read(call.arguments)?;
    let [owner, balance, stake, ..] = &mut *call.accounts else {
        return Err(Error::MissingAccount.into());
    };
    signed(owner)?;
    let address = stake.address().to_bytes();
    let mut record = load_mut::<Stake>(stake, call.program)?;
    if record.owner != *owner.address().as_array() {
        return Err(Error::NotAuthorized.into());
    }
    let mut balance = load_mut::<Balance>(balance, call.program)?;
    check_balance(&balance, &record.owner, &record.mint)?;
    let amount = staking::claim_unbonded(&mut record, now()?)?;
    let available = rules::add(balance.available(), amount)?;
    balance.set_available(available);
    emit(
        &UnbondedClaimed {
            stake: address,
            owner: record.owner,
            mint: record.mint,
            amount,
            available,
        }
        .bytes(),
    );
    Ok(())
}
