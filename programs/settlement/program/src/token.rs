//! Token accounts of the classic SPL program. Token-2022 is refused: its mints can take fees, call
//! hooks or move anybody's tokens, and then the vault would not hold what Balances say.

use pinocchio::AccountView;
use pinocchio::Address;
use pinocchio_token::state::{Account, Mint};
use settlement_interface::{Key, MINT_DECIMALS, error::Error, seeds, state::Config};

use crate::{chain, fault::Outcome};

/// Refuses what is no mint with six decimals of the classic token program.
#[inline(always)]
pub fn check_mint(mint: &AccountView) -> Outcome {
    let record = Mint::from_account_view(mint).map_err(|_| Error::WrongMint)?;
    if !record.is_initialized() || record.decimals() != MINT_DECIMALS {
        return Err(Error::WrongMint.into());
    }
    Ok(())
}

/// Refuses any account but the deployment's own vault of a mint. A token account that somebody
/// else made for the same authority would count as deposited and not be there to withdraw.
#[inline(always)]
pub fn check_vault(vault: &AccountView, config: &Config, mint: &Key, program: &Address) -> Outcome {
    let bump = [config.vault_bumps[config.mint_index(mint)?]];
    let address = chain::address_of([seeds::VAULT, &config.domain, mint, &bump], program);
    if *vault.address().as_array() != address {
        return Err(Error::WrongAddress.into());
    }
    Ok(())
}

/// Refuses what is no token account of this mint, or is the vault itself.
#[inline(always)]
pub fn check_other(other: &AccountView, vault: &AccountView, mint: &Key) -> Outcome {
    let record = Account::from_account_view(other).map_err(|_| Error::WrongTokenAccount)?;
    if record.mint().as_array() != mint || other.address() == vault.address() {
        return Err(Error::WrongTokenAccount.into());
    }
    Ok(())
}
