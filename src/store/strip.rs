//! Strips rows to their bills: what was said, all that tells whose it was, and what people think of
//! it go; what it cost stays.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;
use sqlx::AnyConnection;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::any::AnyArguments;
use sqlx::any::AnyRow;
use sqlx::query::Query;
use tokio::task::JoinSet;

use super::database::Database;
use super::interaction::Kind;

/// Most rows of one transaction: others wait for it.
pub(super) const ROWS: usize = 500;
/// Objects that are deleted at the same time.
const DELETIONS: usize = 16;

/// A row that is to be stripped.
pub(super) struct Doomed {
    id: String,
    response_id: Option<String>,
    session_id: Option<String>,
}

impl Doomed {
    /// What [`Self::read`] wants to be selected from `interactions as i`.
    pub(super) const COLUMNS: &str = "cast(i.id as text), i.response_id, i.session_id";

    pub(super) fn read(row: &AnyRow) -> sqlx::Result<Self> {
        Ok(Self { id: row.try_get(0)?, response_id: row.try_get(1)?, session_id: row.try_get(2)? })
    }
}

/// A dataset that lost lines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Dataset {
    id: String,
    pub(super) name: String,
    pub(super) version: i64,
}

/// What went.
#[derive(Debug, Default)]
pub(super) struct Stripped {
    pub(super) rows: u64,
    pub(super) bodies: u64,
    pub(super) feedback: u64,
    pub(super) datasets: Vec<Dataset>,
}

/// Strips rows within a transaction of the caller's, which commits it or not.
pub(super) struct Strip<'a> {
    database: &'a Database,
    connection: &'a mut AnyConnection,
    rows: &'a [Doomed],
    /// Their ids, as the statements take them.
    ids: String,
    /// In milliseconds since 1970.
    now: i64,
}

impl<'a> Strip<'a> {
    pub(super) fn new(
        database: &'a Database,
        connection: &'a mut AnyConnection,
        rows: &'a [Doomed],
        now: i64,
    ) -> Self {
        let ids = list("id", rows.iter().map(|row| &*row.id));
        Self { database, connection, rows, ids, now }
    }

    /// Strips what is kept no longer. Datasets stay, and while a row is in one, so does whose it is:
    /// who asks for erasure later is found by it. Verdicts on a session go with its last row.
    pub(super) async fn expire(mut self) -> sqlx::Result<Stripped> {
        let mut stripped = Stripped { bodies: self.bodies().await?, ..Stripped::default() };
        stripped.rows = self
            .bills("case when exists (select 1 from dataset_items as d where d.interaction_id = interactions.id) then {} end")
            .await?;
        let over = "not exists (select 1 from interactions as i \
                    where i.session_id = feedback.target and i.erased_at is null)";
        stripped.feedback = self.feedback(over, self.now).await?;
        Ok(stripped)
    }

    /// Strips what somebody asked to be erased at `requested_at`; reaches datasets.
    pub(super) async fn erase(mut self, requested_at: i64) -> sqlx::Result<Stripped> {
        let mut stripped = Stripped { datasets: self.datasets().await?, ..Stripped::default() };
        stripped.bodies = self.bodies().await?;
        stripped.rows = self.bills("null").await?;
        let before = format!("created_at <= {}", self.database.instant(2));
        stripped.feedback = self.feedback(&before, requested_at).await?;
        self.remember(requested_at).await?;
        Ok(stripped)
    }

    /// Leaves the bills. `whose` stands for the columns that say whose a row is.
    async fn bills(&mut self, whose: &str) -> sqlx::Result<u64> {
        let (user, session) =
            (whose.replace("{}", "end_user_hash"), whose.replace("{}", "session_id"));
        let sql = format!(
            "update interactions set erased_at = coalesce(erased_at, {}), \
             capture = case capture when 'full' then 'metadata' else capture end, \
             end_user_hash = {user}, session_id = {session}, response_id = null, tags = '{{}}', \
             facts = '{{}}', redaction = '{{}}', retrieval = '{{}}' where id in ({})",
            self.database.instant(2),
            self.these()
        );
        let statement = query(sql).bind(self.ids.clone()).bind(self.now);
        Ok(statement.execute(&mut *self.connection).await?.rows_affected())
    }

    async fn bodies(&mut self) -> sqlx::Result<u64> {
        let sql = format!(
            "delete from interaction_bodies where interaction_id in ({}) \
             returning request_object, response_object",
            self.these()
        );
        let rows = query(sql).bind(self.ids.clone()).fetch_all(&mut *self.connection).await?;
        let mut objects = Vec::new();
        for row in &rows {
            objects.extend(row.try_get::<Option<String>, _>(0)?);
            objects.extend(row.try_get::<Option<String>, _>(1)?);
        }
        delete_objects(self.database, objects).await?;
        Ok(u64::try_from(rows.len()).unwrap_or(u64::MAX))
    }

    /// Deletes verdicts on the rows, on their answers, and on their sessions where `sessions` holds,
    /// in which `$2` is `time`.
    async fn feedback(&mut self, sessions: &str, time: i64) -> sqlx::Result<u64> {
        let answers = self.rows.iter().filter_map(|row| row.response_id.as_deref());
        let targets = self.rows.iter().map(|row| &*row.id).chain(answers);
        let among = self.among("target");
        let sql = format!("delete from feedback where target in ({among})");
        let statement = query(sql).bind(list("target", targets));
        let deleted = statement.execute(&mut *self.connection).await?.rows_affected();
        let of_rows = self.sessions();
        if of_rows.is_empty() {
            return Ok(deleted);
        }
        let sql = format!("delete from feedback where target in ({among}) and {sessions}");
        let mut statement = query(sql).bind(list("target", of_rows.into_iter()));
        if sessions.contains("$2") {
            statement = statement.bind(time);
        }
        Ok(deleted + statement.execute(&mut *self.connection).await?.rows_affected())
    }

    /// Keeps in mind what verdicts may come for later: the rows do not say it any more.
    async fn remember(&mut self, requested_at: i64) -> sqlx::Result<()> {
        let mut targets = self.sessions();
        targets.extend(self.rows.iter().filter_map(|row| row.response_id.as_deref()));
        let digests: Vec<String> = targets.into_iter().map(digest_of).collect();
        let columns = [("digest", Kind::Text)];
        let sql = format!(
            "insert into erased_targets (digest, requested_at) select {}, {} from {} where true \
             on conflict (digest) do update set requested_at = excluded.requested_at \
             where excluded.requested_at > erased_targets.requested_at",
            self.database.field("digest"),
            self.database.instant(2),
            self.database.records(&columns)
        );
        let digests = list("digest", digests.iter().map(|digest| &**digest));
        let statement = query(sql).bind(digests).bind(requested_at);
        statement.execute(&mut *self.connection).await.map(drop)
    }

    /// Empties the lines that were made of the rows; their datasets are not to be used any more.
    async fn datasets(&mut self) -> sqlx::Result<Vec<Dataset>> {
        let these = self.these();
        // What has the same file has the same words.
        let made =
            format!("select dataset_id from dataset_items where interaction_id in ({these})");
        let sql = format!(
            "select cast(id as text), name, version, train_key, valid_key from datasets \
             where id in ({made}) \
             or train_key in (select train_key from datasets where id in ({made})) \
             or valid_key in (select valid_key from datasets where id in ({made}))"
        );
        let rows = query(sql).bind(self.ids.clone()).fetch_all(&mut *self.connection).await?;
        let (mut datasets, mut files) = (Vec::new(), Vec::new());
        for row in &rows {
            let dataset =
                Dataset { id: row.try_get(0)?, name: row.try_get(1)?, version: row.try_get(2)? };
            datasets.push(dataset);
            files.extend(row.try_get::<Option<String>, _>(3)?);
            files.extend(row.try_get::<Option<String>, _>(4)?);
        }
        if datasets.is_empty() {
            return Ok(datasets);
        }
        delete_objects(self.database, files).await?;
        // Hashes of few words tell the words.
        let sql = format!(
            "update dataset_items set line = null, interaction_id = null, minhash = null, \
             conversation_id = '', content_hash = 'erased:' || ordinal \
             where interaction_id in ({these})"
        );
        query(sql).bind(self.ids.clone()).execute(&mut *self.connection).await?;
        let sql = format!(
            "update datasets set status = 'archived', error = 'words in it were erased', \
             train_key = null, valid_key = null where id in ({these})"
        );
        let ids = list("id", datasets.iter().map(|dataset| &*dataset.id));
        query(sql).bind(ids).execute(&mut *self.connection).await?;
        Ok(datasets)
    }

    fn sessions(&self) -> BTreeSet<&'a str> {
        self.rows.iter().filter_map(|row| row.session_id.as_deref()).collect()
    }

    /// The ids in `$1`.
    fn these(&self) -> String {
        let records = self.database.records(&[("id", Kind::Id)]);
        format!("select {} from {records}", self.database.field("id"))
    }

    /// The texts of this name in `$1`.
    fn among(&self, name: &str) -> String {
        let records = self.database.records(&[(name, Kind::Text)]);
        format!("select {} from {records}", self.database.field(name))
    }
}

/// Everything that lies in the object store and has to go comes here, before the commit: a key
/// that is forgotten first would leave its object behind for ever.
pub(super) async fn delete_objects(database: &Database, keys: Vec<String>) -> sqlx::Result<()> {
    let Some(objects) = &database.objects else {
        if !keys.is_empty() {
            tracing::error!(store = %database, ?keys, "erased bodies lie in an object store that is not known here; delete them there");
        }
        return Ok(());
    };
    let mut keys = keys.into_iter();
    let mut deletions = JoinSet::new();
    loop {
        while deletions.len() < DELETIONS
            && let Some(key) = keys.next()
        {
            let objects = objects.clone();
            deletions.spawn(async move { objects.delete(&key).await });
        }
        match deletions.join_next().await {
            None => return Ok(()),
            Some(done) => done
                .map_err(std::io::Error::other)
                .and_then(|done| done.map_err(std::io::Error::other))
                .map_err(sqlx::Error::Io)?,
        }
    }
}

/// What is kept of an erased answer's id, or of a session.
pub(super) fn digest_of(target: &str) -> String {
    let digest = digest::digest(&digest::SHA256, target.as_bytes());
    URL_SAFE_NO_PAD.encode(digest.as_ref().get(..18).unwrap_or_default())
}

/// Texts as the JSON that `Database::records` reads: one object with this field for each.
fn list<'a>(name: &str, texts: impl Iterator<Item = &'a str>) -> String {
    Value::from_iter(texts.map(|text| json!({ name: text }))).to_string()
}

fn query<'q>(sql: String) -> Query<'q, sqlx::Any, AnyArguments> {
    sqlx::query(AssertSqlSafe(sql))
}
