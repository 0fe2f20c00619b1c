use settlement_interface::{
    error::Error,
    event::Registered,
    instruction::Register,
    seeds,
    state::{Config, Record, Stake},
};

use crate::{
    Call,
    access::{create, load, signed},
    chain::emit,
    creation::Creation,
    fault::Outcome,
};

/// Create the owner's Stake.
///
/// # Accounts expected
/// 0. `[signer]` owner
/// 1. `[signer, writable]` rent_payer
/// 2. `[writable]` stake: PDA `stake`, domain, owner, mint; does not exist yet
/// 3. `[]` mint
/// 4. `[]` config
/// 5. `[]` system_program
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    let args = Register::read(call.arguments)?;
    let [owner, rent_payer, stake, mint, config, ..] = &mut *call.accounts else {
        return Err(Error::MissingAccount.into());
    };
    signed(owner)?;
    if args.node_key == [0; 32] {
        return Err(Error::ZeroKey.into());
    }
    let (owner, mint) = (owner.address().to_bytes(), mint.address().to_bytes());
    let domain = {
        let config = load::<Config>(config, call.program)?;
        config.mint_index(&mint)?;
        config.domain
    };
    let bump = Creation {
        program: call.program,
        rent_payer,
        account: stake,
        seeds: &[seeds::STAKE, &domain, &owner, &mint],
        size: Stake::SIZE,
        owner: call.program,
    }
    .perform()?;
    let address = stake.address().to_bytes();
    let mut record = create::<Stake>(stake, bump)?;
    record.owner = owner;
    record.mint = mint;
    record.node_key = args.node_key;
    record.rent_payer = rent_payer.address().to_bytes();
    emit(&Registered { stake: address, owner, mint, node_key: args.node_key }.bytes());
    Ok(())
}
