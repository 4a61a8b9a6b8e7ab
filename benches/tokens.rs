//! Times the token counter on texts that `benches/tokens.py` lays out, and on hostile ones.
//!
//! Not for criterion: `benches/tokens` runs it in turns with Python's tiktoken and prints ratios.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use weir::metering::tokens::Encoding;

const ENCODINGS: [&str; 2] = ["o200k_base", "cl100k_base"];
const HOSTILE_BYTES: usize = 1_000_000;

fn main() {
    // `cargo test` and `cargo bench` of everything give no folder.
    let Some(folder) = std::env::args_os().nth(1).filter(|folder| Path::new(folder).is_dir())
    else {
        eprintln!("benches/tokens says what this is");
        return;
    };
    load();
    for encoding in ENCODINGS {
        let encoding_of = Encoding::from_name(encoding).expect("a known name");
        for path in sorted(Path::new(&folder)) {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            texts(&name, encoding, encoding_of, &read(&path));
        }
        for (name, text) in hostile() {
            let (us, tokens) = timed(|| encoding_of.count(&text));
            report("hostile", &name, encoding, us, tokens, text.len());
        }
    }
}

/// Time and memory that each vocabulary costs, one after the other.
fn load() {
    for encoding in ENCODINGS {
        let before = resident_kb();
        let (us, _) = timed(|| Encoding::from_name(encoding).map(Encoding::warm));
        println!("load\t{encoding}\t{us}\t{}", resident_kb().saturating_sub(before));
    }
}

/// The first pass over documents, which no count has seen; the median of more passes; and what
/// they allocate.
fn texts(name: &str, encoding: &str, counter: Encoding, documents: &[String]) {
    let bytes: usize = documents.iter().map(String::len).sum();
    let pass = || documents.iter().map(|text| counter.count(text)).sum::<u64>();
    counter.count("Pneumonoultramicroscopicsilicovolcanoconiosis");
    let (first, tokens) = timed(pass);
    report("first", name, encoding, first, tokens, bytes);
    let passes = (500 * 1024 / bytes).clamp(3, 300);
    let mut again: Vec<f64> = (0..passes).map(|_| timed(pass).0).collect();
    again.sort_by(f64::total_cmp);
    report("again", name, encoding, again[passes / 2], tokens, bytes);
    let allocated = allocation_counter::measure(|| {
        black_box(pass());
    });
    println!("allocations\t{name}\t{encoding}\t{}", allocated.count_total);
}

fn report(kind: &str, name: &str, encoding: &str, us: f64, tokens: u64, bytes: usize) {
    println!("{kind}\t{name}\t{encoding}\t{us}\t{tokens}\t{bytes}");
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let result = black_box(work());
    (start.elapsed().as_secs_f64() * 1e6, result)
}

fn sorted(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder was there");
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> Vec<String> {
    let bytes = fs::read(path).expect("a readable file");
    serde_json::from_slice(&bytes).expect("a list of texts")
}

/// Resident memory as Linux tells it; 0 elsewhere.
fn resident_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Texts of a megabyte that are dear to count: one piece, or as many as can be, or the longest
/// tokens, or tokens that hardly fit.
fn hostile() -> Vec<(String, String)> {
    let units = [
        " ",
        "\t",
        "\n",
        "\r\n",
        "\u{a0}",
        "\u{3000}",
        " \n",
        "\t \n",
        "\0",
        "a",
        "A",
        "aA",
        "Aa",
        "ab",
        "abc",
        "e",
        "é",
        "ß",
        "你",
        "你好",
        "あ",
        "한",
        "ا",
        "й",
        "\u{301}",
        "0",
        "01",
        "٣",
        "-",
        "=",
        "=-",
        "_",
        "/",
        ".",
        ". ",
        "'s",
        "😀",
        "\u{200d}",
        "//\n",
        "<|endoftext|>",
        "ſ'ſ",
    ];
    let repeated =
        units.iter().map(|unit| (format!("{unit:?}"), unit.repeat(HOSTILE_BYTES / unit.len())));
    let random = [
        ("random letters", "abcdefghijklmnopqrstuvwxyz"),
        ("random Han", "的一是不了人我在有他这为之大来以个中上们"),
        ("random symbols", "!#$%&()*+,-./:;<=>?@[]^_`{|}~"),
        ("random base64", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"),
        ("random Cyrillic", "абвгдежзийклмнопрстуфхцчшщъыьэюя"),
    ];
    let random = random.iter().map(|(name, alphabet)| ((*name).to_owned(), random_of(alphabet)));
    let words =
        "thequickbrownfoxjumpsoverthelazydogandrunsawayfromthehungrywolfwhowaitsbehindtrees";
    let words = ("letters without spaces".to_owned(), words.repeat(HOSTILE_BYTES / words.len()));
    repeated.chain(random).chain([words]).collect()
}

/// A megabyte of these characters in the order of a small generator (xorshift).
fn random_of(alphabet: &str) -> String {
    let alphabet: Vec<char> = alphabet.chars().collect();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut text = String::with_capacity(HOSTILE_BYTES);
    while text.len() + 4 <= HOSTILE_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.extend(alphabet.get((state >> 33) as usize % alphabet.len()));
    }
    text
}
