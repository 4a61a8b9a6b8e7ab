//! Packs the vocabularies of tiktoken-rs into files that the program holds: a length and bytes for each rank, in
//! the order of ranks, 0 where there is no ordinary token. Read at run time from tiktoken-rs itself they cost half a
//! second, and 30 MB that the allocator keeps.

use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::path::Path;

use tiktoken_rs::CoreBPE;

/// Ranks are asked for up to here.
const RANKS: u32 = 1 << 18;

#[expect(clippy::disallowed_methods, reason = "cargo tells a build script so where it may write")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let out = std::env::var("OUT_DIR")?;
    for (name, bpe) in [
        ("o200k", tiktoken_rs::o200k_base()?),
        ("cl100k", tiktoken_rs::cl100k_base()?),
        ("p50k", tiktoken_rs::p50k_base()?),
        ("r50k", tiktoken_rs::r50k_base()?),
    ] {
        fs::write(Path::new(&out).join(format!("{name}.vocabulary")), packed(&bpe)?)?;
    }
    Ok(())
}

fn packed(bpe: &CoreBPE) -> Result<Vec<u8>, Box<dyn Error>> {
    let special: HashSet<&[u8]> = bpe.special_tokens().iter().map(|text| text.as_bytes()).collect();
    let (mut out, mut end) = (Vec::new(), 0);
    for rank in 0..RANKS {
        let token = bpe.decode_bytes(&[rank]).ok().filter(|token| !special.contains(&token[..]));
        let token = token.unwrap_or_default();
        out.push(u8::try_from(token.len())?);
        out.extend_from_slice(&token);
        if !token.is_empty() {
            end = out.len();
        }
    }
    out.truncate(end);
    Ok(out)
}
