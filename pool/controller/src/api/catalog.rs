//! What a pool offers: releases, tasks, features.

use super::{Api, Body, LONGEST_FILE, Path, now, whole};
use crate::auth::{self, Role, hex};
use crate::problem::Problem;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use pool_core::Millis;
use pool_core::catalog::{Feature, Release, Task, is_hex};
use pool_core::version::Version;
use serde::Deserialize;

/// A package file, kept under its SHA-256.
pub(super) async fn put_file(
    State(api): State<Api>,
    Path(sha256): Path<String>,
    headers: HeaderMap,
    request: Request,
) -> Result<StatusCode, Problem> {
    auth::person(&api.store, &headers, None, Role::Administrator, now()).await?;
    let content = whole(request, LONGEST_FILE).await?;
    let actual = hex(ring::digest::digest(&ring::digest::SHA256, &content).as_ref());
    if actual != sha256 {
        return Err(Problem::invalid(format!(
            "what arrived has {} bytes and the SHA-256 {actual}: it is cut off, or another file",
            content.len()
        )));
    }
    api.store.put_file(&sha256, &content).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewRelease {
    version: Version,
    file: String,
    sha256: String,
    signature: String,
    #[serde(default)]
    notes: String,
}

pub(super) async fn publish(
    State(api): State<Api>,
    Path(pool): Path<String>,
    headers: HeaderMap,
    Body(new): Body<NewRelease>,
) -> Result<(StatusCode, Json<Release>), Problem> {
    let (engine, actor) = api.enter(&headers, &pool, Role::Administrator).await?;
    if !is_hex(&new.sha256, 64) {
        return Err(Problem::invalid("the SHA-256 of a release is 64 lower-case hexadecimal digits"));
    }
    let size = api.store.file_size(&new.sha256).await?;
    let size = size.ok_or_else(|| Problem::conflict("the package is not here yet: PUT /api/v1/files/{sha256} first"))?;
    let NewRelease { version, file, sha256, signature, notes } = new;
    let published = Millis(now().max(0).unsigned_abs());
    let release = Release { version, file, size: size.max(0).unsigned_abs(), sha256, signature, notes, published };
    let stored = release.clone();
    engine.run(move |pool, now| pool.publish(now, &actor, stored)).await?;
    Ok((StatusCode::CREATED, Json(release)))
}

pub(super) async fn releases(
    State(api): State<Api>,
    Path(pool): Path<String>,
    headers: HeaderMap,
) -> Result<Json<serde_json::Value>, Problem> {
    let (engine, _) = api.enter(&headers, &pool, Role::Reader).await?;
    let items = engine.read(|pool, _| pool.head().releases.clone()).await?;
    Ok(Json(serde_json::json!({ "items": items })))
}

pub(super) async fn withdraw(
    State(api): State<Api>,
    Path((pool, version)): Path<(String, Version)>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let (engine, actor) = api.enter(&headers, &pool, Role::Administrator).await?;
    engine.run(move |pool, now| pool.withdraw(now, &actor, version)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn tasks(
    State(api): State<Api>,
    Path(pool): Path<String>,
    headers: HeaderMap,
) -> Result<Json<serde_json::Value>, Problem> {
    let (engine, _) = api.enter(&headers, &pool, Role::Reader).await?;
    let items = engine.read(|pool, _| pool.head().tasks.clone()).await?;
    Ok(Json(serde_json::json!({ "items": items })))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TaskBody {
    #[serde(default)]
    minimum_agent_version: Option<Version>,
}

pub(super) async fn put_task(
    State(api): State<Api>,
    Path((pool, name, version)): Path<(String, String, Version)>,
    headers: HeaderMap,
    Body(body): Body<TaskBody>,
) -> Result<Json<Task>, Problem> {
    let (engine, actor) = api.enter(&headers, &pool, Role::Administrator).await?;
    let task = Task { name, version, minimum_agent_version: body.minimum_agent_version };
    let stored = task.clone();
    engine.run(move |pool, now| pool.put_task(now, &actor, stored)).await?;
    Ok(Json(task))
}

pub(super) async fn features(
    State(api): State<Api>,
    Path(pool): Path<String>,
    headers: HeaderMap,
) -> Result<Json<serde_json::Value>, Problem> {
    let (engine, _) = api.enter(&headers, &pool, Role::Reader).await?;
    let items = engine.read(|pool, _| pool.head().features.clone()).await?;
    Ok(Json(serde_json::json!({ "items": items })))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FeatureBody {
    minimum_agent_version: Version,
}

pub(super) async fn put_feature(
    State(api): State<Api>,
    Path((pool, name)): Path<(String, String)>,
    headers: HeaderMap,
    Body(body): Body<FeatureBody>,
) -> Result<Json<Feature>, Problem> {
    let (engine, actor) = api.enter(&headers, &pool, Role::Administrator).await?;
    let feature = Feature { name, minimum_agent_version: body.minimum_agent_version };
    let stored = feature.clone();
    engine.run(move |pool, now| pool.put_feature(now, &actor, stored)).await?;
    Ok(Json(feature))
}
