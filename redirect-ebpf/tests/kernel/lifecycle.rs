//! Loading, failing, watching, repairing, leaving.

use crate::bpf;
use crate::sandbox::{Caller, accept, all, connect, real};
use azure_proxy_agent_core::identity::{Destination, TargetMode};
use redirect_ebpf::{EbpfRedirector, LoadOptions, RedirectError, Redirector, find_cgroup2, resolve_cgroup};
use std::os::fd::RawFd;
use std::path::Path;
use std::{fs, io};

const IMDS: std::net::SocketAddrV4 = Destination::Imds.addr();

sandboxed! {
    fn dropping_it_leaves_nothing_behind(sandbox) {
        for egress_backstop in [false, true] {
            let redirector = EbpfRedirector::load(&LoadOptions { egress_backstop, ..sandbox.options() }).unwrap();
            let count = 9 + usize::from(egress_backstop);
            assert_eq!(bpf::hooks_in_use(&sandbox.cgroup).len(), count);
            // A child that inherited the descriptors does not keep anything attached either.
            let mut child = Caller::start(|stage| stage.pause());
            child.paused();
            drop(redirector);
            assert!(bpf::hooks_in_use(&sandbox.cgroup).is_empty());
            child.finish();
        }
        for kind in ["bpf-map", "bpf-prog", "bpf_link"] {
            assert_eq!(bpf::held(kind).len(), 0, "{kind}");
        }
        let imds = real(Destination::Imds);
        connect(IMDS).unwrap();
        accept(&imds);
    }
}

sandboxed! {
    /// S-13: others may be there, before and after.
    fn other_programs_may_coexist_s13(sandbox) {
        let other = bpf::bystander(bpf::CONNECT4);
        bpf::attach(&sandbox.cgroup, &other, bpf::CONNECT4, bpf::ALLOW_MULTI);
        let agent = sandbox.agent(TargetMode::Enforce);
        assert_eq!(bpf::attached(&sandbox.cgroup, bpf::CONNECT4), 2);
        connect(IMDS).unwrap();
        agent.record();
    }
}

sandboxed! {
    /// S-05: the last step fails, and everything before it is undone.
    fn an_exclusive_program_is_named_and_all_is_undone_s05(sandbox) {
        let other = bpf::bystander(bpf::CONNECT6);
        bpf::attach(&sandbox.cgroup, &other, bpf::CONNECT6, bpf::EXCLUSIVE);
        let error = EbpfRedirector::load(&sandbox.options()).unwrap_err();
        assert!(matches!(error, RedirectError::Exclusive { program: "connect6" }), "{error:?}");
        assert!(error.to_string().contains("exclusively"), "{error}");
        assert_eq!(bpf::hooks_in_use(&sandbox.cgroup), [bpf::CONNECT6], "only the other one");
    }
}

sandboxed! {
    fn what_others_detach_is_attached_again_s13(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        let in_use = bpf::hooks_in_use(&sandbox.cgroup);
        agent.redirector.check().unwrap();
        for link in bpf::held("bpf_link") {
            bpf::detach(link.fd);
        }
        assert!(bpf::hooks_in_use(&sandbox.cgroup).is_empty());
        agent.redirector.check().unwrap();
        assert_eq!(bpf::hooks_in_use(&sandbox.cgroup), in_use);
        connect(IMDS).unwrap();
        agent.record();
    }
}

sandboxed! {
    fn what_others_write_is_put_right_s13(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        let imds = real(Destination::Imds);
        bpf::overwrite(targets(), 0, 0);
        connect(IMDS).unwrap();
        accept(&imds);
        agent.redirector.check().unwrap();
        connect(IMDS).unwrap();
        agent.record();
        agent.redirector.set_targets(all(TargetMode::Off)).unwrap();
        bpf::overwrite(targets(), 0, 3);
        agent.redirector.check().unwrap();
        connect(IMDS).unwrap();
        accept(&imds);
    }
}

/// The map `targets`: the only array of three.
fn targets() -> RawFd {
    bpf::held("bpf-map").iter().find(|m| m.number("max_entries") == Some(3)).unwrap().fd
}

sandboxed! {
    fn a_cgroup_that_vanishes_is_reported_s13(sandbox) {
        let inner = sandbox.cgroup.join("inner");
        fs::create_dir(&inner).unwrap();
        let redirector = EbpfRedirector::load(&LoadOptions { cgroup_root: Some(inner.clone()), ..LoadOptions::default() }).unwrap();
        redirector.check().unwrap();
        fs::remove_dir(&inner).unwrap();
        // The kernel detaches from a dead cgroup when it gets to it.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let error = loop {
            match redirector.check() {
                Err(error) => break error,
                Ok(()) => assert!(std::time::Instant::now() < deadline, "check() is content with a dead cgroup"),
            }
        };
        assert!(error.to_string().contains("cannot be attached"), "{error}");
    }
}

fn drop_capabilities(keep: u64) {
    let header: [u32; 2] = [0x2008_0522, 0];
    let low = u32::try_from(keep & 0xffff_ffff).unwrap();
    let high = u32::try_from(keep >> 32).unwrap();
    let data = [low, low, 0, high, high, 0u32];
    // SAFETY: header and data are of the layout of version 3.
    let r = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    assert_eq!(r, 0, "{}", io::Error::last_os_error());
}

const BPF: u64 = 1 << 39;
const NET_ADMIN: u64 = 1 << 12;
const PERFMON: u64 = 1 << 38;

sandboxed! {
    fn missing_capabilities_are_named(sandbox) {
        let try_with = |keep: u64, missing: &'static str| {
            let options = sandbox.options();
            Caller::start(move |_| {
                drop_capabilities(keep);
                let error = EbpfRedirector::load(&options).unwrap_err().to_string();
                assert!(error.contains(&format!("missing {missing};")), "{error}");
            })
            .finish();
        };
        try_with(0, "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON");
        try_with(BPF | PERFMON, "CAP_NET_ADMIN");
        try_with(NET_ADMIN | PERFMON, "CAP_BPF");
        try_with(BPF | NET_ADMIN, "CAP_PERFMON");
        assert!(bpf::hooks_in_use(&sandbox.cgroup).is_empty());
        let options = sandbox.options();
        Caller::start(move |_| {
            drop_capabilities(BPF | NET_ADMIN | PERFMON);
            EbpfRedirector::load(&options).unwrap();
        })
        .finish();
    }
}

sandboxed! {
    /// Everything may be dropped after loading (5.19 and later).
    fn it_works_without_capabilities_once_loaded(sandbox) {
        let agent = sandbox.agent(TargetMode::Enforce);
        Caller::start(|_| {
            drop_capabilities(0);
            connect(IMDS).unwrap();
            agent.record();
            let socket = agent.exempt_socket();
            drop(socket);
            agent.redirector.set_targets(all(TargetMode::Audit)).unwrap();
            agent.redirector.check().unwrap();
        })
        .finish();
    }
}

sandboxed! {
    fn without_cgroup2_there_is_a_reason(sandbox) {
        let wrong = sandbox.cgroup.join("nowhere");
        assert_eq!(resolve_cgroup(Some(&sandbox.cgroup)).unwrap(), sandbox.cgroup);
        assert_eq!(resolve_cgroup(Some(&wrong)).unwrap(), find_cgroup2().unwrap(), "falls back to the mount");
        assert_eq!(resolve_cgroup(Some(Path::new("/proc"))).unwrap(), find_cgroup2().unwrap());

        // In a mount namespace without any: nothing to attach to.
        crate::sandbox::new_mount_namespace();
        while let Some(mount) = find_cgroup2() {
            let mount = std::ffi::CString::new(mount.into_os_string().into_encoded_bytes()).unwrap();
            // SAFETY: a path string.
            crate::sandbox::check(unsafe { libc::umount2(mount.as_ptr(), libc::MNT_DETACH) });
        }
        let error = EbpfRedirector::load(&LoadOptions { cgroup_root: Some(wrong), ..LoadOptions::default() }).unwrap_err();
        assert!(matches!(error, RedirectError::NoCgroup2), "{error:?}");
    }
}

sandboxed! {
    fn another_object_can_be_given(sandbox) {
        let dir = std::env::temp_dir().join(format!("redirect-ebpf-object-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let with = |path: &Path| EbpfRedirector::load(&LoadOptions { object: Some(path.to_owned()), ..sandbox.options() });

        let good = dir.join("good.o");
        fs::copy(concat!(env!("OUT_DIR"), "/redirect.bpf.o"), &good).unwrap();
        let redirector = with(&good).unwrap();
        assert!(redirector.describe().contains(good.to_str().unwrap()));
        drop(redirector);

        let bad = dir.join("bad.o");
        fs::write(&bad, "this is no object").unwrap();
        assert!(matches!(with(&bad).unwrap_err(), RedirectError::Object(_)));
        let error = with(&dir.join("missing.o")).unwrap_err();
        assert!(error.to_string().contains("missing.o cannot be read"), "{error}");
        assert!(bpf::hooks_in_use(&sandbox.cgroup).is_empty());
        fs::remove_dir_all(&dir).unwrap();
    }
}
