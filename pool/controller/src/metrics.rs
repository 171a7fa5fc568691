//! What Prometheus reads, and whether the service is well. No names of agents, no reasons: numbers only.

use crate::api::Api;
use crate::engine::Engine;
use crate::statistics::Counts;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use pool_core::funnel::{Demanded, Funnel};
use pool_core::version::Version;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// `/metrics` and `/healthz`.
pub fn router(api: Api) -> Router {
    Router::new().route("/metrics", get(metrics)).route("/healthz", get(health)).with_state(api)
}

async fn health(State(api): State<Api>) -> impl IntoResponse {
    match api.store.ping().await {
        Ok(()) => (StatusCode::OK, "well\n"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n"),
    }
}

/// One pool, looked at once.
struct Look {
    pool: Arc<str>,
    agents: BTreeMap<(&'static str, Version), u32>,
    jobs: BTreeMap<&'static str, u32>,
    funnel: Funnel,
    counts: Counts,
}

impl Look {
    async fn at(engine: &Engine) -> Option<Self> {
        let counted = engine.read(|pool, now| {
            let (mut agents, mut jobs) = (BTreeMap::<_, u32>::new(), BTreeMap::<_, u32>::new());
            for agent in pool.agents() {
                *agents.entry((agent.state().word(), agent.version)).or_default() += 1;
            }
            for job in pool.jobs() {
                *jobs.entry(job.state.word()).or_default() += 1;
            }
            (agents, jobs, Funnel::of(pool, now))
        });
        let (agents, jobs, funnel) = counted.await.ok()?;
        Some(Self { pool: Arc::clone(&engine.name), agents, jobs, funnel, counts: engine.statistics() })
    }

    /// The lines of one family.
    fn write(&self, out: &mut String, name: &str) -> std::fmt::Result {
        let Self { pool, agents, jobs, funnel, counts } = self;
        let mut demanded = |value: fn(&Demanded) -> u64| {
            funnel
                .demanded
                .iter()
                .try_for_each(|d| writeln!(out, "{name}{{pool=\"{pool}\",version=\"{}\"}} {}", d.version, value(d)))
        };
        match name {
            "pool_demanded_satisfying" => demanded(|d| d.satisfying.into()),
            "pool_demanded_waiting" => demanded(|d| d.waiting.into()),
            "pool_demanded_longest_wait_seconds" => demanded(|d| d.longest_wait / 1000),
            "pool_agents" => agents.iter().try_for_each(|((state, version), n)| {
                writeln!(out, "{name}{{pool=\"{pool}\",state=\"{state}\",version=\"{version}\"}} {n}")
            }),
            "pool_jobs" => {
                jobs.iter().try_for_each(|(state, n)| writeln!(out, "{name}{{pool=\"{pool}\",state=\"{state}\"}} {n}"))
            }
            "pool_long_polls" => writeln!(out, "{name}{{pool=\"{pool}\"}} {}", counts.polls),
            "pool_transactions_total" => writeln!(out, "{name}{{pool=\"{pool}\"}} {}", counts.batches),
            "pool_operations_total" => writeln!(out, "{name}{{pool=\"{pool}\"}} {}", counts.operations),
            "pool_transactions_failed_total" => writeln!(out, "{name}{{pool=\"{pool}\"}} {}", counts.failures),
            "pool_transaction_seconds" => counts.transactions.write(out, name, pool),
            "pool_dispatch_seconds" => counts.dispatches.write(out, name, pool),
            _ => counts.decisions.write(out, name, pool),
        }
    }
}

async fn metrics(State(api): State<Api>) -> impl IntoResponse {
    let mut looks = Vec::new();
    for engine in api.engines().await {
        looks.extend(Look::at(&engine).await);
    }
    let mut out = String::new();
    for (name, kind, help) in FAMILIES {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for look in &looks {
            let _ = look.write(&mut out, name);
        }
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], out)
}

const FAMILIES: [(&str, &str, &str); 12] = [
    ("pool_agents", "gauge", "Registered agents, by state and version."),
    ("pool_jobs", "gauge", "Jobs that have not ended, by state."),
    ("pool_demanded_satisfying", "gauge", "Agents that satisfy a version that waiting jobs demand."),
    ("pool_demanded_waiting", "gauge", "Jobs that wait for an agent of a version."),
    ("pool_demanded_longest_wait_seconds", "gauge", "How long the oldest of them waits."),
    ("pool_transactions_total", "counter", "Transactions begun."),
    ("pool_operations_total", "counter", "Operations done in them."),
    ("pool_transactions_failed_total", "counter", "Transactions that failed."),
    ("pool_long_polls", "gauge", "Agents that wait at this controller for something to do."),
    ("pool_transaction_seconds", "histogram", "Time of a transaction, waiting for other controllers included."),
    ("pool_dispatch_seconds", "histogram", "From the arrival of what let a job be given to an agent until that was stored."),
    ("pool_decision_seconds", "histogram", "Time that one pass of decisions takes."),
];
