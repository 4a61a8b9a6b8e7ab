//! A provider of embeddings that counts what it is asked for: words to vectors, without a model.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use serde_json::Value;
use serde_json::json;

use super::answer::Answer;
use super::upstream::Upstream;

/// The provider.
#[derive(Clone)]
pub(crate) struct Embeddings {
    upstream: Upstream,
    asked: Arc<Mutex<Vec<String>>>,
    dimensions: Arc<AtomicUsize>,
    /// Requests that are answered, where not all are; it says nothing to those that come then.
    answers: Arc<Mutex<Option<usize>>>,
}

impl Embeddings {
    pub(crate) fn start(dimensions: usize) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let dimensions = Arc::new(AtomicUsize::new(dimensions));
        let answers = Arc::new(Mutex::new(None));
        let (texts, width, left) =
            (Arc::clone(&asked), Arc::clone(&dimensions), Arc::clone(&answers));
        let upstream = Upstream::reading(move |_, request| {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            let inputs: Vec<String> = serde_json::from_value(body["input"].clone()).unwrap();
            let answer = answer(&inputs, width.load(Ordering::SeqCst));
            texts.lock().unwrap().extend(inputs);
            match &mut *left.lock().unwrap() {
                Some(0) => return Answer::default().stall(),
                Some(left) => *left -= 1,
                None => {}
            }
            Answer::json(200, answer.to_string())
        });
        Self { upstream, asked, dimensions, answers }
    }

    pub(crate) fn base_url(&self) -> String {
        self.upstream.base_url()
    }

    /// Requests that have come.
    pub(crate) fn calls(&self) -> usize {
        self.upstream.count()
    }

    /// How often each text has come.
    pub(crate) fn texts(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for text in self.asked.lock().unwrap().iter() {
            *counts.entry(text.clone()).or_default() += 1;
        }
        counts
    }

    /// From now on its vectors have so many numbers.
    pub(crate) fn change(&self, dimensions: usize) {
        self.dimensions.store(dimensions, Ordering::SeqCst);
    }

    /// Answers so many requests more, and then none.
    pub(crate) fn answer(&self, requests: usize) {
        *self.answers.lock().unwrap() = Some(requests);
    }

    /// Answers all again.
    pub(crate) fn answer_all(&self) {
        *self.answers.lock().unwrap() = None;
    }
}

/// Texts with the same words have the same vectors, and others none alike: each word is a direction
/// of its own.
fn answer(inputs: &[String], dimensions: usize) -> Value {
    let row = |(index, text): (usize, &String)| {
        let mut vector = vec![0.01; dimensions];
        for word in text.split_whitespace() {
            let digest = ring::digest::digest(&ring::digest::SHA256, word.as_bytes());
            for (number, byte) in vector.iter_mut().zip(digest.as_ref().iter().cycle()) {
                *number += f64::from(*byte) - 127.5;
            }
        }
        json!({ "object": "embedding", "index": index, "embedding": vector })
    };
    let data: Vec<Value> = inputs.iter().enumerate().map(row).collect();
    json!({ "object": "list", "model": "text-embedding-3-small", "data": data,
        "usage": { "prompt_tokens": inputs.len(), "total_tokens": inputs.len() } })
}
