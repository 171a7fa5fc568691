//! Accepting, and one connection as a task. Everything but the waiting is `runtime-blocking`'s.

use crate::reactor::{Reactor, Source, Timer};
use crate::wait::wait;
use azure_proxy_agent_core::conn::{ProxyConn, Summary};
use azure_proxy_agent_core::effect::{ConnAnswer, ConnectError, Cx, LocalQuery, LocalReply};
use azure_proxy_agent_core::identity::{KernelRecord, Peer};
use runtime_blocking::daemon::{Accepted, Busy, Daemon, Message};
use runtime_blocking::pump::{Next, Pump, Ready, set_abort};
use runtime_blocking::serve::ANSWER;
use runtime_blocking::start::{DRAIN, Stop};
use runtime_blocking::workers::{LOOKUP_IDLE, Workers};
use runtime_blocking::{clock, dial, listener};
use smol::LocalExecutor;
use smol::future::FutureExt;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// Most threads that look callers up at a time. More would only wait for each other.
const LOOKUPS: usize = 8;

/// What the accept loop has to do.
enum Event {
    Accept,
    Orders,
    End,
}

/// Threads for look-ups. Not smol's: one of those wakes up twice a second for as long as the process lives.
pub(crate) fn lookups() -> Rc<Workers> {
    Rc::new(Workers::new(LOOKUPS, LOOKUP_IDLE))
}

/// Accepts until it is time to stop.
pub(crate) async fn accept_loop<'a>(
    executor: &LocalExecutor<'a>,
    reactor: &Rc<Reactor>,
    daemon: &Arc<Daemon>,
    listener: TcpListener,
    stop: &Stop,
) -> io::Result<()> {
    let listener = Source::new(reactor, listener);
    let (end, orders) = (Source::new(reactor, stop.as_fd()), Source::new(reactor, stop.orders()));
    let lookups = lookups();
    executor.spawn(live(Arc::clone(daemon))).detach();
    loop {
        let ended = async {
            end.readable().await;
            Event::End
        };
        let ordered = async {
            orders.readable().await;
            Event::Orders
        };
        let readable = async {
            listener.readable().await;
            Event::Accept
        };
        match ended.or(ordered).or(readable).await {
            Event::End => return Ok(()),
            Event::Orders => {
                stop.take_orders(daemon);
                continue;
            }
            Event::Accept => {}
        }
        loop {
            match listener::accept(listener.get_ref()) {
                Ok((stream, client)) => {
                    if let Some(accepted) = daemon.admit(stream, client) {
                        let task = serve(Rc::clone(reactor), Arc::clone(daemon), accepted, Rc::clone(&lookups));
                        executor.spawn(task).detach();
                        // It begins now, not when all have been accepted: the sooner it reads, the less a kill can reset.
                        smol::future::yield_now().await;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => {
                    // PX-04. Out of descriptors: give those who have one the time to finish.
                    daemon.cannot_accept(&e);
                    Timer::until(reactor, clock::mono() + Duration::from_millis(50)).await;
                    break;
                }
            }
        }
    }
}

/// Gives a sign of life whenever the agent loop asks for one.
async fn live(daemon: Arc<Daemon>) {
    poll_fn(|cx| {
        daemon.pulse.wake_with(cx.waker());
        daemon.pulse.answer();
        Poll::<()>::Pending
    })
    .await;
}

/// Waits for requests under way, as long as they may take (FS-101).
pub(crate) async fn drain(reactor: &Rc<Reactor>, daemon: &Daemon) {
    let end = clock::mono() + DRAIN;
    while daemon.busy() > 0 && clock::mono() < end {
        Timer::until(reactor, clock::mono() + Duration::from_millis(5)).await;
    }
}

/// One connection, from accept to close.
pub(crate) async fn serve(reactor: Rc<Reactor>, daemon: Arc<Daemon>, accepted: Accepted, lookups: Rc<Workers>) {
    let Accepted { stream, client: address, number, record, place } = accepted;
    let client = Source::new(&reactor, stream);
    let mut view = daemon.policy.view();
    let mut busy = Busy::new(Arc::clone(&daemon));
    let mut timer = Timer::new(&reactor);
    let mut upstream: Option<Source<TcpStream>> = None;
    let mut ready = Ready::default();
    macro_rules! cx {
        ($now:expr) => {
            Cx { now: $now, policy: view.refresh(&daemon.policy), requests: &daemon.requests }
        };
    }
    let mut pump = Pump::new(ProxyConn::new(cx!(daemon.clock.now()), number, address, daemon.limits));
    loop {
        let now = daemon.clock.now();
        if daemon.is_draining() {
            pump.drain(cx!(now), client.get_ref());
        }
        let mut note = |note, summary: &Summary<'_>| daemon.world.note(now, note, summary);
        let host = upstream.as_ref().map(Source::get_ref);
        let next = pump.turn(cx!(now), client.get_ref(), host, std::mem::take(&mut ready), &mut note);
        match next {
            Next::Identify => {
                busy.set(true);
                let answer = identify(&daemon, record, &lookups);
                let asked = async {
                    // A request that comes meanwhile is taken in.
                    while !pump.fill(cx!(daemon.clock.now()), client.get_ref()) {
                        client.readable().await;
                    }
                    std::future::pending().await
                };
                // A look-up that hangs must not hold a place for ever. Nothing was decided, so there is nothing to say.
                let answer = in_time(&reactor, answer.or(asked)).await;
                rest(&client, upstream.as_ref());
                let Some(peer) = answer else { break };
                pump.answer(cx!(daemon.clock.now()), ConnAnswer::Identified(peer));
            }
            Next::Connect(to) => {
                upstream = None;
                rest(&client, None);
                let answer = match connect(&reactor, &daemon, to).await {
                    Ok(socket) => {
                        upstream = Some(socket);
                        ConnAnswer::Connected
                    }
                    Err(error) => ConnAnswer::ConnectFailed(error),
                };
                pump.answer(cx!(daemon.clock.now()), answer);
            }
            Next::Ask(query) => {
                rest(&client, upstream.as_ref());
                let Some(reply) = in_time(&reactor, ask(&daemon, query)).await else { break };
                pump.answer(cx!(daemon.clock.now()), ConnAnswer::Reply(reply));
            }
            Next::Unlink { abort } => {
                if let Some(socket) = upstream.take().filter(|_| abort) {
                    set_abort(socket.get_ref());
                }
            }
            Next::Wait => {
                busy.set(pump.is_busy());
                let deadline = pump.deadline().map(|d| d.at);
                ready = wait(pump.interest(), &client, upstream.as_ref(), &mut timer, deadline).await;
            }
            Next::Done => break,
        }
    }
    // The sockets go before the place does: what is counted as free is free.
    drop((client, upstream));
    drop(place);
}

/// Leaves the sockets alone while the connection waits for something else.
fn rest(client: &Source<TcpStream>, upstream: Option<&Source<TcpStream>>) {
    client.rest();
    upstream.into_iter().for_each(Source::rest);
}

/// The answer, if it comes in time.
async fn in_time<T>(reactor: &Rc<Reactor>, answer: impl Future<Output = T>) -> Option<T> {
    async { Some(answer.await) }
        .or(async {
            Timer::until(reactor, clock::mono() + ANSWER).await;
            None
        })
        .await
}

/// Reads `/proc` and the account database on another thread: another process can make both slow.
async fn identify(daemon: &Arc<Daemon>, record: Option<KernelRecord>, lookups: &Workers) -> Peer {
    let Some(record) = record else { return Peer::Unknown };
    let (sender, receiver) = smol::channel::bounded(1);
    let daemon = Arc::clone(daemon);
    lookups.run(Box::new(move || drop(sender.try_send(daemon.identify(Some(&record))))));
    // Nobody that we know, if there is no thread to look: refused (PX-23).
    receiver.recv().await.unwrap_or(Peer::Unknown)
}

async fn connect(reactor: &Rc<Reactor>, daemon: &Daemon, to: SocketAddrV4) -> Result<Source<TcpStream>, ConnectError> {
    let socket = Source::new(reactor, daemon.world.dial(to)?);
    let connected = async {
        socket.writable().await;
        Ok(())
    };
    let expired = async {
        Timer::until(reactor, clock::mono() + daemon.limits.connect_timeout).await;
        Err(ConnectError::TimedOut)
    };
    connected.or(expired).await?;
    dial::outcome(socket.get_ref())?;
    Ok(socket)
}

async fn ask(daemon: &Daemon, query: LocalQuery) -> LocalReply {
    let (sender, receiver) = smol::channel::bounded(1);
    daemon.mailbox.post(Message::Query(query, Box::new(move |reply| drop(sender.try_send(reply)))));
    // The loop drops the sender if it ends: then there is no answer.
    receiver.recv().await.unwrap_or(LocalReply::Unavailable)
}
