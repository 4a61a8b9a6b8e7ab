//! Signatures as Standard Webhooks has them (<https://www.standardwebhooks.com>, version 1).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::SecureRandom as _;
use ring::rand::SystemRandom;

const PREFIX: &str = "whsec_";
/// Bytes of a secret that is made here.
const BYTES: usize = 32;

/// A new secret: `whsec_` and base64. `None` where the system has no randomness.
pub fn new_secret() -> Option<String> {
    let mut bytes = [0; BYTES];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(format!("{PREFIX}{}", STANDARD.encode(bytes)))
}

/// Whether a secret is `whsec_` and base64 of 24 to 64 bytes, as Standard Webhooks has it.
pub fn is_secret(text: &str) -> bool {
    let coded = text.strip_prefix(PREFIX).and_then(|coded| STANDARD.decode(coded).ok());
    coded.is_some_and(|bytes| (24..=64).contains(&bytes.len()))
}

/// The header `webhook-signature` of a message.
pub(super) fn signature(secret: &[u8], id: &str, timestamp_s: u64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key_of(secret));
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{id}.{timestamp_s}.").as_bytes());
    context.update(body);
    format!("v1,{}", STANDARD.encode(context.sign()))
}

/// `whsec_` and base64 stand for bytes; any other secret is taken as it is.
fn key_of(secret: &[u8]) -> Vec<u8> {
    let coded = secret.strip_prefix(PREFIX.as_bytes());
    coded.and_then(|coded| STANDARD.decode(coded).ok()).unwrap_or_else(|| secret.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_published_vector() {
        // From the test suite of the reference libraries.
        let secret = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let body = br#"{"test": 2432232314}"#;
        let signed = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
