//! Token counts beside Python's tiktoken, which counted the corpus. See `tests/tokens/run`.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;

use weir::metering::tokens::Encoding;

#[test]
#[ignore = "needs the corpus that tests/tokens/run makes"]
fn every_text_of_the_corpus_has_as_many_tokens_as_in_pythons_tiktoken() {
    let corpus = std::env::var_os("TOKENS_CORPUS").expect("TOKENS_CORPUS: the corpus");
    let (mut texts, mut differences) = (0, Vec::new());
    for line in BufReader::new(File::open(corpus).unwrap()).lines() {
        let (text, expected): (String, HashMap<String, u64>) =
            serde_json::from_str(&line.unwrap()).unwrap();
        texts += 1;
        for (name, tokens) in expected {
            let count = Encoding::from_name(&name).unwrap().count(&text);
            if count != tokens {
                let start: String = text.chars().take(60).collect();
                differences.push(format!("{name}: {count} instead of {tokens}: {start:?}"));
            }
        }
    }
    println!("tokens: {texts} texts, {} differences", differences.len());
    assert!(texts >= 400_000, "only {texts} texts");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
