//! The database: rows in, rows out. What they mean is `pool-core`'s; when they are read and written, the engine's.
//!
//! SQLite (a file) or PostgreSQL, with the same statements. Every row of a pool carries the revision of the pool at which it was
//! stored, so that a controller can read what others changed since.

use pool_core::Millis;
use pool_core::agent::{Agent, AgentId};
use pool_core::job::{Job, JobId};
use pool_core::pool::{Audit, Head, Touched};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions, AnyRow};
use sqlx::{AnyConnection, AnyPool, Connection, Row};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// What can go wrong with a database; its own words, which name no secret (URLs with passwords are cut).
#[derive(Debug)]
pub enum StoreError {
    /// The database says no.
    Database(sqlx::Error),
    /// It cannot be used at all.
    Unusable(String),
    /// A row is not what this version wrote.
    Row(String),
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Database(e) => write!(f, "database: {e}"),
            Self::Unusable(text) => f.write_str(text),
            Self::Row(text) => write!(f, "database: a row is not understood: {text}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<sqlx::Error> for StoreError {
    fn from(e: sqlx::Error) -> Self {
        Self::Database(e)
    }
}

impl From<serde_json::Error> for StoreError {
    fn from(e: serde_json::Error) -> Self {
        Self::Row(e.to_string())
    }
}

/// Which database it is: few statements differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file, used by one controller at a time.
    Sqlite,
    /// A server, shared by any number of controllers.
    Postgres,
}

/// Statements that are made once.
#[derive(Debug)]
struct Statements {
    changes: String,
    everything: String,
    submissions: String,
    tokens: String,
    write: String,
}

impl Kind {
    /// A statement for this database: `{$4}` stands for the rows of a JSON array.
    fn statement(self, text: &str) -> String {
        let mut out = text.to_owned();
        for number in 1..=7 {
            let rows = match self {
                Self::Sqlite => format!("json_each(${number}) AS r"),
                Self::Postgres => format!("json_array_elements(CAST(${number} AS json)) AS r(value)"),
            };
            out = out.replace(&format!("{{${number}}}"), &rows);
        }
        out
    }

    fn statements(self) -> Statements {
        let [agents, jobs, audit, submissions, pools] = WRITES.map(|text| self.statement(text));
        let write = match self {
            Self::Sqlite => [agents, jobs, audit, submissions, pools].join("; "),
            // One statement, one way to the server and back.
            Self::Postgres => format!("WITH a AS ({agents}), j AS ({jobs}), l AS ({audit}), s AS ({submissions}) {pools}"),
        };
        Statements {
            changes: CHANGES.replace("{open}", ""),
            // What had ended before anybody looked is of no interest to decisions.
            everything: CHANGES.replace("{open}", " AND ended = 0"),
            submissions: self.statement(
                // CROSS: SQLite goes through the keys that were asked for, not through all that there are.
                "SELECT s.actor, s.key, s.request, s.job FROM {$2} CROSS JOIN submissions s \
                 WHERE s.pool = $1 AND s.actor = r.value->>0 AND s.key = r.value->>1",
            ),
            tokens: self.statement(
                "UPDATE tokens SET used = $1 WHERE used IS NULL AND hash IN (SELECT r.value->>0 FROM {$2}) RETURNING hash",
            ),
            write,
        }
    }
}

/// A database with our tables in it.
#[derive(Debug)]
pub struct Store {
    pool: AnyPool,
    kind: Kind,
    statements: Arc<Statements>,
    /// Held as long as we use the file.
    _lock: Option<File>,
}

const SCHEMA: &[&str] = &[
    "CREATE TABLE pools (id BIGINT PRIMARY KEY, name TEXT NOT NULL UNIQUE, revision BIGINT NOT NULL, head_revision BIGINT NOT NULL, head TEXT NOT NULL)",
    "CREATE TABLE agents (pool BIGINT NOT NULL, id BIGINT NOT NULL, revision BIGINT NOT NULL, doc TEXT, key_hash TEXT, PRIMARY KEY (pool, id))",
    "CREATE INDEX agents_revision ON agents (pool, revision)",
    "CREATE TABLE jobs (pool BIGINT NOT NULL, id BIGINT NOT NULL, revision BIGINT NOT NULL, ended BIGINT NOT NULL, doc TEXT NOT NULL, PRIMARY KEY (pool, id))",
    "CREATE INDEX jobs_revision ON jobs (pool, revision)",
    "CREATE INDEX jobs_open ON jobs (pool, ended, id)",
    "CREATE TABLE audit (id {identity}, pool BIGINT, at BIGINT NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL, detail TEXT NOT NULL)",
    "CREATE INDEX audit_pool ON audit (pool, id)",
    "CREATE TABLE tokens (hash TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, role TEXT NOT NULL, pool BIGINT, created BIGINT NOT NULL, expires BIGINT, used BIGINT)",
    "CREATE TABLE submissions (pool BIGINT NOT NULL, actor TEXT NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL, job BIGINT NOT NULL, at BIGINT NOT NULL, PRIMARY KEY (pool, actor, key))",
    "CREATE TABLE files (sha256 TEXT PRIMARY KEY, size BIGINT NOT NULL, content {bytes} NOT NULL)",
];

/// What makes the audit table one that only grows.
const APPEND_ONLY_SQLITE: &[&str] = &[
    "CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit table is append-only'); END",
    "CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit table is append-only'); END",
];
/// SQLite replaces rows without asking a trigger of deletion.
const NO_REPLACE_SQLITE: &str = "CREATE TRIGGER IF NOT EXISTS audit_no_replace BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id) BEGIN SELECT RAISE(ABORT, 'the audit table is append-only'); END";
const APPEND_ONLY_POSTGRES: &[&str] = &[
    "CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''the audit table is append-only''; END'",
    "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit EXECUTE FUNCTION audit_is_append_only()",
];

/// From version 1 to 2: a job says when it ended, and what is kept for a time is found by its time.
const TO_2: &[&str] = &[
    "UPDATE jobs SET ended = CAST({at} AS BIGINT) WHERE ended = 1",
    "CREATE INDEX submissions_at ON submissions (pool, at)",
    "CREATE INDEX tokens_used ON tokens (pool, used)",
];

/// What a transaction writes, each kind of row in one statement however many there are: rows are JSON arrays of arrays. `$1` pool, `$2` revision, `$3` the pool's own row or
/// null, `$4` agents (a removed one has no document), `$5` jobs, `$6` lines of audit, `$7` idempotency keys.
const WRITES: [&str; 5] = [
    "INSERT INTO agents (pool, id, revision, doc, key_hash) \
     SELECT $1, CAST(r.value->>0 AS BIGINT), $2, r.value->>1, r.value->>2 FROM {$4} WHERE true \
     ON CONFLICT (pool, id) DO UPDATE SET revision = excluded.revision, doc = excluded.doc, \
     key_hash = CASE WHEN excluded.doc IS NULL THEN NULL ELSE COALESCE(excluded.key_hash, agents.key_hash) END",
    "INSERT INTO jobs (pool, id, revision, ended, doc) \
     SELECT $1, CAST(r.value->>0 AS BIGINT), $2, CAST(r.value->>1 AS BIGINT), r.value->>2 FROM {$5} WHERE true \
     ON CONFLICT (pool, id) DO UPDATE SET revision = excluded.revision, ended = excluded.ended, doc = excluded.doc",
    "INSERT INTO audit (pool, at, actor, action, detail) \
     SELECT $1, CAST(r.value->>0 AS BIGINT), r.value->>1, r.value->>2, r.value->>3 FROM {$6}",
    "INSERT INTO submissions (pool, actor, key, request, job, at) \
     SELECT $1, r.value->>0, r.value->>1, r.value->>2, CAST(r.value->>3 AS BIGINT), CAST(r.value->>4 AS BIGINT) FROM {$7}",
    "UPDATE pools SET revision = $2, head_revision = CASE WHEN $3 IS NULL THEN head_revision ELSE $2 END, head = COALESCE($3, head) WHERE id = $1",
];

/// What was stored after a revision: kind, number, document, hash of the key.
const CHANGES: &str = "SELECT CAST(0 AS BIGINT), id, head, CAST(NULL AS TEXT) FROM pools WHERE id = $1 AND head_revision > $2 \
     UNION ALL SELECT 1, id, doc, key_hash FROM agents WHERE pool = $1 AND revision > $2 \
     UNION ALL SELECT 2, id, doc, CAST(NULL AS TEXT) FROM jobs WHERE pool = $1 AND revision > $2{open}";

/// The version of the tables that this program writes.
const VERSION: i64 = 2;
/// Any number, the same in every controller: who migrates holds it.
const MIGRATION_LOCK: i64 = 0x617a_7072_7870;
/// Longest wait for a lock of somebody else's.
const PATIENCE_SECONDS: u64 = 10;
/// A connection that was used so short a time ago is taken to be there.
const FRESH: Duration = Duration::from_secs(2);

impl Store {
    /// Opens a database, and makes or migrates its tables. `url` is `postgres://…`, or a file's path.
    ///
    /// # Errors
    /// It cannot be reached, is used by another controller (a file), or was written by a newer version.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let (kind, url, lock) = if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            (Kind::Postgres, url.to_owned(), None)
        } else if url.contains("://") {
            return Err(StoreError::Unusable("the database is a file's path or a postgres:// URL".into()));
        } else {
            (Kind::Sqlite, format!("sqlite://{url}?mode=rwc"), Some(own_file(Path::new(url))?))
        };
        let options = AnyConnectOptions::from_str(&url).map_err(|e| StoreError::Unusable(format!("the database URL: {e}")))?;
        let pool = AnyPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(Duration::from_secs(PATIENCE_SECONDS))
            // Whether a connection is still there is asked of one that has been idle; else that would double the ways to the server.
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move { Ok(meta.idle_for < FRESH || connection.ping().await.is_ok()) })
            })
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    let settings: &[&str] = match kind {
                        // FULL: what was answered is on the disk. Many operations share one sync.
                        Kind::Sqlite => {
                            &["PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA busy_timeout = 10000"]
                        }
                        Kind::Postgres => &["SET lock_timeout = '10s'", "SET idle_in_transaction_session_timeout = '30s'"],
                    };
                    for setting in settings {
                        sqlx::query(setting).execute(&mut *connection).await?;
                    }
                    Ok(())
                })
            })
            .connect_with(options)
            .await
            .map_err(|e| StoreError::Unusable(format!("the database cannot be opened: {e}")))?;
        let store = Self { pool, kind, statements: Arc::new(kind.statements()), _lock: lock };
        store.migrate().await?;
        Ok(store)
    }

    /// Which database it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        let mut tx = connection.begin().await?;
        if self.kind == Kind::Postgres {
            // Two controllers that are started together make the tables once.
            sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MIGRATION_LOCK).execute(&mut *tx).await?;
        }
        sqlx::query("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)").execute(&mut *tx).await?;
        let version: Option<i64> =
            sqlx::query("SELECT version FROM schema_version").fetch_optional(&mut *tx).await?.map(|row| row.get(0));
        let mut statements: Vec<&str> = Vec::new();
        let version = version.unwrap_or_else(|| {
            statements.extend(SCHEMA);
            statements.extend(if self.kind == Kind::Sqlite { APPEND_ONLY_SQLITE } else { APPEND_ONLY_POSTGRES });
            statements.push("INSERT INTO schema_version (version) VALUES (1)");
            1
        });
        match version {
            1 => {
                statements.extend(TO_2);
                if self.kind == Kind::Sqlite {
                    statements.push(NO_REPLACE_SQLITE);
                }
                statements.push("UPDATE schema_version SET version = 2");
            }
            VERSION => {}
            other => {
                return Err(StoreError::Unusable(format!(
                    "the database has tables of version {other}; this program knows {VERSION}"
                )));
            }
        }
        let (identity, bytes, at) = match self.kind {
            Kind::Sqlite => ("INTEGER PRIMARY KEY AUTOINCREMENT", "BLOB", "doc->'state'->>'at'"),
            Kind::Postgres => ("BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "BYTEA", "(CAST(doc AS json)->'state'->>'at')"),
        };
        for statement in statements {
            let statement = statement.replace("{identity}", identity).replace("{bytes}", bytes).replace("{at}", at);
            sqlx::query(&statement).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Does any statement: for those who try what the database holds against.
    ///
    /// # Errors
    /// The database's.
    #[doc(hidden)]
    pub async fn execute(&self, statement: &str) -> Result<(), StoreError> {
        sqlx::query(statement).execute(&self.pool).await?;
        Ok(())
    }

    /// All pools: number and name.
    ///
    /// # Errors
    /// The database's.
    pub async fn pools(&self) -> Result<Vec<(i64, String)>, StoreError> {
        let rows = sqlx::query("SELECT id, name FROM pools ORDER BY name").fetch_all(&self.pool).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Makes a pool; `None` if there is one of that name.
    ///
    /// # Errors
    /// The database's.
    pub async fn create_pool(&self, name: &str, head: &Head, line: &Audit) -> Result<Option<i64>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let mut tx = connection.begin().await?;
        let statement = "INSERT INTO pools (id, name, revision, head_revision, head) \
                         SELECT COALESCE(MAX(id), 0) + 1, $1, 1, 1, $2 FROM pools WHERE true \
                         ON CONFLICT (name) DO NOTHING RETURNING id";
        let row = sqlx::query(statement).bind(name).bind(serde_json::to_string(head)?).fetch_optional(&mut *tx).await?;
        let Some(id) = row.map(|row| row.get::<i64, _>(0)) else { return Ok(None) };
        insert_audit(&mut tx, Some(id), line).await?;
        tx.commit().await?;
        Ok(Some(id))
    }

    /// Begins to change a pool: nobody else does until the transaction ends. Gives the pool's revision.
    ///
    /// # Errors
    /// The database's; the pool is gone.
    pub async fn begin(&self, pool: i64) -> Result<Transaction, StoreError> {
        let mut connection = self.pool.begin().await?;
        let lock = match self.kind {
            // SQLite locks the whole file, and refuses a reader that becomes a writer too late: the first statement writes.
            Kind::Sqlite => "UPDATE pools SET revision = revision WHERE id = $1 RETURNING revision",
            Kind::Postgres => "SELECT revision FROM pools WHERE id = $1 FOR UPDATE",
        };
        let row = sqlx::query(lock).bind(pool).fetch_optional(&mut *connection).await?;
        let revision = row.ok_or_else(|| StoreError::Unusable(format!("pool {pool} is gone")))?.get(0);
        Ok(Transaction { connection, pool, revision, statements: Arc::clone(&self.statements) })
    }

    /// The revision of a pool, without waiting for anybody.
    ///
    /// # Errors
    /// The database's.
    pub async fn revision(&self, pool: i64) -> Result<i64, StoreError> {
        let row = sqlx::query("SELECT revision FROM pools WHERE id = $1").bind(pool).fetch_optional(&self.pool).await?;
        row.map(|row| row.get(0)).ok_or_else(|| StoreError::Unusable(format!("pool {pool} is gone")))
    }

    /// One job, whatever its state.
    ///
    /// # Errors
    /// The database's.
    pub async fn job(&self, pool: i64, id: JobId) -> Result<Option<Job>, StoreError> {
        let row = sqlx::query("SELECT doc FROM jobs WHERE pool = $1 AND id = $2")
            .bind(pool)
            .bind(id.0)
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| document(&row, 0)).transpose()
    }

    /// Jobs, newest first, older than `before`; `ended` chooses those that have ended or have not.
    ///
    /// # Errors
    /// The database's.
    pub async fn jobs(&self, pool: i64, before: i64, ended: Option<bool>, limit: i64) -> Result<Vec<Job>, StoreError> {
        let statement = match ended {
            None => "SELECT doc FROM jobs WHERE pool = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
            Some(true) => "SELECT doc FROM jobs WHERE pool = $1 AND id < $2 AND ended > 0 ORDER BY id DESC LIMIT $3",
            Some(false) => "SELECT doc FROM jobs WHERE pool = $1 AND id < $2 AND ended = 0 ORDER BY id DESC LIMIT $3",
        };
        let rows = sqlx::query(statement).bind(pool).bind(before).bind(limit).fetch_all(&self.pool).await?;
        rows.iter().map(|row| document(row, 0)).collect()
    }

    /// Lines of the audit table, newest first, with their numbers; `pool` `None` is those about no pool (tokens).
    ///
    /// # Errors
    /// The database's.
    pub async fn audit(&self, pool: Option<i64>, before: i64, limit: i64) -> Result<Vec<(i64, Audit)>, StoreError> {
        let statement = if pool.is_some() {
            "SELECT id, at, actor, action, detail FROM audit WHERE pool = $1 AND id < $2 ORDER BY id DESC LIMIT $3"
        } else {
            "SELECT id, at, actor, action, detail FROM audit WHERE pool IS NULL AND $1 = 0 AND id < $2 ORDER BY id DESC LIMIT $3"
        };
        let rows = sqlx::query(statement).bind(pool.unwrap_or(0)).bind(before).bind(limit).fetch_all(&self.pool).await?;
        let line = |row: &AnyRow| Audit { at: millis(row.get(1)), actor: row.get(2), action: row.get(3), detail: row.get(4) };
        Ok(rows.iter().map(|row| (row.get(0), line(row))).collect())
    }

    /// A file's content.
    ///
    /// # Errors
    /// The database's.
    pub async fn file(&self, sha256: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let row = sqlx::query("SELECT content FROM files WHERE sha256 = $1").bind(sha256).fetch_optional(&self.pool).await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// The length of a file, if it is there.
    ///
    /// # Errors
    /// The database's.
    pub async fn file_size(&self, sha256: &str) -> Result<Option<i64>, StoreError> {
        let row = sqlx::query("SELECT size FROM files WHERE sha256 = $1").bind(sha256).fetch_optional(&self.pool).await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Keeps a file; one that is there already stays.
    ///
    /// # Errors
    /// The database's.
    pub async fn put_file(&self, sha256: &str, content: &[u8]) -> Result<(), StoreError> {
        let statement = "INSERT INTO files (sha256, size, content) VALUES ($1, $2, $3) ON CONFLICT (sha256) DO NOTHING";
        sqlx::query(statement).bind(sha256).bind(content.len() as i64).bind(content).execute(&self.pool).await?;
        Ok(())
    }

    /// The token of this hash.
    ///
    /// # Errors
    /// The database's.
    pub async fn token(&self, hash: &str) -> Result<Option<Token>, StoreError> {
        let row = sqlx::query("SELECT name, role, pool, created, expires, used FROM tokens WHERE hash = $1").bind(hash);
        Ok(row.fetch_optional(&self.pool).await?.as_ref().map(token))
    }

    /// All tokens, by name; never their hashes.
    ///
    /// # Errors
    /// The database's.
    pub async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        let rows = sqlx::query("SELECT name, role, pool, created, expires, used FROM tokens ORDER BY name")
            .fetch_all(&self.pool)
            .await?;
        Ok(rows.iter().map(token).collect())
    }

    /// Keeps a new token; false if there is one of that name.
    ///
    /// # Errors
    /// The database's.
    pub async fn put_token(&self, hash: &str, token: &Token, line: &Audit) -> Result<bool, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let mut tx = connection.begin().await?;
        let statement = "INSERT INTO tokens (hash, name, role, pool, created, expires) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO NOTHING";
        let Token { name, role, pool, created, expires, .. } = token;
        let insert = sqlx::query(statement).bind(hash).bind(name).bind(role).bind(*pool).bind(*created).bind(*expires);
        if insert.execute(&mut *tx).await?.rows_affected() == 0 {
            return Ok(false);
        }
        insert_audit(&mut tx, *pool, line).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Forgets a token, unless nobody could make another one then.
    ///
    /// # Errors
    /// The database's.
    pub async fn remove_token(&self, name: &str, line: &Audit) -> Result<Removal, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let mut tx = connection.begin().await?;
        if sqlx::query("DELETE FROM tokens WHERE name = $1").bind(name).execute(&mut *tx).await?.rows_affected() == 0 {
            return Ok(Removal::Unknown);
        }
        let left = "SELECT 1 FROM tokens WHERE role = 'administrator' AND pool IS NULL AND expires IS NULL LIMIT 1";
        if sqlx::query(left).fetch_optional(&mut *tx).await?.is_none() {
            return Ok(Removal::Last);
        }
        insert_audit(&mut tx, None, line).await?;
        tx.commit().await?;
        Ok(Removal::Done)
    }

    /// Forgets, at most `limit` of each, jobs of a pool that ended before `jobs`; its idempotency keys of before `keys`, and one-time tokens that were used before then.
    /// Gives how many rows that were. The audit table keeps everything.
    ///
    /// # Errors
    /// The database's.
    pub async fn forget(&self, pool: i64, jobs: Millis, keys: Millis, limit: i64) -> Result<u64, StoreError> {
        let mut gone = 0;
        let (jobs, keys) = (jobs.0 as i64, keys.0 as i64);
        for (statement, before) in [
            (
                "DELETE FROM jobs WHERE pool = $1 AND id IN \
                 (SELECT id FROM jobs WHERE pool = $1 AND ended > 0 AND ended < $2 ORDER BY ended LIMIT $3)",
                jobs,
            ),
            (
                "DELETE FROM submissions WHERE pool = $1 AND (actor, key) IN \
                 (SELECT actor, key FROM submissions WHERE pool = $1 AND at < $2 ORDER BY at LIMIT $3)",
                keys,
            ),
            (
                "DELETE FROM tokens WHERE hash IN \
                 (SELECT hash FROM tokens WHERE role = 'register' AND pool = $1 AND used < $2 ORDER BY used LIMIT $3)",
                keys,
            ),
        ] {
            let done = sqlx::query(statement).bind(pool).bind(before).bind(limit).execute(&self.pool).await?;
            gone += done.rows_affected();
        }
        Ok(gone)
    }

    /// Hash of an agent's key.
    ///
    /// # Errors
    /// The database's.
    pub async fn agent_key(&self, pool: i64, id: AgentId) -> Result<Option<String>, StoreError> {
        let statement = "SELECT key_hash FROM agents WHERE pool = $1 AND id = $2 AND doc IS NOT NULL";
        let row = sqlx::query(statement).bind(pool).bind(id.0).fetch_optional(&self.pool).await?;
        Ok(row.and_then(|row| row.get(0)))
    }
}

/// What came of forgetting a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is gone.
    Done,
    /// There is none of that name.
    Unknown,
    /// It stays: no administrator's token that does not expire would be left.
    Last,
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its name: who acts with it.
    pub name: String,
    /// What it may do.
    pub role: String,
    /// The only pool that it is good for.
    pub pool: Option<i64>,
    /// When it was made, milliseconds.
    pub created: i64,
    /// Until when it is good.
    pub expires: Option<i64>,
    /// When it was used up (registration tokens).
    pub used: Option<i64>,
}

fn token(row: &AnyRow) -> Token {
    Token { name: row.get(0), role: row.get(1), pool: row.get(2), created: row.get(3), expires: row.get(4), used: row.get(5) }
}

/// What others stored since a revision.
#[derive(Debug, Default)]
pub struct Changes {
    /// The pool's row.
    pub head: Option<Head>,
    /// Agents, with the hashes of their keys.
    pub agents: Vec<(Agent, String)>,
    /// Agents that are gone.
    pub removed: Vec<AgentId>,
    /// Jobs.
    pub jobs: Vec<Job>,
}

/// A change of one pool. Dropped without [`Transaction::commit`], nothing happened.
#[derive(Debug)]
pub struct Transaction {
    connection: sqlx::Transaction<'static, sqlx::Any>,
    pool: i64,
    statements: Arc<Statements>,
    /// The pool's revision.
    pub revision: i64,
}

/// An idempotency key, and what was submitted under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// Whose key.
    pub actor: String,
    /// The key.
    pub key: String,
    /// Hash of the request.
    pub request: String,
    /// The job.
    pub job: JobId,
}

impl Transaction {
    /// What was stored after `since`; everything that has not ended if `since` is 0.
    ///
    /// # Errors
    /// The database's.
    pub async fn changes(&mut self, since: i64) -> Result<Changes, StoreError> {
        let mut changes = Changes::default();
        let statement = if since == 0 { &self.statements.everything } else { &self.statements.changes };
        let rows = sqlx::query(statement).bind(self.pool).bind(since).fetch_all(&mut *self.connection).await?;
        for row in &rows {
            match (row.get::<i64, _>(0), row.get::<Option<&str>, _>(2)) {
                (0, _) => changes.head = Some(document(row, 2)?),
                (1, Some(doc)) => {
                    changes.agents.push((serde_json::from_str(doc)?, row.get::<Option<String>, _>(3).unwrap_or_default()));
                }
                (1, None) => changes.removed.push(AgentId(row.get(1))),
                _ => changes.jobs.push(document(row, 2)?),
            }
        }
        Ok(changes)
    }

    /// Uses one-time tokens up; gives the hashes of those that were such tokens, and were not used before.
    ///
    /// # Errors
    /// The database's.
    pub async fn use_tokens(&mut self, hashes: &[[String; 1]], now: Millis) -> Result<Vec<String>, StoreError> {
        let query = sqlx::query(&self.statements.tokens).bind(now.0 as i64).bind(serde_json::to_string(hashes)?);
        Ok(query.fetch_all(&mut *self.connection).await?.iter().map(|row| row.get(0)).collect())
    }

    /// What was submitted under idempotency keys: each an actor and a key.
    ///
    /// # Errors
    /// The database's.
    pub async fn submissions(&mut self, keys: &[[String; 2]]) -> Result<Vec<Submission>, StoreError> {
        let query = sqlx::query(&self.statements.submissions).bind(self.pool).bind(serde_json::to_string(keys)?);
        let rows = query.fetch_all(&mut *self.connection).await?;
        let one = |row: &AnyRow| Submission { actor: row.get(0), key: row.get(1), request: row.get(2), job: JobId(row.get(3)) };
        Ok(rows.iter().map(one).collect())
    }

    /// Stores what was touched, under the next revision; with the keys of new agents, and the idempotency keys of new jobs.
    ///
    /// # Errors
    /// The database's.
    pub async fn put(
        &mut self,
        touched: &Touched,
        keys: &[(AgentId, String)],
        submissions: &[Submission],
        now: Millis,
    ) -> Result<(), StoreError> {
        self.revision += 1;
        let head = touched.head.as_ref().map(serde_json::to_string).transpose()?;
        let mut agents = Vec::with_capacity(touched.agents.len() + touched.removed.len());
        for agent in &touched.agents {
            let key = keys.iter().find(|(id, _)| *id == agent.id).map(|(_, hash)| hash);
            agents.push((agent.id, Some(serde_json::to_string(agent)?), key));
        }
        agents.extend(touched.removed.iter().map(|id| (*id, None, None)));
        let mut jobs = Vec::with_capacity(touched.jobs.len());
        for job in &touched.jobs {
            // At least 1: 0 has not ended.
            let ended = job.state.ended().map_or(0, |at| at.0.max(1));
            jobs.push((job.id, ended, serde_json::to_string(job)?));
        }
        let audit: Vec<_> = touched.audit.iter().map(|line| (line.at, &line.actor, &line.action, &line.detail)).collect();
        let submissions: Vec<_> = submissions.iter().map(|s| (&s.actor, &s.key, &s.request, s.job, now)).collect();
        sqlx::query(&self.statements.write)
            .bind(self.pool)
            .bind(self.revision)
            .bind(head)
            .bind(serde_json::to_string(&agents)?)
            .bind(serde_json::to_string(&jobs)?)
            .bind(serde_json::to_string(&audit)?)
            .bind(serde_json::to_string(&submissions)?)
            .execute(&mut *self.connection)
            .await?;
        Ok(())
    }

    /// Makes it so.
    ///
    /// # Errors
    /// The database's: then nobody knows whether it happened, and everything must be loaded anew.
    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(self.connection.commit().await?)
    }

    /// Ends it without a trace.
    ///
    /// # Errors
    /// The database's.
    pub async fn rollback(self) -> Result<(), StoreError> {
        Ok(self.connection.rollback().await?)
    }
}

async fn insert_audit(connection: &mut AnyConnection, pool: Option<i64>, line: &Audit) -> Result<(), StoreError> {
    let statement = "INSERT INTO audit (pool, at, actor, action, detail) VALUES ($1, $2, $3, $4, $5)";
    let insert = sqlx::query(statement).bind(pool).bind(line.at.0 as i64).bind(&line.actor).bind(&line.action).bind(&line.detail);
    insert.execute(connection).await?;
    Ok(())
}

fn document<T: serde::de::DeserializeOwned>(row: &AnyRow, at: usize) -> Result<T, StoreError> {
    Ok(serde_json::from_str(row.try_get(at)?)?)
}

fn millis(value: i64) -> Millis {
    Millis(value.max(0).unsigned_abs())
}

/// Makes the file of the database, for us alone, and keeps others from using it at the same time.
fn own_file(path: &Path) -> Result<File, StoreError> {
    let unusable = |e: std::io::Error| StoreError::Unusable(format!("{}: {e}", path.display()));
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(unusable)?;
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock).map_err(unusable)?;
    // A lock of the file itself would be in SQLite's way.
    lock.try_lock().map_err(|_| {
        StoreError::Unusable(format!("{} is used by another controller; several controllers need PostgreSQL", path.display()))
    })?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::{Kind, Store};
    use sqlx::Row;

    #[test]
    fn what_a_batch_asks_for_is_found_by_its_key_however_much_there_is() {
        let folder = std::env::temp_dir().join(format!("pool-store-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = runtime.block_on(Store::open(&folder.join("pool.db").display().to_string())).unwrap();
        let statements = Kind::Sqlite.statements();
        for (statement, index) in [
            (&statements.submissions, "SEARCH s USING INDEX sqlite_autoindex_submissions_1 (pool=? AND actor=? AND key=?)"),
            (&statements.tokens, "SEARCH tokens USING INDEX sqlite_autoindex_tokens_1 (hash=?)"),
            (&statements.changes, "SEARCH jobs USING INDEX jobs_revision (pool=? AND revision>?)"),
        ] {
            let explain = format!("EXPLAIN QUERY PLAN {statement}");
            let rows = runtime.block_on(sqlx::query(&explain).bind(1_i64).bind("[]").fetch_all(&store.pool)).unwrap();
            let plan: Vec<String> = rows.iter().map(|row| row.get(3)).collect();
            assert!(plan.iter().any(|line| line == index), "{statement}: {plan:?}");
        }
        drop(store);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
