//! Anchor's discriminators, so that clients with an Anchor-style coder need nothing special.

/// The first eight bytes of `SHA256("<namespace>:<name>")`, worked out by the compiler.
pub const fn discriminator(namespace: &str, name: &str) -> [u8; 8] {
    let (head, tail) = (namespace.as_bytes(), name.as_bytes());
    let length = head.len() + 1 + tail.len();
    assert!(length <= 55, "one SHA-256 block holds 55 bytes of message");
    let mut block = [0u8; 64];
    let mut i = 0;
    while i < length {
        block[i] = if i < head.len() {
            head[i]
        } else if i == head.len() {
            b':'
        } else {
            tail[i - head.len() - 1]
        };
        i += 1;
    }
    block[length] = 0x80;
    let bits = ((length * 8) as u16).to_be_bytes();
    block[62] = bits[0];
    block[63] = bits[1];
    let [a, b, ..] = compress(&block);
    let (a, b) = (a.to_be_bytes(), b.to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
}

/// The chaining value after one block, from SHA-256's start.
const fn compress(block: &[u8; 64]) -> [u32; 8] {
    let mut schedule = [0u32; 64];
    let mut t = 0;
    while t < 64 {
        schedule[t] = if t < 16 {
            u32::from_be_bytes([block[4 * t], block[4 * t + 1], block[4 * t + 2], block[4 * t + 3]])
        } else {
            let (x, y) = (schedule[t - 15], schedule[t - 2]);
            let low = x.rotate_right(7) ^ x.rotate_right(18) ^ (x >> 3);
            let high = y.rotate_right(17) ^ y.rotate_right(19) ^ (y >> 10);
            schedule[t - 16].wrapping_add(low).wrapping_add(schedule[t - 7]).wrapping_add(high)
        };
        t += 1;
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = START;
    t = 0;
    while t < 64 {
        let sum = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let choice = (e & f) ^ (!e & g);
        let one = h
            .wrapping_add(sum)
            .wrapping_add(choice)
            .wrapping_add(ROUND[t])
            .wrapping_add(schedule[t]);
        let sum = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let majority = (a & b) ^ (a & c) ^ (b & c);
        (h, g, f, e) = (g, f, e, d.wrapping_add(one));
        (d, c, b, a) = (c, b, a, one.wrapping_add(sum.wrapping_add(majority)));
        t += 1;
    }
    let end = [a, b, c, d, e, f, g, h];
    let mut out = START;
    t = 0;
    while t < 8 {
        out[t] = out[t].wrapping_add(end[t]);
        t += 1;
    }
    out
}

const START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

const ROUND: [u32; 64] = [
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
];

#[cfg(test)]
mod tests {
    use super::discriminator;
    use sha2::{Digest, Sha256};

    #[test]
    fn every_length_of_one_block_agrees_with_sha256() {
        let name = "abcdefghijklmnopqrstuvwxyz_0123456789_abcdefghij";
        for end in 0..=name.len() {
            let name = &name[..end];
            let digest = Sha256::digest(format!("global:{name}"));
            assert_eq!(discriminator("global", name), digest[..8]);
        }
    }
}
