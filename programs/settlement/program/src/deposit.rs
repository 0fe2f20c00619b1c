use pinocchio::AccountView;
use pinocchio_token::instructions::TransferChecked;
use settlement_interface::{
    MINT_DECIMALS,
    error::Error,
    event::Deposited,
    instruction::Deposit,
    rules, seeds,
    state::{Balance, Config, Record},
};

use crate::{
    Call,
    access::{check_balance, create, load, load_mut, signed},
    chain::emit,
    creation::Creation,
    fault::Outcome,
    token::{check_mint, check_other, check_vault},
};

/// Move tokens into the vault and credit the owner's Balance.
///
/// # Accounts expected
/// 0. `[signer, writable]` owner: of the tokens and the Balance; pays the Balance's rent
/// 1. `[writable]` source: token account the owner may spend from
/// 2. `[writable]` vault: PDA `vault`, domain, mint
/// 3. `[writable]` balance: PDA `balance`, domain, owner, mint; created where missing
/// 4. `[]` mint
/// 5. `[]` config
/// 6. `[]` token_program
/// 7. `[]` system_program
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    let args = Deposit::read(call.arguments)?;
    let [owner, source, vault, balance, mint, config, ..] = &mut *call.accounts else {
        return Err(Error::MissingAccount.into());
    };
    signed(owner)?;
    let (owner_key, mint_key) = (owner.address().to_bytes(), mint.address().to_bytes());
    let domain = {
        let config = load::<Config>(config, call.program)?;
        // A pause keeps money out, but whoever is to be paid may always get a Balance.
        if config.paused != 0 && args.amount > 0 {
            return Err(Error::Paused.into());
        }
        check_vault(vault, &config, &mint_key, call.program)?;
        config.domain
    };
    check_mint(mint)?;
    check_other(source, vault, &mint_key)?;

    if !balance.owned_by(call.program) {
        let bump = Creation {
            program: call.program,
            rent_payer: owner,
            account: balance,
            seeds: &[seeds::BALANCE, &domain, &owner_key, &mint_key],
            size: Balance::SIZE,
            owner: call.program,
        }
        .perform()?;
        let mut record = create::<Balance>(balance, bump)?;
        record.owner = owner_key;
        record.mint = mint_key;
    }
    if args.amount > 0 {
        TransferChecked::<&AccountView>::new(
            source,
            mint,
            vault,
            owner,
            args.amount,
            MINT_DECIMALS,
        )
        .invoke()?;
    }
    let mut record = load_mut::<Balance>(balance, call.program)?;
    check_balance(&record, &owner_key, &mint_key)?;
    let available = rules::add(record.available(), args.amount)?;
    record.set_available(available);
    emit(&Deposited { owner: owner_key, mint: mint_key, amount: args.amount, available }.bytes());
    Ok(())
}
