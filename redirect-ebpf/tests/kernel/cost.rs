//! What unrelated traffic pays. Reported, not asserted: the numbers are the machine's. (`cargo test cost -- --nocapture`)

use crate::bpf;
use crate::sandbox::{connect, tcp};
use azure_proxy_agent_core::identity::{Destination, TargetMode};
use redirect_ebpf::verify::verify;
use redirect_ebpf::{EbpfRedirector, LoadOptions, Redirector};
use rustix::net::AddressFamily;
use std::net::{SocketAddr, SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Instant;

const ROUNDS: u32 = 2000;

/// In the order of loading: see `HOOKS` in attach.rs.
const NAMES: [&str; 9] =
    ["bind4", "bind6", "post_bind4", "post_bind6", "sock_ops", "getpeername4", "getpeername6", "connect4", "connect6"];

fn unrelated_traffic() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let listener6 = TcpListener::bind("[::1]:0").unwrap();
    for listener in [listener, listener6] {
        let to = listener.local_addr().unwrap();
        for _ in 0..ROUNDS {
            let client = connect(to).unwrap();
            client.peer_addr().unwrap();
            drop(listener.accept().unwrap());
        }
        let any = SocketAddr::new(to.ip(), 0);
        for _ in 0..ROUNDS {
            let socket = tcp(if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 });
            rustix::net::bind(&socket, &any).unwrap();
        }
    }
}

fn report(what: &str, programs: &[(&str, RawFd)]) {
    for (name, fd) in programs {
        let (ns, runs) = bpf::runs(*fd);
        if let Some(per_run) = ns.checked_div(runs) {
            println!("report: {what:10} {name:13} {per_run:5} ns/run, {:.1} runs/round", runs as f64 / f64::from(ROUNDS));
        }
    }
}

sandboxed! {
    fn of_unrelated_traffic(sandbox) {
        // What measuring itself and an empty program cost.
        let empty = bpf::bystander(bpf::CONNECT4);
        bpf::attach(&sandbox.cgroup, &empty, bpf::CONNECT4, bpf::ALLOW_MULTI);
        let agent = sandbox.agent(TargetMode::Enforce);
        let mut programs = vec![("(empty)", empty.as_raw_fd())];
        programs.extend(NAMES.into_iter().zip(bpf::held("bpf-prog").iter().map(|p| p.fd).filter(|fd| *fd != empty.as_raw_fd())));
        let stats = bpf::measure();
        unrelated_traffic();
        drop(stats);
        report("unrelated", &programs);
        assert!(agent.nobody_came());
    }
}

sandboxed! {
    fn of_guarded_traffic(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        let programs: Vec<_> = NAMES.into_iter().zip(bpf::held("bpf-prog").iter().map(|p| p.fd)).collect();
        let stats = bpf::measure();
        let to: SocketAddrV4 = Destination::Imds.addr();
        for _ in 0..ROUNDS {
            let client = connect(to).unwrap();
            client.peer_addr().unwrap();
            agent.record();
        }
        drop(stats);
        report("redirected", &programs);

        let _client = connect(to).unwrap();
        let (accepted, record) = agent.accept();
        let (record, start) = (record.unwrap(), Instant::now());
        for _ in 0..ROUNDS {
            agent.redirector.identify(accepted.as_fd()).unwrap().unwrap();
        }
        println!("report: identify by descriptor {:?}", start.elapsed() / ROUNDS);
        let start = Instant::now();
        for _ in 0..ROUNDS {
            std::hint::black_box(verify(&record));
        }
        println!("report: verify against /proc   {:?}", start.elapsed() / ROUNDS);
    }
}

fn memory(field: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|l| l.strip_prefix(field)).unwrap_or_default().trim_matches([':', ' ', '\t']).to_owned()
}

sandboxed! {
    fn of_loading(sandbox) {
        println!("report: resident before loading {}, peak {}", memory("VmRSS"), memory("VmHWM"));
        let start = Instant::now();
        let _redirector = EbpfRedirector::load(&LoadOptions { ..sandbox.options() }).unwrap();
        println!("report: loaded and attached in {:?}; resident {}, peak {}", start.elapsed(), memory("VmRSS"), memory("VmHWM"));
    }
}
