//! Notices changes of the policy folder: by the system's notices, and by looking from time to time.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::RecursiveMode;
use notify::Watcher as _;
use tokio::sync::Notify;

use super::Policy;
use super::reload::Reloader;
use super::reload::Seen;

/// How often the folder is looked at where no notice comes: network file systems, and folders that
/// are replaced as a whole.
const POLL: Duration = Duration::from_millis(500);
/// Between two looks at a folder that is being changed.
const SETTLE: Duration = Duration::from_millis(100);

/// Looks at the folder for ever, and at once when `bell` rings; `tell` hears of every look,
/// `prepare` may refuse a change.
pub async fn watch(
    folder: PathBuf,
    bell: Arc<Notify>,
    mut reloader: Reloader,
    today: fn() -> i64,
    prepare: impl Fn(&Policy) -> Result<(), String> + Clone + Send + 'static,
    tell: impl Fn(&Seen),
) {
    let mut watcher = watcher(&folder, &bell);
    loop {
        let notice = tokio::time::timeout(POLL, bell.notified()).await;
        if notice.is_ok() {
            tokio::time::sleep(SETTLE).await;
        }
        // A folder that was not there, or was replaced, is watched from now on.
        if watcher.is_none() {
            watcher = self::watcher(&folder, &bell);
        }
        loop {
            let prepare = prepare.clone();
            // Reading and checking takes milliseconds, and a slow disk longer.
            let looked = tokio::task::spawn_blocking(move || {
                let seen = reloader.look(today(), prepare);
                (reloader, seen)
            });
            let Ok((back, seen)) = looked.await else {
                tracing::error!("the policy folder is no longer watched: a look at it panicked");
                return;
            };
            reloader = back;
            match seen {
                Seen::Unsettled => tokio::time::sleep(SETTLE).await,
                Seen::Same => {
                    tell(&seen);
                    break;
                }
                Seen::Applied(_) | Seen::Rejected(_) => {
                    tell(&seen);
                    // What is watched may be the folder that was there before.
                    watcher = None;
                    break;
                }
            }
        }
    }
}

/// Rings at every change below the folder; `None` where the system cannot tell.
fn watcher(folder: &Path, bell: &Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let bell = Arc::clone(bell);
    let ring = move |event: notify::Result<notify::Event>| {
        // Reading the folder is no change of it.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            bell.notify_one();
        }
    };
    let mut watcher = notify::recommended_watcher(ring).ok()?;
    watcher.watch(folder, RecursiveMode::Recursive).ok()?;
    Some(watcher)
}
