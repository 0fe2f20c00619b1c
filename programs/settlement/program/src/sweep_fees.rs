use settlement_interface::{
    error::Error,
    event::FeesSwept,
    instruction::SweepFees,
    rules, seeds,
    state::{Balance, Config, Record},
};

use crate::{
    Call,
    access::{check_balance, create, load, load_mut, signed},
    chain::emit,
    creation::Creation,
    fault::Outcome,
};

/// Move fees owed to the treasury. Anyone may call.
///
/// # Accounts expected
/// 0. `[signer, writable]` rent_payer: pays the treasury's Balance where it is missing
/// 1. `[]` config
/// 2. `[writable]` treasury_balance: PDA `balance`, domain, treasury, mint
/// 3. `[]` mint
/// 4. `[]` system_program
/// 5. `[writable]` and all that follow: Balances of the mint
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    SweepFees::read(call.arguments)?;
    let [rent_payer, config, treasury_balance, mint, _system_program, balances @ ..] =
        &mut *call.accounts
    else {
        return Err(Error::MissingAccount.into());
    };
    signed(rent_payer)?;
    let mint = mint.address().to_bytes();
    let (domain, treasury) = {
        let config = load::<Config>(config, call.program)?;
        config.mint_index(&mint)?;
        (config.domain, config.treasury)
    };
    if !treasury_balance.owned_by(call.program) {
        let bump = Creation {
            program: call.program,
            rent_payer,
            account: treasury_balance,
            seeds: &[seeds::BALANCE, &domain, &treasury, &mint],
            size: Balance::SIZE,
            owner: call.program,
        }
        .perform()?;
        let mut record = create::<Balance>(treasury_balance, bump)?;
        record.owner = treasury;
        record.mint = mint;
    }
    let mut amount = 0;
    for balance in balances {
        let mut record = load_mut::<Balance>(balance, call.program)?;
        if record.mint != mint {
            return Err(Error::WrongBalance.into());
        }
        let owed = record.fees_owed();
        record.set_fees_owed(0);
        let paid = rules::add(record.fees_paid(), owed)?;
        record.set_fees_paid(paid);
        amount = rules::add(amount, owed)?;
    }
    let mut record = load_mut::<Balance>(treasury_balance, call.program)?;
    check_balance(&record, &treasury, &mint)?;
    let available = rules::add(record.available(), amount)?;
    record.set_available(available);
    emit(&FeesSwept { treasury, mint, amount }.bytes());
    Ok(())
}
