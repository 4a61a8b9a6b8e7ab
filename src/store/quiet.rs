//! Threads that give way: they run only while nobody else wants their core.
//!
//! What waits for a core waits as a rule for as long as the thread that has it may keep it, which is
//! a millisecond and more, however nice that thread is. Linux makes one exception: a thread of the
//! idle class leaves its core at once to whoever wakes up. So requests do not wait for the redaction,
//! the compression and the inserts of those before them. The price is that such a thread gets next to
//! nothing of a machine that is busy through and through: whoever starts one has an ordinary thread
//! at hand that takes over.

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
        tracing::debug!(?error, "records are packed and shipped at the same priority as requests");
    }
}

/// Elsewhere than on Linux all threads are equal.
#[cfg(not(target_os = "linux"))]
pub(super) fn give_way() {}
