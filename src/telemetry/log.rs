//! The log: set-up, and what is never in it. Keys, prompts, answers and e-mail addresses are not
//! logged by any level.
//!
//! Lines are collected and written by one thread ten times a second: a write per request costs
//! as much as the request (measured: twice the CPU).

use std::io;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::line::Line;

/// How long lines wait for company.
const BATCH: Duration = Duration::from_millis(100);
/// Lines are dropped when this many bytes wait, that is when nobody reads standard error.
const MAX_WAITING: usize = 8 << 20;

/// Memory that is kept between two batches.
const KEPT: usize = 1 << 20;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Writes what is waiting when dropped: keep it until the process ends.
#[derive(Debug)]
pub struct LogGuard(Arc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    lines: Mutex<Vec<u8>>,
    some: Condvar,
    /// The batch on its way out; held so that batches keep their order, kept so that its memory is
    /// used again.
    out: Mutex<Vec<u8>>,
}

impl Waiting {
    /// Appends what `write` writes, unless too much waits already.
    fn append(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut lines = lock(&self.lines);
        if lines.len() > MAX_WAITING {
            return;
        }
        let was_empty = lines.is_empty();
        write(&mut lines);
        if was_empty {
            self.some.notify_one();
        }
    }

    fn write_out(&self) {
        let mut batch = lock(&self.out);
        std::mem::swap(&mut *batch, &mut *lock(&self.lines));
        // Nobody is left to tell when standard error is closed.
        let _ = io::stderr().write_all(&batch);
        batch.clear();
        batch.shrink_to(KEPT);
    }

    fn wait_for_some(&self) {
        let mut lines = lock(&self.lines);
        while lines.is_empty() {
            lines = self.some.wait(lines).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Batched(Arc<Waiting>);

impl io::Write for Batched {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.append(|lines| lines.extend_from_slice(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Batched {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.0.write_out();
    }
}

impl LogGuard {
    /// Writes what is waiting.
    pub fn flush(&self) {
        self.0.write_out();
    }
}

/// Where request lines go, once the log is started and shows info lines.
static REQUESTS: OnceLock<(Format, Arc<Waiting>)> = OnceLock::new();

/// Writes the info line of a request, if such lines are shown.
pub fn request(fields: impl FnOnce(&mut Line<'_>)) {
    if let Some((format, waiting)) = REQUESTS.get() {
        waiting.append(|lines| {
            let mut line = Line::begin(lines, *format, "request");
            fields(&mut line);
            line.end();
        });
    }
}

/// Starts the log on standard error. `filter` is a level or a list of `target=level`.
///
/// # Errors
/// A filter that cannot be read, or a log that was started before.
pub fn start(filter: &str, format: Format) -> Result<LogGuard, String> {
    // The engine's own news are of no use to operators; a list of targets says otherwise.
    let quiet = if filter.contains('=') { "" } else { ",pingora_core=warn" };
    let filter = EnvFilter::try_new(format!("{filter}{quiet}"))
        .map_err(|error| format!("log filter `{filter}`: {error}; write a level such as info"))?;
    let waiting = Arc::new(Waiting::default());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Batched(Arc::clone(&waiting)))
        .with_ansi(false);
    let done = match format {
        Format::Text => builder.with_target(false).try_init(),
        Format::Json => builder.json().flatten_event(true).with_target(false).try_init(),
    };
    done.map_err(|error| format!("the log could not be started: {error}"))?;
    if tracing::enabled!(tracing::Level::INFO) {
        // It fails only when the log was started before, which the line above would have told.
        let _ = REQUESTS.set((format, Arc::clone(&waiting)));
    }
    let writer = Arc::clone(&waiting);
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || {
            loop {
                writer.wait_for_some();
                std::thread::sleep(BATCH);
                writer.write_out();
            }
        })
        .map_err(|error| format!("the log's thread could not be started: {error}"))?;
    Ok(LogGuard(waiting))
}
