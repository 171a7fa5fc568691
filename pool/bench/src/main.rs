//! `make bench-pool`: thousands of simulated agents on long polls against real controllers, each a process of its own within a memory limit, first with SQLite,
//! then two of them with PostgreSQL. Prints what was measured beside the goals; docs/pool-scale.md says how to read it.

#![forbid(unsafe_code)]

mod controller;
mod fleet;
mod http;

use clap::Parser;
use controller::{Controller, Usage};
use fleet::{Phase, Plan};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// Simulated agents against real controllers of pools.
#[derive(Debug, Parser)]
struct Options {
    /// The controller's program, a release build.
    #[arg(long)]
    controller: PathBuf,
    /// A PostgreSQL server, whose database is ours to fill; without it SQLite alone is measured.
    #[arg(long, env = "POOL_TEST_POSTGRES")]
    postgres: Option<String>,
    /// Only one database: `sqlite` or `postgres`.
    #[arg(long)]
    only: Option<String>,
    /// Controllers that share PostgreSQL.
    #[arg(long, default_value_t = 2)]
    controllers: usize,
    /// Agents on long poll.
    #[arg(long, default_value_t = 10_000)]
    agents: usize,
    /// Jobs per second.
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// How long it counts, seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How long a job takes, milliseconds.
    #[arg(long, default_value_t = 1000)]
    work: u64,
    /// Memory that a controller gets, MiB.
    #[arg(long, default_value_t = 512)]
    memory: u64,
    /// A short run: ten seconds.
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of the table.
    #[arg(long)]
    json: bool,
}

/// Where the goal of a figure is.
#[derive(Debug, Clone, Copy)]
enum Goal {
    None,
    Least(f64),
    Most(f64),
}

impl Goal {
    const fn is_met(self, value: f64) -> bool {
        match self {
            Self::None => true,
            Self::Least(goal) => value >= goal,
            Self::Most(goal) => value <= goal,
        }
    }

    fn text(self) -> String {
        match self {
            Self::None => String::new(),
            Self::Least(goal) => format!("≥ {goal}"),
            Self::Most(goal) => format!("≤ {goal}"),
        }
    }
}

/// One line of the table.
struct Figure {
    name: String,
    unit: &'static str,
    value: f64,
    goal: Goal,
}

/// One set-up, measured.
struct Measured {
    title: String,
    figures: Vec<Figure>,
    failures: Vec<(String, u32)>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    // As many descriptors as agents, here and in the controllers, which inherit it.
    let files = (options.agents + 1000).to_string();
    let raised =
        Command::new("prlimit").args(["--pid", &std::process::id().to_string(), &format!("--nofile={files}:{files}")]).status();
    if !raised.is_ok_and(|status| status.success()) {
        return failed(&format!("{files} open files are not allowed (prlimit)"));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return failed(&e.to_string()),
    };
    let mut all = Vec::new();
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| only == name);
    let folder = std::env::temp_dir().join(format!("pool-bench.{}", std::process::id()));
    if let Err(e) = std::fs::create_dir(&folder) {
        return failed(&format!("{}: {e}", folder.display()));
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    let sqlite = folder.join("pool.db").display().to_string();
    let databases = [("sqlite", Some(sqlite.as_str()), 1), ("postgres", options.postgres.as_deref(), options.controllers)];
    for (name, database, controllers) in databases {
        let Some(database) = database.filter(|_| wanted(name)) else { continue };
        let local = tokio::task::LocalSet::new();
        match local.block_on(&runtime, measure(&options, &folder, name, database, controllers)) {
            Ok(measured) => all.push(measured),
            Err(e) => {
                let _ = std::fs::remove_dir_all(&folder);
                return failed(&format!("{name}: {e}"));
            }
        }
    }
    let _ = std::fs::remove_dir_all(&folder);
    let met = all.iter().all(|m| m.failures.is_empty() && m.figures.iter().all(|f| f.goal.is_met(f.value)));
    if options.json {
        println!("{}", as_json(&all, &load, met));
    } else {
        table(&all, &load, met);
    }
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn failed(text: &str) -> ExitCode {
    eprintln!("pool-bench: {text}");
    ExitCode::from(2)
}

fn plan(options: &Options) -> Plan {
    Plan {
        agents: options.agents,
        rate: options.rate,
        measured: Duration::from_secs(if options.quick { 10 } else { options.seconds }),
        warm_up: Duration::from_secs(if options.quick { 2 } else { 5 }),
        work: Duration::from_millis(options.work),
        wait: 50,
    }
}

/// What all processes had used at one moment.
struct Moment {
    at: Instant,
    controllers: Vec<Usage>,
    bench: Usage,
    machine: (f64, f64),
}

fn moment(controllers: &[Controller]) -> Moment {
    Moment {
        at: Instant::now(),
        controllers: controllers.iter().map(Controller::usage).collect(),
        bench: controller::usage("self"),
        machine: controller::machine(),
    }
}

async fn measure(options: &Options, folder: &Path, name: &str, database: &str, count: usize) -> Result<Measured, String> {
    let plan = plan(options);
    eprintln!("{name}: {count} × {}", options.controller.display());
    let token = folder.join(format!("{name}.token"));
    let mut controllers = Vec::new();
    for _ in 0..count {
        controllers.push(Controller::start(&options.controller, database, &token, options.memory)?);
    }
    let addresses: Vec<SocketAddr> = controllers.iter().map(|controller| controller.address).collect();
    let admin = std::fs::read_to_string(&token).map_err(|e| format!("{}: {e}", token.display()))?.trim().to_owned();
    let first = *addresses.first().ok_or("no controller")?;
    http::Client::new(first, [127, 0, 0, 1].into(), admin.clone()).ok("POST", "/api/v1/pools", r#"{"name":"bench"}"#).await?;
    let began = Instant::now();
    let agents = fleet::register(&admin, &addresses, plan.agents).await?;
    let registered = plan.agents as f64 / began.elapsed().as_secs_f64();
    eprintln!("{name}: {} agents registered, {registered:.0} per second", plan.agents);
    let empty = moment(&controllers);
    let mut moments = Vec::new();
    let before = fleet::histogram(&admin, &addresses, "pool_dispatch_seconds").await?;
    let seen = fleet::run(&plan, &admin, &addresses, agents, |phase| {
        eprintln!(
            "{name}: {}",
            match phase {
                Phase::Ready => "all wait; jobs begin",
                Phase::Counting => "it counts",
                Phase::Over => "over",
            }
        );
        moments.push(moment(&controllers));
    })
    .await;
    let after = fleet::histogram(&admin, &addresses, "pool_dispatch_seconds").await?;
    let decisions = after.iter().enumerate().map(|(at, (limit, n))| (*limit, n - before.get(at).map_or(0, |(_, n)| *n)));
    let decisions: Vec<(f64, u64)> = decisions.collect();
    let [ready, from, to] = moments.as_slice() else { return Err("a phase is missing".into()) };
    let end = moment(&controllers);
    let seconds = (to.at - from.at).as_secs_f64();
    let mut figures = Vec::new();
    let mut figure =
        |name: &str, unit: &'static str, value: f64, goal: Goal| figures.push(Figure { name: name.into(), unit, value, goal });
    figure("agents on long poll", "", plan.agents as f64, Goal::None);
    figure("registrations", "/s", registered, Goal::None);
    figure(
        "jobs dispatched",
        "/s",
        seen.told.borrow().len() as f64 / plan.measured.as_secs_f64(),
        Goal::Least(plan.rate * 0.999),
    );
    let handed = seen.handed.borrow();
    figure("jobs handed out other than once", "", handed.iter().filter(|count| **count != 1).count() as f64, Goal::Most(0.0));
    figure("jobs ended", "/s", seen.ended.get() as f64 / plan.measured.as_secs_f64(), Goal::None);
    for percent in [0.5, 0.99] {
        let goal = if percent > 0.9 { Goal::Most(50.0) } else { Goal::None };
        figure(&format!("decision stored, {} %, at most", percent * 100.0), "ms", bucket(&decisions, percent) * 1000.0, goal);
    }
    for (what, latencies) in [("submission answered", &seen.answered), ("agent has the job", &seen.told)] {
        let mut sorted = latencies.borrow().clone();
        sorted.sort_unstable();
        for (label, percent) in [("50 %", 0.5), ("99 %", 0.99), ("longest", 1.0)] {
            figure(&format!("{what}, {label}"), "ms", quantile(&sorted, percent), Goal::None);
        }
    }
    for (what, latencies) in seen.page.borrow_mut().iter_mut() {
        latencies.sort_unstable();
        figure(&format!("{what} for the page, longest"), "ms", quantile(latencies, 1.0), Goal::None);
    }
    figure("requests", "/s", seen.counted.get() as f64 / seconds, Goal::None);
    for number in 0..count {
        let which = if count == 1 { String::new() } else { format!(" {}", number + 1) };
        let at = |moment: &Moment| moment.controllers.get(number).copied().unwrap_or_default();
        figure(&format!("controller{which}: memory, registered"), "MiB", at(&empty).rss, Goal::None);
        figure(&format!("controller{which}: memory, all wait"), "MiB", at(ready).rss, Goal::None);
        figure(&format!("controller{which}: memory, most"), "MiB", at(&end).peak, Goal::Most(options.memory as f64));
        figure(&format!("controller{which}: CPU"), "%", (at(to).cpu - at(from).cpu) / seconds * 100.0, Goal::None);
    }
    figure("bench: CPU", "%", (to.bench.cpu - from.bench.cpu) / seconds * 100.0, Goal::None);
    let (busy, all) = (to.machine.0 - from.machine.0, to.machine.1 - from.machine.1);
    figure("whole machine: CPU busy", "%", busy / all * 100.0, Goal::None);
    let confined = if controllers.iter().all(Controller::is_confined) {
        format!("{} MiB each", options.memory)
    } else {
        "no memory limit".into()
    };
    let title = format!("{name}, {count} controller{} ({confined})", if count == 1 { "" } else { "s" });
    let failures = seen.failures.borrow().iter().map(|(text, n)| (text.clone(), *n)).collect();
    Ok(Measured { title, figures, failures })
}

/// Of sorted microseconds, in milliseconds.
fn quantile(sorted: &[u64], percent: f64) -> f64 {
    let at = ((sorted.len() as f64 * percent).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).map_or(f64::NAN, |micros| *micros as f64 / 1000.0)
}

/// The upper limit of the bucket that a percentile is in.
fn bucket(histogram: &[(f64, u64)], percent: f64) -> f64 {
    let all = histogram.last().map_or(0, |(_, n)| *n) as f64;
    histogram.iter().find(|(_, n)| *n as f64 >= all * percent).map_or(f64::NAN, |(limit, _)| *limit)
}

fn table(all: &[Measured], load: &str, met: bool) {
    println!("load average before: {load}");
    for Measured { title, figures, failures } in all {
        println!("\n{title}");
        for Figure { name, unit, value, goal } in figures {
            let digits = if *value < 100.0 { 1 } else { 0 };
            let missed = if goal.is_met(*value) { "" } else { "  MISSED" };
            println!("  {name:<40} {value:>10.digits$} {unit:<4} {}{missed}", goal.text());
        }
        for (text, n) in failures {
            println!("  FAILED {n} times: {text}");
        }
    }
    println!("\n{}", if met { "all goals are met" } else { "NOT all goals are met" });
}

fn as_json(all: &[Measured], load: &str, met: bool) -> Value {
    let one = |Measured { title, figures, failures }: &Measured| {
        let figures: Vec<Value> = figures
            .iter()
            .map(|Figure { name, unit, value, goal }| {
                json!({ "name": name, "unit": unit, "value": (value * 1000.0).round() / 1000.0, "goal": goal.text(), "met": goal.is_met(*value) })
            })
            .collect();
        json!({ "title": title, "figures": figures, "failures": failures })
    };
    json!({ "loadBefore": load, "met": met, "runs": all.iter().map(one).collect::<Vec<_>>() })
}
