//! What the packages install (files.md sections 9 and 10): the units, and where `debian/stage` puts what, with which modes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    // One that is not there has nothing of what is looked for in it.
    fs::read_to_string(root().join(path)).unwrap_or_default()
}

/// Every value of a setting, of all its lines.
fn setting(unit: &str, name: &str) -> Vec<String> {
    let values = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values.flat_map(|value| value.split_whitespace().map(str::to_owned)).collect()
}

fn service() -> String {
    read("debian/units/azure-proxy-agent.service")
}

/// The part with privileges.
fn redirector() -> String {
    read("debian/units/azure-proxy-agent-redirector.service")
}

#[test]
fn fs90_to_fs93_cli32_the_service_is_up_early_and_always() {
    let unit = service();
    assert_eq!(setting(&unit, "WantedBy"), ["multi-user.target"]);
    assert_eq!(setting(&unit, "DefaultDependencies"), ["no"]);
    assert!(setting(&unit, "After").contains(&"local-fs.target".into()));
    for target in ["network-pre.target", "shutdown.target"] {
        assert!(setting(&unit, "Before").contains(&target.into()), "{target}");
    }
    assert_eq!(setting(&unit, "Conflicts"), ["shutdown.target"]);
    // Ours: it says when it listens, instead of counting as started at once.
    assert_eq!(setting(&unit, "Type"), ["notify"]);
    assert_eq!(setting(&unit, "ExecStart"), ["/usr/sbin/azure-proxy-agent"]);
    assert_eq!(setting(&unit, "Restart"), ["always"]);
    assert_eq!(setting(&unit, "RestartSec"), ["5"]);
}

/// FS-23, FS-26, FS-94, FS-95, FS-97, FS-98.
#[test]
fn fs94_fs95_fs97_fs98_the_service_is_shut_in() {
    let unit = service();
    for (name, value) in [
        ("LogsDirectory", "azure-proxy-agent"),
        ("LogsDirectoryMode", "0755"),
        ("StateDirectory", "azure-proxy-agent"),
        ("StateDirectoryMode", "0755"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("NoNewPrivileges", "yes"),
        ("RestrictNamespaces", "yes"),
        ("ProtectClock", "yes"),
        ("ProtectHostname", "yes"),
        ("RestrictSUIDSGID", "yes"),
        ("DevicePolicy", "closed"),
        ("IPAddressDeny", "any"),
    ] {
        assert_eq!(setting(&unit, name), [value], "{name}");
    }
    assert_eq!(setting(&unit, "DeviceAllow"), ["/dev/console", "w"]);
    assert_eq!(setting(&unit, "IPAddressAllow"), ["127.0.0.1", "168.63.129.16", "169.254.169.254"]);
}

/// FS-96, FS-99: who parses what others send may nothing; who loads programs has no connections.
#[test]
fn fs96_fs99_the_service_may_little() {
    let unit = service();
    assert!(unit.lines().any(|line| line == "CapabilityBoundingSet="), "none at all");
    // The group has none of the calls that FS-99 forbids but @resources.
    let calls = ["@system-service", "~@privileged", "@resources", "@keyring"];
    assert_eq!(setting(&unit, "SystemCallFilter"), calls);
    assert_eq!(setting(&unit, "RestrictAddressFamilies"), ["AF_UNIX", "AF_INET"]);

    let unit = redirector();
    let capabilities = ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"];
    assert_eq!(setting(&unit, "CapabilityBoundingSet"), capabilities);
    // What is allowed after all loads programs, and tells the path of a control group.
    let calls = [&calls[..], &["bpf", "open_by_handle_at"]].concat();
    assert_eq!(setting(&unit, "SystemCallFilter"), calls);
    assert_eq!(setting(&unit, "RestrictAddressFamilies"), ["AF_UNIX"]);
    assert_eq!((setting(&unit, "IPAddressDeny"), setting(&unit, "IPAddressAllow")), (vec!["any".to_owned()], vec![]));
    // Home directories can be read, not hidden: a program counts only if the same file is seen there.
    for (name, value) in [
        ("ProtectSystem", "strict"),
        ("ProtectHome", "read-only"),
        ("NoNewPrivileges", "yes"),
        ("RestrictNamespaces", "yes"),
        ("ProtectClock", "yes"),
        ("ProtectHostname", "yes"),
        ("RestrictSUIDSGID", "yes"),
        ("DevicePolicy", "closed"),
    ] {
        assert_eq!(setting(&unit, name), [value], "{name}");
    }
}

/// S-03: the two find each other, nobody else does, and the redirector is there for as long as the service is.
#[test]
fn s03_the_service_asks_the_redirector() {
    let socket = read("debian/units/azure-proxy-agent-redirector.socket");
    let path = "/run/azure-proxy-agent/redirector";
    assert_eq!(setting(&socket, "ListenSequentialPacket"), [path]);
    assert_eq!((setting(&socket, "SocketMode"), setting(&socket, "DirectoryMode")), (vec!["0600".into()], vec!["0700".into()]));
    let unit = service();
    assert_eq!(setting(&unit, "Environment"), [format!("REDIRECTOR_SOCKET={path}")]);
    for relation in ["Wants", "After"] {
        assert!(setting(&unit, relation).contains(&"azure-proxy-agent-redirector.socket".into()), "{relation}");
    }
    let unit = redirector();
    assert_eq!(setting(&unit, "ExecStart").join(" "), "/usr/sbin/azure-proxy-agent redirector");
    // Started by questions only: one that restarted itself would hold the lock of the pins after a downgrade.
    assert!(setting(&unit, "Restart").is_empty() && setting(&unit, "WantedBy").is_empty());
}

#[test]
fn fs110_to_fs114_fs118_files_and_modes_whatever_the_umask() {
    let place = std::env::temp_dir().join(format!("agent-package-{}", std::process::id()));
    let built = place.join("built");
    fs::create_dir_all(built.join("build/redirect-ebpf-1/out")).expect("made");
    for file in ["azure-proxy-agent", "azure-proxy-agent-minimal", "build/redirect-ebpf-1/out/redirect.bpf.o"] {
        fs::write(built.join(file), file).expect("written");
    }
    for (runtime, umask, extras) in [("smol", "000", true), ("smol", "077", true), ("minimal", "077", false)] {
        let to = place.join(format!("{runtime}-{umask}"));
        let script = root().join("debian/stage");
        let command = format!("umask {umask}; exec '{}' {runtime} '{}' '{}'", script.display(), built.display(), to.display());
        assert!(Command::new("sh").args(["-c", &command]).status().expect("ran").success(), "{command}");
        for (path, mode, there) in [
            ("usr/sbin/azure-proxy-agent", 0o755, true),
            ("etc/azure/proxy-agent.json", 0o644, true),
            ("usr/lib/azure-proxy-agent/ebpf_cgroup.o", 0o644, extras),
            ("usr/lib/systemd/system/azure-proxy-agent.service", 0o644, true),
            ("usr/lib/systemd/system/azure-proxy-agent.socket", 0o644, true),
            ("usr/lib/systemd/system/azure-proxy-agent-redirector.service", 0o644, true),
            ("usr/lib/systemd/system/azure-proxy-agent-redirector.socket", 0o644, true),
            ("usr/share/man/man8/azure-proxy-agent.8", 0o644, extras),
            ("usr/lib/azure-proxy-agent", 0o755, extras),
            ("etc/azure", 0o755, true),
        ] {
            let found = fs::metadata(to.join(path)).ok().map(|m| m.permissions().mode() & 0o7777);
            assert_eq!(found, there.then_some(mode), "{runtime}, umask {umask}: {path}");
        }
    }
    fs::remove_dir_all(&place).expect("removed");
}

#[test]
fn fs115_name_version_and_architectures() {
    let version = read("debian/changelog");
    assert!(version.starts_with(&format!("azure-proxy-agent ({}-0) ", env!("CARGO_PKG_VERSION"))), "{version}");
    let control = read("debian/control");
    assert!(control.contains("\nPackage: azure-proxy-agent\nArchitecture: amd64 arm64\n"));
    assert!(control.contains("\nPackage: azure-proxy-agent-minimal\nArchitecture: amd64 arm64\n"));
}

/// FS-116, FS-117, S-66, CLI-34. The rest of it is done, not said: `debian/check-install`, `debian/tests/purge`.
#[test]
fn fs116_fs117_s66_cli34_both_packages_have_the_same_scripts_about_the_same_units() {
    let rules = read("debian/rules");
    for unit in ["azure-proxy-agent.service", "azure-proxy-agent.socket"] {
        // Which unmasks, enables and starts, and stops before removal, unless it is told otherwise.
        let calls: Vec<_> =
            rules.lines().map(str::trim).filter(|l| l.starts_with("dh_installsystemd") && l.ends_with(unit)).collect();
        assert_eq!(calls.len(), 1, "{unit}");
        assert!(calls.iter().all(|call| !call.contains("--no-enable") && !call.contains("--no-start")), "{calls:?}");
        assert!(root().join("debian/units").join(unit).exists(), "{unit}");
    }
    for script in ["preinst", "postinst", "prerm", "postrm"] {
        let full = read(&format!("debian/azure-proxy-agent.{script}"));
        assert!(full.contains("#DEBHELPER#"), "{script}");
        assert_eq!(full, read(&format!("debian/azure-proxy-agent-minimal.{script}")), "{script}");
    }
}
