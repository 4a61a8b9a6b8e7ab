//! Webhooks of a trainer: whether one is from it. Signed as Standard Webhooks has it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// How far a clock may be off, in seconds, both ways (OpenAI's own client, 2026).
const TOLERANCE_S: i64 = 300;

/// The headers of a webhook.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// `webhook-id`.
    pub id: &'a str,
    /// `webhook-timestamp`, in seconds since 1970.
    pub timestamp: &'a str,
    /// `webhook-signature`: any of several, `v1,` and base64, with blanks between them.
    pub signatures: &'a str,
}

impl Signed<'_> {
    /// Holds a body against its signature at a time in seconds since 1970.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn verify(&self, secret: &str, body: &[u8], now_s: i64) -> Result<(), &'static str> {
        let sent = self.timestamp.parse::<i64>();
        let sent = sent.map_err(|_| "The header webhook-timestamp is missing or no number.")?;
        if self.id.is_empty() {
            return Err("The header webhook-id is missing.");
        }
        if now_s.saturating_sub(sent).saturating_abs() > TOLERANCE_S {
            return Err("The webhook is more than five minutes old, or a clock is wrong.");
        }
        let coded = secret.strip_prefix("whsec_").and_then(|coded| STANDARD.decode(coded).ok());
        let key = coded.unwrap_or_else(|| secret.as_bytes().to_vec());
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let mut signed = format!("{}.{sent}.", self.id).into_bytes();
        signed.extend_from_slice(body);
        let fits = |signature: &str| {
            let tag = signature.strip_prefix("v1,").and_then(|coded| STANDARD.decode(coded).ok());
            // Takes the same time whatever is wrong with it.
            tag.is_some_and(|tag| hmac::verify(&key, &signed, &tag).is_ok())
        };
        if self.signatures.split(' ').any(fits) {
            return Ok(());
        }
        Err("No signature of the webhook fits; check `trainer.webhook_secret`.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the test suite of the reference libraries.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNED: Signed<'_> = Signed {
        id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp: "1614265330",
        signatures: "v1,AAAA v2,x v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    };
    const SENT: i64 = 1_614_265_330;

    #[test]
    fn the_published_vector_fits_within_five_minutes() {
        for now in [SENT - 300, SENT, SENT + 300] {
            assert_eq!(SIGNED.verify(SECRET, BODY, now), Ok(()));
        }
        for now in [SENT - 301, SENT + 301] {
            assert!(SIGNED.verify(SECRET, BODY, now).unwrap_err().contains("five minutes"));
        }
    }

    #[test]
    fn nothing_of_it_can_be_changed() {
        let cases = [
            (Signed { id: "msg_other", ..SIGNED }, SECRET, BODY),
            (Signed { timestamp: "1614265331", ..SIGNED }, SECRET, BODY),
            (Signed { signatures: "", ..SIGNED }, SECRET, BODY),
            (Signed { signatures: "v1,", ..SIGNED }, SECRET, BODY),
            (SIGNED, "whsec_AAAA", BODY),
            (SIGNED, SECRET, b"{}"),
        ];
        for (signed, secret, body) in cases {
            let why = signed.verify(secret, body, SENT).unwrap_err();
            assert!(why.contains("No signature"), "{signed:?}: {why}");
        }
        let late = Signed { timestamp: "", ..SIGNED };
        assert!(late.verify(SECRET, BODY, SENT).unwrap_err().contains("webhook-timestamp"));
    }
}
