//! Errors as problem documents (RFC 9457): what is wrong, where, and nothing that a caller should not know.

use crate::engine::EngineError;
use crate::store::StoreError;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pool_core::pool::Refusal;
use serde::Serialize;

/// Longest detail, characters.
const LONGEST_DETAIL: usize = 1000;

/// A problem document.
#[derive(Debug, Serialize)]
pub struct Problem {
    /// What kind: a path that is stable, and explained in the API's description.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The kind in words.
    pub title: &'static str,
    /// The status code again.
    pub status: u16,
    /// What is wrong with this very request.
    pub detail: String,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        // What was sent is quoted, not sent back whole.
        let mut detail = detail.into();
        if let Some((end, _)) = detail.char_indices().nth(LONGEST_DETAIL) {
            detail.truncate(end);
            detail.push('…');
        }
        Self { kind, title, status: status.as_u16(), detail }
    }

    /// The request makes no sense.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "/problems/invalid", "The request makes no sense", detail)
    }

    /// The body is not what it should be.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "/problems/malformed", "The request cannot be read", detail)
    }

    /// Something does not exist.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "/problems/not-found", "There is no such thing", detail)
    }

    /// It is not in a state in which that can be done.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "/problems/conflict", "That cannot be done now", detail)
    }

    /// Nobody knows who asks.
    pub fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "/problems/unauthenticated", "Who asks?", detail)
    }

    /// Who asks may not.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "/problems/forbidden", "That needs another role", detail)
    }

    /// Too much.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "/problems/too-large", "The body is too large", detail)
    }

    /// We cannot at the moment.
    pub fn unavailable() -> Self {
        // The words of the database are in the log.
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "/problems/unavailable",
            "Try again",
            "the database does not do its part; nothing was changed as far as is known",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unknown(text) => Self::not_found(text),
            Refusal::Conflict(text) => Self::conflict(text),
            Refusal::Invalid(text) => Self::invalid(text),
        }
    }
}

impl From<EngineError> for Problem {
    fn from(e: EngineError) -> Self {
        match e {
            EngineError::Refused(refusal) => refusal.into(),
            EngineError::Token => {
                Self::unauthenticated("the registration token is unknown, or was used before: each registers one agent")
            }
            EngineError::KeyReused => Self::conflict("the idempotency key was used for another request"),
            // Whoever can be repeated asks for the job instead.
            EngineError::Repeated(job) => Self::conflict(format!("job {} was submitted with this key", job.0)),
            EngineError::Store(_) | EngineError::Stopping => Self::unavailable(),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(e: StoreError) -> Self {
        tracing::error!(error = %e, "the database");
        Self::unavailable()
    }
}
