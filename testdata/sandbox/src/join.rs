//! How a new process enters a sandbox: cgroup, network, mounts, and then who it is.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::process::{Gid, Uid, chdir};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::sys;

/// Everything that is needed between fork and exec, prepared before.
#[derive(Clone, Debug)]
pub struct Join {
    /// `cgroup.procs` of the cgroup to join, open for writing.
    pub cgroup: Arc<File>,
    /// The network namespace.
    pub network: Arc<OwnedFd>,
    /// The mount namespace.
    pub mounts: Arc<OwnedFd>,
    /// User, group and supplementary groups; `None`: as the owner.
    pub credentials: Option<(Uid, Gid, Vec<Gid>)>,
}

impl Join {
    /// Enters. Makes system calls only (it runs between fork and exec).
    ///
    /// # Errors
    /// That of the first step that fails; the process must then not go on.
    pub fn now(&self) -> io::Result<()> {
        // The cgroup first: it is looked at when a socket is made, and no socket is made before.
        rustix::io::write(self.cgroup.as_fd(), b"0")?;
        move_into_link_name_space(self.network.as_fd(), Some(LinkNameSpaceType::Network))?;
        // Entering a mount namespace moves the working directory to its root.
        let mut directory = [0; 4096];
        sys::working_directory(&mut directory)?;
        move_into_link_name_space(self.mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
        let directory = std::ffi::CStr::from_bytes_until_nul(&directory).map_err(|_| io::ErrorKind::InvalidInput)?;
        chdir(directory)?;
        if let Some((uid, gid, groups)) = &self.credentials {
            set_thread_groups(groups)?;
            set_thread_res_gid(*gid, *gid, *gid)?;
            set_thread_res_uid(*uid, *uid, *uid)?;
        }
        Ok(())
    }
}
