//! SHA-256 of bytes, in the form that names of objects and rows are made of.

use std::fmt::Write as _;

use ring::digest;

/// A SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sha256([u8; 32]);

impl Sha256 {
    /// 64 hex digits.
    pub(super) fn hex(self) -> String {
        hex(&self.0)
    }

    /// The first half: enough to tell rows apart.
    pub(super) fn half(self) -> [u8; 16] {
        self.0.first_chunk().copied().unwrap_or_default()
    }
}

pub(super) fn sha256(bytes: &[u8]) -> Sha256 {
    of(&digest::digest(&digest::SHA256, bytes))
}

/// Grows with what is written.
pub(super) struct Growing(digest::Context);

impl Growing {
    pub(super) fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> Sha256 {
        of(&self.0.finish())
    }
}

/// Bytes as hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn of(digest: &digest::Digest) -> Sha256 {
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    Sha256(bytes)
}
