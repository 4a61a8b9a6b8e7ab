//! Ports that no other test takes: below the system's own range, and locked while they are in use.

use std::fs::File;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;

/// The range that Linux hands out by itself begins at 32768.
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

/// A port of 127.0.0.1, ours until dropped.
pub(crate) struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    pub(crate) fn take() -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ports");
        std::fs::create_dir_all(&folder).unwrap();
        // Tests begin at different places, so that they seldom meet.
        let spread = u16::try_from(std::process::id() % 1_500).unwrap() * 8;
        let numbers = (FIRST + spread..LAST).chain(FIRST..FIRST + spread);
        for number in numbers {
            let lock = File::create(folder.join(number.to_string())).unwrap();
            let free = || TcpListener::bind(("127.0.0.1", number)).is_ok();
            if lock.try_lock().is_ok() && free() {
                return Self { number, _lock: lock };
            }
        }
        panic!("no port is free");
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.number))
    }
}
