//! Who asks: as the options say, completed from the accounts of this machine; or as a running process is.

use super::super::args::{Given, Opt};
use super::super::tool::Failure;
use super::super::usage::UsageError;
use crate::host::accounts::{self, Numbered};
use crate::host::callers::Callers;
use azure_proxy_agent_core::advise::{Caller, UNKNOWN_UID};
use azure_proxy_agent_core::identity::{Claims, Destination, ExeId, Executable, KernelRecord, RawText, Route};
use azure_proxy_agent_core::policy::Policy;
use redirect_ebpf::verify;
use std::fs;
use std::os::linux::fs::MetadataExt as _;

pub(super) const USER: Opt = Opt::value(
    "user",
    "<name>",
    "Name of the user; groups and user id are looked up on this\nmachine as far as they are not given",
)
.short('u');
pub(super) const GROUP: Opt = Opt::value("group", "<name>", "A group of the user; may be repeated").short('g').repeated();
pub(super) const UID: Opt = Opt::value("uid", "<number>", "The user id [default: that of the account]");
pub(super) const GID: Opt = Opt::value("gid", "<number>", "The id of the primary group [default: that of the account]");
pub(super) const EXE: Opt = Opt::value("exe", "<path>", "The program's path");
pub(super) const PROCESS: Opt = Opt::value("process", "<name>", "The program's name [default: the end of its path]");
pub(super) const SHA256: Opt = Opt::value("exe-sha256", "<hash>", "SHA-256 of the program's content");
pub(super) const CGROUP: Opt = Opt::value("cgroup", "<path>", "The control group, as /proc/PID/cgroup has it");
pub(super) const ELEVATED: Opt = Opt::flag("elevated", "User id 0, whatever the name [default: for root]");
pub(super) const NOT_ELEVATED: Opt = Opt::flag("not-elevated", "Not user id 0, also with the name root");
pub(super) const PID: Opt = Opt::value("pid", "<number>", "As this running process is, instead of all these");
/// What `--pid` stands for.
const DESCRIBED: [Opt; 10] = [USER, GROUP, UID, GID, EXE, PROCESS, SHA256, CGROUP, ELEVATED, NOT_ELEVATED];

/// A caller, and what was assumed.
pub(super) struct Who {
    pub(super) claims: Claims,
    pub(super) notes: Vec<String>,
}

impl Who {
    /// Reads the options.
    pub(super) fn of(given: &Given, policy: &Policy) -> Result<Self, Failure> {
        match given.parsed::<u32>("pid", "a process id")? {
            Some(pid) => match DESCRIBED.iter().find(|option| given.has(option.long)) {
                Some(other) => Err(UsageError::wrong(format!("--pid and --{} do not go together", other.long)).into()),
                None => Self::running(pid, policy),
            },
            None => Self::described(given),
        }
    }

    fn described(given: &Given) -> Result<Self, Failure> {
        let text = |name| given.text(name).map(|text| text.map(str::to_owned));
        let elevated = match (given.has("elevated"), given.has("not-elevated")) {
            (true, true) => return Err(UsageError::wrong("--elevated and --not-elevated do not go together").into()),
            (true, false) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        };
        let mut caller = Caller {
            user_name: text("user")?,
            uid: given.parsed("uid", "a number")?,
            gid: given.parsed("gid", "a number")?,
            exe_sha256: text("exe-sha256")?,
            cgroup_path: text("cgroup")?,
            exe_path: text("exe")?,
            process_name: text("process")?,
            elevated,
            ..Caller::default()
        };
        for group in given.all("group") {
            let group = group.to_str().ok_or_else(|| UsageError::wrong(format!("--group: {group:?} is not UTF-8")))?;
            caller.groups.push(group.to_owned());
        }
        if caller == Caller::default() {
            return Err(UsageError::wrong("who asks? --user, --uid, --exe or --pid say it").into());
        }
        let mut notes = Vec::new();
        complete(&mut caller, given.has("group"), &mut notes)?;
        let claims = caller.claims().map_err(|e| UsageError::wrong(e.to_string()))?;
        if claims.user_id == UNKNOWN_UID {
            notes.push("the user id is not known: it is taken for one that is not 0 (--uid or --elevated say otherwise)".into());
        }
        Ok(Self { claims, notes })
    }

    /// A process of this machine, as the agent would see it if it connected now.
    fn running(pid: u32, policy: &Policy) -> Result<Self, Failure> {
        let record = record(pid).map_err(|e| format!("process {pid}: {e}"))?;
        let mut notes = vec![format!("process {pid} of this machine, as it is now")];
        let claims = Callers::system().claims(&record, Some(policy));
        match &claims.executable {
            Executable::Known(_) => {}
            Executable::Elsewhere(path) => notes.push(format!(
                "its program is {} in another mount namespace: selectors of programs do not match (I-28)",
                path.lossy()
            )),
            Executable::Unknown => notes.push("its program cannot be read: selectors of programs do not match (I-16)".into()),
        }
        Ok(Self { claims, notes })
    }
}

/// What the account database knows and nobody said.
fn complete(caller: &mut Caller, groups_given: bool, notes: &mut Vec<String>) -> Result<(), Failure> {
    if caller.user_name.is_some() && (caller.uid.is_some() || caller.elevated.is_some()) && groups_given {
        return Ok(());
    }
    let system = |e: std::io::Error| Failure::Other(format!("the account database cannot be asked: {e}"));
    let (found, whose) = match (&caller.user_name, caller.uid) {
        (Some(name), _) => (accounts::named(name).map_err(system)?, format!("{name:?}")),
        (None, Some(uid)) => (accounts::of_uid(uid).map_err(system)?, format!("user id {uid}")),
        // Whatever they are: nobody said whose.
        (None, None) => return Ok(()),
    };
    let Some(Numbered { uid, gid, facts }) = found else {
        notes.push(format!("this machine has no account for {whose}: what is not given is not known"));
        return Ok(());
    };
    let lossy = |text: &RawText| text.lossy().into_owned();
    if caller.user_name.is_none() {
        caller.user_name = facts.name.as_ref().map(lossy);
        notes.push(format!("the user's name is that of this machine's account for {whose}"));
    }
    if caller.uid.is_none() && caller.elevated.is_none() {
        caller.uid = Some(uid);
        notes.push(format!("the user id is that of this machine's account {whose}"));
    }
    // The primary group plays a part in few rules, and is worth no line of its own.
    caller.gid = caller.gid.or(Some(gid));
    if !groups_given && !facts.groups.is_empty() {
        caller.groups = facts.groups.iter().map(lossy).collect();
        notes.push(format!("the groups are those of this machine's account for {whose}"));
    }
    Ok(())
}

/// What the kernel would note if the process connected now.
fn record(pid: u32) -> std::io::Result<KernelRecord> {
    let place = format!("/proc/{pid}");
    let odd = || std::io::Error::other("its entry in /proc cannot be understood");
    let status = fs::read_to_string(format!("{place}/status"))?;
    // "Uid:" and "Gid:" are followed by the real, effective, saved and file system id.
    let real = |field: &str| -> Option<u32> {
        status.lines().find_map(|line| line.strip_prefix(field))?.split_ascii_whitespace().next()?.parse().ok()
    };
    let start = verify::start_time(pid)?.ok_or_else(odd)?;
    // Of a process that may not be read this fails; identification then says so.
    let exe = fs::metadata(format!("{place}/exe")).ok();
    let exe = exe.map(|exe| ExeId {
        inode: exe.st_ino(),
        ctime_s: exe.st_ctime(),
        ctime_ns: u32::try_from(exe.st_ctime_nsec()).unwrap_or_default(),
        dev: 0,
        generation: 0,
    });
    Ok(KernelRecord {
        route: Route::Redirected,
        original: Destination::Imds.addr(),
        tgid: pid,
        tid: pid,
        ppid: real("PPid:").unwrap_or_default(),
        uid: real("Uid:").ok_or_else(odd)?,
        gid: real("Gid:").ok_or_else(odd)?,
        start_boottime: start,
        exec_id: 0,
        exe,
        pid_ns: 0,
        ns_tgid: pid,
        task_cgroup: cgroup(&place).unwrap_or_default(),
        socket_cgroup: 0,
        netns: 0,
        socket_cookie: 0,
        connected_at: 0,
        mapped_v6: false,
        comm: [0; 16],
    })
}

/// The number of the control group (cgroup2) of a process, as far as this process sees it.
fn cgroup(place: &str) -> Option<u64> {
    let groups = fs::read_to_string(format!("{place}/cgroup")).ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let below = redirect_ebpf::find_cgroup2()?.join(path.trim_start_matches('/'));
    fs::metadata(below).ok().map(|folder| folder.st_ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use azure_proxy_agent_core::advise::Documents;

    /// I-16, I-20, I-27: a process is seen as the daemon sees it.
    #[test]
    fn i27_a_running_process_is_identified_as_the_daemon_does() {
        let document = serde_json::from_str(include_str!("../../../../testdata/rules/strict.json")).expect("document");
        let (rules, _) = Documents::of(Destination::Imds, document).compile();
        let policy = Policy { rules, ..Policy::default() };
        let Who { claims, notes } = Who::running(std::process::id(), &policy).unwrap_or_else(|_| panic!("our own process"));
        let exe = std::env::current_exe().expect("path");
        assert_eq!(claims.cgroup_path().is_some(), redirect_ebpf::find_cgroup2().is_some(), "rules ask for it: {claims:?}");
        assert_eq!(claims.exe_path(), Some(exe.as_os_str().as_encoded_bytes()), "{notes:?}");
        assert_eq!((claims.process_id, claims.user_id), (std::process::id(), rustix::process::getuid().as_raw()));
        let Err(Failure::Other(error)) = Who::running(u32::MAX >> 1, &policy).map(|_| ()) else { panic!("no such process") };
        assert!(error.contains("No such file"), "{error}");
    }

    /// I-05: what is not said about an account of this machine is looked up, and said to be.
    #[test]
    fn i05_accounts_of_this_machine_complete_what_is_said() {
        let mut notes = Vec::new();
        let mut root = Caller { user_name: Some("root".into()), ..Caller::default() };
        complete(&mut root, false, &mut notes).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!((root.uid, notes.len()), (Some(0), 2), "{notes:?}");
        assert!(root.groups.contains(&"root".to_owned()), "{root:?}");
        let mut stranger = Caller { user_name: Some("no-such-account".into()), ..Caller::default() };
        notes.clear();
        complete(&mut stranger, false, &mut notes).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!((stranger.uid, stranger.groups.len(), notes.len()), (None, 0, 1), "{notes:?}");
        let mut number = Caller { uid: Some(0), groups: vec!["x".into()], ..Caller::default() };
        complete(&mut number, true, &mut notes).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!((number.user_name.as_deref(), number.groups.as_slice()), (Some("root"), &["x".to_owned()][..]));
    }
}
