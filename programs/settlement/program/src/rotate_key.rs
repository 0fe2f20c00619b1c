use settlement_interface::{
    error::Error,
    event::KeyRotated,
    instruction::RotateKey,
    staking,
    state::{Config, Stake},
};

use crate::{
    Call,
    access::{load, load_mut, signed},
    chain::{emit, now},
    fault::Outcome,
};

/// Let another key sign a stake's leases.
///
/// # Accounts expected
/// 0. `[signer]` owner
/// 1. `[writable]` stake: the owner's
/// 2. `[]` config
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    let args = RotateKey::read(call.arguments)?;
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
    staking::rotate_key(&mut record, &args.node_key, unbond_s, now()?)?;
    emit(
        &KeyRotated {
            stake: address,
            node_key: record.node_key,
            prev_key: record.prev_key,
            rotated_at: record.rotated_at(),
        }
        .bytes(),
    );
    Ok(())
}
