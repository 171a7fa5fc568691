//! The agent loop as a task: it waits here and works on the blocking pool.

use crate::reactor::{Reactor, Timer};
use azure_proxy_agent_core::agent::AgentConfig;
use runtime_blocking::agent_loop::{AgentLoop, Job, Spawn};
use runtime_blocking::daemon::{Daemon, Mailbox, Message};
use runtime_blocking::machine::Machine;
use smol::channel::{Receiver, Sender, unbounded};
use smol::future::FutureExt;
use std::rc::Rc;
use std::sync::Arc;

struct ChannelMailbox(Sender<Message>);

impl Mailbox for ChannelMailbox {
    fn post(&self, message: Message) {
        // The loop ends before its senders only when the process ends.
        drop(self.0.try_send(message));
    }
}

/// The mailbox and the agent loop's end of it.
pub(crate) fn mailbox() -> (impl Mailbox + 'static, Receiver<Message>) {
    let (sender, receiver) = unbounded();
    (ChannelMailbox(sender), receiver)
}

struct Pool;

impl Spawn for Pool {
    fn spawn(&self, job: Job) {
        smol::unblock(job).detach();
    }
}

/// Runs the agent loop until it is stopped.
pub(crate) async fn run(
    reactor: Rc<Reactor>,
    daemon: Arc<Daemon>,
    machine: Arc<Machine>,
    config: AgentConfig,
    inbox: Receiver<Message>,
) {
    let mut agent = smol::unblock(move || AgentLoop::start(daemon, machine, config, Arc::new(Pool))).await;
    while !agent.is_stopped() {
        let deadline = agent.deadline();
        let message = async { inbox.recv().await.ok() }
            .or(async {
                match deadline {
                    Some(at) => Timer::until(&reactor, at).await,
                    None => smol::future::pending().await,
                }
                None
            })
            .await;
        // Files and the kernel block; the loop goes there and comes back.
        agent = smol::unblock(move || {
            agent.handle(message);
            agent
        })
        .await;
    }
}
