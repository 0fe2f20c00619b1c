use pinocchio::{AccountView, Address};
use pinocchio_token::{instructions::InitializeAccount3, state::Account};
use settlement_interface::{
    MINTS,
    error::Error,
    event::ConfigChanged,
    instruction::InitConfig,
    rules, seeds,
    state::{Config, Record},
};

use crate::{
    Call,
    access::{create, signed},
    chain::{emit, sha256},
    creation::Creation,
    fault::Outcome,
    token::check_mint,
};

const LOADER: Address = Address::from_str_const("BPFLoaderUpgradeab1e11111111111111111111111");
const NONE: [u8; 32] = [0; 32];

/// Create Config and the vaults.
///
/// # Accounts expected
/// 0. `[signer, writable]` authority: the program's upgrade authority; pays the rent
/// 1. `[writable]` config: PDA `config`, does not exist yet
/// 2. `[]` program_data: the upgradeable loader's account of this program
/// 3. `[]` mint0: classic token mint, six decimals
/// 4. `[writable]` vault0: PDA `vault`, domain, mint0
/// 5. `[]` mint1: another such mint, or the zero address for none
/// 6. `[writable]` vault1: PDA `vault`, domain, mint1; not used where mint1 is none
/// 7. `[]` vault_authority: PDA `auth`, domain
/// 8. `[]` token_program
/// 9. `[]` system_program
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    let args = InitConfig::read(call.arguments)?;
    let [authority, config, program_data, mint0, vault0, mint1, vault1, vault_authority, ..] =
        &mut *call.accounts
    else {
        return Err(Error::MissingAccount.into());
    };
    signed(authority)?;
    check_upgrade_authority(program_data, authority, call.program)?;
    rules::check_settings(args.fee_bps, args.slash_bps, args.unbond_s, args.min_challenge_s)?;
    if args.admin == NONE || args.treasury == NONE {
        return Err(Error::ZeroKey.into());
    }
    let bump = Creation {
        program: call.program,
        rent_payer: authority,
        account: config,
        seeds: &[seeds::CONFIG],
        size: Config::SIZE,
        owner: call.program,
    }
    .perform()?;
    let domain = sha256(&seeds::domain_parts(&args.genesis_hash.0, call.program.as_array()));
    let (auth, auth_bump) = Address::find_program_address(&[seeds::AUTH, &domain], call.program);
    if auth != *vault_authority.address() {
        return Err(Error::WrongAddress.into());
    }
    if mint0.address() == mint1.address() {
        return Err(Error::WrongMint.into());
    }

    let mut mints = [NONE; MINTS];
    let mut vault_bumps = [0; MINTS];
    for (i, (mint, vault)) in [(mint0, vault0), (mint1, vault1)].into_iter().enumerate() {
        let address = mint.address().to_bytes();
        if i > 0 && address == NONE {
            continue;
        }
        check_mint(mint)?;
        vault_bumps[i] = Creation {
            program: call.program,
            rent_payer: authority,
            account: vault,
            seeds: &[seeds::VAULT, &domain, &address],
            size: Account::LEN,
            owner: &pinocchio_token::ID,
        }
        .perform()?;
        InitializeAccount3::new(vault, mint, &auth).invoke()?;
        mints[i] = address;
    }

    let mut record = create::<Config>(config, bump)?;
    record.header.set_fee_bps(args.fee_bps);
    record.admin = args.admin;
    record.treasury = args.treasury;
    record.mints = mints;
    record.domain = domain;
    record.set_slot_stake(args.slot_stake);
    record.set_unbond_s(args.unbond_s);
    record.set_min_challenge_s(args.min_challenge_s);
    record.set_slash_bps(args.slash_bps);
    record.auth_bump = auth_bump;
    record.vault_bumps = vault_bumps;
    emit(
        &ConfigChanged {
            admin: args.admin,
            treasury: args.treasury,
            slot_stake: args.slot_stake,
            unbond_s: args.unbond_s,
            min_challenge_s: args.min_challenge_s,
            fee_bps: args.fee_bps,
            slash_bps: args.slash_bps,
            paused: false,
        }
        .bytes(),
    );
    Ok(())
}

/// Without this, whoever sends the first transaction would own the deployment.
#[inline(never)]
fn check_upgrade_authority(
    program_data: &AccountView,
    authority: &AccountView,
    program: &Address,
) -> Outcome {
    let (address, _) = Address::find_program_address(&[program.as_array()], &LOADER);
    if *program_data.address() != address || !program_data.owned_by(&LOADER) {
        return Err(Error::WrongAddress.into());
    }
    // Kind u32 (3 is ProgramData), slot u64, whether there is an authority u8, authority.
    let data = program_data.try_borrow()?;
    let known = data.len() >= 45 && data[..4] == [3, 0, 0, 0] && data[12] == 1;
    if !known || data[13..45] != *authority.address().as_array() {
        return Err(Error::NotUpgradeAuthority.into());
    }
    Ok(())
}
