//! Agents, as people see and manage them.

use super::{Api, Body, Path, Query, page};
use crate::auth::Role;
use crate::problem::Problem;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use pool_core::agent::{Agent, AgentId, Update};
use pool_core::decide;
use pool_core::demand::Capabilities;
use pool_core::job::JobId;
use pool_core::pool::{Pool, UpdateRequest};
use pool_core::version::Version;
use pool_core::{Actor, Millis};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// One agent in lists.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct View {
    id: AgentId,
    name: String,
    version: Version,
    /// One word.
    state: &'static str,
    /// Why an update failed, how far one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// `warning` where somebody should look, `info` where the agent is not on the newest release.
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<&'static str>,
    behind: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<JobId>,
    capabilities: Capabilities,
    last_seen: Millis,
    registered: Millis,
}

fn view(agent: &Agent, newest: Option<Version>) -> View {
    let state = agent.state();
    let behind = newest.is_some_and(|newest| agent.version < newest);
    let detail = match &agent.update {
        Update::None => None,
        Update::Asked { to, .. } => Some(format!("asked to update to {to}")),
        Update::UnderWay { to, step, .. } => Some(format!("to {to}: {step}")),
        Update::Failed { to, why, .. } => Some(format!("to {to}: {why}")),
        Update::Overdue { to, .. } => Some(format!("to {to}: it accepted, and has not come back")),
    };
    View {
        id: agent.id,
        name: agent.name.clone(),
        version: agent.version,
        state: state.word(),
        detail,
        level: if state.is_warning() {
            Some("warning")
        } else if behind {
            Some("info")
        } else {
            None
        },
        behind,
        job: agent.job.map(|(job, _)| job),
        capabilities: agent.capabilities.clone(),
        last_seen: agent.last_seen,
        registered: agent.registered,
    }
}

/// What to list, and in which order.
#[derive(Debug, Deserialize)]
pub(super) struct Query_ {
    cursor: Option<String>,
    limit: Option<usize>,
    /// Part of a name.
    q: Option<String>,
    state: Option<String>,
    version: Option<Version>,
    /// `name`, `version`, `state`, `seen`; `-` in front for the other way.
    sort: Option<String>,
}

pub(super) async fn list(
    State(api): State<Api>,
    Path(pool): Path<String>,
    Query(query): Query<Query_>,
    headers: HeaderMap,
) -> Result<Json<serde_json::Value>, Problem> {
    let (engine, _) = api.enter(&headers, &pool, Role::Reader).await?;
    let limit = page(query.limit);
    // The cursor is the number of entries before: agents come and go, and a list that is sorted by anything has no better place to go on from.
    let skip: usize = match query.cursor.as_deref() {
        None => 0,
        Some(cursor) => cursor.parse().map_err(|_| Problem::invalid("the cursor is not one that was given out"))?,
    };
    let sort = query.sort.clone().unwrap_or_else(|| "name".into());
    let key = sort.strip_prefix('-').unwrap_or(&sort);
    if !["name", "version", "state", "seen"].contains(&key) {
        return Err(Problem::invalid("sort is one of name, version, state, seen, with `-` in front for the other way"));
    }
    let (items, total) = engine.read(move |pool, _| select(pool, &query, &sort, skip, limit)).await?;
    let next = (skip + items.len() < total).then(|| (skip + items.len()).to_string());
    Ok(Json(serde_json::json!({ "items": items, "total": total, "next": next })))
}

fn select(pool: &Pool, query: &Query_, sort: &str, skip: usize, limit: usize) -> (Vec<View>, usize) {
    let newest = decide::newest(&pool.head().releases);
    let part = query.q.as_deref().unwrap_or("").to_ascii_lowercase();
    let wanted = |agent: &&Agent| {
        query.state.as_deref().is_none_or(|state| agent.state().word() == state)
            && query.version.is_none_or(|version| agent.version == version)
            && (part.is_empty() || agent.name.to_ascii_lowercase().contains(&part))
    };
    let mut agents: Vec<&Agent> = pool.agents().filter(wanted).collect();
    let total = agents.len();
    // Names are different: there is one order.
    let order = |a: &&Agent, b: &&Agent| {
        let order = match sort.strip_prefix('-').unwrap_or(sort) {
            "version" => a.version.cmp(&b.version),
            "state" => b.state().cmp(&a.state()),
            "seen" => b.last_seen.cmp(&a.last_seen),
            _ => Ordering::Equal,
        };
        let order = order.then_with(|| a.name.cmp(&b.name));
        if sort.starts_with('-') { order.reverse() } else { order }
    };
    // What is on later pages is not put into order.
    let end = skip.saturating_add(limit);
    if end < total {
        agents.select_nth_unstable_by(end, order);
        agents.truncate(end);
    }
    agents.sort_unstable_by(order);
    (agents.into_iter().skip(skip).map(|agent| view(agent, newest)).collect(), total)
}

/// An agent is addressed by its number or its name.
fn find(pool: &Pool, text: &str) -> Option<AgentId> {
    text.parse().ok().map(AgentId).filter(|id| pool.agent(*id).is_some()).or_else(|| pool.agent_named(text).map(|agent| agent.id))
}

fn unknown(text: &str) -> Problem {
    Problem::not_found(format!("there is no agent `{}`", text.chars().take(64).collect::<String>().escape_debug()))
}

pub(super) async fn show(
    State(api): State<Api>,
    Path((pool, agent)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Json<View>, Problem> {
    let (engine, _) = api.enter(&headers, &pool, Role::Reader).await?;
    let name = agent.clone();
    let found = engine.read(move |pool, _| {
        find(pool, &name).and_then(|id| pool.agent(id)).map(|agent| view(agent, decide::newest(&pool.head().releases)))
    });
    found.await?.map(Json).ok_or_else(|| unknown(&agent))
}

pub(super) async fn remove(
    State(api): State<Api>,
    Path((pool, agent)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let (engine, actor) = api.enter(&headers, &pool, Role::Administrator).await?;
    let name = agent.clone();
    let removed = engine.run(move |pool, now| find(pool, &name).map(|id| pool.remove_agent(now, &actor, id)).transpose());
    removed.await?.map(|()| StatusCode::NO_CONTENT).ok_or_else(|| unknown(&agent))
}

/// Which agents are to update.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct UpdateBody {
    /// Names or numbers.
    #[serde(default)]
    agents: Vec<String>,
    /// All that do not run the release.
    #[serde(default)]
    all: bool,
    #[serde(default)]
    to: Option<Version>,
    #[serde(default)]
    force: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UpdateAnswer {
    asked: Vec<Asked>,
    refused: Vec<Refused>,
}

#[derive(Debug, Serialize)]
pub(super) struct Asked {
    agent: String,
    to: Version,
}

#[derive(Debug, Serialize)]
pub(super) struct Refused {
    agent: String,
    why: String,
}

/// Asks agents to update, whatever the policy is.
pub(super) async fn update(
    State(api): State<Api>,
    Path(pool): Path<String>,
    headers: HeaderMap,
    Body(body): Body<UpdateBody>,
) -> Result<Json<UpdateAnswer>, Problem> {
    // Back to an older version is nothing that operators decide.
    let least = if body.force { Role::Administrator } else { Role::Operator };
    let (engine, actor) = api.enter(&headers, &pool, least).await?;
    if body.all != body.agents.is_empty() {
        return Err(Problem::invalid("either `all` is true, or `agents` names some"));
    }
    let answer = engine.run(move |pool, now| Ok(request(pool, now, &actor, &body))).await?;
    match answer {
        // One agent, one answer.
        Err(problem) => Err(problem),
        Ok(answer) => Ok(Json(answer)),
    }
}

fn request(pool: &mut Pool, now: Millis, actor: &Actor, body: &UpdateBody) -> Result<UpdateAnswer, Problem> {
    let mut answer = UpdateAnswer { asked: Vec::new(), refused: Vec::new() };
    let request = UpdateRequest { to: body.to, force: body.force };
    let target = body.to.or_else(|| decide::newest(&pool.head().releases));
    let chosen: Vec<(String, Option<AgentId>)> = if body.all {
        let behind = pool
            .agents()
            .filter(|agent| target.is_some_and(|target| agent.version < target || (body.force && agent.version != target)));
        behind.map(|agent| (agent.name.clone(), Some(agent.id))).collect()
    } else {
        body.agents.iter().map(|text| (text.clone(), find(pool, text))).collect()
    };
    if let [(text, None)] = chosen.as_slice() {
        return Err(unknown(text));
    }
    let only = chosen.len() == 1 && !body.all;
    for (text, id) in chosen {
        match id.map(|id| pool.request_update(now, actor, id, request)) {
            None => answer.refused.push(Refused { agent: text, why: "there is no such agent".into() }),
            Some(Ok(to)) => answer.asked.push(Asked { agent: text, to }),
            Some(Err(refusal)) if only => return Err(refusal.into()),
            Some(Err(refusal)) => answer.refused.push(Refused { agent: text, why: refusal.to_string() }),
        }
    }
    Ok(answer)
}
