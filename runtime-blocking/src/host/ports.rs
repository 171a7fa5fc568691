//! Keeping port 3080 out of what the kernel gives to others: `listen()` without `bind()` takes a port of the local range, and no hook
//! sees that. A port that is reserved is never given so.

use azure_proxy_agent_core::identity::LISTENER;
use std::path::Path;
use std::{fs, io};

const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Reserves the listener's port in this thread's network namespace if the kernel could give it away, and keeps what is reserved already.
/// What it has to say is one line in the log.
pub fn reserve() {
    match reserve_in(Path::new(RANGE), Path::new(RESERVED), LISTENER.port()) {
        Ok(None) => {}
        Ok(Some(list)) => log::info!("Port {} is reserved now: net.ipv4.ip_local_reserved_ports = {list}", LISTENER.port()),
        Err(Failure { list, reason }) => log::warn!(
            "Port {} lies in net.ipv4.ip_local_port_range and cannot be reserved ({reason}): the kernel may give it to another program \
             while no agent runs. Reserve it with: sysctl -w net.ipv4.ip_local_reserved_ports={list}",
            LISTENER.port()
        ),
    }
}

/// What should stand in the list, and why it does not.
#[derive(Debug)]
struct Failure {
    list: String,
    reason: io::Error,
}

/// `None`: there was nothing to do.
fn reserve_in(range: &Path, reserved: &Path, port: u16) -> Result<Option<String>, Failure> {
    // A kernel without IPv4 settings has no such range either.
    if !fs::read_to_string(range).is_ok_and(|text| is_in_range(&text, port)) {
        return Ok(None);
    }
    let before = fs::read_to_string(reserved).map_err(|reason| Failure { list: port.to_string(), reason })?;
    let Some(list) = with(&before, port) else { return Ok(None) };
    fs::write(reserved, &list).map_err(|reason| Failure { list: list.clone(), reason })?;
    Ok(Some(list))
}

/// Whether `port` lies in a range as the kernel writes it: two numbers, both included. Text that is no range contains nothing.
fn is_in_range(range: &str, port: u16) -> bool {
    let mut numbers = range.split_whitespace().map(|n| n.parse::<u16>().ok());
    matches!((numbers.next(), numbers.next()), (Some(Some(low)), Some(Some(high))) if (low..=high).contains(&port))
}

/// The list of reserved ports (`8080,9000-9010`) with `port` in it; `None` if it is in it.
fn with(list: &str, port: u16) -> Option<String> {
    let list = list.trim();
    let has = |item: &str| match item.split_once('-') {
        Some((low, high)) => is_in_range(&format!("{low} {high}"), port),
        None => item.trim().parse() == Ok(port),
    };
    match list {
        "" => Some(port.to_string()),
        _ if list.split(',').any(has) => None,
        _ => Some(format!("{list},{port}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;

    #[test]
    fn ranges_have_both_ends() {
        for (range, inside) in [
            ("32768\t60999\n", false),
            ("3080\t3080\n", true),
            ("1024 65535", true),
            ("3081 60999", false),
            ("1024 3079", false),
            ("", false),
            ("3080", false),
            ("x 4000", false),
        ] {
            assert_eq!(is_in_range(range, 3080), inside, "{range:?}");
        }
    }

    #[test]
    fn what_is_reserved_stays_so() {
        for (before, after) in [
            ("\n", Some("3080")),
            ("8080\n", Some("8080,3080")),
            ("1,5-7,9000-9010\n", Some("1,5-7,9000-9010,3080")),
            ("3080\n", None),
            ("1,3000-3100\n", None),
            ("30800,13080\n", Some("30800,13080,3080")),
        ] {
            assert_eq!(with(before, 3080).as_deref(), after, "{before:?}");
        }
    }

    #[test]
    fn nothing_is_touched_without_need_and_a_failure_says_what_to_do() {
        let scratch = Scratch::new("ports");
        let (range, reserved) = (scratch.path().join("range"), scratch.path().join("reserved"));
        fs::write(&range, "32768 60999\n").unwrap();
        assert!(matches!(reserve_in(&range, &reserved, 3080), Ok(None)), "not even read");
        fs::write(&range, "1024 60999\n").unwrap();
        fs::write(&reserved, "8080\n").unwrap();
        assert_eq!(reserve_in(&range, &reserved, 3080).unwrap().as_deref(), Some("8080,3080"));
        assert!(matches!(reserve_in(&range, &reserved, 3080), Ok(None)));
        fs::remove_file(&reserved).unwrap();
        fs::create_dir(&reserved).unwrap();
        assert_eq!(reserve_in(&range, &reserved, 3080).unwrap_err().list, "3080");
    }
}
