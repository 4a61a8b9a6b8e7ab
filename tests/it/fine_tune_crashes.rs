//! A fine-tune job whose gateway is killed at each step of its life, once for each: in the end it is
//! made once, and nothing is left behind.

use std::sync::Arc;
use std::sync::Mutex;

use serde_json::Value;
use serde_json::json;

use crate::support::Answer;
use crate::support::Gateway;
use crate::support::Upstream;
use crate::support::answer::Step;
use crate::support::cli::weir;
use crate::support::eventually;
use crate::support::http::get;
use crate::support::rows::rows;

/// A trainer with a memory, which falls silent in the middle of one answer.
#[derive(Default)]
struct Trainer {
    /// The gateway's own id of the job, which the trainer sees in names and metadata.
    job: String,
    files: Vec<(String, String)>,
    made: usize,
    /// Looks at the job that were answered.
    looks: usize,
}

impl Trainer {
    /// Does what is asked, and answers.
    fn answer(&mut self, turn: usize, method: &str, target: &str) -> Answer {
        let path = target.split('?').next().unwrap_or_default();
        match (method, path) {
            ("POST", "/v1/files") => {
                let side = ["train", "validation"][self.files.len().min(1)];
                let id = format!("file-{turn}");
                self.files.push((id.clone(), format!("weir-{}-{side}.jsonl", self.job)));
                Answer::json(200, json!({"id": id}).to_string())
            }
            ("GET", "/v1/files") => {
                let file = |(id, name): &(String, String)| json!({"id": id, "filename": name});
                list(self.files.iter().map(file).collect())
            }
            ("GET", path) if path.ends_with("/content") => {
                Answer::json(200, "step,train_loss\n1,0.5\n")
            }
            ("DELETE", path) => {
                self.files.retain(|(id, _)| !path.ends_with(id.as_str()));
                Answer::json(200, r#"{"deleted":true}"#)
            }
            ("POST", _) => {
                self.made += 1;
                self.told("validating_files")
            }
            ("GET", "/v1/fine_tuning/jobs") if self.made == 0 => list(Vec::new()),
            ("GET", "/v1/fine_tuning/jobs") => list(vec![json!({"id": "ftjob-1",
                "status": "validating_files", "metadata": {"gateway_job_id": self.job}})]),
            ("GET", path) if path.ends_with("/ftjob-1") => {
                self.looks += 1;
                self.told(["queued", "running", "succeeded"][self.looks.min(3) - 1])
            }
            _ => list(Vec::new()),
        }
    }

    fn told(&self, status: &str) -> Answer {
        let model = (status == "succeeded").then_some("ft:gpt-4.1-mini:acme::1");
        let results = if model.is_some() { vec!["file-result-1"] } else { Vec::new() };
        let job = json!({"id": "ftjob-1", "status": status, "fine_tuned_model": model,
            "trained_tokens": 1000, "result_files": results});
        Answer::json(200, job.to_string())
    }
}

fn list(data: Vec<Value>) -> Answer {
    Answer::json(200, json!({"object": "list", "data": data, "has_more": false}).to_string())
}

/// Lives through a job, with a kill while the answer to the trainer's request of that number is
/// awaited; returns how many requests it took.
fn live(killed_at: usize) -> usize {
    let memory = Arc::new(Mutex::new(Trainer::default()));
    let remembers = Arc::clone(&memory);
    let trainer = Upstream::with(move |turn, request| {
        let mut memory = remembers.lock().unwrap();
        let answer = memory.answer(turn, &request.method, &request.target);
        if turn == killed_at { Answer::default().then(Step::Stall) } else { answer }
    });
    let at = format!("trainer: {{ base_url: \"{}\", api_key: sk-1 }}", trainer.base_url());
    let mut gateway = Gateway::before("http://127.0.0.1:1/v1").config(&at).start();
    build(&gateway);
    let store = format!("sqlite:{}", gateway.folder().join("data/weir.db").display());
    let order = ["--json", "finetune", "create", "d", "--model", "gpt-4.1-mini"];
    // The poller looks once a second: the trainer knows the id before it is asked.
    let (code, out, error) = weir(gateway.folder(), &order, "");
    assert_eq!(code, Some(0), "{out}{error}");
    let row: Value = serde_json::from_str(&out).unwrap();
    let job = row["job_id"].as_str().unwrap().to_owned();
    memory.lock().unwrap().job.clone_from(&job);
    let mut killed = false;
    eventually(&format!("the job ends well after a kill at {killed_at}"), || {
        if !killed && trainer.count() > killed_at {
            gateway.kill();
            killed = true;
            rows(&store, "update training_queue set lease_until = 0 returning status").unwrap();
            gateway.start_again();
        }
        // Nobody waits for the pauses between looks.
        let soon = "update training_queue set next_poll_at = 1 \
                    where lease_until is null and next_poll_at is not null returning status";
        rows(&store, soon).unwrap();
        let left = "select status from training_queue where next_poll_at is null";
        rows(&store, left).unwrap() == [["succeeded"]]
    });
    let memory = memory.lock().unwrap();
    assert_eq!(memory.made, 1, "killed at {killed_at}: made once");
    assert_eq!(memory.files, [], "killed at {killed_at}: no file is left");
    let path = format!("/api/fine-tune-status?job_id={job}");
    let row = get(gateway.control(), &path).unwrap().json();
    let copy = row["result_files"]["file-result-1"].as_str().unwrap();
    let copied = std::fs::read_to_string(gateway.folder().join("data/objects").join(copy));
    assert_eq!(copied.unwrap(), "step,train_loss\n1,0.5\n", "killed at {killed_at}");
    trainer.count()
}

fn build(gateway: &Gateway) {
    let line = |n: usize| {
        let asked = format!("question number{n} about thing{}", n * 7);
        let told = format!("answer word{} other{} more{}", n * 3, n * 5, n * 11);
        json!({"messages": [{"role": "user", "content": asked},
            {"role": "assistant", "content": told}]})
        .to_string()
            + "\n"
    };
    let folder = gateway.folder();
    std::fs::write(folder.join("lines.jsonl"), (0..20).map(line).collect::<String>()).unwrap();
    let recipe = json!({"name": "d", "source": {"file": {"path": "lines.jsonl"}},
        "split": {"validation": 0.2}});
    std::fs::write(folder.join("recipe.json"), recipe.to_string()).unwrap();
    let (code, out, error) = weir(folder, &["dataset", "build", "recipe.json"], "");
    assert_eq!(code, Some(0), "{out}{error}");
}

#[test]
fn a_kill_at_any_step_neither_loses_a_job_nor_makes_it_twice() {
    // Two uploads, the making, three looks, the story of the last two, a result, two deletions.
    let requests = live(usize::MAX);
    assert!(requests >= 11, "{requests} requests in a whole life");
    for some in (0..requests).collect::<Vec<_>>().chunks(4) {
        std::thread::scope(|threads| {
            for killed_at in some {
                threads.spawn(move || live(*killed_at));
            }
        });
    }
}
