//! Time as limits see it: the calendar's for budgets, and one that never steps for minutes.

use std::sync::LazyLock;
use std::time::Instant;
use std::time::SystemTime;

/// A moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970, UTC. May step in either direction.
    pub unix_ms: u64,
    /// Milliseconds of a clock that only goes forward.
    pub steady_ms: u64,
}

/// The steady clock's start; a minute and more before the first reading, so that nothing that
/// reaches back so far is before 0.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);
const HEAD_START_MS: u64 = 3_600_000;

impl Now {
    /// Reads both clocks.
    pub fn read() -> Self {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let steady = START.elapsed();
        Self {
            unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
            steady_ms: u64::try_from(steady.as_millis()).unwrap_or(u64::MAX) + HEAD_START_MS,
        }
    }
}
