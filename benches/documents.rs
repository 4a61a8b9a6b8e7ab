//! How long a search of documents takes, and how much of what is nearest it finds;
//! `benches/documents` runs it.
//!
//! # The vectors
//! Those of embedding models lie in heaps (topics), near a space of far fewer dimensions than they
//! have numbers, and share a direction. So do these, from a fixed seed: a topic is drawn by Zipf's
//! law out of one for each hundred passages, a point near it in a space of 96 dimensions whose
//! spread falls with their number, laid into all dimensions by a random matrix, moved by a common
//! mean of a third of its length, with noise of a tenth in each number. Questions are further such points, of
//! which none is a passage.

use std::time::Duration;
use std::time::Instant;

use serde_json::json;
use weir::store::Database;
use weir::store::Documents;
use weir::store::Filter;
use weir::store::Index;
use weir::store::IndexShape;
use weir::store::NewChunk;
use weir::store::NewPage;
use weir::store::SearchQuery;

const SEED: u64 = 20_261_130;
/// Dimensions in which points differ.
const LATENT: usize = 96;
/// Passages of a page.
const PAGE: usize = 20;
/// What is looked for.
const TOP: usize = 10;
/// Words of a passage and of a question, of a vocabulary of so many.
const WORDS: (usize, usize, usize) = (120, 6, 30_000);
/// Of which the first are in every passage, as `the` is.
const COMMON: usize = 58;
const GOAL_MS: f64 = 20.0;
const GOAL_RECALL: f64 = 0.95;

#[tokio::main]
async fn main() {
    let text = |at| std::env::args().nth(at);
    let number = |at| text(at).and_then(|number| number.parse::<usize>().ok());
    // `cargo test` and `cargo bench` of everything give no store.
    let (Some(url), Some(chunks), Some(dimensions), Some(questions)) =
        (text(1), number(2), number(3), number(4))
    else {
        eprintln!("benches/documents says what this is");
        return;
    };
    let mut world = World::new(chunks, dimensions);
    let vectors: Vec<Vec<f32>> = (0..chunks).map(|_| world.point()).collect();
    let database = Database::parse(&url).expect("a URL").expect("a store");
    database.migrate().await.expect("a schema");
    let documents = Documents::of(&database).expect("documents");
    let began = Instant::now();
    let index = fill(&documents, &mut world, &vectors).await;
    let filled = began.elapsed();
    documents.go_live(&index, pages(chunks)).await.expect("an index that answers");
    let indexed = began.elapsed() - filled;
    let asked: Vec<Vec<f32>> = (0..questions).map(|_| world.point()).collect();
    let exact = exact(&vectors, &asked);
    drop(vectors);
    let engine = if url.starts_with("sqlite") { "sqlite" } else { "pgvector" };
    let mut report = json!({
        "store": engine, "chunks": chunks, "dimensions": dimensions, "questions": questions,
        "fill_s": filled.as_secs_f64(), "index_s": indexed.as_secs_f64(),
    });
    // The first search reads the index into memory.
    let first = Instant::now();
    ask(&documents, &index, &asked[0], "").await;
    report["first_ms"] = ms(first.elapsed()).into();
    let (mut times, mut found) = (Vec::new(), 0);
    for (vector, exact) in asked.iter().zip(&exact) {
        let began = Instant::now();
        let hits = ask(&documents, &index, vector, "").await;
        times.push(began.elapsed());
        found += hits.iter().filter(|hit| exact.contains(hit)).count();
    }
    let recall = ratio(found, asked.len() * TOP);
    let (p50, p99) = percentiles(&mut times);
    report["vectors"] = json!({ "p50_ms": p50, "p99_ms": p99, "recall": recall });
    let mut times = Vec::new();
    for vector in &asked {
        let words = world.question();
        let began = Instant::now();
        ask(&documents, &index, vector, &words).await;
        times.push(began.elapsed());
    }
    let (both_p50, both_p99) = percentiles(&mut times);
    report["vectors_and_words"] = json!({ "p50_ms": both_p50, "p99_ms": both_p99 });
    println!("{report}");
    let slow = engine == "sqlite" && p50 > GOAL_MS;
    if slow || recall < GOAL_RECALL {
        eprintln!("missed: p50 of {GOAL_MS} ms on SQLite, recall of {GOAL_RECALL}");
        std::process::exit(1);
    }
}

/// The passages found, by their numbers.
async fn ask(documents: &Documents, index: &Index, vector: &[f32], words: &str) -> Vec<usize> {
    let query = SearchQuery {
        text: words.to_owned(),
        vector: Some(vector.to_vec()),
        top_k: TOP,
        filter: Filter::default(),
    };
    let hits = documents.search(index, &query).await.expect("an answer");
    hits.iter().map(|hit| hit.heading.parse().expect("a number")).collect()
}

async fn fill(documents: &Documents, world: &mut World, vectors: &[Vec<f32>]) -> Index {
    let shape = IndexShape {
        model: "bench".to_owned(),
        dimensions: u32::try_from(vectors[0].len()).expect("few dimensions"),
        chunker: "bench".to_owned(),
    };
    let index = documents.open("bench", &shape).await.expect("an index");
    for (page, some) in vectors.chunks(PAGE).enumerate() {
        let mut chunks = Vec::new();
        for (at, vector) in some.iter().enumerate() {
            let number = page * PAGE + at;
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_le_bytes());
            chunks.push(NewChunk {
                heading: number.to_string(),
                text: world.words(WORDS.0),
                tokens: 160,
                hash,
                vector: Some(vector.clone()),
            });
        }
        let page = NewPage {
            url: format!("https://bench.example/{page}"),
            title: String::new(),
            content_hash: page.to_string(),
            metadata: json!({}),
            run_id: "bench".to_owned(),
        };
        documents.put(&index, &page, chunks).await.expect("a page");
    }
    index
}

fn pages(chunks: usize) -> u64 {
    u64::try_from(chunks.div_ceil(PAGE)).expect("few pages")
}

/// The nearest of all, by comparing all.
fn exact(vectors: &[Vec<f32>], asked: &[Vec<f32>]) -> Vec<Vec<usize>> {
    let nearest = |question: &Vec<f32>| {
        let mut scored: Vec<(f32, usize)> =
            vectors.iter().enumerate().map(|(at, vector)| (dot(question, vector), at)).collect();
        scored.select_nth_unstable_by(TOP - 1, |a, b| b.0.total_cmp(&a.0));
        scored.iter().take(TOP).map(|(_, at)| *at).collect()
    };
    asked.iter().map(nearest).collect()
}

fn dot(one: &[f32], other: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 16];
    for (a, b) in one.as_chunks::<16>().0.iter().zip(other.as_chunks::<16>().0) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "counts of a bench are small")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

fn percentiles(times: &mut [Duration]) -> (f64, f64) {
    times.sort_unstable();
    (ms(times[times.len() / 2]), ms(times[times.len() * 99 / 100]))
}

/// What draws points and words.
struct World {
    chance: Chance,
    /// A row for each latent dimension.
    lay: Vec<Vec<f32>>,
    mean: Vec<f32>,
    topics: Vec<Vec<f32>>,
    topic_weights: Vec<f64>,
    word_weights: Vec<f64>,
}

impl World {
    fn new(chunks: usize, dimensions: usize) -> Self {
        let mut chance = Chance(SEED);
        let row = |chance: &mut Chance, length: usize| -> Vec<f32> {
            (0..length).map(|_| chance.normal()).collect()
        };
        let lay = (0..LATENT).map(|_| row(&mut chance, dimensions)).collect();
        let mean = row(&mut chance, dimensions);
        let count = (chunks / 100).max(10);
        let topics = (0..count).map(|_| latent(&mut chance)).collect();
        let (topic_weights, word_weights) = (zipf(count, 0.8), zipf(WORDS.2, 1.0));
        Self { chance, lay, mean, topics, topic_weights, word_weights }
    }

    /// A vector of length 1.
    fn point(&mut self) -> Vec<f32> {
        let topic = self.chance.pick(&self.topic_weights);
        let near = latent(&mut self.chance);
        let place = self.topics[topic].iter().zip(near).map(|(topic, near)| topic + 0.7 * near);
        let place: Vec<f32> = place.collect();
        let mut point = vec![0.0_f32; self.mean.len()];
        for (row, weight) in self.lay.iter().zip(&place) {
            for (number, part) in point.iter_mut().zip(row) {
                *number += weight * part;
            }
        }
        let length = dot(&point, &point).sqrt();
        let size = (dot(&self.mean, &self.mean)).sqrt();
        for (number, mean) in point.iter_mut().zip(&self.mean) {
            *number = *number / length + mean / size / 3.0;
        }
        let noise = 0.1 / dot(&self.mean, &self.mean).sqrt();
        for number in &mut point {
            *number += noise * self.chance.normal();
        }
        let length = dot(&point, &point).sqrt();
        point.iter().map(|number| number / length).collect()
    }

    fn words(&mut self, count: usize) -> String {
        let word = |_| format!("w{}", self.chance.pick(&self.word_weights));
        (0..count).map(word).collect::<Vec<_>>().join(" ")
    }

    /// Without the commonest words, which searches leave out.
    fn question(&mut self) -> String {
        let words = std::iter::repeat_with(|| self.chance.pick(&self.word_weights));
        let rare = words.filter(|word| *word >= COMMON).take(WORDS.1);
        rare.map(|word| format!("w{word}")).collect::<Vec<_>>().join(" ")
    }
}

/// The spread falls with the square root of the dimension's number.
fn latent(chance: &mut Chance) -> Vec<f32> {
    let spread = (1..=LATENT).map(|at| 1.0 / f32::from(u16::try_from(at).unwrap_or(1)).sqrt());
    spread.map(|spread| spread * chance.normal()).collect()
}

/// Sums of weights that fall with the rank.
fn zipf(count: usize, power: f64) -> Vec<f64> {
    let mut sum = 0.0;
    let weight = |rank: usize| {
        sum += (ratio(rank, 1) + 1.0).powf(-power);
        sum
    };
    (0..count).map(weight).collect()
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Between 0 and 1.
    fn unit(&mut self) -> f64 {
        let high = u32::try_from(self.next() >> 32).unwrap_or(0);
        (f64::from(high) + 0.5) / 4_294_967_296.0
    }

    /// Box and Muller's.
    #[expect(clippy::cast_possible_truncation, reason = "chance needs no more digits than f32")]
    fn normal(&mut self) -> f32 {
        let (radius, turn) =
            ((-2.0 * self.unit().ln()).sqrt(), std::f64::consts::TAU * self.unit());
        (radius * turn.cos()) as f32
    }

    /// A place in sums of weights.
    fn pick(&mut self, weights: &[f64]) -> usize {
        let point = self.unit() * weights.last().copied().unwrap_or(1.0);
        weights.partition_point(|sum| *sum < point).min(weights.len() - 1)
    }
}
