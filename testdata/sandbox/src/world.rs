//! Makes the namespaces, mounts, cgroups and addresses. Runs in a thread of its own, which it leaves behind; what stays are
//! the descriptors by which processes enter.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use azure_host_sim::netns::{IFA_LOCAL, IFF_UP, Netlink, RTM_NEWADDR, RTM_NEWLINK};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};

use crate::sys;

const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE_EXCLUSIVELY: u16 = 0x600;
const LOOPBACK: i32 = 1;
/// Where programs expect bpffs; inside, it is the sandbox's own.
const BPFFS: &str = "/sys/fs/bpf";

/// The doors of a world.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) network: Arc<OwnedFd>,
    pub(crate) mounts: Arc<OwnedFd>,
    /// The root directory of the cgroup2 hierarchy, through the private mount.
    pub(crate) cgroup_root: OwnedFd,
    /// `cgroup.procs` of the machine's and of the host's cgroup.
    pub(crate) vm: Arc<File>,
    pub(crate) host: Arc<File>,
}

/// Makes a world around the calling thread. `name` names the cgroup, `directory` exists and has `cgroup` and `bpf` in it.
pub(crate) fn make(name: &str, directory: &Path, addresses: &[Ipv4Addr]) -> io::Result<World> {
    sys::unshare_network_and_mounts()
        .map_err(|e| explain("cannot make namespaces (this needs root: CAP_SYS_ADMIN and CAP_NET_ADMIN)", &e))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(io::Error::from)?;
    let cgroup = directory.join("cgroup");
    let bpf = directory.join("bpf");
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("cgroup2", &cgroup, "cgroup2", flags, None).map_err(|e| explain("cannot mount cgroup2", &e.into()))?;
    mount("bpf", &bpf, "bpf", flags, None).map_err(|e| explain("cannot mount bpffs", &e.into()))?;
    if Path::new(BPFFS).is_dir() {
        mount_bind(&bpf, BPFFS).map_err(|e| explain("cannot cover /sys/fs/bpf", &e.into()))?;
    }
    let procs = |part: &str| -> io::Result<Arc<File>> {
        let path = cgroup.join(name).join(part);
        fs::create_dir_all(&path).map_err(|e| explain("cannot make a cgroup", &e))?;
        Ok(Arc::new(File::options().write(true).open(path.join("cgroup.procs"))?))
    };
    let world = World {
        vm: procs("vm")?,
        host: procs("host")?,
        network: Arc::new(File::open("/proc/thread-self/ns/net")?.into()),
        mounts: Arc::new(File::open("/proc/thread-self/ns/mnt")?.into()),
        cgroup_root: File::open(&cgroup)?.into(),
    };
    configure_loopback(addresses).map_err(|e| explain("cannot configure lo", &e))?;
    Ok(world)
}

fn configure_loopback(addresses: &[Ipv4Addr]) -> io::Result<()> {
    let netlink = Netlink::open()?;
    // struct ifinfomsg: family, padding, type, index, flags, mask of the flags to change.
    let mut up = vec![0; 4];
    for word in [LOOPBACK as u32, IFF_UP, IFF_UP] {
        up.extend_from_slice(&word.to_ne_bytes());
    }
    netlink.request(RTM_NEWLINK, NLM_F_ACK, &up, |_, _| ())?;
    for address in addresses {
        // struct ifaddrmsg: family, prefix length, flags, scope, index; then one attribute of 8 bytes.
        let mut add = vec![2, 32, 0, 0];
        add.extend_from_slice(&LOOPBACK.to_ne_bytes());
        add.extend_from_slice(&8u16.to_ne_bytes());
        add.extend_from_slice(&IFA_LOCAL.to_ne_bytes());
        add.extend_from_slice(&address.octets());
        netlink.request(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE_EXCLUSIVELY, &add, |_, _| ())?;
    }
    Ok(())
}

fn explain(what: &str, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{what}: {e}"))
}
