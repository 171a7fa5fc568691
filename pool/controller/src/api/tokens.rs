//! Tokens: who may ask at all.

use super::{Api, Body, Path, now};
use crate::auth::{self, REGISTER, Role, Secret};
use crate::problem::Problem;
use crate::store::{Removal, Token};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use pool_core::Millis;
use pool_core::catalog::check_name;
use pool_core::pool::Audit;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewToken {
    name: String,
    /// `reader`, `operator`, `administrator`, or `register`.
    role: String,
    /// The only pool that it is for; a registration token always has one.
    #[serde(default)]
    pool: Option<String>,
    /// Seconds until it expires.
    #[serde(default)]
    expires_in: Option<u32>,
}

/// Makes a token. It is told once, here, and never again.
pub(super) async fn create(
    State(api): State<Api>,
    headers: HeaderMap,
    Body(new): Body<NewToken>,
) -> Result<(StatusCode, Json<serde_json::Value>), Problem> {
    let actor = auth::person(&api.store, &headers, None, Role::Administrator, now()).await?;
    check_name("token", &new.name).map_err(Problem::invalid)?;
    if new.role != REGISTER && Role::parse(&new.role).is_none() {
        return Err(Problem::invalid("the role is reader, operator, administrator or register"));
    }
    let pool = match &new.pool {
        Some(name) => Some(api.engine(name).await?.id),
        None if new.role == REGISTER => return Err(Problem::invalid("a registration token is for one pool: say which")),
        None => None,
    };
    let created = now();
    let expires = new.expires_in.map(|seconds| created.saturating_add(i64::from(seconds) * 1000));
    let secret = Secret::generate(if new.role == REGISTER { "apar" } else { "apat" })?;
    let token = Token { name: new.name.clone(), role: new.role.clone(), pool, created, expires, used: None };
    let place = new.pool.map(|pool| format!(" in pool `{pool}`")).unwrap_or_default();
    let line = Audit {
        at: Millis(created.max(0).unsigned_abs()),
        actor: actor.to_string(),
        action: "token".into(),
        detail: format!("`{}` with the role {}{place}", new.name, new.role),
    };
    if !api.store.put_token(&secret.hash(), &token, &line).await? {
        return Err(Problem::conflict(format!("there is a token `{}` already", new.name)));
    }
    let body = serde_json::json!({ "name": new.name, "role": new.role, "token": secret.reveal() });
    Ok((StatusCode::CREATED, Json(body)))
}

pub(super) async fn list(State(api): State<Api>, headers: HeaderMap) -> Result<Json<serde_json::Value>, Problem> {
    auth::person(&api.store, &headers, None, Role::Administrator, now()).await?;
    let pools = api.store.pools().await?;
    let pool = |id: Option<i64>| pools.iter().find(|(known, _)| Some(*known) == id).map(|(_, name)| name.as_str());
    let item = |token: &Token| {
        serde_json::json!({
            "name": token.name, "role": token.role, "pool": pool(token.pool),
            "created": token.created, "expires": token.expires, "used": token.used,
        })
    };
    let items: Vec<_> = api.store.tokens().await?.iter().map(item).collect();
    Ok(Json(serde_json::json!({ "items": items })))
}

pub(super) async fn remove(State(api): State<Api>, Path(name): Path<String>, headers: HeaderMap) -> Result<StatusCode, Problem> {
    let actor = auth::person(&api.store, &headers, None, Role::Administrator, now()).await?;
    let unknown = || Problem::not_found("there is no token of that name");
    check_name("token", &name).map_err(|_| unknown())?;
    let line = Audit {
        at: Millis(now().max(0).unsigned_abs()),
        actor: actor.to_string(),
        action: "token-removed".into(),
        detail: format!("`{name}`"),
    };
    match api.store.remove_token(&name, &line).await? {
        Removal::Done => Ok(StatusCode::NO_CONTENT),
        Removal::Unknown => Err(unknown()),
        Removal::Last => Err(Problem::conflict(
            "this is the last token of an administrator of everything that does not expire: make another one first",
        )),
    }
}
