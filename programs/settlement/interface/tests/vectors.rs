//! The bytes that are signed and hashed, from the vectors that the Python side reads too.

use std::path::Path;

use ed25519_dalek::{Signer, SigningKey, Verifier};
use serde_json::Value;
use settlement_interface::statement::{Lease, Voucher};
use sha2::{Digest, Sha256};

fn vectors() -> Value {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../protocol/vectors/settlement.json");
    let text = std::fs::read_to_string(path).expect("protocol/vectors/settlement.json is there");
    serde_json::from_str(&text).expect("the vectors are JSON")
}

fn bytes(value: &Value) -> Vec<u8> {
    let hex = value.as_str().expect("bytes are hex strings");
    (0..hex.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("bytes are hex strings"))
        .collect()
}

fn key(value: &Value) -> [u8; 32] {
    bytes(value).try_into().expect("keys and digests have 32 bytes")
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("numbers are not negative")
}

/// The statement's key made its signature, over exactly these bytes.
fn check_signature(vector: &Value, message: &[u8]) {
    assert_eq!(message, bytes(&vector["signing_bytes"]));
    let signer = SigningKey::from_bytes(&key(&vector["seed"]));
    let signature = signer.sign(message);
    assert_eq!(signer.verifying_key().to_bytes(), key(&vector["key"]));
    assert_eq!(signature.to_bytes().to_vec(), bytes(&vector["signature"]));
    signer.verifying_key().verify(message, &signature).expect("it verifies");
}

#[test]
fn a_voucher_has_the_bytes_of_the_vector() {
    let vector = &vectors()["voucher"];
    let voucher = Voucher {
        channel: key(&vector["channel"]),
        cumulative: number(&vector["cumulative"]),
        alloc_root: key(&vector["alloc_root"]),
    };
    let message = voucher.signing_bytes();
    check_signature(vector, &message);
    assert_eq!(Voucher::read(&message), Ok(voucher));
}

#[test]
fn leases_have_the_bytes_of_the_vectors() {
    let vectors = vectors();
    for name in ["lease", "conflicting_lease"] {
        let vector = &vectors[name];
        let lease = Lease {
            stake: key(&vector["stake"]),
            agreement: key(&vector["agreement"]),
            payer: key(&vector["payer"]),
            slots: number(&vector["slots"]),
            start: number(&vector["start"]) as i64,
            end: number(&vector["end"]) as i64,
        };
        check_signature(vector, &lease.signing_bytes());
    }
}

#[test]
fn closed_sums_and_allocation_roots_chain_as_in_the_vectors() {
    let vectors = vectors();
    let vector = &vectors["closed"];
    let closed = Sha256::new()
        .chain_update(b"RCALLC01")
        .chain_update(key(&vector["previous"]))
        .chain_update(key(&vector["agreement"]))
        .chain_update(number(&vector["amount"]).to_le_bytes())
        .chain_update(key(&vector["receipt"]))
        .finalize();
    assert_eq!(closed[..], key(&vector["closed"]));

    let vector = &vectors["alloc_root"];
    let open = vector["open"].as_array().expect("open is a list");
    let mut root = Sha256::new()
        .chain_update(b"RCALLO01")
        .chain_update(number(&vector["sequence"]).to_le_bytes())
        .chain_update(key(&vector["closed"]))
        .chain_update((open.len() as u16).to_le_bytes());
    for one in open {
        root.update(key(&one["agreement"]));
        root.update(number(&one["paid"]).to_le_bytes());
    }
    assert_eq!(root.finalize()[..], key(&vector["root"]));
}
