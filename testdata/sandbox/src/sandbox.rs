//! The sandbox as its users see it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};

use azure_host_sim::server::StartError;
use azure_host_sim::{Options as HostOptions, Server, netns};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::agent::{Agent, AgentOptions};
use crate::guard::{self, Guard};
use crate::join::Join;
use crate::sys;
use crate::user::User;
use crate::world::{self, World};

/// The address of IMDS (W-03).
pub const IMDS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The address of WireServer and host plug-in (W-01, W-02).
pub const WIRESERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// Settings that would send a client elsewhere than where it was told.
const PROXY_VARIABLES: [&str; 8] =
    ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];

/// A world of its own. Ends, with every process in it, when dropped or when its owner ends in any way.
#[derive(Debug)]
pub struct Sandbox {
    name: String,
    directory: PathBuf,
    world: World,
    guard: Guard,
}

impl Sandbox {
    /// Makes a sandbox. The calling process stays outside; it sends others in.
    ///
    /// # Errors
    /// Without root, or where the kernel lacks namespaces, cgroup2 or bpffs: a sentence that says what.
    pub fn enter() -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        if !rustix::process::geteuid().is_root() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the sandbox needs root (namespaces, mounts, cgroups)"));
        }
        let name = guard::name(NUMBER.fetch_add(1, Ordering::Relaxed))?;
        let parent = std::env::temp_dir();
        let directory = parent.join(&name);
        fs::create_dir(&directory)?;
        let made = Self::make(&name, &directory);
        match made {
            Ok((world, guard)) => {
                guard::sweep(&parent, &world.cgroup_root)?;
                Ok(Self { name, directory, world, guard })
            }
            Err(e) => {
                let _ = fs::remove_dir_all(&directory);
                Err(e)
            }
        }
    }

    fn make(name: &str, directory: &Path) -> io::Result<(World, Guard)> {
        for part in ["cgroup", "bpf", "log", "state", "status", "host"] {
            fs::create_dir(directory.join(part))?;
        }
        // A thread's namespaces end with it; the descriptors in `World` keep them.
        let made = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let world = world::make(name, directory, &[IMDS, WIRESERVER])?;
                Self::assert_inside().map_err(io::Error::other)?;
                Ok(world)
            });
            thread.join()
        });
        let world = made.unwrap_or_else(|_| Err(io::Error::other("the thread that makes the sandbox panicked")))?;
        // Outside, or the guard's own mounts would be in the way of removing their mount points.
        let guard = Guard::watch(name, directory, &world.cgroup_root)?;
        Ok((world, guard))
    }

    /// Fails unless the platform's addresses belong to the calling thread's network namespace and nothing else is up there.
    /// Whatever asks these addresses calls this first.
    ///
    /// # Errors
    /// A sentence that says what is not as it must be.
    pub fn assert_inside() -> Result<(), String> {
        netns::assert_private(&[IpAddr::V4(IMDS), IpAddr::V4(WIRESERVER)])
    }

    /// The sandbox's name; its cgroup and its directory are called so.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory for configuration, keys and logs. Visible to all users.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path, valid inside, of the cgroup of agent and clients: what the agent's `cgroupRoot` is set to.
    pub fn cgroup(&self) -> PathBuf {
        self.directory.join("cgroup").join(&self.name).join("vm")
    }

    /// The agent's log folder.
    pub fn log_folder(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// The agent's key folder; made by the agent. Local rule files are in its sibling `rules`.
    pub fn key_folder(&self) -> PathBuf {
        self.directory.join("state").join("keys")
    }

    /// Where the agent writes `status.json` and its snapshots.
    pub fn status_folder(&self) -> PathBuf {
        self.directory.join("status")
    }

    /// Where the agent's kernel half is pinned: in the sandbox's own bpffs, so visible inside only.
    pub fn pin_folder(&self) -> PathBuf {
        self.directory.join("bpf").join("azure-proxy-agent")
    }

    /// The text of a file in the log folder.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn log(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.log_folder().join(name))
    }

    /// A command that will run inside, in the machine's cgroup, as root.
    ///
    /// Do not set `uid`, `gid` or `groups` on it: std applies them before the sandbox is entered, and then it cannot be. Use
    /// [`Self::command_as`].
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        self.send_in(&mut command, None);
        command
    }

    /// A command that will run inside, in the machine's cgroup, as `user`.
    pub fn command_as(&self, user: &User, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        self.send_in(&mut command, Some(user));
        if let Some(home) = &user.home {
            command.env("HOME", home);
        }
        command
    }

    /// A command that will run in the sandbox's network, but in the host's cgroup: for whatever plays the host.
    pub fn host_command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let cgroup = self.world.host.clone();
        sys::join_before_exec(&mut command, Join { cgroup, ..self.join(None) });
        command
    }

    /// Lets a prepared command run inside, as root or as `user`.
    pub fn send_in(&self, command: &mut Command, user: Option<&User>) {
        for variable in PROXY_VARIABLES {
            command.env_remove(variable);
        }
        sys::join_before_exec(command, self.join(user));
    }

    /// Starts a prepared command inside, as root.
    ///
    /// # Errors
    /// Those of entering and of starting.
    pub fn spawn(&self, mut command: Command) -> io::Result<Child> {
        self.send_in(&mut command, None);
        command.spawn()
    }

    fn join(&self, user: Option<&User>) -> Join {
        Join {
            cgroup: self.world.vm.clone(),
            network: self.world.network.clone(),
            mounts: self.world.mounts.clone(),
            credentials: user.map(User::credentials),
        }
    }

    /// Runs `f` in a thread whose sockets belong to the sandbox's network. The thread is not in the machine's cgroup, so its
    /// connections are never redirected: this is also how to go around the agent on purpose.
    ///
    /// # Errors
    /// When the network cannot be entered, or is not private.
    pub fn in_network<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(self.world.network.as_fd(), Some(LinkNameSpaceType::Network))?;
                Self::assert_inside().map_err(io::Error::other)?;
                Ok(f())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts the simulated host in this process, listening inside. Its keys are kept in the sandbox's directory, so that a
    /// host that is dropped and started again still knows them.
    ///
    /// # Errors
    /// Addresses in use, a rules or log file that cannot be used.
    pub fn start_host(&self, mut options: HostOptions) -> io::Result<Server> {
        options.state_dir.get_or_insert_with(|| self.directory.join("host"));
        self.in_network(|| Server::start(&options))?.map_err(|e| match e {
            StartError::Io(e) => e,
            StartError::NotPrivate(why) => io::Error::other(why),
        })
    }

    /// Starts the agent inside and waits until it is as ready as the options want it.
    ///
    /// # Errors
    /// When it cannot be started, ends, or is not ready in time; with what it printed.
    pub fn start_agent(&self, options: &AgentOptions) -> io::Result<Agent> {
        Agent::start(self, options)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.guard.finish();
    }
}
