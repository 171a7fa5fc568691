//! HTTP to the controller: what agents say and are told.

use crate::store::Identity;
use pool_core::agent::AgentId;
use pool_core::catalog::Release;
use pool_core::job::{Attempt, JobId};
use pool_core::pool::{Ended, Message, Report};
use pool_core::version::Version;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use ureq::http::Response;
use ureq::tls::{PemItem, RootCerts, TlsConfig};
use ureq::{Agent, Body};

/// Longest answer but packages, bytes.
const LONGEST_ANSWER: u64 = 8 << 20;

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody answered, or somebody who has trouble of his own: worth asking again.
    Unreachable(String),
    /// The key is not this agent's (any more).
    Unknown(String),
    /// The controller says no.
    Refused(u16, String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unreachable(text) | Self::Unknown(text) | Self::Refused(_, text)) = self;
        f.write_str(text)
    }
}

/// A controller.
#[derive(Debug, Clone)]
pub struct Client {
    agent: Agent,
    base: String,
    authorization: String,
}

#[derive(Debug, Deserialize)]
struct Told {
    message: Option<Message>,
}

/// The key of a new agent.
#[derive(Deserialize)]
pub struct Registered {
    /// Its number.
    pub id: AgentId,
    /// Its key.
    pub key: String,
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registered({})", self.id.0)
    }
}

/// Part of a package.
#[derive(Debug)]
pub struct Piece {
    /// From which byte on it is.
    pub from: u64,
    /// The rest.
    pub body: Body,
}

impl Client {
    /// For an agent that has its key.
    ///
    /// # Errors
    /// The address or the certificates are none.
    pub fn new(identity: &Identity) -> Result<Self, String> {
        let base = format!("/api/v1/pools/{}/agents/{}", identity.pool, identity.id.0);
        Self::with(&identity.server, &base, &identity.key, identity.ca.as_deref())
    }

    fn with(server: &str, path: &str, secret: &str, ca: Option<&Path>) -> Result<Self, String> {
        let server = server.trim_end_matches('/');
        pool_core::server::check(server)?;
        let mut tls = TlsConfig::builder();
        if let Some(path) = ca {
            let pem = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
            let certificates: Vec<_> = ureq::tls::parse_pem(&pem)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            if certificates.is_empty() {
                return Err(format!("{}: no certificate is in it", path.display()));
            }
            tls = tls.root_certs(RootCerts::Specific(Arc::new(certificates)));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .timeout_connect(Some(Duration::from_secs(10)))
            .tls_config(tls.build())
            .user_agent(concat!("azure-proxy-agent-updater/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { agent: config.into(), base: format!("{server}{path}"), authorization: format!("Bearer {}", secret.trim()) })
    }

    fn post(&self, path: &str, body: &Value, within: Duration) -> Result<Value, Trouble> {
        let request = self.agent.post(format!("{}{path}", self.base)).config().timeout_global(Some(within)).build();
        let request = request.header("authorization", &self.authorization).header("content-type", "application/json");
        let mut answer = good(request.send(body.to_string()))?;
        let text = answer.body_mut().with_config().limit(LONGEST_ANSWER).read_to_string();
        let text = text.map_err(|e| Trouble::Unreachable(e.to_string()))?;
        let odd = |e: serde_json::Error| Trouble::Unreachable(format!("the controller's answer is not what it should be: {e}"));
        if text.is_empty() { Ok(Value::Null) } else { serde_json::from_str(&text).map_err(odd) }
    }

    fn told(answer: Value) -> Result<Option<Message>, Trouble> {
        let told: Result<Told, _> = serde_json::from_value(answer);
        told.map(|told| told.message)
            .map_err(|e| Trouble::Unreachable(format!("the controller's message is not understood: {e}")))
    }

    /// Says how the agent is, and waits up to `wait` seconds for something to do.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn poll(&self, report: &Report, wait: u64) -> Result<Option<Message>, Trouble> {
        self.post(&format!("/poll?wait={wait}"), &json!(report), Duration::from_secs(wait + 20)).and_then(Self::told)
    }

    /// Says how the agent is.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn report(&self, report: &Report) -> Result<Option<Message>, Trouble> {
        self.post("/report", &json!(report), Duration::from_secs(10)).and_then(Self::told)
    }

    /// Says that a job begins.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn begin(&self, job: JobId, attempt: Attempt) -> Result<(), Trouble> {
        self.post(&format!("/jobs/{}/begin", job.0), &json!({ "attempt": attempt }), SHORT).map(drop)
    }

    /// Says how a job ended.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn end(&self, job: JobId, attempt: Attempt, ended: &Ended) -> Result<(), Trouble> {
        let mut body = json!(ended);
        body["attempt"] = json!(attempt);
        self.post(&format!("/jobs/{}/end", job.0), &body, SHORT).map(drop)
    }

    /// Says that an update is accepted.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn accept(&self, to: Version) -> Result<(), Trouble> {
        self.post("/update/accept", &json!({ "to": to }), SHORT).map(drop)
    }

    /// Says how an update ended, and what runs.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn end_update(&self, to: Version, runs: Version, ended: &Ended) -> Result<(), Trouble> {
        let mut body = json!(ended);
        body["to"] = json!(to);
        body["version"] = json!(runs);
        self.post("/update/end", &body, SHORT).map(drop)
    }

    /// The package of a release from this byte on, or from an earlier one.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn package(&self, release: &Release, from: u64, within: Duration) -> Result<Piece, Trouble> {
        let address = format!("{}/releases/{}/file", self.base, release.version);
        let mut request = self.agent.get(address).config().timeout_global(Some(within)).build();
        request = request.header("authorization", &self.authorization);
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        let answer = good(request.call())?;
        let range = answer.headers().get("content-range").and_then(|range| range.to_str().ok());
        let start = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
        let from = if answer.status() == 206 { start.unwrap_or(from) } else { 0 };
        Ok(Piece { from, body: answer.into_body() })
    }
}

/// For everything that is answered at once.
const SHORT: Duration = Duration::from_secs(30);

/// The answer, if it is a good one.
fn good(answer: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>, Trouble> {
    let mut answer = answer.map_err(|e| {
        Trouble::Unreachable(format!("the controller cannot be reached: {}", pool_core::server::explained(&e.to_string())))
    })?;
    let status = answer.status().as_u16();
    if (200..300).contains(&status) {
        return Ok(answer);
    }
    let mut text = String::new();
    let _ = answer.body_mut().as_reader().take(10_000).read_to_string(&mut text);
    let document: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    let detail = document["detail"].as_str().or(document["title"].as_str()).unwrap_or("no reason was given");
    let detail: String = detail.chars().map(|c| if c.is_control() { ' ' } else { c }).take(2000).collect();
    Err(match status {
        401 => Trouble::Unknown(detail),
        // Only what answers as our controller does is a refusal; proxies and other servers at this address are an outage.
        400..=499 if status != 408 && status != 429 && document["type"].is_string() => Trouble::Refused(status, detail),
        _ => Trouble::Unreachable(format!("the controller answered with status {status}: {detail}")),
    })
}

/// Registers with a one-time token.
///
/// # Errors
/// What to tell whoever does this.
pub fn register(
    server: &str,
    pool: &str,
    token: &str,
    name: &str,
    report: &Report,
    ca: Option<&Path>,
) -> Result<Registered, String> {
    pool_core::catalog::check_name("pool", pool)?;
    pool_core::catalog::check_name("agent", name)?;
    let client = Client::with(server, &format!("/api/v1/pools/{pool}/agents"), token, ca)?;
    let mut body = json!(report);
    body["name"] = json!(name);
    let answer = client.post("", &body, SHORT).map_err(|trouble| trouble.to_string())?;
    serde_json::from_value(answer).map_err(|e| format!("the controller's answer is not understood: {e}"))
}
