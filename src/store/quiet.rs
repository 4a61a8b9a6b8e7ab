//! Threads that let requests go first.
//!
//! What waits for a core waits as a rule for as long as the thread that has it may keep it, which is
//! a millisecond and more, however nice that thread is. Linux makes one exception: a thread of the
//! idle class leaves its core at once to whoever wakes up. So requests do not wait for the redaction
//! and the compression of what was said in those before them. The price is that such a thread gets
//! next to nothing of a machine that is busy through and through: whoever starts one has an ordinary
//! thread at hand that takes over.

use std::io;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::channel;

/// Runs work on a thread; the receiver says when it is done.
pub(super) fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Receiver<()>> {
    let (done, receiver) = channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        work();
        drop(done);
    })?;
    Ok(receiver)
}

/// Of the shipper's thread, 0 to 19. The scheduler gives 10 a tenth of what it gives 0.
const NICENESS: i32 = 10;

/// Leaves the calling thread a tenth of a core even where all of it is wanted.
pub(super) fn be_modest() {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), NICENESS) {
        tracing::debug!(%error, "the shipper runs at the same priority as requests");
    }
}

/// Lets every other thread go before the calling one.
#[cfg(target_os = "linux")]
pub(super) fn give_way() {
    use thread_priority::NormalThreadSchedulePolicy;
    use thread_priority::ThreadPriority;
    use thread_priority::ThreadSchedulePolicy;
    use thread_priority::set_thread_priority_and_policy;
    use thread_priority::thread_native_id;

    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let set = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
    if let Err(error) = set {
        tracing::debug!(?error, "records are packed at the same priority as requests");
    }
}

/// Elsewhere than on Linux all threads are equal.
#[cfg(not(target_os = "linux"))]
pub(super) fn give_way() {}
