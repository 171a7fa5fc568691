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

/// A database with our tables in it.
#[derive(Debug)]
pub struct Store {
    pool: AnyPool,
    kind: Kind,
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
const APPEND_ONLY_POSTGRES: &[&str] = &[
    "CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''the audit table is append-only''; END'",
    "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit EXECUTE FUNCTION audit_is_append_only()",
];

/// The version of the tables that this program writes.
const VERSION: i64 = 1;
/// Any number, the same in every controller: who migrates holds it.
const MIGRATION_LOCK: i64 = 0x617a_7072_7870;
/// Longest wait for a lock of somebody else's.
const PATIENCE_SECONDS: u64 = 10;

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
            .acquire_timeout(std::time::Duration::from_secs(PATIENCE_SECONDS))
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
        let store = Self { pool, kind, _lock: lock };
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
        match version {
            Some(VERSION) => {}
            Some(other) => {
                return Err(StoreError::Unusable(format!(
                    "the database has tables of version {other}; this program knows {VERSION}"
                )));
            }
            None => {
                let (identity, bytes, append_only) = match self.kind {
                    Kind::Sqlite => ("INTEGER PRIMARY KEY AUTOINCREMENT", "BLOB", APPEND_ONLY_SQLITE),
                    Kind::Postgres => ("BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "BYTEA", APPEND_ONLY_POSTGRES),
                };
                for statement in SCHEMA.iter().chain(append_only) {
                    let statement = statement.replace("{identity}", identity).replace("{bytes}", bytes);
                    sqlx::query(&statement).execute(&mut *tx).await?;
                }
                sqlx::query("INSERT INTO schema_version (version) VALUES ($1)").bind(VERSION).execute(&mut *tx).await?;
            }
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
        Ok(Transaction { connection, pool, revision })
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
            Some(true) => "SELECT doc FROM jobs WHERE pool = $1 AND id < $2 AND ended = 1 ORDER BY id DESC LIMIT $3",
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

    /// Forgets a token; false if there is none of that name.
    ///
    /// # Errors
    /// The database's.
    pub async fn remove_token(&self, name: &str, line: &Audit) -> Result<bool, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let mut tx = connection.begin().await?;
        if sqlx::query("DELETE FROM tokens WHERE name = $1").bind(name).execute(&mut *tx).await?.rows_affected() == 0 {
            return Ok(false);
        }
        insert_audit(&mut tx, None, line).await?;
        tx.commit().await?;
        Ok(true)
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
    /// Agents.
    pub agents: Vec<Agent>,
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
    /// The pool's revision.
    pub revision: i64,
}

impl Transaction {
    /// What was stored after `since`; everything that has not ended if `since` is 0.
    ///
    /// # Errors
    /// The database's.
    pub async fn changes(&mut self, since: i64) -> Result<Changes, StoreError> {
        let mut changes = Changes::default();
        let head = sqlx::query("SELECT head FROM pools WHERE id = $1 AND head_revision > $2").bind(self.pool).bind(since);
        changes.head = head.fetch_optional(&mut *self.connection).await?.map(|row| document(&row, 0)).transpose()?;
        let agents = sqlx::query("SELECT id, doc FROM agents WHERE pool = $1 AND revision > $2").bind(self.pool).bind(since);
        for row in agents.fetch_all(&mut *self.connection).await? {
            match row.get::<Option<&str>, _>(1) {
                Some(doc) => changes.agents.push(serde_json::from_str(doc)?),
                None => changes.removed.push(AgentId(row.get(0))),
            }
        }
        // What had ended before anybody looked is of no interest to decisions.
        let jobs = if since == 0 {
            "SELECT doc FROM jobs WHERE pool = $1 AND ended = 0 AND revision > $2"
        } else {
            "SELECT doc FROM jobs WHERE pool = $1 AND revision > $2"
        };
        let rows = sqlx::query(jobs).bind(self.pool).bind(since).fetch_all(&mut *self.connection).await?;
        changes.jobs = rows.iter().map(|row| document(row, 0)).collect::<Result<_, _>>()?;
        Ok(changes)
    }

    /// Uses a one-time token up; `false` if that is no such token, or was done before.
    ///
    /// # Errors
    /// The database's.
    pub async fn use_token(&mut self, hash: &str, now: Millis) -> Result<bool, StoreError> {
        let statement = "UPDATE tokens SET used = $1 WHERE hash = $2 AND used IS NULL";
        let done = sqlx::query(statement).bind(now.0 as i64).bind(hash).execute(&mut *self.connection).await?;
        Ok(done.rows_affected() == 1)
    }

    /// What was submitted under an idempotency key: hash of the request, and the job.
    ///
    /// # Errors
    /// The database's.
    pub async fn submission(&mut self, actor: &str, key: &str) -> Result<Option<(String, JobId)>, StoreError> {
        let statement = "SELECT request, job FROM submissions WHERE pool = $1 AND actor = $2 AND key = $3";
        let row = sqlx::query(statement).bind(self.pool).bind(actor).bind(key).fetch_optional(&mut *self.connection).await?;
        Ok(row.map(|row| (row.get(0), JobId(row.get(1)))))
    }

    /// Remembers what was submitted under an idempotency key.
    ///
    /// # Errors
    /// The database's.
    pub async fn put_submission(
        &mut self,
        actor: &str,
        key: &str,
        request: &str,
        job: JobId,
        now: Millis,
    ) -> Result<(), StoreError> {
        let statement = "INSERT INTO submissions (pool, actor, key, request, job, at) VALUES ($1, $2, $3, $4, $5, $6)";
        let insert = sqlx::query(statement).bind(self.pool).bind(actor).bind(key).bind(request).bind(job.0).bind(now.0 as i64);
        insert.execute(&mut *self.connection).await?;
        Ok(())
    }

    /// Stores what was touched, under the next revision.
    ///
    /// # Errors
    /// The database's.
    pub async fn put(&mut self, touched: &Touched, keys: &[(AgentId, String)]) -> Result<(), StoreError> {
        self.revision += 1;
        let (pool, revision) = (self.pool, self.revision);
        let connection = &mut *self.connection;
        for agent in &touched.agents {
            let statement = "INSERT INTO agents (pool, id, revision, doc) VALUES ($1, $2, $3, $4) \
                             ON CONFLICT (pool, id) DO UPDATE SET revision = excluded.revision, doc = excluded.doc";
            let doc = serde_json::to_string(agent)?;
            sqlx::query(statement).bind(pool).bind(agent.id.0).bind(revision).bind(doc).execute(&mut *connection).await?;
        }
        for (id, hash) in keys {
            sqlx::query("UPDATE agents SET key_hash = $1 WHERE pool = $2 AND id = $3")
                .bind(hash)
                .bind(pool)
                .bind(id.0)
                .execute(&mut *connection)
                .await?;
        }
        for id in &touched.removed {
            let statement = "UPDATE agents SET revision = $1, doc = NULL, key_hash = NULL WHERE pool = $2 AND id = $3";
            sqlx::query(statement).bind(revision).bind(pool).bind(id.0).execute(&mut *connection).await?;
        }
        for job in &touched.jobs {
            let statement = "INSERT INTO jobs (pool, id, revision, ended, doc) VALUES ($1, $2, $3, $4, $5) \
                             ON CONFLICT (pool, id) DO UPDATE SET revision = excluded.revision, ended = excluded.ended, doc = excluded.doc";
            let ended = i64::from(job.state.is_final());
            let doc = serde_json::to_string(job)?;
            sqlx::query(statement)
                .bind(pool)
                .bind(job.id.0)
                .bind(revision)
                .bind(ended)
                .bind(doc)
                .execute(&mut *connection)
                .await?;
        }
        for line in &touched.audit {
            insert_audit(connection, Some(pool), line).await?;
        }
        if let Some(head) = &touched.head {
            let statement = "UPDATE pools SET revision = $1, head_revision = $1, head = $2 WHERE id = $3";
            sqlx::query(statement).bind(revision).bind(serde_json::to_string(head)?).bind(pool).execute(&mut *connection).await?;
        } else {
            sqlx::query("UPDATE pools SET revision = $1 WHERE id = $2")
                .bind(revision)
                .bind(pool)
                .execute(&mut *connection)
                .await?;
        }
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
