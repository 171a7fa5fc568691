//! A process, a network namespace with only `lo`, and a cgroup for each test; and the actors in it: agent, real hosts, callers.

use azure_proxy_agent_core::identity::{Destination, KernelRecord, LISTENER, PerDestination, TargetMode};
use redirect_ebpf::{EbpfRedirector, LoadOptions, Redirector, find_cgroup2};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, io, panic};

/// Defines a test that runs in a sandbox.
macro_rules! sandboxed {
    ($(#[$meta:meta])* fn $name:ident($sandbox:ident) $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            $crate::sandbox::run(concat!(module_path!(), "::", stringify!($name)), |$sandbox: &$crate::sandbox::Sandbox| $body);
        }
    };
}

const CGROUP_VARIABLE: &str = "REDIRECT_EBPF_TEST_CGROUP";
/// A test that hangs is killed after this many seconds.
const PATIENCE: u32 = 60;

pub(crate) struct Sandbox {
    pub(crate) cgroup: PathBuf,
}

/// In the test process: makes a cgroup, runs the same test again in a child. In the child: moves there, and runs the body.
pub(crate) fn run(path: &str, body: impl FnOnce(&Sandbox)) {
    assert!(rustix::process::geteuid().is_root(), "this test loads eBPF programs: run it as root");
    if let Some(cgroup) = env::var_os(CGROUP_VARIABLE) {
        return body(&Sandbox::enter(cgroup.into()));
    }
    static RUNNING: AtomicU32 = AtomicU32::new(0);
    let root = find_cgroup2().expect("these tests need a cgroup2 mount");
    let n = RUNNING.fetch_add(1, Ordering::Relaxed);
    let cgroup = Cgroup::create(root.join(format!("redirect-ebpf-test-{}-{n}", std::process::id())));
    let name = path.split_once("::").unwrap().1;
    let output = Command::new(env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(CGROUP_VARIABLE, &cgroup.0)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "in the sandbox ({}):\n{out}\n{err}", output.status);
    // The harness writes "test NAME ... " before the first line.
    for report in out.lines().filter_map(|l| l.find("report: ").map(|at| &l[at..])) {
        println!("{report}");
    }
}

/// A cgroup that is emptied and removed on every way out.
struct Cgroup(PathBuf);

impl Cgroup {
    fn create(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Everything in it was started by this test. (A lifecycle test removes it itself.)
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        for _ in 0..500 {
            match fs::remove_dir(&self.0) {
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => std::thread::yield_now(),
                _ => return,
            }
        }
    }
}

/// Shown when a test fails.
struct ToStderr;

impl log::Log for ToStderr {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("redirect_ebpf")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            eprintln!("{}: {}", record.level(), record.args());
        }
    }

    fn flush(&self) {}
}

impl Sandbox {
    fn enter(cgroup: PathBuf) -> Self {
        log::set_logger(&ToStderr).unwrap();
        log::set_max_level(log::LevelFilter::Debug);
        // SAFETY: no preconditions.
        unsafe { libc::alarm(PATIENCE) };
        new_network_namespace();
        fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        Self { cgroup }
    }

    pub(crate) fn options(&self) -> LoadOptions {
        LoadOptions { cgroup_root: Some(self.cgroup.clone()), ..LoadOptions::default() }
    }

    /// Options that pin, in a bpffs of this test's own: the mount is seen by this thread and what it starts, and goes with them.
    pub(crate) fn pinning(&self) -> LoadOptions {
        if !Path::new(PINS).exists() {
            new_mount_namespace();
            // SAFETY: path strings and no data.
            check(unsafe { libc::mount(c"bpf".as_ptr(), BPFFS.as_ptr(), c"bpf".as_ptr(), 0, std::ptr::null()) });
            fs::create_dir(PINS).unwrap();
        }
        LoadOptions { pins: Some(Path::new(PINS).join("agent")), ..self.options() }
    }

    /// Loaded and listening, with `mode` for all endpoints.
    pub(crate) fn agent(&self, mode: TargetMode) -> Agent {
        Agent::start(&self.options(), mode)
    }
}

/// Where the kernel provides for a bpffs.
const BPFFS: &std::ffi::CStr = c"/sys/fs/bpf";
const PINS: &str = "/sys/fs/bpf/redirect-ebpf-test";

/// What is mounted from now on is seen by this thread and what it starts.
pub(crate) fn new_mount_namespace() {
    // SAFETY: affects this thread only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) });
    // SAFETY: path strings and no data.
    check(unsafe {
        libc::mount(std::ptr::null(), c"/".as_ptr(), std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE, std::ptr::null())
    });
}

/// A namespace without a way out: `lo` only, the guarded addresses on it. For the calling thread and what it starts.
pub(crate) fn new_network_namespace() {
    // SAFETY: affects this thread's namespace only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) });
    let interfaces = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names: Vec<_> = interfaces.lines().skip(2).filter_map(|l| l.split(':').next()).map(str::trim).collect();
    assert!(!names.contains(&"eth0") && names.contains(&"lo"), "not a fresh namespace: {names:?}");

    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
    interface_up(&socket);
    let addresses = [Destination::Imds.addr(), Destination::WireServer.addr()].map(|a| a.ip().octets());
    for (label, address) in ["lo:1", "lo:2"].into_iter().zip(addresses) {
        interface_address(&socket, label, libc::SIOCSIFADDR, address);
        interface_address(&socket, label, libc::SIOCSIFNETMASK, [255; 4]);
    }
}

fn interface(name: &str) -> libc::ifreq {
    // SAFETY: integers and unions of them, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request
}

fn interface_up(socket: &OwnedFd) {
    use std::os::fd::AsRawFd;
    let mut request = interface("lo");
    request.ifr_ifru.ifru_flags = libc::IFF_UP as i16 | libc::IFF_RUNNING as i16;
    // SAFETY: the request is an ifreq, as the command wants.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) });
}

fn interface_address(socket: &OwnedFd, label: &str, command: libc::Ioctl, address: [u8; 4]) {
    use std::os::fd::AsRawFd;
    let mut request = interface(label);
    let mut bytes = [0; 14];
    bytes[2..6].copy_from_slice(&address);
    request.ifr_ifru.ifru_addr = libc::sockaddr { sa_family: libc::AF_INET as u16, sa_data: bytes.map(u8::cast_signed) };
    // SAFETY: the request is an ifreq, as the command wants.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), command, &raw mut request) });
}

pub(crate) fn check(result: libc::c_int) -> libc::c_int {
    assert!(result >= 0, "{}", io::Error::last_os_error());
    result
}

/// The same mode for every endpoint.
pub(crate) fn all(mode: TargetMode) -> PerDestination<TargetMode> {
    PerDestination { imds: mode, wireserver: mode, hostga: mode }
}

/// The agent: redirector and listener.
pub(crate) struct Agent {
    pub(crate) redirector: EbpfRedirector,
    pub(crate) listener: TcpListener,
}

impl Agent {
    pub(crate) fn start(options: &LoadOptions, mode: TargetMode) -> Self {
        let redirector = EbpfRedirector::load(options).unwrap();
        let listener = listen_exempt(&redirector, LISTENER);
        redirector.set_targets(all(mode)).unwrap();
        Self { redirector, listener }
    }

    /// The next connection and its record.
    pub(crate) fn accept(&self) -> (TcpStream, Option<KernelRecord>) {
        let accepted = accept(&self.listener);
        let record = self.redirector.identify(accepted.as_fd()).unwrap();
        (accepted, record)
    }

    /// The record of the next connection, which must have one.
    pub(crate) fn record(&self) -> KernelRecord {
        self.accept().1.expect("a redirected connection without a record")
    }

    pub(crate) fn nobody_came(&self) -> bool {
        !readable(self.listener.as_fd(), 0)
    }

    /// A socket of the agent's own.
    pub(crate) fn exempt_socket(&self) -> OwnedFd {
        let socket = tcp(AddressFamily::INET);
        self.redirector.exempt(socket.as_fd()).unwrap();
        socket
    }
}

/// A socket that the guard and the backstop leave alone.
pub(crate) fn listen_exempt(redirector: &EbpfRedirector, addr: SocketAddrV4) -> TcpListener {
    let socket = tcp(AddressFamily::INET);
    redirector.exempt(socket.as_fd()).unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    rustix::net::bind(&socket, &addr).unwrap();
    rustix::net::listen(&socket, 16).unwrap();
    socket.into()
}

pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    assert!(readable(listener.as_fd(), 10), "nobody connected to {:?}", listener.local_addr());
    listener.accept().unwrap().0
}

fn readable(fd: std::os::fd::BorrowedFd<'_>, seconds: i64) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: seconds, tv_nsec: 0 })).unwrap() == 1
}

pub(crate) fn tcp(family: AddressFamily) -> OwnedFd {
    rustix::net::socket(family, SocketType::STREAM, None).unwrap()
}

/// The endpoint itself, as if the host were there.
pub(crate) fn real(destination: Destination) -> TcpListener {
    TcpListener::bind(destination.addr()).unwrap()
}

pub(crate) fn connect(addr: impl Into<SocketAddr>) -> io::Result<TcpStream> {
    let addr = addr.into();
    let socket = tcp(if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 });
    rustix::net::connect(&socket, &addr)?;
    Ok(socket.into())
}

pub(crate) fn mapped(addr: SocketAddrV4) -> SocketAddr {
    (addr.ip().to_ipv6_mapped(), addr.port()).into()
}

/// A process that does `body` and exits.
pub(crate) struct Caller {
    pub(crate) pid: u32,
    /// Written to when the caller may go on after [`Stage::pause`].
    go: io::PipeWriter,
    ready: io::PipeReader,
}

/// The caller's end.
pub(crate) struct Stage {
    go: io::PipeReader,
    ready: io::PipeWriter,
}

impl Stage {
    /// Tells the test that this point is reached, and waits until it lets the caller go on.
    pub(crate) fn pause(&mut self) {
        self.ready.write_all(b".").unwrap();
        let _ = self.go.read(&mut [0]).unwrap();
    }
}

impl Caller {
    pub(crate) fn start(body: impl FnOnce(&mut Stage)) -> Self {
        let (go_reader, go) = io::pipe().unwrap();
        let (ready, ready_writer) = io::pipe().unwrap();
        // SAFETY: the sandbox process has one thread (or only ones that wait), so the child may use everything.
        let pid = check(unsafe { libc::fork() });
        if pid == 0 {
            drop((go, ready));
            // A test that fails or is killed by its alarm leaves nobody behind.
            // SAFETY: no pointers.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let mut stage = Stage { go: go_reader, ready: ready_writer };
            let result = panic::catch_unwind(panic::AssertUnwindSafe(|| body(&mut stage)));
            // SAFETY: ends this process without running the test harness again.
            unsafe { libc::_exit(i32::from(result.is_err())) }
        }
        Self { pid: pid.cast_unsigned(), go, ready }
    }

    /// Waits until the caller pauses.
    pub(crate) fn paused(&mut self) {
        self.ready.read_exact(&mut [0]).expect("the caller ended before it paused");
    }

    /// Lets it go on.
    pub(crate) fn go(&mut self) {
        self.go.write_all(b".").unwrap();
    }

    /// Lets it go on and waits until it has ended well.
    pub(crate) fn finish(self) {
        assert_eq!(self.end(), 0, "the caller failed (its messages are above)");
    }

    /// Lets it go on and waits until it has ended: its wait status.
    pub(crate) fn end(mut self) -> i32 {
        // A byte, not the end of the file: later callers hold the writing end too. One that does not pause has gone already.
        let _ = self.go.write_all(b".");
        self.wait()
    }

    /// As `kill -9` does.
    pub(crate) fn kill(self) {
        // SAFETY: a child of this process that has not been waited for.
        check(unsafe { libc::kill(self.pid.cast_signed(), libc::SIGKILL) });
        self.wait();
    }

    fn wait(&self) -> i32 {
        let mut status = 0;
        // SAFETY: `status` lives across the call.
        check(unsafe { libc::waitpid(self.pid.cast_signed(), &raw mut status, 0) });
        status
    }
}

pub(crate) fn inode(path: impl AsRef<Path>) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).unwrap().ino()
}
