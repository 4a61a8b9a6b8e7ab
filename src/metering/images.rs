//! Tokens of images: the size from the header bytes of a `data:` URL, the price from the model's
//! rule. Nothing is ever fetched.

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::general_purpose::GeneralPurposeConfig;

use crate::openai::unescape::unescape_text;

/// How much of a data URL is looked at. A JPEG's size stands behind its thumbnail and colour
/// profile, of up to 64 KiB each.
const PREFIX_BYTES: usize = 256 * 1024;
/// Enough for the header of any other format.
const SHORT_BYTES: usize = 128;

/// Side of a square that stands for an image of unknown size.
const USUAL_SIDE: u64 = 1024;
/// Most pixels on a side that are believed.
const MOST_SIDE: u64 = 1 << 31;

/// Cut anywhere: trailing bits of the last character belong to what is not looked at.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) width: u64,
    pub(super) height: u64,
}

impl Size {
    /// Stands for an unknown one.
    pub(super) const USUAL: Self = Self { width: USUAL_SIDE, height: USUAL_SIDE };
}

/// How a family of models bills an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// By tiles of 512 x 512 after fitting into 2048 x 2048 and a short side of 768.
    Tiles { base: u64, tile: u64 },
    /// By patches of 32 x 32, at most 1536, times a factor in percent, plus one.
    Patches { percent: u64 },
}

impl Rule {
    /// The rule of a model, by its name without `ft:`.
    pub(super) fn of(model: &str) -> Self {
        let starts = |name: &&str| model.starts_with(*name);
        if starts(&"gpt-4o-mini") {
            return Self::Tiles { base: 2833, tile: 5667 };
        }
        let patches = [
            ("gpt-4.1-mini", 162),
            ("gpt-4.1-nano", 246),
            ("o4-mini", 172),
            ("gpt-5-mini", 120),
            ("gpt-5-nano", 150),
        ];
        if let Some((_, percent)) = patches.iter().find(|(name, _)| starts(name)) {
            return Self::Patches { percent: *percent };
        }
        if starts(&"gpt-5") || starts(&"gpt-6") {
            return Self::Tiles { base: 70, tile: 140 };
        }
        if starts(&"o1") || starts(&"o3") {
            return Self::Tiles { base: 75, tile: 150 };
        }
        Self::Tiles { base: 85, tile: 170 }
    }

    /// The tokens of an image.
    pub(super) fn tokens(self, size: Size) -> u64 {
        match self {
            Self::Tiles { base, tile } => base + tile * tiles(size),
            Self::Patches { percent } => {
                let patches = size.width.div_ceil(32).saturating_mul(size.height.div_ceil(32));
                (patches.min(1536) * percent).div_ceil(100) + 1
            }
        }
    }

    /// The tokens of an image that the request wants seen in low detail, where its size is of no
    /// account.
    pub(super) fn low(self) -> Option<u64> {
        match self {
            Self::Tiles { base, .. } => Some(base),
            Self::Patches { .. } => None,
        }
    }
}

/// Tiles of an image once it is scaled down. Sides are fractions, scaled by `num / den`.
fn tiles(size: Size) -> u64 {
    let long = size.width.max(size.height).max(1);
    let short = size.width.min(size.height).max(1);
    // The stronger of 2048 / long and 768 / short, and never enlarging.
    let (num, den) = if 2048 * short < 768 * long { (2048, long) } else { (768, short) };
    let (num, den) = if num < den { (num, den) } else { (1, 1) };
    let side = |pixels: u64| (pixels * num).div_ceil(den * 512).max(1);
    side(size.width) * side(size.height)
}

/// The size of the image in a `data:` URL, given as JSON, from the bytes of its header; None where
/// there is none, or where it is not base64 of PNG, JPEG, GIF or WebP.
pub(super) fn size_of(json: &str) -> Option<Size> {
    let head = json.get(1..json.floor_char_boundary(PREFIX_BYTES))?;
    let url = unescape_text(head.trim_end_matches('"').as_bytes());
    let (kind, data) = url.strip_prefix("data:")?.split_once(',')?;
    if !kind.ends_with(";base64") {
        return None;
    }
    let head = decode(data, SHORT_BYTES)?;
    let size = match head.as_slice() {
        [0xFF, 0xD8, ..] => jpeg(&decode(data, PREFIX_BYTES)?),
        head => png(head).or_else(|| gif(head)).or_else(|| webp(head)),
    }?;
    let believable = |side: u64| (1..MOST_SIDE).contains(&side);
    (believable(size.width) && believable(size.height)).then_some(size)
}

fn decode(data: &str, bytes: usize) -> Option<Vec<u8>> {
    let data = data.as_bytes();
    let data = data.get(..bytes).unwrap_or(data);
    // A single character in the last group of four says nothing yet.
    let whole = if data.len() % 4 == 1 { data.len() - 1 } else { data.len() };
    BASE64.decode(data.get(..whole)?).ok()
}

fn be16(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 2)?;
    Some(bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn le(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + width)?;
    Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn png(head: &[u8]) -> Option<Size> {
    let is_png = head.starts_with(b"\x89PNG\r\n\x1a\n") && head.get(12..16)? == b"IHDR";
    let be32 = |at| Some(be16(head, at)? << 16 | be16(head, at + 2)?);
    is_png.then_some(Size { width: be32(16)?, height: be32(20)? })
}

fn gif(head: &[u8]) -> Option<Size> {
    let is_gif = head.starts_with(b"GIF87a") || head.starts_with(b"GIF89a");
    is_gif.then_some(Size { width: le(head, 6, 2)?, height: le(head, 8, 2)? })
}

fn webp(head: &[u8]) -> Option<Size> {
    if !head.starts_with(b"RIFF") || head.get(8..12)? != b"WEBP" {
        return None;
    }
    match head.get(12..16)? {
        // Lossy: behind the frame's start code, 14 bits each.
        b"VP8 " => {
            (head.get(23..26)? == b"\x9d\x01\x2a").then_some(())?;
            Some(Size { width: le(head, 26, 2)? & 0x3FFF, height: le(head, 28, 2)? & 0x3FFF })
        }
        // Lossless: 14 bits each, less one.
        b"VP8L" => {
            let bits = le(head, 21, 4)?;
            Some(Size { width: (bits & 0x3FFF) + 1, height: (bits >> 14 & 0x3FFF) + 1 })
        }
        // Extended: 24 bits each, less one.
        b"VP8X" => Some(Size { width: le(head, 24, 3)? + 1, height: le(head, 27, 3)? + 1 }),
        _ => None,
    }
}

/// Goes from segment to segment until the one that starts the frame.
fn jpeg(bytes: &[u8]) -> Option<Size> {
    let mut at = 2;
    loop {
        let (&0xFF, &marker) = (bytes.get(at)?, bytes.get(at + 1)?) else { return None };
        match marker {
            // Fill bytes, and markers without a length.
            0xFF => at += 1,
            0x01 | 0xD0..=0xD8 => at += 2,
            // Frames, but for tables (C4), extensions (C8) and arithmetic conditioning (CC).
            0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                return Some(Size { width: be16(bytes, at + 7)?, height: be16(bytes, at + 5)? });
            }
            // The image's data or end: too late.
            0xD9 | 0xDA => return None,
            _ => at += 2 + usize::try_from(be16(bytes, at + 2)?).ok()?,
        }
    }
}
