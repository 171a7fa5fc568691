//! Jobs.

use super::{Api, Body, Path, Query, page, patience};
use crate::auth::{self, Role};
use crate::engine::{After, Before, Engine, EngineError};
use crate::problem::Problem;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use pool_core::demand::Demand;
use pool_core::job::{Job, JobId, Spec, TaskCall, Waiting};
use pool_core::pool::Pool;
use pool_core::version::Version;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

/// A job as people see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct View {
    #[serde(flatten)]
    job: Job,
    /// Name of the agent that has it, or had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<Waiting>,
}

fn view(pool: &Pool, job: Job) -> View {
    use pool_core::job::JobState::{Assigned, Canceled, Failed, Queued, Running, Succeeded};
    let agent = match &job.state {
        Assigned { agent, .. } | Running { agent, .. } | Succeeded { agent, .. } => Some(*agent),
        Failed { agent, .. } => *agent,
        Queued | Canceled { .. } => None,
    };
    View {
        agent_name: agent.and_then(|agent| pool.agent(agent)).map(|agent| agent.name.clone()),
        waiting: pool.waiting(&job),
        job,
    }
}

/// Longest idempotency key.
const LONGEST_KEY: usize = 255;

/// A job as people write it: a demand that is misspelt is not one that is left out.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewJob {
    tasks: Vec<NewCall>,
    #[serde(default)]
    features: Vec<String>,
    #[serde(default)]
    demands: Vec<Demand>,
    #[serde(default)]
    wait_at_most: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewCall {
    name: String,
    version: Version,
    #[serde(default)]
    input: String,
}

impl From<NewJob> for Spec {
    fn from(NewJob { tasks, features, demands, wait_at_most }: NewJob) -> Self {
        let call = |NewCall { name, version, input }| TaskCall { name, version, input };
        Self { tasks: tasks.into_iter().map(call).collect(), features, demands, wait_at_most }
    }
}

/// Submits a job. With an `Idempotency-Key` it may be sent again: the same job is the answer.
pub(super) async fn submit(
    State(api): State<Api>,
    Path(pool): Path<String>,
    headers: HeaderMap,
    Body(new): Body<NewJob>,
) -> Result<(StatusCode, Json<View>), Problem> {
    let spec = Spec::from(new);
    let (engine, actor) = api.enter(&headers, &pool, Role::Operator).await?;
    let before = match headers.get("idempotency-key") {
        None => Before::Nothing,
        Some(key) => {
            let key = key.to_str().ok().filter(|key| !key.is_empty() && key.len() <= LONGEST_KEY);
            let key =
                key.ok_or_else(|| Problem::invalid(format!("an Idempotency-Key has 1 to {LONGEST_KEY} visible characters")))?;
            let request = auth::hash(&serde_json::to_string(&spec).unwrap_or_default());
            Before::Key { actor: actor.to_string(), key: key.into(), request }
        }
    };
    let submitted = engine
        .run_with(
            before,
            move |pool, now| {
                let id = pool.submit(now, &actor, spec)?;
                Ok((id, After { agent_key: None, job: Some(id) }))
            },
            // What the pool decided about it is part of the answer.
            |pool, id| pool.job(id).cloned().map(|job| view(pool, job)),
        )
        .await;
    match submitted {
        Ok(Some(view)) => Ok((StatusCode::CREATED, Json(view))),
        Ok(None) => Err(Problem::unavailable()),
        Err(EngineError::Repeated(id)) => Ok((StatusCode::OK, Json(look(&api, &engine, id).await?))),
        Err(e) => Err(e.into()),
    }
}

async fn look(api: &Api, engine: &Engine, id: JobId) -> Result<View, Problem> {
    if let Some(found) = engine.read(move |pool, _| pool.job(id).cloned().map(|job| view(pool, job))).await? {
        return Ok(found);
    }
    let job = api.store.job(engine.id, id).await?.ok_or_else(|| Problem::not_found(format!("there is no job {}", id.0)))?;
    Ok(engine.read(move |pool, _| view(pool, job)).await?)
}

#[derive(Debug, Deserialize)]
pub(super) struct Wait {
    /// Wait at most this many seconds for the job's end.
    wait: Option<u64>,
}

pub(super) async fn show(
    State(api): State<Api>,
    Path((pool, job)): Path<(String, i64)>,
    Query(query): Query<Wait>,
    headers: HeaderMap,
) -> Result<Json<View>, Problem> {
    let (engine, _) = api.enter(&headers, &pool, Role::Reader).await?;
    let deadline = Instant::now() + patience(query.wait);
    let mut changes = engine.changes();
    loop {
        changes.mark_unchanged();
        let found = look(&api, &engine, JobId(job)).await?;
        if found.job.state.is_final() || query.wait.is_none() || timeout_at(deadline, changes.changed()).await.is_err() {
            return Ok(Json(found));
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Page {
    cursor: Option<i64>,
    limit: Option<usize>,
    /// `open`, `ended`, or both.
    state: Option<String>,
}

pub(super) async fn list(
    State(api): State<Api>,
    Path(pool): Path<String>,
    Query(query): Query<Page>,
    headers: HeaderMap,
) -> Result<Json<serde_json::Value>, Problem> {
    let (engine, _) = api.enter(&headers, &pool, Role::Reader).await?;
    let ended = match query.state.as_deref() {
        None => None,
        Some("open") => Some(false),
        Some("ended") => Some(true),
        Some(_) => return Err(Problem::invalid("state is `open` or `ended`")),
    };
    let limit = page(query.limit);
    let jobs = api.store.jobs(engine.id, query.cursor.unwrap_or(i64::MAX), ended, limit as i64).await?;
    let next = jobs.last().filter(|_| jobs.len() == limit).map(|job| job.id);
    let items: Vec<View> = engine.read(move |pool, _| jobs.into_iter().map(|job| view(pool, job)).collect()).await?;
    Ok(Json(serde_json::json!({ "items": items, "next": next })))
}

pub(super) async fn cancel(
    State(api): State<Api>,
    Path((pool, job)): Path<(String, i64)>,
    headers: HeaderMap,
) -> Result<Json<View>, Problem> {
    let (engine, actor) = api.enter(&headers, &pool, Role::Operator).await?;
    // Whether it exists is known to the database alone if it has ended.
    look(&api, &engine, JobId(job)).await?;
    engine.run(move |pool, now| pool.cancel(now, &actor, JobId(job))).await?;
    Ok(Json(look(&api, &engine, JobId(job)).await?))
}
