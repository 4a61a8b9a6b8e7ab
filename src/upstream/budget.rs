//! The retry budget: a provider in trouble must not get more traffic because it is in trouble.

use std::sync::Mutex;
use std::sync::PoisonError;

use tokio::time::Instant;

/// Requests and retries are counted over this many seconds.
const WINDOW_S: usize = 60;
/// Retries in a window that are always allowed, so that a quiet gateway can retry at all.
const FLOOR: u64 = 10;
/// One retry for this many requests.
const REQUESTS_PER_RETRY: u64 = 10;

/// Allows retries up to a tenth of the requests of the last minute, or 10 if that is more.
#[derive(Debug)]
pub struct RetryBudget(Mutex<Window>);

#[derive(Debug)]
struct Window {
    start: Instant,
    now_s: u64,
    /// (requests, retries) of each second, a ring.
    seconds: [(u64, u64); WINDOW_S],
    requests: u64,
    retries: u64,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self(Mutex::new(Window {
            start: Instant::now(),
            now_s: 0,
            seconds: [(0, 0); WINDOW_S],
            requests: 0,
            retries: 0,
        }))
    }
}

impl RetryBudget {
    /// Counts a request that a client made.
    pub fn request(&self) {
        let mut window = self.window();
        window.requests += 1;
        window.second().0 += 1;
    }

    /// Takes one retry from the budget; `false` when there is none left.
    pub fn take(&self) -> bool {
        let mut window = self.window();
        let allowed = FLOOR.max(window.requests / REQUESTS_PER_RETRY);
        if window.retries >= allowed {
            return false;
        }
        window.retries += 1;
        window.second().1 += 1;
        true
    }

    fn window(&self) -> std::sync::MutexGuard<'_, Window> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        window.advance();
        window
    }
}

impl Window {
    fn advance(&mut self) {
        let now_s = self.start.elapsed().as_secs();
        let steps = now_s.saturating_sub(self.now_s).min(WINDOW_S as u64);
        for _ in 0..steps {
            self.now_s += 1;
            let (requests, retries) = std::mem::take(self.second());
            self.requests -= requests;
            self.retries -= retries;
        }
        self.now_s = now_s;
    }

    fn second(&mut self) -> &mut (u64, u64) {
        let slot = usize::try_from(self.now_s % WINDOW_S as u64).unwrap_or(0);
        &mut self.seconds[slot]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_storm_gets_a_tenth_of_the_requests_as_retries() {
        let budget = RetryBudget::default();
        let mut granted = 0;
        for _ in 0..1000 {
            budget.request();
            granted += u32::from(budget.take());
        }
        // 10 are free, then one for each ten requests beyond the first hundred: 1000 / 10.
        assert_eq!(granted, 100);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_a_minute_is_forgotten() {
        let budget = RetryBudget::default();
        for _ in 0..10 {
            assert!(budget.take());
        }
        assert!(!budget.take());
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(budget.take());
    }
}
