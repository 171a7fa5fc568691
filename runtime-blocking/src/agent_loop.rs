//! Drives the agent machine: messages in, effects out. Both runtimes run it, on a thread or on a blocking pool; it blocks in files and
//! in the kernel, never on the network (calls to the host are jobs of their own).

use crate::daemon::{Daemon, Mailbox, Message};
use crate::fetch::fetch;
use crate::host::Ran;
use crate::host::notify::State;
use crate::machine::Machine;
use crate::records::FLUSH_INTERVAL;
use crate::reload::Reload;
use crate::{clock, memory};
use azure_proxy_agent_core::agent::{Agent, AgentAnswer, AgentConfig, AgentEffect, AgentEvent, IdSeed, QueryId, StatusReader};
use azure_proxy_agent_core::effect::{ConnectError, LocalReply};
use azure_proxy_agent_core::exchange::{FetchError, HostRequest, HostResponse};
use azure_proxy_agent_core::keeper::FetchId;
use azure_proxy_agent_core::time::Mono;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How often a key directory that another agent has is looked at.
pub(crate) const CLAIM_AGAIN: Duration = Duration::from_millis(500);
/// How soon an audit log that takes nothing is tried again.
const FLUSH_AGAIN: Duration = Duration::from_secs(1);
/// So many messages may go before a file that is to be written.
const PATIENCE: u32 = 16;
/// So many requests are a burst.
const TIDY_AFTER: u64 = 100;

/// Something that may take long, to be run where it disturbs nobody.
pub type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs on other threads.
pub trait Spawn: Send + Sync {
    /// Runs the job some time soon, or drops it: that must be an answer, too.
    fn spawn(&self, job: Job);
}

/// The agent machine and what it needs of its surroundings.
pub struct AgentLoop {
    daemon: Arc<Daemon>,
    machine: Arc<Machine>,
    agent: Agent,
    spawn: Arc<dyn Spawn>,
    queries: BTreeMap<QueryId, Box<dyn FnOnce(LocalReply) + Send>>,
    next_query: u64,
    answers: VecDeque<AgentAnswer>,
    /// Files that nobody waits for, in order: a disk takes its time, callers and the host do not wait for it.
    later: VecDeque<AgentEffect>,
    /// Messages that went before them.
    before: u32,
    flush_at: Option<Mono>,
    reload: Reload,
    /// When to see to the watchdog's sign of life; `None`: nobody wants one.
    pulse_at: Option<Mono>,
    /// Requests so far when memory was last given back.
    tidied: u64,
    /// What has happened while another agent had the key directory; `None` once the machine has started.
    waiting: Option<Vec<AgentEvent>>,
    stopped: bool,
}

impl AgentLoop {
    /// Starts the machine as soon as no other agent has the key directory: until then no file is touched and the host is not asked
    /// (CLI-11).
    #[must_use]
    pub fn start(
        daemon: Arc<Daemon>,
        machine: Arc<Machine>,
        (config, reload): (AgentConfig, Reload),
        spawn: Arc<dyn Spawn>,
    ) -> Self {
        let requests = Arc::clone(&daemon.requests);
        let now = clock::now();
        let pulse_at = daemon.pulse.interval().map(|_| now.mono);
        let mut this = Self {
            agent: Agent::new(config, IdSeed(now.wall.0), requests),
            daemon,
            machine,
            spawn,
            queries: BTreeMap::new(),
            next_query: 0,
            answers: VecDeque::new(),
            later: VecDeque::new(),
            before: 0,
            flush_at: None,
            reload,
            pulse_at,
            tidied: 0,
            waiting: Some(Vec::new()),
            stopped: false,
        };
        this.begin();
        if this.waiting.is_some() {
            log::error!("Another agent uses the same key directory; this one waits until it ends");
        }
        this
    }

    /// Starts the machine if that is possible now; `true` if it runs.
    fn begin(&mut self) -> bool {
        if self.waiting.is_some() && self.machine.host.claim() {
            let events = self.waiting.take().unwrap_or_default();
            self.machine.records.open(clock::now(), &self.machine.host);
            self.agent.handle_start(clock::now());
            self.carry_out();
            for event in events {
                self.handle(Some(Message::Event(event)));
            }
        }
        self.waiting.is_none()
    }

    /// Messages before the start.
    fn wait(&mut self, message: Option<Message>) {
        match message {
            Some(Message::Event(event)) => {
                let waiting = self.waiting.get_or_insert_default();
                if waiting.last() == Some(&event) {
                    return;
                }
                if let AgentEvent::ListenerFailed(text) | AgentEvent::RedirectorFailed(text) = &event {
                    log::error!("{text}");
                }
                waiting.push(event);
            }
            Some(Message::Stop) => self.stopped = true,
            // Nobody can have connected: the listener is the other agent's. An unanswered query counts as unavailable.
            Some(Message::Query(..) | Message::Answer(_) | Message::Flush | Message::Reload | Message::RulesChanged) | None => {}
        }
    }

    /// Takes a message, or none when the deadline has come.
    pub fn handle(&mut self, message: Option<Message>) {
        let now = clock::now();
        if self.pulse_at.is_some_and(|at| now.mono >= at) {
            self.daemon.pulse.ask();
            self.pulse_at = self.daemon.pulse.interval().map(|interval| now.mono + interval);
        }
        if !self.begin() {
            return self.wait(message);
        }
        self.before += 1;
        if message.is_none() || self.before >= PATIENCE {
            self.catch_up();
        }
        match message {
            Some(Message::Query(query, reply)) => {
                self.next_query += 1;
                let id = QueryId(self.next_query);
                self.queries.insert(id, reply);
                self.agent.handle_query(now, id, query);
            }
            Some(Message::Answer(answer)) => self.agent.handle_answer(now, answer),
            Some(Message::Event(event)) => {
                let ready = event == AgentEvent::ListenerReady;
                self.agent.handle_event(now, event);
                if ready {
                    self.machine.manager.tell(State::Ready);
                }
            }
            Some(Message::Reload) => {
                self.machine.manager.tell(State::Reloading);
                self.machine.host.reopen_logs();
                let poll_interval = self.reload.run();
                self.agent.handle_event(now, AgentEvent::Reload { poll_interval });
                self.machine.manager.tell(State::Ready);
            }
            Some(Message::RulesChanged) => self.agent.handle_event(now, AgentEvent::RulesChanged),
            Some(Message::Flush) => self.flush_at = Some(now.mono + FLUSH_INTERVAL),
            Some(Message::Stop) => {
                self.agent.handle_event(now, AgentEvent::Drain);
                self.stopped = true;
            }
            None => {}
        }
        if let Some(troubles) = self.machine.host.telemetry().take_troubles() {
            self.agent.handle_event(now, AgentEvent::Logs(troubles));
        }
        self.agent.handle_timeout(now);
        self.carry_out();
        if self.machine.manager.is_there() {
            self.machine.manager.status(&self.agent.headline());
        }
        self.tidy();
        if self.stopped {
            while !self.later.is_empty() {
                self.catch_up();
                self.carry_out();
            }
            self.machine.note_foreign();
            self.machine.records.close(now, &self.machine.host);
        } else if self.flush_at.is_some_and(|at| now.mono >= at) {
            self.flush_at = (!self.machine.flush()).then(|| now.mono + FLUSH_AGAIN);
        }
    }

    /// When to call [`handle`](Self::handle) without a message.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        if self.waiting.is_some() {
            return Some(clock::mono() + CLAIM_AGAIN);
        }
        if !self.later.is_empty() {
            return Some(clock::mono());
        }
        [self.agent.deadline().map(|d| d.at), self.flush_at, self.pulse_at].into_iter().flatten().min()
    }

    /// Everything is written; the loop may end.
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// After a burst, once nobody is connected: the agent's own deadlines come often enough to look.
    fn tidy(&mut self) {
        let requests = self.daemon.requests.count();
        if requests >= self.tidied + TIDY_AFTER && self.daemon.connections() == 0 {
            self.tidied = requests;
            self.machine.records.rest(clock::now(), &self.machine.host);
            memory::give_back();
        }
    }

    /// Does one of the things that could wait.
    fn catch_up(&mut self) {
        self.before = 0;
        if let Some(effect) = self.later.pop_front() {
            self.run(effect);
        }
    }

    fn carry_out(&mut self) {
        loop {
            while let Some(effect) = self.agent.poll_effect() {
                match effect {
                    // State, in the order in which it came about: a removal does not overtake what is still to be written.
                    AgentEffect::RemoveState(_) if self.later.is_empty() => self.run(effect),
                    AgentEffect::WriteState { .. }
                    | AgentEffect::RemoveState(_)
                    | AgentEffect::Snapshot { .. }
                    | AgentEffect::WriteEvents { .. }
                    | AgentEffect::Status { to: StatusReader::File, .. } => self.later.push_back(effect),
                    urgent => self.run(urgent),
                }
            }
            let Some(answer) = self.answers.pop_front() else { return };
            self.agent.handle_answer(clock::now(), answer);
        }
    }

    fn run(&mut self, effect: AgentEffect) {
        if matches!(effect, AgentEffect::Heartbeat) {
            // Often enough for everything that is written down by and by.
            self.machine.note_foreign();
            let _: bool = self.machine.flush();
        }
        match self.machine.host.run(effect, self.machine.redirector()) {
            Ran::Answered(answer) => self.answers.push_back(answer),
            Ran::Done => {}
            Ran::NotHere(AgentEffect::Fetch { id, request }) => self.fetch(id, request),
            Ran::NotHere(AgentEffect::LimitCpu { percent }) => {
                let machine = Arc::clone(&self.machine);
                self.spawn.spawn(Box::new(move || machine.host.service_manager().limit_cpu(percent, machine.asked().is_some())));
            }
            Ran::NotHere(AgentEffect::Publish(policy)) => self.daemon.policy.publish(policy),
            Ran::NotHere(AgentEffect::Status { to, draft }) => {
                let effect = self.machine.records.with_summaries(|tables| draft.complete(to, tables, clock::now()));
                if let Ran::Answered(answer) = self.deliver(effect) {
                    self.answers.push_back(answer);
                }
            }
            Ran::NotHere(effect) => drop(self.deliver(effect)),
        }
    }

    fn deliver(&mut self, effect: AgentEffect) -> Ran {
        match effect {
            AgentEffect::Reply { to, reply } => {
                // A connection that has gone meanwhile needs no answer.
                if let Some(deliver) = self.queries.remove(&to) {
                    deliver(reply);
                }
                Ran::Done
            }
            other => self.machine.host.run(other, self.machine.redirector()),
        }
    }

    fn fetch(&self, id: FetchId, request: HostRequest) {
        let (machine, limits) = (Arc::clone(&self.machine), self.daemon.limits);
        let mut call = Call { mailbox: Arc::clone(&self.machine.mailbox), id: Some(id) };
        self.spawn.spawn(Box::new(move || call.answer(fetch(request, limits, &*machine))));
    }
}

/// A call to the host that is answered in any case: the keeper waits for it, and asks nothing else meanwhile. If there is no thread for
/// it, or that one panics, it has failed.
struct Call {
    mailbox: Arc<dyn Mailbox>,
    id: Option<FetchId>,
}

impl Call {
    fn answer(&mut self, result: Result<HostResponse, FetchError>) {
        if let Some(id) = self.id.take() {
            self.mailbox.post(Message::Answer(AgentAnswer::Fetched { id, result }));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.answer(Err(FetchError::Connect(ConnectError::Local)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::ChannelMailbox;

    #[test]
    fn a_call_without_a_thread_has_failed() {
        let (mailbox, inbox) = ChannelMailbox::new();
        let mut call = Call { mailbox: Arc::new(mailbox), id: Some(FetchId(7)) };
        let job: Job = Box::new(move || call.answer(Err(FetchError::Connect(ConnectError::TimedOut))));
        drop(job);
        let Ok(Message::Answer(AgentAnswer::Fetched { id, result })) = inbox.try_recv() else { panic!("no answer") };
        assert_eq!((id, result.map(drop)), (FetchId(7), Err(FetchError::Connect(ConnectError::Local))));
        assert!(inbox.try_recv().is_err(), "one answer");
    }
}
