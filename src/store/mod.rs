//! Whatever outlives the process: the spool on disk, the database, and the ledger in it.
//!
//! A finished call is handed to the [`Recorder`] as an [`Interaction`]. One thread appends it to a
//! file (`spool`), another moves files into the database (`ship`): a client never waits for
//! either, and a record is in one of the two from the append on.

mod conversations;
mod database;
mod erase;
mod feedback;
mod folder;
mod frame;
mod interaction;
mod interactions;
mod ledger;
mod limits;
mod objects;
mod pair;
mod past;
mod period;
mod recorder;
mod recost;
mod ship;
mod spool;
mod strip;
mod sweep;
mod user;

pub use database::Database;
pub use database::StoreError;
pub use erase::Erasure;
pub use erase::Subject;
pub use erase::erase;
pub use feedback::Verdict;
pub use interaction::Attempt;
pub use interaction::Charge;
pub use interaction::Interaction;
pub use interactions::InteractionPage;
pub use interactions::InteractionQuery;
pub use interactions::Interactions;
pub use interactions::WholeInteraction;
pub use ledger::BadParameter;
pub use ledger::Ledger;
pub use ledger::SpendLine;
pub use ledger::SpendPage;
pub use ledger::SpendQuery;
pub use limits::LimitCounter;
pub use limits::LimitCounters;
pub use objects::Credentials;
pub use objects::ObjectError;
pub use objects::Objects;
pub use pair::Pair;
pub use past::Past;
pub use past::PastCall;
pub use past::PastPage;
pub use period::Period;
pub use recorder::Recorder;
pub use recorder::Settings;
pub use recost::Recosted;
pub use recost::recost;
pub use user::UserHash;
pub use user::hash_user;
