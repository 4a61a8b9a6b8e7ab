//! Work beside the requests: each task has a name, and tells when it ran last and what went wrong.
//!
//! A task notes its turns with [`note`]; nothing is handed to it for that, so that rooms below do
//! not know who watches. `GET /healthz` shows the [`Board`].

use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::SystemTime;

use chrono::DateTime;
use chrono::SecondsFormat;
use chrono::Utc;
use futures_util::FutureExt as _;
use serde::Serialize;

/// A task until the process ends.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Characters of an error that are kept.
const LONGEST_ERROR: usize = 300;

tokio::task_local! {
    /// The one that runs.
    static OWN: Arc<Mutex<Report>>;
}

/// What is known of a task.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Its name.
    pub name: &'static str,
    /// Whether it runs. One that has ended before its process has failed.
    pub running: bool,
    /// Turns that it has noted.
    pub turns: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// When it noted a turn last, in RFC 3339.
    pub last_run: Option<String>,
    /// When a turn last went well.
    pub last_success: Option<String>,
    /// What went wrong last, and when.
    pub last_error: Option<Fault>,
}

/// What went wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Fault {
    /// In RFC 3339.
    pub at: String,
    /// A sentence.
    pub message: String,
}

/// All tasks of a process. A clone is the same board.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Vec<Arc<Mutex<Report>>>>>);

impl Board {
    /// Watches a task: one that panics or ends by itself is shown and logged.
    pub fn watch(&self, name: &'static str, task: Task) -> Task {
        let report = Arc::new(Mutex::new(Report { name, ..Report::default() }));
        locked(&self.0).push(Arc::clone(&report));
        Box::pin(async move {
            locked(&report).running = true;
            let watched = OWN.scope(Arc::clone(&report), AssertUnwindSafe(task).catch_unwind());
            let ended = watched.await;
            let mut report = locked(&report);
            report.running = false;
            if let Err(panic) = ended {
                report.fail(&format!("it panicked: {}", words(&*panic)));
                tracing::error!(task = name, "a background task panicked");
            }
        })
    }

    /// How all of them are.
    pub fn reports(&self) -> Vec<Report> {
        locked(&self.0).iter().map(|report| locked(report).clone()).collect()
    }
}

/// Notes a turn of the task that calls, and returns its result. Outside of a watched task it does
/// nothing.
pub fn note<T, E: Display>(turn: Result<T, E>) -> Result<T, E> {
    // Nobody watches in tests and on the command line.
    let _ = OWN.try_with(|report| {
        let mut report = locked(report);
        report.turns += 1;
        report.last_run = Some(now());
        match &turn {
            Ok(_) => report.last_success = report.last_run.clone(),
            Err(error) => report.fail(&error.to_string()),
        }
    });
    turn
}

/// Notes a turn that cannot fail.
pub fn done() {
    let _ = note(Ok::<_, std::convert::Infallible>(()));
}

impl Report {
    fn fail(&mut self, message: &str) {
        self.failures += 1;
        let message = message.chars().take(LONGEST_ERROR).collect();
        self.last_error = Some(Fault { at: now(), message });
    }
}

/// What a panic says.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

fn now() -> String {
    DateTime::<Utc>::from(SystemTime::now()).to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn locked<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_board_shows_what_went_well_and_what_did_not() {
        let board = Board::default();
        let task = board.watch(
            "chores",
            Box::pin(async {
                done();
                let _ = note(Err::<(), _>("the store is away"));
            }),
        );
        assert!(!board.reports()[0].running, "it has not begun");
        task.await;
        let report = board.reports().remove(0);
        assert_eq!((report.name, report.turns, report.failures), ("chores", 2, 1));
        assert!(report.last_success.is_some() && !report.running);
        assert_eq!(report.last_error.unwrap().message, "the store is away");
    }

    #[tokio::test]
    async fn a_task_that_panics_is_shown_and_takes_nothing_with_it() {
        let board = Board::default();
        board.watch("canaries", Box::pin(async { panic!("a {}", "mistake") })).await;
        let report = board.reports().remove(0);
        assert_eq!(report.last_error.unwrap().message, "it panicked: a mistake");
        assert!(!report.running);
    }

    #[test]
    fn outside_of_a_task_a_note_is_nobodys() {
        assert_eq!(note(Err::<(), _>("x")), Err("x"));
    }
}
