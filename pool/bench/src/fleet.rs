//! Simulated agents that wait on long polls and do what they are told, people who submit jobs at a fixed rate, and somebody who looks at the page.

use crate::http::{Client, Failure};
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Agents per address of ours: fewer than there are ports.
const PER_ADDRESS: usize = 20_000;
/// Who submits: connections. More than are ever busy at once.
const SUBMITTERS: usize = 64;
/// Registrations under way at the same time.
const REGISTRARS: usize = 64;
/// How long agents may take to finish after the last job was submitted.
const DRAIN: Duration = Duration::from_secs(30);

/// What is to be simulated.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Agents.
    pub(crate) agents: usize,
    /// Jobs submitted per second.
    pub(crate) rate: f64,
    /// Time that counts.
    pub(crate) measured: Duration,
    /// Time before it.
    pub(crate) warm_up: Duration,
    /// How long a job takes.
    pub(crate) work: Duration,
    /// How long a poll waits, seconds: what `azure-proxy-agent-updater` has by default.
    pub(crate) wait: usize,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// From the moment that a submission was due until it was answered, microseconds: the answer says what was decided.
    pub(crate) answered: RefCell<Vec<u64>>,
    /// From the same moment until the agent had the job.
    pub(crate) told: RefCell<Vec<u64>>,
    /// Jobs that ended in the measured time.
    pub(crate) ended: Cell<u64>,
    /// Questions of agents and people, all answered.
    requests: Cell<u64>,
    /// Those of the measured time.
    pub(crate) counted: Cell<u64>,
    /// Answers to the page: overview, agents, metrics.
    pub(crate) page: RefCell<BTreeMap<&'static str, Vec<u64>>>,
    /// How often each job was handed out.
    pub(crate) handed: RefCell<Vec<u32>>,
    /// What failed, and how often.
    pub(crate) failures: RefCell<BTreeMap<String, u32>>,
}

impl Seen {
    fn failed(&self, failure: &str) {
        *self.failures.borrow_mut().entry(failure.chars().take(160).collect()).or_default() += 1;
    }

    fn asked(&self) {
        self.requests.set(self.requests.get() + 1);
    }
}

struct World {
    plan: Plan,
    seen: Seen,
    /// When the first job is due.
    start: Cell<Instant>,
}

impl World {
    fn due(&self, job: usize) -> Instant {
        self.start.get() + Duration::from_secs_f64(job as f64 / self.plan.rate)
    }

    /// Whether what happens with this job counts.
    fn counts(&self, job: usize) -> bool {
        self.due(job) >= self.start.get() + self.plan.warm_up
    }

    fn jobs(&self) -> usize {
        (self.plan.rate * (self.plan.warm_up + self.plan.measured).as_secs_f64()) as usize
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// An agent that has registered.
pub(crate) struct Registered {
    client: Client,
    id: i64,
}

fn own_address(agent: usize) -> IpAddr {
    let number = u8::try_from(2 + agent / PER_ADDRESS).unwrap_or(u8::MAX);
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, number))
}

/// Registers agents as machines do, each with a token of its own; they take turns at the controllers.
pub(crate) async fn register(admin: &str, controllers: &[SocketAddr], agents: usize) -> Result<Vec<Registered>, Failure> {
    let mut registrars = JoinSet::new();
    for first in 0..REGISTRARS {
        let (admin, controllers) = (admin.to_owned(), controllers.to_owned());
        registrars.spawn_local(async move {
            let mut registered = Vec::new();
            let to = |agent: usize| controllers.get(agent % controllers.len().max(1)).copied().ok_or("no controller");
            let mut admin = Client::new(to(first)?, own_address(0), admin);
            for agent in (first..agents).step_by(REGISTRARS) {
                let token = json!({ "name": format!("bench-{agent}"), "role": "register", "pool": "bench" });
                let token = admin.ok("POST", "/api/v1/tokens", &token.to_string()).await?;
                let mut client = Client::new(to(agent)?, own_address(agent), token["token"].as_str().unwrap_or("").into());
                let answer = client.ok("POST", "/api/v1/pools/bench/agents", &report(agent, true)).await?;
                client.token = answer["key"].as_str().unwrap_or("").into();
                registered.push(Registered { client, id: answer["id"].as_i64().unwrap_or(0) });
            }
            Ok::<_, Failure>(registered)
        });
    }
    let mut all = Vec::with_capacity(agents);
    while let Some(some) = registrars.join_next().await {
        all.extend(some.map_err(|e| e.to_string())??);
    }
    all.sort_by_key(|agent| agent.id);
    Ok(all)
}

fn report(agent: usize, named: bool) -> String {
    let capabilities = json!({ "os": "debian", "os-version": "12", "arch": "x86_64", "rack": (agent % 10).to_string() });
    let mut report = json!({ "version": "1.0.0", "capabilities": capabilities });
    if named {
        report["name"] = format!("machine-{agent:06}").into();
    }
    report.to_string()
}

/// Lets agents wait, submits, looks, until the time is over and everything has ended. `ready` is called when every agent has asked, `count` when it begins
/// to count, `over` when it does so no more.
pub(crate) async fn run(
    plan: &Plan,
    admin: &str,
    controllers: &[SocketAddr],
    agents: Vec<Registered>,
    mut phase: impl FnMut(Phase),
) -> Seen {
    let world = Rc::new(World { plan: plan.clone(), seen: Seen::default(), start: Cell::new(Instant::now()) });
    world.seen.handed.borrow_mut().resize(world.jobs(), 0);
    let mut fleet = JoinSet::new();
    let total = agents.len();
    for (number, agent) in agents.into_iter().enumerate() {
        // First waits of different lengths, so that they do not all come back at the same moment for ever.
        let first = 1 + number * plan.wait / total.max(1);
        fleet.spawn_local(live(Rc::clone(&world), agent, number, first));
        if number % 100 == 99 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // A few are always between two polls.
    let deadline = Instant::now() + DRAIN;
    while waiting(admin, controllers).await.unwrap_or(0) < total as u64 * 98 / 100 {
        if Instant::now() > deadline {
            world.seen.failed("not all agents wait after 30 s");
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    phase(Phase::Ready);
    world.start.set(Instant::now());
    let mut people = JoinSet::new();
    for first in 0..SUBMITTERS {
        let to = controllers.get(first % controllers.len().max(1)).copied().unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        people.spawn_local(submit(Rc::clone(&world), Client::new(to, own_address(0), admin.to_owned()), first));
    }
    let visitor = controllers.first().map(|to| Client::new(*to, own_address(0), admin.to_owned()));
    tokio::time::sleep(plan.warm_up).await;
    world.seen.requests.set(0);
    phase(Phase::Counting);
    if let Some(client) = visitor {
        people.spawn_local(look(Rc::clone(&world), client));
    }
    tokio::time::sleep(plan.measured).await;
    world.seen.counted.set(world.seen.requests.get());
    phase(Phase::Over);
    let deadline = Instant::now() + DRAIN + plan.work;
    while world.seen.handed.borrow().contains(&0) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(plan.work).await;
    people.shutdown().await;
    fleet.shutdown().await;
    Rc::try_unwrap(world).map_or_else(|_| Seen::default(), |world| world.seen)
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// All agents wait.
    Ready,
    /// It counts from now on.
    Counting,
    /// It does not count any more.
    Over,
}

/// One agent: asks, does what it is told, asks again.
async fn live(world: Rc<World>, mut agent: Registered, number: usize, first: usize) {
    let report = report(number, false);
    let mut wait = first;
    loop {
        if let Err(failure) = turn(&world, &mut agent, &report, wait).await {
            world.seen.failed(&failure);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        wait = world.plan.wait;
    }
}

async fn turn(world: &World, Registered { client, id }: &mut Registered, report: &str, wait: usize) -> Result<(), Failure> {
    let at = format!("/api/v1/pools/bench/agents/{id}");
    let told = client.ok("POST", &format!("{at}/poll?wait={wait}"), report).await?;
    world.seen.asked();
    let message = &told["message"];
    if message.is_null() {
        return Ok(());
    }
    let (job, attempt) = (&message["job"], json!({ "attempt": message["attempt"] }));
    let number = message["spec"]["tasks"][0]["input"].as_str().and_then(|text| text.parse::<usize>().ok());
    let number = number.ok_or_else(|| format!("a message that was not asked for: {told}"))?;
    if let Some(count) = world.seen.handed.borrow_mut().get_mut(number) {
        *count += 1;
    }
    let counts = world.counts(number);
    if counts {
        world.seen.told.borrow_mut().push(micros(world.due(number)));
    }
    client.ok("POST", &format!("{at}/jobs/{job}/begin"), &attempt.to_string()).await?;
    world.seen.asked();
    tokio::time::sleep(world.plan.work).await;
    let end = json!({ "attempt": message["attempt"], "outcome": "well", "result": "[{\"healthy\":true}]" });
    client.ok("POST", &format!("{at}/jobs/{job}/end"), &end.to_string()).await?;
    world.seen.asked();
    if counts {
        world.seen.ended.set(world.seen.ended.get() + 1);
    }
    Ok(())
}

/// Submits every so-manyth job when it is due, or at once if that is past: who waits for answers would measure a controller that sets the pace.
async fn submit(world: Rc<World>, mut client: Client, first: usize) {
    for number in (first..world.jobs()).step_by(SUBMITTERS) {
        tokio::time::sleep_until(world.due(number).into()).await;
        let call = |name: &str| json!([{ "name": name, "version": "1.0.0", "input": number.to_string() }]);
        // Twelve kinds.
        let spec = match number % 3 {
            0 => json!({ "tasks": call("CheckHealth") }),
            1 => json!({ "tasks": call("RotateLogs") }),
            _ => json!({ "tasks": call("CheckHealth"), "demands": [format!("rack = {}", number % 10)] }),
        };
        let key = format!("bench-{number}");
        // A failed attempt is repeated with the same key, as a program would.
        for _ in 0..3 {
            match client.call("POST", "/api/v1/pools/bench/jobs", &spec.to_string(), Some(&key)).await {
                Ok((200 | 201, _)) => {
                    world.seen.asked();
                    if world.counts(number) {
                        world.seen.answered.borrow_mut().push(micros(world.due(number)));
                    }
                    break;
                }
                Ok((status, answer)) => {
                    world.seen.failed(&format!("submit: {status} {}", String::from_utf8_lossy(&answer)));
                }
                Err(failure) => world.seen.failed(&failure),
            }
        }
    }
}

/// What the page asks when something has changed, and what Prometheus asks, once a second.
async fn look(world: Rc<World>, mut client: Client) {
    let questions = [
        ("overview", "/api/v1/pools/bench"),
        ("agents", "/api/v1/pools/bench/agents?limit=100&sort=state"),
        ("jobs", "/api/v1/pools/bench/jobs?limit=100"),
        ("metrics", "/metrics"),
    ];
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for (name, path) in questions {
            let began = Instant::now();
            match client.call("GET", path, "", None).await {
                Ok((200, _)) => world.seen.page.borrow_mut().entry(name).or_default().push(micros(began)),
                Ok((status, _)) => world.seen.failed(&format!("{name}: {status}")),
                Err(failure) => world.seen.failed(&failure),
            }
        }
    }
}

/// The controllers' own histogram of one name, added up: upper limits in seconds, and how many were at most that.
pub(crate) async fn histogram(admin: &str, controllers: &[SocketAddr], name: &str) -> Result<Vec<(f64, u64)>, Failure> {
    let mut sum: Vec<(f64, u64)> = Vec::new();
    for to in controllers {
        let mut client = Client::new(*to, own_address(0), admin.to_owned());
        let (_, text) = client.call("GET", "/metrics", "", None).await?;
        let text = String::from_utf8_lossy(&text);
        let buckets = text.lines().filter_map(|line| {
            let (limit, count) = line.strip_prefix(name)?.strip_prefix("_bucket")?.split_once("le=\"")?.1.split_once("\"} ")?;
            Some((if limit == "+Inf" { f64::INFINITY } else { limit.parse().ok()? }, count.parse::<u64>().ok()?))
        });
        for (at, (limit, count)) in buckets.enumerate() {
            match sum.get_mut(at) {
                Some((_, all)) => *all += count,
                None => sum.push((limit, count)),
            }
        }
    }
    Ok(sum)
}

/// How many agents wait on a long poll, as the controllers count them.
pub(crate) async fn waiting(admin: &str, controllers: &[SocketAddr]) -> Result<u64, Failure> {
    let mut sum = 0;
    for to in controllers {
        let (_, text) = Client::new(*to, own_address(0), admin.to_owned()).call("GET", "/metrics", "", None).await?;
        let text = String::from_utf8_lossy(&text);
        let counts =
            text.lines().filter_map(|line| line.strip_prefix("pool_long_polls{")?.rsplit(' ').next()?.parse::<u64>().ok());
        sum += counts.sum::<u64>();
    }
    Ok(sum)
}
