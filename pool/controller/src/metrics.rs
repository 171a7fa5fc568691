//! What Prometheus reads, and whether the service is well. No names of agents, no reasons: numbers only.

use crate::api::Api;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use pool_core::funnel::Funnel;
use std::collections::BTreeMap;
use std::fmt::Write;

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

async fn metrics(State(api): State<Api>) -> impl IntoResponse {
    let mut out = String::new();
    for (name, kind, help) in FAMILIES {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for engine in api.engines().await {
            let pool = &engine.name;
            let counts = engine.statistics();
            let state = engine
                .read(|pool, now| {
                    let (mut agents, mut jobs) = (BTreeMap::<_, u32>::new(), BTreeMap::<_, u32>::new());
                    for agent in pool.agents() {
                        *agents.entry((agent.state().word(), agent.version.to_string())).or_default() += 1;
                    }
                    for job in pool.jobs() {
                        *jobs.entry(job.state.word()).or_default() += 1;
                    }
                    (agents, jobs, Funnel::of(pool, now))
                })
                .await;
            let Ok((agents, jobs, funnel)) = state else { continue };
            let _ = match name {
                "pool_agents" => agents.iter().try_for_each(|((state, version), n)| {
                    writeln!(out, "{name}{{pool=\"{pool}\",state=\"{state}\",version=\"{version}\"}} {n}")
                }),
                "pool_jobs" => {
                    jobs.iter().try_for_each(|(state, n)| writeln!(out, "{name}{{pool=\"{pool}\",state=\"{state}\"}} {n}"))
                }
                "pool_demanded_satisfying" => funnel
                    .demanded
                    .iter()
                    .try_for_each(|d| writeln!(out, "{name}{{pool=\"{pool}\",version=\"{}\"}} {}", d.version, d.satisfying)),
                "pool_demanded_waiting" => funnel
                    .demanded
                    .iter()
                    .try_for_each(|d| writeln!(out, "{name}{{pool=\"{pool}\",version=\"{}\"}} {}", d.version, d.waiting)),
                "pool_demanded_longest_wait_seconds" => funnel.demanded.iter().try_for_each(|d| {
                    writeln!(out, "{name}{{pool=\"{pool}\",version=\"{}\"}} {}", d.version, d.longest_wait / 1000)
                }),
                "pool_transactions_total" => writeln!(out, "{name}{{pool=\"{pool}\"}} {}", counts.batches),
                "pool_operations_total" => writeln!(out, "{name}{{pool=\"{pool}\"}} {}", counts.operations),
                "pool_transactions_failed_total" => writeln!(out, "{name}{{pool=\"{pool}\"}} {}", counts.failures),
                _ => {
                    let mut sum = 0;
                    for (limit, n) in ["0.001", "0.005", "0.01", "0.05", "0.1", "+Inf"].iter().zip(counts.decisions) {
                        sum += n;
                        let _ = writeln!(out, "{name}_bucket{{pool=\"{pool}\",le=\"{limit}\"}} {sum}");
                    }
                    let seconds = counts.decision_micros as f64 / 1e6;
                    writeln!(out, "{name}_sum{{pool=\"{pool}\"}} {seconds}\n{name}_count{{pool=\"{pool}\"}} {sum}")
                }
            };
        }
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], out)
}

const FAMILIES: [(&str, &str, &str); 9] = [
    ("pool_agents", "gauge", "Registered agents, by state and version."),
    ("pool_jobs", "gauge", "Jobs that have not ended, by state."),
    ("pool_demanded_satisfying", "gauge", "Agents that satisfy a version that waiting jobs demand."),
    ("pool_demanded_waiting", "gauge", "Jobs that wait for an agent of a version."),
    ("pool_demanded_longest_wait_seconds", "gauge", "How long the oldest of them waits."),
    ("pool_transactions_total", "counter", "Transactions begun."),
    ("pool_operations_total", "counter", "Operations done in them."),
    ("pool_transactions_failed_total", "counter", "Transactions that failed."),
    ("pool_decision_seconds", "histogram", "Time that one pass of decisions takes."),
];
