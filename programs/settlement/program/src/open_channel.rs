use settlement_interface::{
    error::Error,
    event::ChannelOpened,
    instruction::OpenChannel,
    rules, seeds,
    state::{Balance, Channel, Config, OPEN, Record},
};

use crate::{
    Call,
    access::{create, load, load_mut, signed},
    chain::{emit, now},
    creation::Creation,
    fault::Outcome,
};

/// Set money aside for a payee.
///
/// # Accounts expected
/// 0. `[signer]` authority: the payer, or the delegate of its Balance
/// 1. `[signer, writable]` rent_payer: gets the channel's lamports back when it closes
/// 2. `[writable]` payer_balance
/// 3. `[writable]` channel: PDA `channel`, domain, payer, payee, mint, nonce
/// 4. `[]` config
/// 5. `[]` system_program
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    let args = OpenChannel::read(call.arguments)?;
    let [authority, rent_payer, payer_balance, channel, config, ..] = &mut *call.accounts else {
        return Err(Error::MissingAccount.into());
    };
    signed(authority)?;
    if args.payee == [0; 32] || args.voucher_key == [0; 32] {
        return Err(Error::ZeroKey.into());
    }
    let (domain, fee_bps) = {
        let config = load::<Config>(config, call.program)?;
        if config.paused != 0 {
            return Err(Error::Paused.into());
        }
        rules::check_challenge(args.challenge_s, config.min_challenge_s())?;
        (config.domain, config.header.fee_bps())
    };
    let (payer, mint) = {
        let mut balance = load_mut::<Balance>(payer_balance, call.program)?;
        let actor = rules::actor(&balance, authority.address().as_array(), now()?)?;
        if args.nonce != balance.next_nonce() {
            return Err(Error::WrongNonce.into());
        }
        balance.set_next_nonce(rules::add(args.nonce, 1)?);
        rules::commit(&mut balance, actor, args.deposit)?;
        (balance.owner, balance.mint)
    };
    let nonce = args.nonce.to_le_bytes();
    let bump = Creation {
        program: call.program,
        rent_payer,
        account: channel,
        seeds: &[seeds::CHANNEL, &domain, &payer, &args.payee, &mint, &nonce],
        size: Channel::SIZE,
        owner: call.program,
    }
    .perform()?;
    let address = channel.address().to_bytes();
    let mut record = create::<Channel>(channel, bump)?;
    record.header.state = OPEN;
    record.header.set_fee_bps(fee_bps);
    record.payer = payer;
    record.payee = args.payee;
    record.voucher_key = args.voucher_key;
    record.mint = mint;
    record.rent_payer = rent_payer.address().to_bytes();
    record.set_nonce(args.nonce);
    record.set_deposit(args.deposit);
    record.set_challenge_s(args.challenge_s);
    emit(
        &ChannelOpened {
            channel: address,
            payer,
            payee: args.payee,
            mint,
            voucher_key: args.voucher_key,
            nonce: args.nonce,
            deposit: args.deposit,
            challenge_s: args.challenge_s,
            fee_bps,
        }
        .bytes(),
    );
    Ok(())
}
