//! Pools: policy, deadlines, what people see first.

use super::{Api, Body, Path, Query, page, patience};
use crate::auth::{self, Role};
use crate::problem::Problem;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use pool_core::Millis;
use pool_core::catalog::check_name;
use pool_core::decide;
use pool_core::funnel::Funnel;
use pool_core::policy::{Mode, Reason};
use pool_core::pool::{Audit, Head, Pool, Settings};
use pool_core::version::Version;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tokio::time::timeout;

/// A pool at a glance.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    name: String,
    revision: i64,
    policy: Mode,
    settings: Settings,
    newest_release: Option<Version>,
    agents: usize,
    /// Agents per state.
    states: BTreeMap<&'static str, u32>,
    /// Agents that are not on the newest release: for information, it is no fault.
    behind: u32,
    /// Jobs that have not ended, per state.
    jobs: BTreeMap<&'static str, u32>,
    funnel: Funnel,
}

fn summary(pool: &Pool, now: Millis, name: &str, revision: i64) -> Summary {
    let newest = decide::newest(&pool.head().releases);
    let (mut states, mut jobs, mut behind) = (BTreeMap::new(), BTreeMap::new(), 0);
    for agent in pool.agents() {
        *states.entry(agent.state().word()).or_default() += 1;
        behind += u32::from(newest.is_some_and(|newest| agent.version < newest));
    }
    for job in pool.jobs() {
        *jobs.entry(job.state.word()).or_default() += 1;
    }
    Summary {
        name: name.into(),
        revision,
        policy: pool.head().mode.clone(),
        settings: pool.head().settings,
        newest_release: newest,
        agents: pool.agents().count(),
        states,
        behind,
        jobs,
        funnel: Funnel::of(pool, now),
    }
}

pub(super) async fn list(State(api): State<Api>, headers: HeaderMap) -> Result<Json<serde_json::Value>, Problem> {
    // A token for one pool sees that one.
    let mut items = Vec::new();
    let mut denied = None;
    for (id, name) in api.store.pools().await? {
        match auth::person(&api.store, &headers, Some(id), Role::Reader, super::now()).await {
            Ok(_) => items.push(serde_json::json!({ "name": name })),
            Err(problem) => denied = Some(problem),
        }
    }
    if items.is_empty() {
        auth::person(&api.store, &headers, None, Role::Reader, super::now())
            .await
            .map_err(|problem| denied.unwrap_or(problem))?;
    }
    Ok(Json(serde_json::json!({ "items": items })))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewPool {
    name: String,
}

pub(super) async fn create(
    State(api): State<Api>,
    headers: HeaderMap,
    Body(new): Body<NewPool>,
) -> Result<(StatusCode, Json<Summary>), Problem> {
    let actor = auth::person(&api.store, &headers, None, Role::Administrator, super::now()).await?;
    check_name("pool", &new.name).map_err(Problem::invalid)?;
    let head = Head { tasks: crate::tasks::built_in(), ..Head::default() };
    let line = Audit {
        at: Millis(super::now().max(0).unsigned_abs()),
        actor: actor.to_string(),
        action: "pool".into(),
        detail: format!("`{}`", new.name),
    };
    if api.store.create_pool(&new.name, &head, &line).await?.is_none() {
        return Err(Problem::conflict(format!("there is a pool `{}` already", new.name)));
    }
    let engine = api.engine(&new.name).await?;
    let revision = *engine.changes().borrow();
    let name = new.name;
    let summary = engine.read(move |pool, now| summary(pool, now, &name, revision)).await?;
    Ok((StatusCode::CREATED, Json(summary)))
}

pub(super) async fn show(State(api): State<Api>, Path(pool): Path<String>, headers: HeaderMap) -> Result<Json<Summary>, Problem> {
    let (engine, _) = api.enter(&headers, &pool, Role::Reader).await?;
    let revision = *engine.changes().borrow();
    Ok(Json(engine.read(move |state, now| summary(state, now, &pool, revision)).await?))
}

/// The policy as people write it: a member that is none was meant to be something.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", tag = "mode", deny_unknown_fields)]
pub(super) enum NewMode {
    Normal {},
    NoUpdate {
        #[serde(default)]
        reason: Option<Reason>,
    },
}

pub(super) async fn set_policy(
    State(api): State<Api>,
    Path(pool): Path<String>,
    headers: HeaderMap,
    Body(mode): Body<NewMode>,
) -> Result<Json<Summary>, Problem> {
    let mode = match mode {
        NewMode::Normal {} => Mode::Normal,
        NewMode::NoUpdate { reason } => Mode::NoUpdate { reason },
    };
    let (engine, actor) = api.enter(&headers, &pool, Role::Administrator).await?;
    engine
        .run(move |pool, now| {
            pool.set_mode(now, &actor, mode);
            Ok(())
        })
        .await?;
    let revision = *engine.changes().borrow();
    Ok(Json(engine.read(move |state, now| summary(state, now, &pool, revision)).await?))
}

/// The settings as people write them; what is left out has its default.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewSettings {
    offline_after: Option<u64>,
    begin_within: Option<u64>,
    update_within: Option<u64>,
    lost_after: Option<u64>,
    keep_jobs: Option<u64>,
    keep_keys: Option<u64>,
}

pub(super) async fn set_settings(
    State(api): State<Api>,
    Path(pool): Path<String>,
    headers: HeaderMap,
    Body(new): Body<NewSettings>,
) -> Result<Json<Settings>, Problem> {
    let default = Settings::default();
    let settings = Settings {
        offline_after: new.offline_after.unwrap_or(default.offline_after),
        begin_within: new.begin_within.unwrap_or(default.begin_within),
        update_within: new.update_within.unwrap_or(default.update_within),
        lost_after: new.lost_after.unwrap_or(default.lost_after),
        keep_jobs: new.keep_jobs.unwrap_or(default.keep_jobs),
        keep_keys: new.keep_keys.unwrap_or(default.keep_keys),
    };
    let (engine, actor) = api.enter(&headers, &pool, Role::Administrator).await?;
    engine.run(move |pool, now| pool.set_settings(now, &actor, settings)).await?;
    Ok(Json(settings))
}

#[derive(Debug, Deserialize)]
pub(super) struct Since {
    #[serde(default)]
    since: i64,
    wait: Option<u64>,
}

/// Waits until anything has changed: what the page lives on.
pub(super) async fn changes(
    State(api): State<Api>,
    Path(pool): Path<String>,
    Query(query): Query<Since>,
    headers: HeaderMap,
) -> Result<Json<serde_json::Value>, Problem> {
    let (engine, _) = api.enter(&headers, &pool, Role::Reader).await?;
    let mut changes = engine.changes();
    // A revision that is later than ours is of another life of the database: everything has changed.
    let changed = changes.wait_for(|revision| *revision != query.since);
    let _ = timeout(patience(query.wait), changed).await;
    let revision = *engine.changes().borrow();
    Ok(Json(serde_json::json!({ "revision": revision })))
}

#[derive(Debug, Deserialize)]
pub(super) struct Page {
    cursor: Option<i64>,
    limit: Option<usize>,
}

/// The audit table, newest first.
pub(super) async fn audit(
    State(api): State<Api>,
    Path(pool): Path<String>,
    Query(query): Query<Page>,
    headers: HeaderMap,
) -> Result<Json<serde_json::Value>, Problem> {
    let (engine, _) = api.enter(&headers, &pool, Role::Reader).await?;
    let limit = page(query.limit);
    let lines = api.store.audit(Some(engine.id), query.cursor.unwrap_or(i64::MAX), limit as i64).await?;
    let next = lines.last().filter(|_| lines.len() == limit).map(|(id, _)| *id);
    let items: Vec<Audit> = lines.into_iter().map(|(_, line)| line).collect();
    Ok(Json(serde_json::json!({ "items": items, "next": next })))
}
