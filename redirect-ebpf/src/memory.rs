//! A redirector without a kernel: tests and replay say who connects.

use crate::error::RedirectError;
use crate::redirector::Redirector;
use azure_proxy_agent_core::identity::{KernelRecord, PerDestination, TargetMode};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Attributes connections by their peer address, from records that a test put in.
#[derive(Debug, Default)]
pub struct MemoryRedirector(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    records: HashMap<SocketAddr, KernelRecord>,
    targets: PerDestination<TargetMode>,
    exempted: usize,
    heartbeats: usize,
    foreign: VecDeque<KernelRecord>,
    broken: Option<String>,
}

impl MemoryRedirector {
    /// Knows nobody; all endpoints off.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Connections from `peer` are those of `record` from now on: call it before the proxy accepts.
    pub fn insert(&self, peer: SocketAddr, record: KernelRecord) {
        self.inner().records.insert(peer, record);
    }

    /// Connections from `peer` are unknown again.
    pub fn remove(&self, peer: SocketAddr) {
        self.inner().records.remove(&peer);
    }

    /// What was set last.
    #[must_use]
    pub fn targets(&self) -> PerDestination<TargetMode> {
        self.inner().targets
    }

    /// How many sockets were exempted.
    #[must_use]
    pub fn exempted(&self) -> usize {
        self.inner().exempted
    }

    /// How often the agent said that it lives.
    #[must_use]
    pub fn heartbeats(&self) -> usize {
        self.inner().heartbeats
    }

    /// Somebody connected from another network namespace.
    pub fn note_foreign(&self, record: KernelRecord) {
        self.inner().foreign.push_back(record);
    }

    /// Makes every operation fail with `reason`, or work again.
    pub fn set_broken(&self, reason: Option<&str>) {
        self.inner().broken = reason.map(str::to_owned);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn working(&self) -> Result<MutexGuard<'_, Inner>, RedirectError> {
        let inner = self.inner();
        match &inner.broken {
            Some(reason) => Err(RedirectError::Injected(reason.clone())),
            None => Ok(inner),
        }
    }
}

impl Redirector for MemoryRedirector {
    fn identify(&self, accepted: BorrowedFd<'_>) -> Result<Option<KernelRecord>, RedirectError> {
        let inner = self.working()?;
        let peer = rustix::net::getpeername(accepted)
            .map_err(|e| RedirectError::System { what: "reading the peer's address", source: e.into() })?;
        let peer = peer.and_then(|p| SocketAddr::try_from(p).ok());
        Ok(peer.and_then(|p| inner.records.get(&p).copied()))
    }

    fn exempt(&self, _socket: BorrowedFd<'_>) -> Result<(), RedirectError> {
        self.working()?.exempted += 1;
        Ok(())
    }

    fn set_targets(&self, modes: PerDestination<TargetMode>) -> Result<(), RedirectError> {
        self.working()?.targets = modes;
        Ok(())
    }

    fn check(&self) -> Result<(), RedirectError> {
        self.working().map(drop)
    }

    fn heartbeat(&self) -> Result<(), RedirectError> {
        self.working()?.heartbeats += 1;
        Ok(())
    }

    fn next_foreign(&self) -> Result<Option<KernelRecord>, RedirectError> {
        Ok(self.working()?.foreign.pop_front())
    }

    fn describe(&self) -> String {
        format!("in memory, {} records", self.inner().records.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Plain, Record};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    #[test]
    fn records_are_found_by_peer_address() {
        let redirector = MemoryRedirector::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, peer) = listener.accept().unwrap();
        assert_eq!(redirector.identify(accepted.as_fd()).unwrap(), None);

        let mut record = Record::ZERO.to_kernel_record();
        assert_eq!(record, None, "no route");
        record = Some(example());
        redirector.insert(peer, example());
        assert_eq!(redirector.identify(accepted.as_fd()).unwrap(), record);
        redirector.remove(client.local_addr().unwrap());
        assert_eq!(redirector.identify(accepted.as_fd()).unwrap(), None);
    }

    #[test]
    fn a_broken_one_says_why() {
        let redirector = MemoryRedirector::new();
        redirector.set_broken(Some("unplugged"));
        assert_eq!(redirector.check().unwrap_err().to_string(), "unplugged");
        redirector.set_broken(None);
        redirector.check().unwrap();
    }

    fn example() -> KernelRecord {
        KernelRecord {
            route: azure_proxy_agent_core::identity::Route::Redirected,
            original: azure_proxy_agent_core::identity::Destination::Imds.addr(),
            tgid: 7,
            tid: 7,
            ppid: 1,
            uid: 1000,
            gid: 100,
            start_boottime: 1,
            exec_id: 1,
            exe: None,
            pid_ns: 1,
            ns_tgid: 7,
            task_cgroup: 1,
            socket_cgroup: 1,
            netns: 1,
            socket_cookie: 1,
            connected_at: 2,
            mapped_v6: false,
            comm: *b"example\0\0\0\0\0\0\0\0\0",
        }
    }
}
