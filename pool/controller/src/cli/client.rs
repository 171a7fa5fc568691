//! HTTP to the controller.

use serde_json::Value;
use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};

/// Why a command has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The call makes no sense.
    Call(String),
    /// The controller cannot be reached.
    Unreachable(String),
    /// The controller says no.
    Problem {
        /// Status code.
        status: u16,
        /// The problem document.
        document: Value,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(text) | Self::Unreachable(text) => f.write_str(text),
            Self::Problem { status, document } => match document["detail"].as_str().or(document["title"].as_str()) {
                Some(text) => f.write_str(&super::table::printable(text)),
                None => write!(f, "the controller answered with status {status}"),
            },
        }
    }
}

impl Failure {
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Call(_) => 2,
            Self::Unreachable(_) | Self::Problem { status: 401 | 403, .. } => 3,
            Self::Problem { .. } => 1,
        })
    }
}

/// A controller, and the token to use.
#[derive(Debug)]
pub(super) struct Client {
    agent: ureq::Agent,
    base: String,
    token: String,
}

impl Client {
    pub(super) fn new(server: &str, token_file: Option<&Path>, ca: Option<&Path>) -> Result<Self, Failure> {
        pool_core::server::check(server).map_err(Failure::Call)?;
        let token = match token_file {
            Some(path) => std::fs::read_to_string(path).map_err(|e| Failure::Call(format!("{}: {e}", path.display())))?,
            None => std::env::var("POOL_TOKEN")
                .map_err(|_| Failure::Call("no token: --token-file FILE, POOL_TOKEN_FILE or POOL_TOKEN".into()))?,
        };
        let mut tls = TlsConfig::builder();
        if let Some(path) = ca {
            tls = tls.root_certs(RootCerts::Specific(Arc::new(certificates(path)?)));
        }
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(90)));
        Ok(Self {
            agent: config.tls_config(tls.build()).build().into(),
            base: format!("{}/api/v1", server.trim_end_matches('/')),
            token: format!("Bearer {}", token.trim()),
        })
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        let request = self.agent.get(format!("{}{path}", self.base)).header("authorization", &self.token);
        self.answer(request.call())
    }

    pub(super) fn send(&self, method: &str, path: &str, body: &Value, key: Option<&str>) -> Result<Value, Failure> {
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("authorization", &self.token);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let request = request.header("content-type", "application/json").body(text).map_err(|e| Failure::Call(e.to_string()))?;
        self.answer(self.agent.run(request))
    }

    pub(super) fn upload(&self, path: &str, content: &[u8]) -> Result<Value, Failure> {
        let request = self.agent.put(format!("{}{path}", self.base)).header("authorization", &self.token);
        self.answer(request.send(content))
    }

    fn answer(&self, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value, Failure> {
        let unreachable = |e: ureq::Error| {
            let said = e.to_string();
            match pool_core::server::explained(&said) {
                Cow::Borrowed(said) => Failure::Unreachable(format!("{}: {said}; is the controller running?", self.base)),
                Cow::Owned(words) => Failure::Unreachable(format!("{}: {words}", self.base)),
            }
        };
        let mut answer = answer.map_err(unreachable)?;
        let status = answer.status().as_u16();
        let text = answer.body_mut().with_config().limit(64 << 20).read_to_string().map_err(unreachable)?;
        let document = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::String(text)) };
        if (200..300).contains(&status) { Ok(document) } else { Err(Failure::Problem { status, document }) }
    }
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, Failure> {
    let pem = std::fs::read(path).map_err(|e| Failure::Call(format!("{}: {e}", path.display())))?;
    let certificates = ureq::tls::parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let found: Vec<_> = certificates.collect();
    if found.is_empty() { Err(Failure::Call(format!("{}: no certificate is in it", path.display()))) } else { Ok(found) }
}

/// A text as one segment of a path, or one value of a query.
pub(super) fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
