//! What agents ask and say. An agent needs outgoing HTTP only: it asks, and the answer may take a while.

use super::{Api, Body, Path, Query, now, patience};
use crate::auth::{self, Secret};
use crate::engine::{After, Before, Engine, EngineError, Woken};
use crate::problem::Problem;
use axum::Json;
use axum::body::Body as Content;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pool_core::agent::AgentId;
use pool_core::job::{Attempt, JobId};
use pool_core::pool::{Doing, Ended, Message, Refusal, Report, check_registration};
use pool_core::version::Version;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Registration {
    name: String,
    #[serde(flatten)]
    report: Report,
}

/// Registers with a one-time token, which it uses up; answers with the key that the agent has from then on.
pub(super) async fn register(
    State(api): State<Api>,
    Path(pool): Path<String>,
    headers: HeaderMap,
    Body(registration): Body<Registration>,
) -> Result<(StatusCode, Json<serde_json::Value>), Problem> {
    let presented = auth::hash(auth::bearer(&headers)?);
    let token = api.store.token(&presented).await?;
    let token = token.filter(|token| token.role == auth::REGISTER && token.expires.is_none_or(|expires| now() < expires));
    let token = token.ok_or_else(|| Problem::unauthenticated("the registration token is unknown or has expired"))?;
    let engine = api.engine(&pool).await?;
    if token.pool != Some(engine.id) {
        return Err(Problem::forbidden("this token registers in another pool"));
    }
    check_registration(&registration.name, &registration.report)?;
    let key = Secret::generate("apak")?;
    let hash = key.hash();
    let id = engine
        .run_with(
            Before::Token(presented),
            move |pool, now| {
                let id = pool.register(now, &registration.name, registration.report)?;
                Ok((id, After { agent_key: Some((id, hash)), job: None }))
            },
            |_, id| id,
        )
        .await?;
    Ok((StatusCode::CREATED, Json(serde_json::json!({ "id": id, "key": key.reveal() }))))
}

/// The agent of a path, if its key is presented.
async fn enter(api: &Api, headers: &HeaderMap, pool: &str, agent: i64) -> Result<(Engine, AgentId), Problem> {
    auth::bearer(headers)?;
    let wrong = || Problem::unauthenticated("the key is not this agent's, or the agent is not registered (any more)");
    let engine = api.engine(pool).await.map_err(|_| wrong())?;
    let id = AgentId(agent);
    auth::agent(&api.store, &engine, headers, id).await?;
    Ok((engine, id))
}

/// Why an agent gets no answer. What is unknown to its pool is the agent itself: another controller has just removed it.
fn refused(e: EngineError) -> Problem {
    match e {
        EngineError::Refused(Refusal::Unknown(_)) => Problem::unauthenticated("the agent is not registered any more"),
        e => e.into(),
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Wait {
    wait: Option<u64>,
}

/// Says how the agent is, and waits for what it is told; `message` is null if there was nothing.
pub(super) async fn poll(
    State(api): State<Api>,
    Path((pool, agent)): Path<(String, i64)>,
    Query(query): Query<Wait>,
    headers: HeaderMap,
    Body(report): Body<Report>,
) -> Result<Json<serde_json::Value>, Problem> {
    let (engine, id) = enter(&api, &headers, &pool, agent).await?;
    let deadline = Instant::now() + patience(query.wait);
    let doing = report.doing;
    // From here on no message is missed.
    let mut wait = engine.wait(id);
    let mut message: Option<Message> = engine
        .run_with(
            Before::Nothing,
            move |pool, now| Ok((pool.hear(now, id, &report)?, After::default())),
            // What was decided, with what it has just said, is part of the answer.
            move |pool, ()| pool.message(id, doing),
        )
        .await
        .map_err(refused)?;
    if message.is_none() {
        message = match timeout_at(deadline, wait.woken()).await {
            Err(_) => None,
            Ok(Woken::Gone) => return Err(Problem::unauthenticated("the agent is not registered any more")),
            Ok(Woken::Message(message)) if doing == Doing::Idle => Some(message),
            Ok(Woken::Message(_)) => engine.read(move |pool, _| pool.message(id, doing)).await?,
        };
    }
    Ok(Json(serde_json::json!({ "message": message })))
}

/// Says how the agent is, while it works.
pub(super) async fn report(
    State(api): State<Api>,
    Path((pool, agent)): Path<(String, i64)>,
    headers: HeaderMap,
    Body(report): Body<Report>,
) -> Result<Json<serde_json::Value>, Problem> {
    let (engine, id) = enter(&api, &headers, &pool, agent).await?;
    let doing = report.doing;
    let message =
        engine.run(move |pool, now| pool.hear(now, id, &report).map(|()| pool.message(id, doing))).await.map_err(refused)?;
    // The only message for somebody at work is to stop.
    Ok(Json(serde_json::json!({ "message": message })))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Begin {
    attempt: Attempt,
}

pub(super) async fn begin(
    State(api): State<Api>,
    Path((pool, agent, job)): Path<(String, i64, i64)>,
    headers: HeaderMap,
    Body(body): Body<Begin>,
) -> Result<StatusCode, Problem> {
    let (engine, id) = enter(&api, &headers, &pool, agent).await?;
    engine.run(move |pool, now| pool.begin_job(now, id, JobId(job), body.attempt)).await.map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct End {
    attempt: Attempt,
    #[serde(flatten)]
    ended: Ended,
}

pub(super) async fn end(
    State(api): State<Api>,
    Path((pool, agent, job)): Path<(String, i64, i64)>,
    headers: HeaderMap,
    Body(body): Body<End>,
) -> Result<StatusCode, Problem> {
    let (engine, id) = enter(&api, &headers, &pool, agent).await?;
    engine.run(move |pool, now| pool.end_job(now, id, JobId(job), body.attempt, body.ended)).await.map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Accept {
    to: Version,
}

pub(super) async fn accept_update(
    State(api): State<Api>,
    Path((pool, agent)): Path<(String, i64)>,
    headers: HeaderMap,
    Body(body): Body<Accept>,
) -> Result<StatusCode, Problem> {
    let (engine, id) = enter(&api, &headers, &pool, agent).await?;
    engine.run(move |pool, now| pool.accept_update(now, id, body.to)).await.map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndUpdate {
    to: Version,
    /// What the agent runs now.
    version: Version,
    #[serde(flatten)]
    ended: Ended,
}

pub(super) async fn end_update(
    State(api): State<Api>,
    Path((pool, agent)): Path<(String, i64)>,
    headers: HeaderMap,
    Body(body): Body<EndUpdate>,
) -> Result<StatusCode, Problem> {
    let (engine, id) = enter(&api, &headers, &pool, agent).await?;
    engine.run(move |pool, now| pool.end_update(now, id, body.to, body.version, &body.ended)).await.map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The package of a release; `Range: bytes=N-` goes on where a download broke off.
pub(super) async fn file(
    State(api): State<Api>,
    Path((pool, agent, version)): Path<(String, i64, Version)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (engine, id) = enter(&api, &headers, &pool, agent).await?;
    let release = engine.read(move |pool, _| {
        pool.agent(id).and_then(|_| pool.head().releases.iter().find(|release| release.version == version).cloned())
    });
    let release = release.await?;
    let release = release.ok_or_else(|| Problem::not_found(format!("there is no release {version}")))?;
    let content = api.store.file(&release.sha256).await?.ok_or_else(Problem::unavailable)?;
    let total = content.len();
    let from = headers
        .get(header::RANGE)
        .and_then(|range| range.to_str().ok())
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let etag = format!("\"{}\"", release.sha256);
    match from {
        Some(from) if from >= total => Err(Problem {
            kind: "/problems/range",
            title: "There is nothing from there on",
            status: StatusCode::RANGE_NOT_SATISFIABLE.as_u16(),
            detail: format!("the file has {total} bytes"),
        }),
        Some(from) => {
            let range = format!("bytes {from}-{}/{total}", total - 1);
            let rest = content.get(from..).unwrap_or_default().to_vec();
            Ok((StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, range), (header::ETAG, etag)], Content::from(rest))
                .into_response())
        }
        None => Ok(([(header::ACCEPT_RANGES, "bytes".to_owned()), (header::ETAG, etag)], Content::from(content)).into_response()),
    }
}
