//! Waiting for two sockets and a deadline.

use crate::reactor::{Source, Timer};
use azure_proxy_agent_core::effect::Interest;
use azure_proxy_agent_core::time::Mono;
use runtime_blocking::poller::Readiness;
use runtime_blocking::pump::Ready;
use std::future::poll_fn;
use std::net::TcpStream;
use std::task::Poll;

/// Waits until a side is ready for what it is wanted for, or the deadline has come.
pub(crate) async fn wait(
    interest: Interest,
    client: &Source<TcpStream>,
    upstream: Option<&Source<TcpStream>>,
    timer: &mut Timer,
    deadline: Option<Mono>,
) -> Ready {
    timer.set(deadline);
    poll_fn(|cx| {
        let client = client.poll(cx, interest.client);
        let upstream = upstream.map_or(Readiness::default(), |upstream| upstream.poll(cx, interest.upstream));
        let ready = Ready {
            client: client.read,
            upstream: upstream.read,
            client_broken: client.broken && !interest.client.read,
            upstream_broken: upstream.broken && !interest.upstream.read,
        };
        // A broken socket that is read tells by itself what is wrong.
        let ready = Ready { client: ready.client || client.broken, upstream: ready.upstream || upstream.broken, ..ready };
        if ready.any() || client.write || upstream.write || timer.poll(cx) { Poll::Ready(ready) } else { Poll::Pending }
    })
    .await
}
