//! Virtual keys in the store: made, listed, renewed, revoked. The secret is shown when it is made,
//! and then only its hash is known.

mod grant;
mod page;
mod ring;
mod secret;

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use sqlx::Any;
use sqlx::AnyConnection;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::Transaction;
use sqlx::any::AnyRow;
use thiserror::Error;
use uuid::Uuid;

use super::database::Database;
use super::database::StoreError;
use super::database::is_refusal;
use super::ledger::BadParameter;
use super::period;

pub use grant::Consent;
pub use grant::Grant;
pub use grant::Importance;
pub use grant::NewKey;
pub use grant::grace;
pub use page::KeyPage;
pub use page::KeyQuery;
pub use page::page_of_keys;
pub use ring::KeyRing;
pub use ring::Refused;

use secret::Digest;

/// A virtual key as people see it.
#[derive(Clone, Debug, Serialize)]
pub struct Key {
    /// Its id, a UUIDv7.
    pub id: Uuid,
    object: &'static str,
    /// What it is called, and what it may.
    #[serde(flatten)]
    pub grant: Grant,
    /// active, grace (replaced, and valid for a while), expired or revoked.
    pub status: &'static str,
    /// The secret's first and last letters.
    pub hint: String,
    /// RFC 3339, like the other times.
    pub created_at: String,
    /// When it ends by itself.
    pub expires_at: Option<String>,
    /// When somebody ended it.
    pub revoked_at: Option<String>,
    /// The key that it replaces.
    pub rotated_from: Option<Uuid>,
    /// Until when it is valid beside the key that replaces it.
    pub grace_until: Option<String>,
    /// When it was last used, to the minute or so.
    pub last_used_at: Option<String>,
}

/// A new key with its secret, which nobody can see again.
#[derive(Clone, Debug, Serialize)]
pub struct IssuedKey {
    /// The secret: what callers send.
    pub key: String,
    /// The rest.
    #[serde(flatten)]
    pub about: Key,
}

/// Why a key was not made, renewed or revoked.
#[derive(Debug, Error)]
pub enum KeyError {
    /// A field that cannot be used.
    #[error(transparent)]
    Wrong(#[from] BadParameter),
    /// A living key has this name.
    #[error("there is a key `{0}` already; revoke or rotate it, or choose another name")]
    Taken(String),
    /// No living key has this id or name.
    #[error("there is no key `{0}` that is not revoked")]
    Unknown(String),
    /// The store is away.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system has no randomness.
    #[error("the system gives no random bytes for a secret")]
    Randomness,
}

/// A row as it is.
struct Stored {
    id: Uuid,
    digest: Option<Digest>,
    grant: Grant,
    hint: String,
    rotated_from: Option<Uuid>,
    created_at: i64,
    expires_at: Option<i64>,
    revoked_at: Option<i64>,
    grace_until: Option<i64>,
    last_used_at: Option<i64>,
}

impl Stored {
    fn shown(self, now: i64) -> Key {
        let over = |end: Option<i64>| end.is_some_and(|end| end <= now);
        let status = match &self {
            row if row.revoked_at.is_some() || over(row.grace_until) => "revoked",
            row if over(row.expires_at) => "expired",
            row if row.grace_until.is_some() => "grace",
            _ => "active",
        };
        Key {
            id: self.id,
            object: "key",
            grant: self.grant,
            status,
            hint: self.hint,
            created_at: period::written(self.created_at),
            expires_at: self.expires_at.map(period::written),
            revoked_at: self.revoked_at.map(period::written),
            rotated_from: self.rotated_from,
            grace_until: self.grace_until.map(period::written),
            last_used_at: self.last_used_at.map(period::written),
        }
    }
}

/// Makes a key. `now` is in milliseconds since 1970, here and below.
///
/// # Errors
/// See [`KeyError`].
pub async fn create_key(
    database: &Database,
    new: &NewKey,
    now: i64,
) -> Result<IssuedKey, KeyError> {
    let (grant, expires_at) = new.checked(now)?;
    let name = grant.name.clone();
    let (secret, row) = drafted(grant, expires_at, now)?;
    let mut connection = database.connect().await?;
    database.migrate_by(&mut connection).await?;
    let work = async {
        let mut transaction = begin(database, &mut connection).await?;
        // The name of a key that has expired is free again.
        let end = format!(
            "update virtual_keys set revoked_at = expires_at where name = $1 \
             and revoked_at is null and expires_at <= {}",
            database.instant(2)
        );
        sqlx::query(AssertSqlSafe(end)).bind(&name).bind(now).execute(&mut *transaction).await?;
        let inserted = insert(database, &mut transaction, &row).await;
        if inserted.as_ref().is_err_and(is_refusal) {
            return Ok(false);
        }
        inserted?;
        transaction.commit().await.map(|()| true)
    };
    if !database.within(work).await? {
        return Err(KeyError::Taken(name));
    }
    Ok(IssuedKey { key: secret, about: row.shown(now) })
}

/// All keys, the newest first; those that are over, too, where `all` says so.
///
/// # Errors
/// The store is away.
pub async fn list_keys(database: &Database, all: bool, now: i64) -> Result<Vec<Key>, StoreError> {
    let mut connection = database.connect().await?;
    database.migrate_by(&mut connection).await?;
    let rows = database.within(select(database, &mut connection)).await?;
    let keys = rows.into_iter().map(|row| row.shown(now));
    let mut keys: Vec<Key> = keys.filter(|key| all || key.status != "revoked").collect();
    keys.reverse();
    Ok(keys)
}

/// Revokes the key of this id, or all living ones of this name; returns what was revoked. Gateways
/// refuse it within 2 s.
///
/// # Errors
/// See [`KeyError`].
pub async fn revoke_key(database: &Database, which: &str, now: i64) -> Result<Vec<Key>, KeyError> {
    let mut connection = database.connect().await?;
    database.migrate_by(&mut connection).await?;
    let work = async {
        let mut transaction = begin(database, &mut connection).await?;
        let mut rows = select(database, &mut transaction).await?;
        rows.retain(|row| row.is_called(which) && row.revoked_at.is_none());
        for row in &mut rows {
            end(database, &mut transaction, row.id, "revoked_at", now).await?;
            row.revoked_at = Some(now);
        }
        transaction.commit().await.map(|()| rows)
    };
    let revoked = database.within(work).await?;
    if revoked.is_empty() {
        return Err(KeyError::Unknown(which.to_owned()));
    }
    Ok(revoked.into_iter().map(|row| row.shown(now)).collect())
}

/// Renews a key's secret: a new key with the same name and grant, which lives as long as the old
/// one did from its own beginning. The old secret is valid for `grace` more.
///
/// # Errors
/// See [`KeyError`].
pub async fn rotate_key(
    database: &Database,
    which: &str,
    grace: Duration,
    now: i64,
) -> Result<IssuedKey, KeyError> {
    let unknown = || KeyError::Unknown(which.to_owned());
    let mut connection = database.connect().await?;
    database.migrate_by(&mut connection).await?;
    let mut transaction = database.within(begin(database, &mut connection)).await?;
    let rows = database.within(select(database, &mut transaction)).await?;
    let in_force = |row: &Stored| row.revoked_at.is_none() && row.grace_until.is_none();
    let old = rows.into_iter().find(|row| row.is_called(which) && in_force(row));
    let old = old.ok_or_else(unknown)?;
    let life = old.expires_at.map(|end| end.saturating_sub(old.created_at));
    let expires_at = life.map(|life| now.saturating_add(life));
    let (secret, mut row) = drafted(old.grant, expires_at, now)?;
    row.rotated_from = Some(old.id);
    let grace = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
    let work = async {
        let (column, at) = if grace == 0 {
            ("revoked_at", now)
        } else {
            ("grace_until", now.saturating_add(grace))
        };
        end(database, &mut transaction, old.id, column, at).await?;
        insert(database, &mut transaction, &row).await?;
        transaction.commit().await
    };
    database.within(work).await?;
    Ok(IssuedKey { key: secret, about: row.shown(now) })
}

impl Stored {
    /// Whether this is the key's id or name; no name looks like an id.
    fn is_called(&self, which: &str) -> bool {
        self.grant.name == which || Uuid::try_parse(which) == Ok(self.id)
    }
}

/// A key that is not stored yet, and its secret.
fn drafted(grant: Grant, expires_at: Option<i64>, now: i64) -> Result<(String, Stored), KeyError> {
    let secret = secret::generate().ok_or(KeyError::Randomness)?;
    let row = Stored {
        id: Uuid::now_v7(),
        digest: Some(Digest::of(secret.as_bytes())),
        hint: secret::hint(&secret),
        grant,
        rotated_from: None,
        created_at: now,
        expires_at,
        revoked_at: None,
        grace_until: None,
        last_used_at: None,
    };
    Ok((secret, row))
}

async fn insert(
    database: &Database,
    connection: &mut AnyConnection,
    row: &Stored,
) -> sqlx::Result<()> {
    let (id, from) = (database.id(1), database.id(11));
    let (created, expires) = (database.instant(2), database.instant(10));
    let (tags, models) = (database.json(6), database.json(7));
    let sql = format!(
        "insert into virtual_keys (id, created_at, name, digest, hint, team, tags, models, \
           consent, importance, expires_at, rotated_from) \
         values ({id}, {created}, $3, $4, $5, $12, {tags}, {models}, $8, $9, {expires}, {from})"
    );
    let Grant { name, team, tags, models, consent, importance } = &row.grant;
    sqlx::query(AssertSqlSafe(sql))
        .bind(row.id.to_string())
        .bind(row.created_at)
        .bind(name)
        .bind(row.digest.map(Digest::to_hex))
        .bind(&row.hint)
        .bind(Value::from(tags.as_slice()).to_string())
        .bind(Value::from(models.as_slice()).to_string())
        .bind(consent.as_str())
        .bind(importance.as_str())
        .bind(row.expires_at)
        .bind(row.rotated_from.map(|id| id.to_string()))
        .bind(team)
        .execute(connection)
        .await
        .map(drop)
}

/// Ends a key at a time; `column` says how.
async fn end(
    database: &Database,
    connection: &mut AnyConnection,
    id: Uuid,
    column: &str,
    at: i64,
) -> sqlx::Result<()> {
    let (id_is, time) = (database.id(1), database.instant(2));
    let sql = format!("update virtual_keys set {column} = {time} where id = {id_is}");
    let statement = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string()).bind(at);
    statement.execute(connection).await.map(drop)
}

/// Begins a change, and tells gateways that there is one. The count keeps changes apart: who waits
/// for it sees what the one before has done.
async fn begin<'c>(
    database: &Database,
    connection: &'c mut AnyConnection,
) -> sqlx::Result<Transaction<'c, Any>> {
    let mut transaction = database.begin(connection).await?;
    let sql = "update virtual_key_changes set counter = counter + 1";
    sqlx::query(sql).execute(&mut *transaction).await?;
    Ok(transaction)
}

/// All rows, the oldest first.
async fn select(database: &Database, connection: &mut AnyConnection) -> sqlx::Result<Vec<Stored>> {
    let times = ["created_at", "expires_at", "revoked_at", "grace_until", "last_used_at"];
    let times = times.map(|time| database.millis(time)).join(", ");
    let sql = format!(
        "select cast(id as text), digest, name, team, cast(tags as text), cast(models as text), \
           consent, importance, hint, cast(rotated_from as text), {times} \
         from virtual_keys order by id"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await?;
    rows.iter().map(stored).collect()
}

fn stored(row: &AnyRow) -> sqlx::Result<Stored> {
    fn read<T: serde::de::DeserializeOwned>(text: &str) -> sqlx::Result<T> {
        serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(error.into()))
    }
    let text = |at: usize| row.try_get::<String, _>(at);
    let word = |at: usize| Ok::<_, sqlx::Error>(Value::from(text(at)?).to_string());
    let id = |text: &str| Uuid::try_parse(text).map_err(|error| sqlx::Error::Decode(error.into()));
    let grant = Grant {
        name: text(2)?,
        team: text(3)?,
        tags: read(&text(4)?)?,
        models: read(&text(5)?)?,
        consent: read(&word(6)?)?,
        importance: read(&word(7)?)?,
    };
    Ok(Stored {
        id: id(&text(0)?)?,
        digest: Digest::from_hex(&text(1)?),
        grant,
        hint: text(8)?,
        rotated_from: row.try_get::<Option<String>, _>(9)?.as_deref().map(id).transpose()?,
        created_at: row.try_get(10)?,
        expires_at: row.try_get(11)?,
        revoked_at: row.try_get(12)?,
        grace_until: row.try_get(13)?,
        last_used_at: row.try_get(14)?,
    })
}
