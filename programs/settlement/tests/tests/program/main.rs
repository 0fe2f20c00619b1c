//! The built program, one file an instruction: what it does, and what it refuses.

mod accept_admin;
mod claim_unbonded;
mod close_by_payee;
mod deposit;
mod finalize_close;
mod init_config;
mod open_channel;
mod propose_admin;
mod register;
mod request_close;
mod rotate_key;
mod set_delegate;
mod settle;
mod slash;
mod stake;
mod sweep_fees;
mod tables;
mod top_up;
mod unstake;
mod update_config;
mod withdraw;
