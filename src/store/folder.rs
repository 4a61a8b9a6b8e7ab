//! A process's own folder in the spool. Its lock says that the process lives; what a dead one left
//! is adopted by whoever locks it first.

use std::fs;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use uuid::Uuid;

const LOCK: &str = "lock";
const SEGMENT: &str = "seg";
/// Where files with damage are kept for people to look at.
const ASIDE: &str = "aside";

/// A locked folder of segments.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

/// A file of records that nobody writes any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

impl Folder {
    /// Makes a folder of this process's own in the spool.
    ///
    /// # Errors
    /// The spool cannot be written.
    pub(super) fn create(spool: &Path) -> io::Result<Self> {
        fs::create_dir_all(spool)?;
        let name = Uuid::now_v7().to_string();
        // Locked under a name that nobody adopts, so that there is no moment without a lock.
        let (draft, path) = (spool.join(format!(".{name}")), spool.join(name));
        fs::create_dir(&draft)?;
        let lock = File::create(draft.join(LOCK))?;
        lock.try_lock()?;
        fs::rename(&draft, &path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Locks every folder of the spool whose process is gone, in the order of their age.
    pub(super) fn adopt_all(spool: &Path) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(spool) else { return Vec::new() };
        let is_folder = |name: &str| Uuid::try_parse(name).is_ok();
        let paths = entries.flatten().map(|entry| entry.path());
        let mut paths: Vec<_> = paths
            .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_folder))
            .collect();
        paths.sort();
        paths.into_iter().filter_map(Self::adopt).collect()
    }

    fn adopt(path: PathBuf) -> Option<Self> {
        let lock = File::options().write(true).create(true).truncate(false).open(path.join(LOCK));
        let lock = lock.ok()?;
        lock.try_lock().ok()?;
        Some(Self { path, _lock: lock })
    }

    /// The path of the segment with this number.
    pub(super) fn segment(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:016}.{SEGMENT}"))
    }

    /// Its segments, the oldest first.
    pub(super) fn segments(&self) -> Vec<Segment> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Vec::new() };
        let segments = entries.flatten().filter_map(|entry| {
            let path = entry.path();
            let is_segment = path.extension().is_some_and(|extension| extension == SEGMENT);
            is_segment.then(|| Some(Segment { bytes: entry.metadata().ok()?.len(), path }))?
        });
        let mut segments: Vec<_> = segments.collect();
        segments.sort_by(|a, b| a.path.cmp(&b.path));
        segments
    }

    /// Removes the folder if nothing but its lock is in it; else it comes back, still locked.
    pub(super) fn remove_if_empty(self) -> Option<Self> {
        if !self.segments().is_empty() {
            return Some(self);
        }
        // What cannot be removed is adopted, and found empty, by the next process.
        let _ = fs::remove_file(self.path.join(LOCK)).and_then(|()| fs::remove_dir(&self.path));
        None
    }
}

impl Segment {
    /// Moves the file to where damaged ones are kept; returns the new place.
    pub(super) fn keep_aside(&self, spool: &Path) -> io::Result<PathBuf> {
        let place = aside(spool)?;
        let part = |path: Option<&Path>| {
            path.and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned()
        };
        let (folder, file) = (part(self.path.parent()), part(Some(&self.path)));
        let place = place.join(format!("{folder}-{file}"));
        fs::rename(&self.path, &place)?;
        Ok(place)
    }
}

/// The folder for what is damaged.
pub(super) fn aside(spool: &Path) -> io::Result<PathBuf> {
    let path = spool.join(ASIDE);
    fs::create_dir_all(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_adopted_once_its_process_is_gone_and_by_one_only() {
        let spool = tempfile::tempdir().unwrap();
        let living = Folder::create(spool.path()).unwrap();
        let dead = Folder::create(spool.path()).unwrap();
        let segment = dead.segment(7);
        fs::write(&segment, "1234").unwrap();
        drop(dead);

        let adopted = Folder::adopt_all(spool.path());
        assert_eq!(adopted.len(), 1);
        assert_eq!(adopted[0].segments(), [Segment { path: segment, bytes: 4 }]);
        assert!(Folder::adopt_all(spool.path()).is_empty(), "it is locked again");
        assert_ne!(adopted[0].path, living.path);
    }

    #[test]
    fn a_folder_goes_only_when_nothing_is_in_it() {
        let spool = tempfile::tempdir().unwrap();
        let folder = Folder::create(spool.path()).unwrap();
        let segment = folder.segment(1);
        fs::write(&segment, "1").unwrap();
        let folder = folder.remove_if_empty().unwrap();
        assert!(segment.exists());
        fs::remove_file(&segment).unwrap();
        assert!(folder.remove_if_empty().is_none());
        assert_eq!(fs::read_dir(spool.path()).unwrap().count(), 0);
    }
}
