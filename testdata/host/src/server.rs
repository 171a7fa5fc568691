//! Sockets: three listeners, a thread per open connection, and an orderly end.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use rustix::net::{Shutdown, shutdown, sockopt::set_socket_linger};
use serde_json::json;

use crate::host::{Endpoint, Host};
use crate::http::{Framing, Head, Incoming, read_body};
use crate::options::Options;
use crate::reply::{After, Reply, Shape, send};
use crate::{date, lock, netns};

/// Connection threads do little and are many.
const STACK: usize = 256 * 1024;
/// How many threads wait for the next connection at most.
const IDLE_THREADS: usize = 64;
const BUFFER: usize = 32 * 1024;

/// A serving host. Dropping it closes the listeners and all connections.
#[derive(Debug)]
pub struct Server {
    host: Arc<Host>,
    addresses: [(Endpoint, SocketAddr); 3],
    listeners: Vec<(Arc<TcpListener>, JoinHandle<()>)>,
    connections: Arc<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<TcpStream>>>,
    work: Mutex<Work>,
    arrived: Condvar,
}

/// Accepted connections and the threads that wait for one. A thread is made when nobody waits, and a few stay: making one
/// costs more than answering a request.
#[derive(Debug, Default)]
struct Work {
    queue: VecDeque<(Endpoint, u64, Arc<TcpStream>)>,
    idle: usize,
    over: bool,
}

/// A failure to start.
#[derive(Debug)]
pub enum StartError {
    /// This is not a network of our own.
    NotPrivate(String),
    /// The system refused something.
    Io(io::Error),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotPrivate(why) => write!(f, "refusing to start: {why}"),
            Self::Io(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

impl From<io::Error> for StartError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl Server {
    /// Checks that the network is private to us, listens, and serves until dropped. The listeners belong to the network
    /// namespace of the calling thread.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(options: &Options) -> Result<Self, StartError> {
        let wanted = [
            (Endpoint::WireServer, options.wireserver),
            (Endpoint::HostGAPlugin, options.hostga),
            (Endpoint::Imds, options.imds),
        ];
        let ips: Vec<IpAddr> = wanted.iter().map(|(_, a)| a.ip()).collect();
        netns::assert_private(&ips).map_err(StartError::NotPrivate)?;
        let mut server = Self {
            host: Arc::new(Host::new(options)?),
            addresses: wanted,
            listeners: Vec::new(),
            connections: Arc::new(Connections::default()),
        };
        for (at, (endpoint, address)) in wanted.into_iter().enumerate() {
            let listener = TcpListener::bind(address).map_err(|e| io::Error::new(e.kind(), format!("{address}: {e}")))?;
            // std asks for a backlog of 128, too little for a burst of clients; listen(2) again widens it.
            rustix::net::listen(&listener, 4096).map_err(io::Error::from)?;
            server.addresses[at].1 = listener.local_addr()?;
            let listener = Arc::new(listener);
            let (host, connections, accepting) = (server.host.clone(), server.connections.clone(), listener.clone());
            let thread = Builder::new()
                .name(format!("sim-{endpoint}"))
                .spawn(move || accept(&host, endpoint, &accepting, &connections))?;
            server.listeners.push((listener, thread));
        }
        Ok(server)
    }

    /// What it knows and what it saw.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Where an endpoint really listens.
    pub fn address(&self, endpoint: Endpoint) -> SocketAddr {
        self.addresses.iter().find(|(e, _)| *e == endpoint).map_or(self.addresses[0].1, |(_, a)| *a)
    }

    /// How many connections are open now.
    pub fn open_connections(&self) -> usize {
        lock(&self.connections.open).len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for (listener, thread) in self.listeners.drain(..) {
            // Wakes accept(2); whoever holds the descriptor, nothing is accepted any more.
            let _ = shutdown(&listener, Shutdown::Both);
            let _ = thread.join();
        }
        lock(&self.connections.work).over = true;
        self.connections.arrived.notify_all();
        for stream in lock(&self.connections.open).values() {
            let _ = shutdown(stream, Shutdown::Both);
        }
    }
}

fn accept(host: &Arc<Host>, endpoint: Endpoint, listener: &TcpListener, connections: &Arc<Connections>) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let number = connections.next.fetch_add(1, Ordering::Relaxed) + 1;
                let stream = Arc::new(stream);
                lock(&connections.open).insert(number, stream.clone());
                let mut work = lock(&connections.work);
                work.queue.push_back((endpoint, number, stream));
                if work.idle >= work.queue.len() {
                    connections.arrived.notify_one();
                    continue;
                }
                drop(work);
                let (host, connections) = (host.clone(), connections.clone());
                // Out of threads: the connection waits for one that gets free.
                let _ = Builder::new().stack_size(STACK).spawn(move || worker(&host, &connections));
            }
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => return,
            // ECONNABORTED and the like; EMFILE passes when connections end.
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn worker(host: &Host, connections: &Connections) {
    loop {
        let mut work = lock(&connections.work);
        let (endpoint, number, stream) = loop {
            if let Some(next) = work.queue.pop_front() {
                break next;
            }
            if work.over || work.idle >= IDLE_THREADS {
                return;
            }
            work.idle += 1;
            work = connections.arrived.wait(work).unwrap_or_else(PoisonError::into_inner);
            work.idle -= 1;
        };
        drop(work);
        // Whatever ends a connection, also a client's reset, concerns that client only.
        let _ = converse(host, endpoint, number, &stream);
        lock(&connections.open).remove(&number);
    }
}

fn converse(host: &Host, endpoint: Endpoint, number: u64, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(BUFFER, stream);
    let mut head = Head::default();
    let mut out = Vec::with_capacity(4096);
    loop {
        let bad = match head.read(&mut reader)? {
            Incoming::End => return Ok(()),
            Incoming::Request => head.framing(),
            Incoming::Bad(why) => Err(why),
        };
        let shape = Shape { head: head.method() == "HEAD", http10: head.http10, keep_alive: head.keep_alive() };
        let reply = match bad {
            Ok(framing) => host.answer(endpoint, number, &head, |sink| body(&mut reader, stream, &head, framing, sink))?,
            Err(why) => {
                host.record_malformed(endpoint, number, why);
                Reply::json(400, &json!({"error": "bad request", "reason": why})).then(After::Close)
            }
        };
        if reply.after == After::Silence {
            return io::copy(&mut reader, &mut io::sink()).map(drop);
        }
        if reply.after == After::Reset && matches!(reply.body, crate::reply::Body::Absent) {
            return set_socket_linger(stream, Some(Duration::ZERO)).map_err(io::Error::from);
        }
        let stay = send(stream, &mut out, &reply, shape, &date::format(host.now()))?;
        if reply.after == After::Reset {
            return set_socket_linger(stream, Some(Duration::ZERO)).map_err(io::Error::from);
        }
        if !stay {
            return finish(stream, &mut reader);
        }
    }
}

fn body(
    reader: &mut BufReader<&TcpStream>,
    stream: &TcpStream,
    head: &Head,
    framing: Framing,
    sink: &mut dyn FnMut(&[u8]),
) -> io::Result<u64> {
    if head.expects_continue() && framing != Framing::None && reader.buffer().is_empty() {
        (&*stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    read_body(reader, framing, sink)
}

/// Ends a connection so that the client gets the answer even if it is still sending: half-close, then drain a little
/// (RFC 9112 section 9.6).
fn finish(stream: &TcpStream, reader: &mut BufReader<&TcpStream>) -> io::Result<()> {
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut left = 1 << 20;
    while left > 0 {
        let length = reader.fill_buf()?.len();
        if length == 0 {
            break;
        }
        reader.consume(length);
        left -= length.min(left);
    }
    Ok(())
}

/// A client for tests: sends `request` on a new connection and returns everything until the host closes it.
///
/// # Errors
/// Those of the connection.
pub fn exchange(to: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(to)?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}
