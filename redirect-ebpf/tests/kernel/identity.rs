//! Whether the record says who it was, and whether user space notices when that is no longer so.

use crate::sandbox::{Caller, check, connect, inode, tcp};
use azure_proxy_agent_core::identity::{Destination, ExeFact, TargetMode};
use redirect_ebpf::verify::verify;
use rustix::net::AddressFamily;
use std::os::unix::fs::MetadataExt;
use std::{env, fs, thread};

const IMDS: std::net::SocketAddrV4 = Destination::Imds.addr();

sandboxed! {
    /// I-21
    fn the_record_says_who_connected_i03_i06_s09(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        let mut caller = Caller::start(|stage| {
            // User and group differ, so that one taken for the other is noticed.
            // SAFETY: changes this process only.
            check(unsafe { libc::setgid(1234) });
            // SAFETY: as above.
            check(unsafe { libc::setuid(4321) });
            let _socket = connect(IMDS).unwrap();
            stage.pause();
        });
        caller.paused();
        let record = agent.record();
        assert_eq!((record.uid, record.gid), (4321, 1234));
        assert_eq!((record.tgid, record.tid, record.ppid), (caller.pid, caller.pid, std::process::id()));
        assert_eq!(u64::from(record.pid_ns), inode("/proc/self/ns/pid"));
        assert_eq!((record.task_cgroup, record.socket_cgroup), (inode(&sandbox.cgroup), inode(&sandbox.cgroup)));
        let comm = fs::read_to_string(format!("/proc/{}/comm", caller.pid)).unwrap();
        assert_eq!(record.comm.split(|b| *b == 0).next().unwrap(), comm.trim_end().as_bytes());
        let exe = record.exe.unwrap();
        let here = fs::metadata("/proc/self/exe").unwrap();
        assert_eq!((exe.inode, exe.ctime_s, i64::from(exe.ctime_ns)), (here.ino(), here.ctime(), here.ctime_nsec()));
        assert!(record.connected_at > record.start_boottime && record.start_boottime > 0);
        assert_ne!((record.socket_cookie, record.netns), (0, 0));

        let facts = verify(&record);
        let path = fs::canonicalize(env::current_exe().unwrap()).unwrap();
        assert_eq!(facts.exe, ExeFact::Verified(path.into_os_string().into_encoded_bytes().into()));
        assert_eq!(facts.cmdline, Some(fs::read("/proc/self/cmdline").unwrap()), "forked: the same");
        caller.finish();
    }
}

sandboxed! {
    /// SEC-C2
    fn identity_is_that_of_connect_not_of_later_i01(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        let caller = Caller::start(|stage| {
            let _socket = connect(IMDS).unwrap();
            // SAFETY: changes this process only.
            check(unsafe { libc::setuid(1000) });
            stage.pause();
        });
        assert_eq!(agent.record().uid, 0);
        caller.finish();
    }
}

sandboxed! {
    fn root_in_a_user_namespace_is_not_root_i20(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        let caller = Caller::start(|stage| {
            // SAFETY: changes this process only.
            check(unsafe { libc::setuid(1000) });
            // A process that changed its user is not dumpable, and then may not write its own map.
            // SAFETY: no pointers.
            check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) });
            // SAFETY: affects this process only.
            if unsafe { libc::unshare(libc::CLONE_NEWUSER) } == 0 {
                fs::write("/proc/self/uid_map", "0 1000 1").unwrap();
                assert!(rustix::process::geteuid().is_root());
            }
            let _socket = connect(IMDS).unwrap();
            stage.pause();
        });
        assert_eq!(agent.record().uid, 1000);
        caller.finish();
    }
}

sandboxed! {
    fn a_thread_is_named_with_its_process(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        let comm = fs::read("/proc/self/comm").unwrap();
        let thread = thread::Builder::new().name("another name".into()).spawn(|| {
            let socket = connect(IMDS).unwrap();
            (socket, rustix::thread::gettid().as_raw_nonzero().get())
        });
        let (_socket, tid) = thread.unwrap().join().unwrap();
        let record = agent.record();
        assert_eq!((record.tgid, record.tid), (std::process::id(), tid.cast_unsigned()));
        assert_ne!(record.tid, record.tgid);
        assert!(comm.starts_with(record.comm.split(|b| *b == 0).next().unwrap()));
    }
}

sandboxed! {
    /// S-11: connect, then become a trusted program.
    fn connect_then_exec_is_gone_s11(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        let (input, hold) = std::io::pipe().unwrap();
        let (output, ready) = std::io::pipe().unwrap();
        let caller = Caller::start(|_| {
            let socket = connect(IMDS).unwrap();
            rustix::stdio::dup2_stdin(&input).unwrap();
            rustix::stdio::dup2_stdout(&ready).unwrap();
            // The socket lives on in the new program.
            rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty()).unwrap();
            drop((hold.try_clone(), &ready));
            use std::os::unix::process::CommandExt;
            panic!("{}", std::process::Command::new("sh").args(["-c", "echo; exec 1>&-; read line; exit 0"]).exec());
        });
        let record = agent.record();
        assert_eq!(record.tgid, caller.pid);
        assert_eq!(record.exe.unwrap().inode, inode("/proc/self/exe"), "the program that connected");
        // Wait until the other program runs.
        let mut output = output;
        std::io::Read::read_exact(&mut output, &mut [0]).unwrap();
        assert_ne!(inode(format!("/proc/{}/exe", caller.pid)), inode("/proc/self/exe"));
        let facts = verify(&record);
        assert_eq!((facts.exe, facts.cmdline), (ExeFact::Gone, None));
        std::io::Write::write_all(&mut &hold, b"\n").unwrap();
        caller.finish();
    }
}

sandboxed! {
    fn connect_then_exit_keeps_the_kernels_word_i16(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        let caller = Caller::start(|_| {
            // SAFETY: changes this process only.
            check(unsafe { libc::setuid(4321) });
            std::mem::forget(connect(IMDS).unwrap());
        });
        let pid = caller.pid;
        caller.finish();
        let record = agent.record();
        assert_eq!((record.tgid, record.uid), (pid, 4321));
        assert_eq!(verify(&record).exe, ExeFact::Gone);
    }
}

sandboxed! {
    fn who_connects_counts_not_who_made_the_socket(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        let socket = tcp(AddressFamily::INET);
        let caller = Caller::start(|stage| {
            rustix::net::connect(&socket, &IMDS).unwrap();
            stage.pause();
        });
        assert_eq!(agent.record().tgid, caller.pid);
        caller.finish();
    }
}

sandboxed! {
    /// Reading does not consume; it ends with the socket.
    fn the_record_stays_with_the_accepted_socket(sandbox) {
        use redirect_ebpf::Redirector;
        use std::os::fd::AsFd;
        let agent = sandbox.agent(TargetMode::Enforce);
        let _client = connect(IMDS).unwrap();
        let (accepted, first) = agent.accept();
        let dup = accepted.try_clone().unwrap();
        assert_eq!(agent.redirector.identify(dup.as_fd()).unwrap(), first);
        assert_eq!(agent.redirector.identify(agent.listener.as_fd()).unwrap(), None);
    }
}
