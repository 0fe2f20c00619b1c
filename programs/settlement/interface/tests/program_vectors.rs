//! Instructions, events and accounts byte by byte, from the vectors that the Python side reads too.

use std::path::Path;

use serde_json::Value;
use settlement_interface::{
    event::{self, EVENTS},
    instruction::{self, INSTRUCTIONS},
    layout::FieldSpec,
    state::{Balance, Channel, Config, Record, Stake},
};

fn vectors() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors/program.json");
    let text = std::fs::read_to_string(path).expect("protocol/vectors/program.json is there");
    serde_json::from_str(&text).expect("the vectors are JSON")
}

fn bytes(value: &Value) -> Vec<u8> {
    let hex = value.as_str().expect("bytes are hex strings");
    (0..hex.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("bytes are hex strings"))
        .collect()
}

/// The fields of a table, as the vector has them, one after another.
fn packed(fields: &[FieldSpec], values: &Value) -> Vec<u8> {
    let names: Vec<_> = values.as_object().expect("named values").keys().collect();
    assert_eq!(names.len(), fields.len());
    let mut out = Vec::new();
    for field in fields {
        let value = &values[field.name];
        let signed = || value.as_i64().expect("a number");
        let number = || value.as_u64().expect("a number");
        match field.idl.trim_matches('"') {
            "u8" => out.push(number() as u8),
            "u16" => out.extend((number() as u16).to_le_bytes()),
            "u64" => out.extend(number().to_le_bytes()),
            "i64" => out.extend(signed().to_le_bytes()),
            "bool" => out.push(value.as_bool().expect("a truth").into()),
            _ => out.extend(bytes(value)),
        }
    }
    out
}

/// Reading and writing again gives the same bytes, for each of these types.
macro_rules! round_trips {
    ($vectors:expr, $data:expr, $module:ident: $($type:ident),+ $(,)?) => {{
        let mut count = 0;
        $(
            let data = bytes(&$vectors[$data(stringify!($type))]["data"]);
            let read = $module::$type::read(&data[8..]).expect("the vector is well formed");
            let mut again = [0; $module::$type::SIZE];
            read.write(&mut again);
            assert_eq!(data[..8], $module::$type::DISCRIMINATOR);
            assert_eq!(data[8..], again);
            count += 1;
        )+
        count
    }};
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for (i, one) in name.char_indices() {
        if one.is_uppercase() && i > 0 {
            out.push('_');
        }
        out.push(one.to_ascii_lowercase());
    }
    out
}

#[test]
fn instructions_have_the_bytes_of_the_vectors() {
    let vectors = &vectors()["instructions"];
    assert_eq!(vectors.as_object().expect("named").len(), INSTRUCTIONS.len());
    for one in INSTRUCTIONS {
        let data = bytes(&vectors[one.name]["data"]);
        let arguments = packed(one.arguments, &vectors[one.name]["arguments"]);
        assert_eq!(data, [&one.discriminator[..], &arguments].concat(), "{}", one.name);
    }
    let count = round_trips!(
        vectors, snake, instruction: InitConfig, UpdateConfig, Deposit, Withdraw, SetDelegate,
        OpenChannel, TopUp, Settle, CloseByPayee, RequestClose, FinalizeClose, Register, Stake,
        SweepFees, Unstake, ClaimUnbonded, RotateKey, ProposeAdmin, AcceptAdmin, Slash
    );
    assert_eq!(count, INSTRUCTIONS.len());
}

#[test]
fn events_have_the_bytes_of_the_vectors() {
    let vectors = &vectors()["events"];
    assert_eq!(vectors.as_object().expect("named").len(), EVENTS.len());
    for one in EVENTS {
        let data = bytes(&vectors[one.name]["data"]);
        let fields = packed(one.fields, &vectors[one.name]["fields"]);
        assert_eq!(data, [&one.discriminator[..], &fields].concat(), "{}", one.name);
    }
    let count = round_trips!(
        vectors, str::to_owned, event: ConfigChanged, Deposited, Withdrawn, DelegateSet,
        ChannelOpened, ToppedUp, Settled, CloseRequested, ChannelClosed, Registered, Staked,
        FeesSwept, Unstaked, UnbondedClaimed, KeyRotated, AdminProposed, AdminChanged, Slashed
    );
    assert_eq!(count, EVENTS.len());
}

/// A record's fields under their names, as the vectors have them.
macro_rules! fields {
    ($record:expr, $header:expr, keys: [$($key:ident),*], numbers: [$($number:ident),*]) => {{
        let (record, header) = ($record, $header);
        vec![
            ("bump", Value::from(header.bump)),
            ("state", Value::from(header.state)),
            ("fee_bps", Value::from(header.fee_bps())),
            $((stringify!($key), hex(&record.$key)),)*
            $((stringify!($number), Value::from(record.$number())),)*
        ]
    }};
}

fn hex(key: &[u8; 32]) -> Value {
    Value::from(key.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

#[test]
fn accounts_are_read_as_the_vectors_say() {
    let vectors = &vectors()["accounts"];
    let data = |name: &str| bytes(&vectors[name]["data"]);
    let compare = |name: &str, found: Vec<(&str, Value)>, others: usize| {
        let want = vectors[name]["fields"].as_object().expect("named");
        for (field, value) in &found {
            assert_eq!(want[*field], *value, "{name}.{field}");
        }
        assert_eq!(found.len() + others, want.len(), "{name}: some field was not looked at");
    };
    // `kind`, `version` and `reserved` were looked at by `load`, or mean nothing.
    const CHECKED: usize = 3;

    let bytes = data("Config");
    let one = Config::load(&bytes).expect("it is a Config");
    let mut found = fields!(one, one.header, keys: [admin, treasury, domain, pending_admin],
        numbers: [slot_stake, unbond_s, min_challenge_s, slash_bps]);
    found.extend([("mint0", hex(&one.mints[0])), ("mint1", hex(&one.mints[1]))]);
    found
        .extend([("paused", one.paused), ("auth_bump", one.auth_bump)].map(|(n, v)| (n, v.into())));
    found.push(("vault_bump0", one.vault_bumps[0].into()));
    found.push(("vault_bump1", one.vault_bumps[1].into()));
    compare("Config", found, CHECKED + 1);

    let bytes = data("Balance");
    let one = Balance::load(&bytes).expect("it is a Balance");
    let found = fields!(one, one.header, keys: [owner, mint, delegate],
        numbers: [available, fees_owed, fees_paid, next_nonce, allowance, delegate_expires]);
    compare("Balance", found, CHECKED);

    let bytes = data("Stake");
    let one = Stake::load(&bytes).expect("it is a Stake");
    let found = fields!(one, one.header, keys: [owner, mint, node_key, prev_key, rent_payer],
        numbers: [bonded, unbonding, unbond_at, rotated_at, watermark, slashed]);
    compare("Stake", found, CHECKED);

    let bytes = data("Channel");
    let one = Channel::load(&bytes).expect("it is a Channel");
    let found = fields!(one, one.header,
        keys: [payer, payee, voucher_key, mint, rent_payer, alloc_root],
        numbers: [nonce, deposit, settled, fee_taken, challenge_s, close_at]);
    compare("Channel", found, CHECKED);
}
