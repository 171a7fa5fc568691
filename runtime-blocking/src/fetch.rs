//! One call of the agent to the host, start to end. Blocks for as long as the call may take.

use crate::daemon::World;
use crate::{clock, dial, wait};
use azure_proxy_agent_core::effect::{ConnectError, Recv};
use azure_proxy_agent_core::exchange::{Exchange, FetchError, HostRequest, HostResponse};
use azure_proxy_agent_core::limits::Limits;
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{ErrorKind, Read, Write};

/// Carries out a [`Fetch`](azure_proxy_agent_core::agent::AgentEffect::Fetch).
///
/// # Errors
/// As the exchange says, or [`FetchError::Connect`].
pub fn fetch(request: HostRequest, limits: Limits, world: &dyn World) -> Result<HostResponse, FetchError> {
    let mut socket = world.dial(request.destination().addr()).map_err(FetchError::Connect)?;
    if !wait::wait_writable(&socket, limits.connect_timeout) {
        return Err(FetchError::Connect(ConnectError::TimedOut));
    }
    dial::outcome(&socket).map_err(FetchError::Connect)?;
    let mut exchange = Exchange::new(clock::now(), request, limits);
    loop {
        if let Some(result) = exchange.poll() {
            return result;
        }
        let wants = exchange.interest();
        if wants.write && !exchange.transmit().is_empty() {
            match socket.write(exchange.transmit()) {
                Ok(n) => exchange.transmitted(n),
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                // What the host has said meanwhile counts more.
                Err(_) => exchange.handle_recv(clock::now(), Recv::Reset),
            }
        }
        let mut flags = PollFlags::IN;
        if exchange.interest().write {
            flags |= PollFlags::OUT;
        }
        let timeout = exchange.deadline().map(|at| wait::timespec(at.since(clock::mono())));
        let mut fds = [PollFd::new(&socket, flags)];
        // An interrupted wait is a spurious wake-up.
        let _ = poll(&mut fds, timeout.as_ref());
        exchange.handle_timeout(clock::now());
        match socket.read(exchange.recv_space()) {
            Ok(0) => exchange.handle_recv(clock::now(), Recv::Eof),
            Ok(n) => exchange.handle_recv(clock::now(), Recv::Data(n)),
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(_) => exchange.handle_recv(clock::now(), Recv::Reset),
        }
    }
}
