//! Waiting for two sockets and a deadline.

use azure_proxy_agent_core::effect::{Interest, Wants};
use azure_proxy_agent_core::time::Mono;
use runtime_blocking::clock;
use runtime_blocking::pump::Ready;
use smol::{Async, Timer};
use std::future::{Future, poll_fn};
use std::net::TcpStream;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The deadline of one connection as a timer that is only touched when it changes.
pub(crate) struct DeadlineTimer {
    timer: Timer,
    at: Option<Mono>,
}

impl DeadlineTimer {
    pub(crate) fn new() -> Self {
        Self { timer: Timer::never(), at: None }
    }

    fn set(&mut self, at: Option<Mono>) {
        if self.at != at {
            self.at = at;
            self.timer = at.map_or_else(Timer::never, |at| Timer::after(at.since(clock::mono())));
        }
    }
}

/// Waits until a side is ready for what it is wanted for, or the deadline has come. Between two waits nothing is registered anew: the
/// sockets keep their wakers until they fire.
pub(crate) async fn wait(
    interest: Interest,
    client: &Async<TcpStream>,
    upstream: Option<&Async<TcpStream>>,
    timer: &mut DeadlineTimer,
    deadline: Option<Mono>,
) -> Ready {
    timer.set(deadline);
    poll_fn(|cx| {
        let client = poll_socket(client, interest.client, cx);
        let upstream = upstream.map_or(Polled::default(), |upstream| poll_socket(upstream, interest.upstream, cx));
        let expired = timer.at.is_some() && Pin::new(&mut timer.timer).poll(cx).is_ready();
        if expired {
            timer.at = None;
        }
        if client.any() || upstream.any() || expired {
            Poll::Ready(Ready { client: client.read, upstream: upstream.read })
        } else {
            Poll::Pending
        }
    })
    .await
}

#[derive(Default)]
struct Polled {
    read: bool,
    write: bool,
}

impl Polled {
    const fn any(&self) -> bool {
        self.read || self.write
    }
}

/// An error of the poller makes the socket look ready: using it then tells what is wrong.
fn poll_socket(socket: &Async<TcpStream>, wants: Wants, cx: &mut Context<'_>) -> Polled {
    Polled {
        read: wants.read && socket.poll_readable(cx).is_ready(),
        write: wants.write && socket.poll_writable(cx).is_ready(),
    }
}
