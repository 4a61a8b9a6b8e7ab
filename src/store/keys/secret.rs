//! The secret of a virtual key: `wk_`, 32 random bytes and a checksum, both in base62.

use ring::digest;
use ring::rand::SecureRandom as _;
use ring::rand::SystemRandom;

/// What every virtual key begins with, so that a scanner for leaked secrets knows one.
pub(super) const PREFIX: &str = "wk_";
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const RANDOM_BYTES: usize = 32;
/// 62^43 is the first power of 62 beyond 2^256.
const RANDOM_DIGITS: usize = 43;
/// 62^6 is the first beyond 2^32.
const CHECK_DIGITS: usize = 6;
/// Letters of the secret that its display shows at either end.
const SHOWN: usize = 4;

/// SHA-256 of a secret. Not salted and not slow: nobody guesses 256 random bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Digest(pub(super) [u8; 32]);

impl Digest {
    /// Of a key as a caller sends it.
    pub(super) fn of(secret: &[u8]) -> Self {
        let mut bytes = [0; 32];
        let hash = digest::digest(&digest::SHA256, secret);
        bytes.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
        Self(bytes)
    }

    /// As the store keeps it.
    pub(super) fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The same read back; `None` where it is something else.
    pub(super) fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return None;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

/// A new secret; `None` when the system has no randomness.
pub(super) fn generate() -> Option<String> {
    let mut bytes = [0; RANDOM_BYTES];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(written(bytes))
}

/// Whether the text can be a secret: a typo, a cut and another service's key are told without
/// asking anybody.
pub(super) fn is_well_formed(text: &[u8]) -> bool {
    let length = PREFIX.len() + RANDOM_DIGITS + CHECK_DIGITS;
    if text.len() != length || !text.starts_with(PREFIX.as_bytes()) {
        return false;
    }
    let (body, check) = text.split_at(length - CHECK_DIGITS);
    checksum(body) == check
}

/// What of a secret may be shown: its first and last letters.
pub(super) fn hint(secret: &str) -> String {
    let random = secret.strip_prefix(PREFIX).unwrap_or_default();
    let first: String = random.chars().take(SHOWN).collect();
    let last: String = random.chars().skip(random.len().saturating_sub(SHOWN)).collect();
    format!("{PREFIX}{first}…{last}")
}

fn written(mut bytes: [u8; RANDOM_BYTES]) -> String {
    let mut digits = [0; RANDOM_DIGITS];
    for digit in digits.iter_mut().rev() {
        // The long division of a number of 32 digits to the base of 256.
        let mut remainder = 0_u16;
        for byte in &mut bytes {
            let dividend = (remainder << 8) | u16::from(*byte);
            *byte = u8::try_from(dividend / 62).unwrap_or_default();
            remainder = dividend % 62;
        }
        *digit = letter(remainder.into());
    }
    let body = [PREFIX.as_bytes(), &digits].concat();
    let whole = [&body[..], &checksum(&body)].concat();
    String::from_utf8_lossy(&whole).into_owned()
}

/// CRC-32 of what is before it, as GitHub's tokens have it.
fn checksum(body: &[u8]) -> [u8; CHECK_DIGITS] {
    let mut sum = crc32fast::hash(body);
    let mut digits = [0; CHECK_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = letter(sum % 62);
        sum /= 62;
    }
    digits
}

fn letter(value: u32) -> u8 {
    let at = usize::try_from(value).unwrap_or_default();
    DIGITS.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_52_letters_and_tells_a_typo_by_itself() {
        let secret = generate().unwrap();
        assert_eq!(secret.len(), 3 + 43 + 6);
        assert!(is_well_formed(secret.as_bytes()), "{secret}");
        for at in 0..secret.len() {
            let mut wrong = secret.clone().into_bytes();
            wrong[at] = if wrong[at] == b'x' { b'y' } else { b'x' };
            assert!(!is_well_formed(&wrong), "{secret} with another letter at {at}");
        }
        assert!(!is_well_formed(&secret.as_bytes()[..51]), "cut");
        assert!(!is_well_formed(format!("{secret} ").as_bytes()));
        for other in ["", "wk_", "sk-proj-abc", "wk_\u{fe0f}\0"] {
            assert!(!is_well_formed(other.as_bytes()), "{other:?}");
        }
        assert_ne!(secret, generate().unwrap());
    }

    #[test]
    fn bytes_are_written_to_the_base_of_62() {
        assert!(written([0; 32]).starts_with(&format!("wk_{}", "0".repeat(43))));
        let mut one = [0; 32];
        // 0x0100 = 256 = 4 x 62 + 8
        one[30] = 1;
        assert!(written(one).starts_with(&format!("wk_{}48", "0".repeat(41))));
        assert!(is_well_formed(written([0xff; 32]).as_bytes()));
    }

    #[test]
    fn a_digest_is_read_back_and_a_hint_says_little() {
        let digest = Digest::of(b"abc");
        // The test vector of FIPS 180-2.
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_hex(), hex);
        assert_eq!(Digest::from_hex(hex).unwrap().0, digest.0);
        assert!(Digest::from_hex("ba78").is_none() && Digest::from_hex(&"é".repeat(32)).is_none());
        assert_eq!(hint("wk_abcdefghij"), "wk_abcd…ghij");
    }
}
