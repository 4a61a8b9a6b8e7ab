//! Reload as a transaction: a change of the folder is in force as a whole, or not at all.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use arc_swap::ArcSwapOption;

use super::Policy;
use super::diagnostic::Diagnostic;
use super::load::Settings;
use super::load::fingerprint;
use super::load::read_secret;
use super::source::Sources;

/// The policy in force, and what became of the last change of its folder.
#[derive(Debug)]
pub struct PolicyHandle {
    current: ArcSwap<Policy>,
    since: ArcSwap<SystemTime>,
    rejected: ArcSwapOption<Rejected>,
}

/// A content of the folder that was refused. The policy before it stays in force.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// The revision it would have had; empty when the folder could not even be read.
    pub revision: String,
    /// When it was refused.
    pub at: SystemTime,
    /// What is wrong with it.
    pub diagnostics: Vec<Diagnostic>,
}

impl PolicyHandle {
    /// Puts the first policy in force.
    pub fn new(policy: Policy) -> Self {
        Self {
            current: ArcSwap::from_pointee(policy),
            since: ArcSwap::from_pointee(SystemTime::now()),
            rejected: ArcSwapOption::empty(),
        }
    }

    /// One snapshot for the whole request, prices included. Never waits for a swap.
    pub fn current(&self) -> Arc<Policy> {
        self.current.load_full()
    }

    /// Since when the policy is in force.
    pub fn since(&self) -> SystemTime {
        **self.since.load()
    }

    /// What the folder holds now, when that is refused; `None` when it is in force.
    pub fn rejected(&self) -> Option<Arc<Rejected>> {
        self.rejected.load_full()
    }

    fn apply(&self, policy: Policy) {
        self.current.store(Arc::new(policy));
        self.since.store(Arc::new(SystemTime::now()));
        self.rejected.store(None);
    }
}

/// What a look at the folder led to.
#[derive(Clone, Debug)]
pub enum Seen {
    /// Nothing has changed.
    Same,
    /// It is being changed: look again in a moment.
    Unsettled,
    /// A new policy is in force.
    Applied(Arc<Policy>),
    /// The folder's content is refused.
    Rejected(Arc<Rejected>),
}

/// Looks at a policy folder and puts what it finds in force.
pub struct Reloader {
    folder: PathBuf,
    settings: Settings,
    handle: Arc<PolicyHandle>,
    /// The content that was judged last, and the one that was seen last.
    judged: Content,
    glimpsed: Content,
}

/// What the folder's content is told by: its files, and the files with secrets that they name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Content {
    files: Result<Sources, Vec<Diagnostic>>,
    secrets: BTreeMap<PathBuf, Vec<u8>>,
}

impl Reloader {
    /// Begins with what is in force. A change between the start and now is seen at the first look.
    pub fn new(folder: PathBuf, settings: Settings, handle: Arc<PolicyHandle>) -> Self {
        let current = handle.current();
        let files = Ok(current.sources.clone());
        let content = Content { files, secrets: current.secret_files.clone() };
        Self { folder, settings, handle, judged: content.clone(), glimpsed: content }
    }

    /// Looks. A content counts once it was seen twice in a row: what an editor or a copy is still
    /// writing is left alone. `prepare` gets the new policy before it is in force, and may refuse it.
    /// `today` is in days since 1970. Reads files; not for a reactor.
    pub fn look(
        &mut self,
        today: i64,
        prepare: impl FnOnce(&Policy) -> Result<(), String>,
    ) -> Seen {
        let content = self.content();
        if content == self.judged {
            self.glimpsed = content;
            return Seen::Same;
        }
        if content != self.glimpsed {
            self.glimpsed = content;
            return Seen::Unsettled;
        }
        self.judged = content.clone();
        self.settings.today = Some(today);
        match self.judge(content.files, prepare) {
            Ok(policy) => {
                self.handle.apply(policy);
                Seen::Applied(self.handle.current())
            }
            Err((revision, diagnostics)) => {
                let rejected = Rejected { revision, at: SystemTime::now(), diagnostics };
                let rejected = Arc::new(rejected);
                self.handle.rejected.store(Some(Arc::clone(&rejected)));
                Seen::Rejected(rejected)
            }
        }
    }

    fn content(&self) -> Content {
        let digest = |path: &PathBuf| fingerprint(&read_secret(path));
        let secrets = self.judged.secrets.keys().map(|path| (path.clone(), digest(path)));
        Content { secrets: secrets.collect(), files: Sources::read(&self.folder) }
    }

    fn judge(
        &mut self,
        files: Result<Sources, Vec<Diagnostic>>,
        prepare: impl FnOnce(&Policy) -> Result<(), String>,
    ) -> Result<Policy, (String, Vec<Diagnostic>)> {
        let sources = files.map_err(|found| (String::new(), found))?;
        let revision = sources.revision();
        if sources.policies.iter().all(|source| source.text.trim().is_empty()) {
            let message = format!("the policy folder {} holds no policy", self.folder.display());
            let cure = "write the files again; to let everything pass, keep a file without rules";
            return Err((revision, vec![Diagnostic::error(None, message).help(cure)]));
        }
        let (checked, _) = Policy::verify(&sources, &self.settings);
        self.judged.secrets = checked.secret_files;
        let Some(policy) = checked.policy else { return Err((revision, checked.diagnostics)) };
        match prepare(&policy) {
            Ok(()) => Ok(policy),
            Err(message) => Err((revision, vec![Diagnostic::error(None, message)])),
        }
    }
}
