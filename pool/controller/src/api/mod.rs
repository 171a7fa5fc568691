//! The HTTP API: `/api/v1`. Handlers read the request, ask who it is, and leave the rest to the engine.

mod agents;
mod catalog;
mod jobs;
mod machines;
mod pools;
mod tokens;

use crate::auth::{self, Role};
use crate::engine::Engine;
use crate::problem::Problem;
use crate::store::Store;
use axum::Router;
use axum::body::HttpBody;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use pool_core::Actor;
use pool_core::agent::AgentId;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::RwLock;
use tokio::time::{Instant, timeout_at};

/// Longest body of a request, but for package files.
pub const LONGEST_BODY: usize = 4 << 20;
/// Longest body of somebody whom nobody knows: what many such send at once must not fill the memory.
const SHORT_BODY: u64 = 64 << 10;
/// Longest package file.
pub const LONGEST_FILE: usize = 64 << 20;
/// Most entries of a page.
const LONGEST_PAGE: usize = 1000;
/// Longest wait of a long poll.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Longest time that a package file may take to arrive; any other body has as long as a long poll.
const LONGEST_UPLOAD: Duration = Duration::from_secs(900);

/// What handlers share.
#[derive(Debug, Clone)]
pub struct Api {
    /// The database.
    pub store: Arc<Store>,
    /// The pools at work, by name.
    engines: Arc<RwLock<HashMap<String, Engine>>>,
}

impl Api {
    /// Starts the pools that the database has.
    ///
    /// # Errors
    /// The database's.
    pub async fn start(store: Arc<Store>) -> Result<Self, crate::store::StoreError> {
        let api = Self { engines: Arc::default(), store };
        api.look().await?;
        Ok(api)
    }

    /// Starts pools that another controller has made.
    async fn look(&self) -> Result<(), crate::store::StoreError> {
        for (id, name) in self.store.pools().await? {
            self.engines.write().await.entry(name.clone()).or_insert_with(|| Engine::start(Arc::clone(&self.store), id, &name));
        }
        Ok(())
    }

    /// The pool of a name.
    async fn engine(&self, name: &str) -> Result<Engine, Problem> {
        if let Some(engine) = self.engines.read().await.get(name) {
            return Ok(engine.clone());
        }
        self.look().await?;
        let unknown =
            || Problem::not_found(format!("there is no pool `{}`", name.chars().take(64).collect::<String>().escape_debug()));
        self.engines.read().await.get(name).cloned().ok_or_else(unknown)
    }

    /// All pools, by name.
    pub async fn engines(&self) -> Vec<Engine> {
        let mut engines: Vec<Engine> = self.engines.read().await.values().cloned().collect();
        engines.sort_by(|a, b| a.name.cmp(&b.name));
        engines
    }

    /// Whether somebody whom we know presents a secret; what he may is asked later.
    async fn knows(&self, headers: &HeaderMap, path: &str) -> Result<(), Problem> {
        let hash = auth::hash(auth::bearer(headers)?);
        if self.store.token(&hash).await?.is_some() {
            return Ok(());
        }
        let unknown = || Problem::unauthenticated("the token is unknown or has expired");
        let mut segments = path.strip_prefix("/api/v1/pools/").ok_or_else(unknown)?.split('/');
        let (Some(pool), Some("agents"), Some(agent)) = (segments.next(), segments.next(), segments.next()) else {
            return Err(unknown());
        };
        let id = AgentId(agent.parse().map_err(|_| unknown())?);
        let engine = self.engine(pool).await.map_err(|_| unknown())?;
        auth::agent(&self.store, &engine, headers, id).await
    }

    /// A pool, and who asks for it.
    async fn enter(&self, headers: &HeaderMap, pool: &str, least: Role) -> Result<(Engine, Actor), Problem> {
        // Who has no token does not learn which pools there are.
        auth::bearer(headers)?;
        match self.engine(pool).await {
            Ok(engine) => {
                let actor = auth::person(&self.store, headers, Some(engine.id), least, now()).await?;
                Ok((engine, actor))
            }
            Err(problem) => {
                auth::person(&self.store, headers, None, Role::Reader, now()).await?;
                Err(problem)
            }
        }
    }
}

/// All routes, in the order of the description (`openapi.json`).
pub fn router(api: Api) -> Router {
    Router::new()
        .route("/api/v1/pools", get(pools::list).post(pools::create))
        .route("/api/v1/pools/{pool}", get(pools::show))
        .route("/api/v1/pools/{pool}/policy", put(pools::set_policy))
        .route("/api/v1/pools/{pool}/settings", put(pools::set_settings))
        .route("/api/v1/pools/{pool}/changes", get(pools::changes))
        .route("/api/v1/pools/{pool}/audit", get(pools::audit))
        .route("/api/v1/pools/{pool}/agents", get(agents::list).post(machines::register))
        .route("/api/v1/pools/{pool}/agents/update", post(agents::update))
        .route("/api/v1/pools/{pool}/agents/{agent}", get(agents::show).delete(agents::remove))
        .route("/api/v1/pools/{pool}/agents/{agent}/poll", post(machines::poll))
        .route("/api/v1/pools/{pool}/agents/{agent}/report", post(machines::report))
        .route("/api/v1/pools/{pool}/agents/{agent}/jobs/{job}/begin", post(machines::begin))
        .route("/api/v1/pools/{pool}/agents/{agent}/jobs/{job}/end", post(machines::end))
        .route("/api/v1/pools/{pool}/agents/{agent}/update/accept", post(machines::accept_update))
        .route("/api/v1/pools/{pool}/agents/{agent}/update/end", post(machines::end_update))
        .route("/api/v1/pools/{pool}/agents/{agent}/releases/{version}/file", get(machines::file))
        .route("/api/v1/pools/{pool}/jobs", get(jobs::list).post(jobs::submit))
        .route("/api/v1/pools/{pool}/jobs/{job}", get(jobs::show))
        .route("/api/v1/pools/{pool}/jobs/{job}/cancel", post(jobs::cancel))
        .route("/api/v1/pools/{pool}/releases", get(catalog::releases).post(catalog::publish))
        .route("/api/v1/pools/{pool}/releases/{version}", delete(catalog::withdraw))
        .route("/api/v1/pools/{pool}/tasks", get(catalog::tasks))
        .route("/api/v1/pools/{pool}/tasks/{name}/{version}", put(catalog::put_task))
        .route("/api/v1/pools/{pool}/features", get(catalog::features))
        .route("/api/v1/pools/{pool}/features/{name}", put(catalog::put_feature))
        .route("/api/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/api/v1/tokens/{name}", delete(tokens::remove))
        .route("/api/v1/files/{sha256}", put(catalog::put_file))
        .route("/api/v1/openapi.json", get(description))
        .fallback(async || {
            Problem::not_found("there is nothing at this address; GET /api/v1/openapi.json describes what there is")
        })
        .method_not_allowed_fallback(async || Problem {
            kind: "/problems/method",
            title: "That method is not for this address",
            status: StatusCode::METHOD_NOT_ALLOWED.as_u16(),
            detail: "GET /api/v1/openapi.json describes what there is".into(),
        })
        .layer(middleware::from_fn(unstored))
        .with_state(api)
}

/// The description of the API, as it is tested.
pub const DESCRIPTION: &str = include_str!("../../openapi.json");

async fn description() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION)
}

/// Answers have secrets, and change: nobody keeps them.
async fn unstored(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Parts of the address, whose errors are problem documents.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0)).map_err(|rejection| Problem::invalid(rejection.body_text()))
    }
}

/// What follows the question mark, whose errors are problem documents.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        query.map(|query| Self(query.0)).map_err(|rejection| Problem::invalid(rejection.body_text()))
    }
}

/// A JSON body whose errors are problem documents with a place.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Api> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        if request.body().size_hint().upper().is_none_or(|length| length > SHORT_BODY)
            && let Err(problem) = api.knows(request.headers(), request.uri().path()).await
        {
            // Read, so that the answer is heard, and not kept.
            let _ = whole(request, 0).await;
            return Err(problem);
        }
        let bytes = whole(request, LONGEST_BODY).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(|e| match e.classify() {
            // The shape is right, and what stands in it is not: a version, a demand, a reason.
            serde_json::error::Category::Data => Problem::invalid(e.to_string()),
            _ => Problem::malformed(format!("the body is not JSON: {e}")),
        })
    }
}

/// How much of a body that is too large is still read: whoever is writing hears the answer only when he has written.
const DRAIN: usize = 64 << 20;

/// The whole body, if it is not longer than `limit`.
async fn whole(request: Request, limit: usize) -> Result<Vec<u8>, Problem> {
    let mut body = request.into_body();
    let mut bytes = Vec::new();
    let mut length = 0;
    let deadline = Instant::now() + if limit > LONGEST_BODY { LONGEST_UPLOAD } else { LONGEST_WAIT };
    loop {
        let frame = timeout_at(deadline, poll_fn(|cx| Pin::new(&mut body).poll_frame(cx))).await;
        let Some(frame) = frame.map_err(|_| Problem::malformed("the body came too slowly"))? else { break };
        let frame = frame.map_err(|_| Problem::malformed("the body ended early"))?;
        let Some(data) = frame.data_ref() else { continue };
        length += data.len();
        if length <= limit {
            bytes.extend_from_slice(data);
        } else if length > DRAIN {
            break;
        }
    }
    if length > limit { Err(Problem::too_large(format!("the body is longer than {limit} bytes"))) } else { Ok(bytes) }
}

/// Milliseconds since 1970.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
}

/// How long a caller wants to wait, at most as long as we let anybody.
fn patience(seconds: Option<u64>) -> Duration {
    Duration::from_secs(seconds.unwrap_or(0)).min(LONGEST_WAIT)
}

/// How many entries a caller wants.
fn page(limit: Option<usize>) -> usize {
    limit.unwrap_or(100).clamp(1, LONGEST_PAGE)
}
