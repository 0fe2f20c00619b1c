use pinocchio::{
    AccountView,
    cpi::{Seed, Signer},
};
use pinocchio_token::instructions::TransferChecked;
use settlement_interface::{
    MINT_DECIMALS,
    error::Error,
    event::Withdrawn,
    instruction::Withdraw,
    rules, seeds,
    state::{Balance, Config},
};

use crate::{
    Call,
    access::{check_balance, load, load_mut, signed},
    chain::emit,
    fault::Outcome,
    token::{check_other, check_vault},
};

/// Pay out of the owner's Balance. Only the owner may, never a delegate; no pause stops it.
///
/// # Accounts expected
/// 0. `[signer]` owner
/// 1. `[writable]` balance: the owner's, of the mint
/// 2. `[writable]` vault: PDA `vault`, domain, mint
/// 3. `[writable]` destination: any token account of the mint but the vault
/// 4. `[]` mint
/// 5. `[]` vault_authority: PDA `auth`, domain
/// 6. `[]` config
/// 7. `[]` token_program
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    let args = Withdraw::read(call.arguments)?;
    let [owner, balance, vault, destination, mint, vault_authority, config, ..] =
        &mut *call.accounts
    else {
        return Err(Error::MissingAccount.into());
    };
    signed(owner)?;
    if args.amount == 0 {
        return Err(Error::ZeroAmount.into());
    }
    let mint_key = mint.address().to_bytes();
    let (domain, bump) = {
        let config = load::<Config>(config, call.program)?;
        check_vault(vault, &config, &mint_key, call.program)?;
        (config.domain, [config.auth_bump])
    };
    check_other(destination, vault, &mint_key)?;

    let available = {
        let mut record = load_mut::<Balance>(balance, call.program)?;
        check_balance(&record, owner.address().as_array(), &mint_key)?;
        rules::spend(&mut record, args.amount)?;
        record.available()
    };
    let seeds = [Seed::from(seeds::AUTH), Seed::from(&domain), Seed::from(&bump)];
    // A wrong authority account fails here: the seeds sign for `auth` and nothing else.
    TransferChecked::<&AccountView>::new(
        vault,
        mint,
        destination,
        vault_authority,
        args.amount,
        MINT_DECIMALS,
    )
    .invoke_signed(&[Signer::from(&seeds)])?;
    emit(
        &Withdrawn {
            owner: owner.address().to_bytes(),
            mint: mint_key,
            destination: destination.address().to_bytes(),
            amount: args.amount,
            available,
        }
        .bytes(),
    );
    Ok(())
}
