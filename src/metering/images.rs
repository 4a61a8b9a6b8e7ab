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
pub(super) fn size_of(json: &[u8]) -> Option<Size> {
    let head = json.get(1..json.len().min(PREFIX_BYTES))?;
    let url = unescape_text(head.strip_suffix(b"\"").unwrap_or(head));
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn url(kind: &str, bytes: &[u8]) -> String {
        let data = base64::engine::general_purpose::STANDARD.encode(bytes);
        format!("\"data:image/{kind};base64,{data}\"")
    }

    fn size(width: u64, height: u64) -> Size {
        Size { width, height }
    }

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\x02\x80\0\0\x01\xe0\x08\x06";

    #[test]
    fn a_size_is_read_from_the_header_of_every_format() {
        assert_eq!(size_of(url("png", PNG).as_bytes()), Some(size(640, 480)));
        assert_eq!(
            size_of(url("gif", b"GIF89a\x40\x01\xf0\0\0\0").as_bytes()),
            Some(size(320, 240))
        );
        let lossy = b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a\x40\x41\xf0\x40";
        assert_eq!(size_of(url("webp", lossy).as_bytes()), Some(size(320, 240)));
        // 319 in the low 14 bits, 239 in the next: 0x013f | 0xef << 14.
        let lossless = b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f\x3f\xc1\x3b\0";
        assert_eq!(size_of(url("webp", lossless).as_bytes()), Some(size(320, 240)));
        let extended = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x3f\x01\0\xef\0\0";
        assert_eq!(size_of(url("webp", extended).as_bytes()), Some(size(320, 240)));
    }

    #[test]
    fn a_jpegs_size_stands_behind_its_thumbnail() {
        let mut jpeg = b"\xff\xd8\xff\xe1\xff\xff".to_vec();
        jpeg.resize(2 + 2 + 0xffff, 0x55);
        // A fill byte, a table of codes, then the frame: 8 bits, 480 high, 640 wide.
        jpeg.extend(b"\xff\xff\xc4\0\x03\0\xff\xc2\0\x11\x08\x01\xe0\x02\x80\x03");
        assert_eq!(size_of(url("jpeg", &jpeg).as_bytes()), Some(size(640, 480)));
        // Neither the picture's own data nor the end of what is looked at is searched.
        assert_eq!(
            size_of(
                url("jpeg", b"\xff\xd8\xff\xda\0\x04\0\0\xff\xc0\0\x11\x08\x01\xe0\x02\x80")
                    .as_bytes()
            ),
            None
        );
        let far = jpeg[..0x10001].repeat(5);
        assert_eq!(size_of(url("jpeg", &far).as_bytes()), None);
    }

    #[test]
    fn slashes_may_be_escaped() {
        let escaped = url("png", PNG).replace('/', "\\/");
        assert_eq!(size_of(escaped.as_bytes()), Some(size(640, 480)));
    }

    #[test]
    fn what_is_no_image_has_no_size() {
        let zero = [&PNG[..16], &[0; 10]].concat();
        for other in [
            url("png", b"\x89PNG"),
            url("png", &zero),
            url("svg+xml", b"<svg width='1'/>"),
            "\"https://example.com/a.png\"".to_owned(),
            "\"data:image/png,abc\"".to_owned(),
            "\"data:image/png;base64,@@@@\"".to_owned(),
            "\"data:\"".to_owned(),
            "\"\"".to_owned(),
        ] {
            assert_eq!(size_of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn tiles_are_counted_after_scaling_down() {
        let gpt_4o = Rule::of("gpt-4o-2024-08-06");
        // 512 x 512 is one tile; 1024 x 1024 becomes 768 x 768, 2 by 2.
        assert_eq!(gpt_4o.tokens(size(512, 512)), 85 + 170);
        assert_eq!(gpt_4o.tokens(size(1024, 1024)), 85 + 170 * 4);
        // 2048 x 4096 becomes 1024 x 2048, then 768 x 1536: 2 by 3.
        assert_eq!(gpt_4o.tokens(size(2048, 4096)), 85 + 170 * 6);
        // Nothing is enlarged: 640 x 480 is 2 by 1.
        assert_eq!(Rule::of("gpt-4o-mini").tokens(size(640, 480)), 2833 + 5667 * 2);
        assert_eq!(Rule::of("gpt-5").tokens(size(1, 1)), 70 + 140);
        assert_eq!(Rule::of("o3").tokens(size(10_000, 1)), 75 + 150 * 4);
        assert_eq!(gpt_4o.low(), Some(85));
    }

    #[test]
    fn patches_are_counted_up_to_1536() {
        // 640 x 480 is 20 by 15: 300 x 1.62 = 486, and one.
        assert_eq!(Rule::of("gpt-4.1-mini").tokens(size(640, 480)), 487);
        // 33 x 1 is 2 by 1: 2 x 2.46 = 4.92, rounded up.
        assert_eq!(Rule::of("gpt-4.1-nano").tokens(size(33, 1)), 5 + 1);
        assert_eq!(Rule::of("gpt-5-nano").tokens(size(9999, 9999)), 1536 * 3 / 2 + 1);
        assert_eq!(Rule::of("gpt-5-mini").low(), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), cut in 0..200_usize) {
            let heads: [&[u8]; 4] = [b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8", b"GIF89a", PNG];
            for head in heads {
                let url = url("x", &[head, &bytes].concat());
                size_of(url.as_bytes());
                size_of(url.as_bytes().get(..cut).unwrap_or(b"\""));
            }
        }

        #[test]
        fn any_size_has_a_number(width in 1..MOST_SIDE, height in 1..MOST_SIDE) {
            for model in ["gpt-4o", "gpt-4o-mini", "gpt-5-nano", "o1"] {
                prop_assert!((1..100_000).contains(&Rule::of(model).tokens(size(width, height))));
            }
        }
    }
}
