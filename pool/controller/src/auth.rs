//! Who asks, and what they may: bearer tokens of people, one-time tokens that register an agent, and a key of each agent.
//!
//! Secrets are 32 random bytes; the database has their SHA-256 only. They are long enough that a plain hash cannot be turned back.

use crate::engine::Engine;
use crate::problem::Problem;
use crate::store::Store;
use axum::http::{HeaderMap, header};
use pool_core::Actor;
use pool_core::agent::AgentId;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;

/// What a person's token may do; a later role may all that an earlier one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Reader,
    /// Submit and cancel jobs, ask agents to update.
    Operator,
    /// Change policy, releases, tasks, tokens; remove agents; force a downgrade.
    Administrator,
}

/// The role word of tokens that register one agent.
pub const REGISTER: &str = "register";

impl Role {
    /// Reads the word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Reader, Self::Operator, Self::Administrator].into_iter().find(|role| role.word() == word)
    }

    /// The word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Operator => "operator",
            Self::Administrator => "administrator",
        }
    }
}

/// A secret that is shown once.
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// A new one; `kind` makes it recognizable to people and scanners.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn generate(kind: &str) -> Result<Self, Problem> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| Problem::unavailable())?;
        Ok(Self(format!("{kind}_{}", hex(&bytes))))
    }

    /// What is told, once.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is stored.
    #[must_use]
    pub fn hash(&self) -> String {
        hash(&self.0)
    }
}

/// SHA-256 of a secret or a request, in hexadecimal digits.
#[must_use]
pub fn hash(text: &str) -> String {
    hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
        .collect()
}

/// The secret that a request presents.
///
/// # Errors
/// There is none.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let value = value.ok_or_else(|| Problem::unauthenticated("no token: Authorization: Bearer …"))?;
    let token = value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
    token.filter(|token| !token.is_empty()).ok_or_else(|| Problem::unauthenticated("the Authorization field is not: Bearer …"))
}

/// Who asks, as a person.
///
/// # Errors
/// The token is unknown, expired, not a person's, for another pool, or of too low a role.
pub async fn person(store: &Store, headers: &HeaderMap, pool: Option<i64>, least: Role, now: i64) -> Result<Actor, Problem> {
    let token = store.token(&hash(bearer(headers)?)).await?;
    let unknown = || Problem::unauthenticated("the token is unknown or has expired");
    let token = token.filter(|token| token.expires.is_none_or(|expires| now < expires)).ok_or_else(unknown)?;
    let role = Role::parse(&token.role).ok_or_else(|| Problem::forbidden("this token registers an agent, and nothing else"))?;
    if token.pool.is_some() && token.pool != pool {
        return Err(Problem::forbidden("this token is for another pool"));
    }
    if role < least {
        return Err(Problem::forbidden(format!(
            "this needs the role {}; the token `{}` has {}",
            least.word(),
            token.name,
            role.word()
        )));
    }
    Ok(Actor::Person(token.name))
}

/// That a request comes from this agent.
///
/// # Errors
/// Its key is another.
pub async fn agent(store: &Store, engine: &Engine, headers: &HeaderMap, id: AgentId) -> Result<(), Problem> {
    let presented = hash(bearer(headers)?);
    if engine.knows_key(id, &presented) {
        return Ok(());
    }
    match store.agent_key(engine.id, id).await? {
        // Both are hashes: what a comparison takes tells nothing about the key.
        Some(stored) if stored == presented => Ok(()),
        _ => Err(Problem::unauthenticated("the key is not this agent's, or the agent is not registered (any more)")),
    }
}
