//! What the kernel says about the network namespace of the calling thread, and the rule that follows: the addresses of the
//! platform are served and asked only where they belong to nobody else.
//!
//! Reads by rtnetlink(7), because `/sys/class/net` and `/proc/net` may show another namespace than the thread's own.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use rustix::io::{read, write};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Message: an interface, told or to be changed.
pub const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
/// Message: an address, told or to be added.
pub const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
/// Flag of an interface that is up.
pub const IFF_UP: u32 = 1;
const IFLA_IFNAME: u16 = 3;
/// Attribute: the address itself.
pub const IFA_LOCAL: u16 = 2;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: i32,
    /// Its name, `lo` for the loopback interface.
    pub name: String,
    /// Whether it is administratively up.
    pub up: bool,
}

/// A conversation with the kernel's routing tables, in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

impl Netlink {
    /// Opens the socket.
    ///
    /// # Errors
    /// Whatever `socket(AF_NETLINK)` says.
    pub fn open() -> io::Result<Self> {
        Ok(Self(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?))
    }

    /// All interfaces of the namespace.
    ///
    /// # Errors
    /// When the kernel refuses or answers something that is not rtnetlink.
    pub fn links(&self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        self.request(RTM_GETLINK, NLM_F_DUMP, &[0; 16], |kind, body| {
            if kind == RTM_NEWLINK && body.len() >= 16 {
                let name = attribute(&body[16..], IFLA_IFNAME).unwrap_or_default();
                let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
                links.push(Link { index: number(body, 4) as i32, name, up: number(body, 8) & IFF_UP != 0 });
            }
        })?;
        Ok(links)
    }

    /// All IPv4 addresses, each with the index of its interface.
    ///
    /// # Errors
    /// As [`Self::links`].
    pub fn addresses(&self) -> io::Result<Vec<(i32, Ipv4Addr)>> {
        let mut addresses = Vec::new();
        self.request(RTM_GETADDR, NLM_F_DUMP, &[2, 0, 0, 0, 0, 0, 0, 0], |kind, body| {
            if kind == RTM_NEWADDR
                && body.len() >= 8
                && let Some(&[a, b, c, d]) = attribute(&body[8..], IFA_LOCAL)
            {
                addresses.push((number(body, 4) as i32, Ipv4Addr::new(a, b, c, d)));
            }
        })?;
        Ok(addresses)
    }

    /// Sends one request and hands every answer to `each` (message type, payload) until the kernel says that it is done.
    ///
    /// # Errors
    /// The error number in the kernel's answer, or that of the socket.
    pub fn request(&self, kind: u16, flags: u16, payload: &[u8], mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let mut message = Vec::with_capacity(16 + payload.len());
        message.extend_from_slice(&(16 + payload.len() as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(payload);
        write(&self.0, &message)?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let filled = read(&self.0, &mut buffer[..])?;
            let mut rest = &buffer[..filled];
            while rest.len() >= 16 {
                let length = number(rest, 0) as usize;
                if length < 16 || length > rest.len() {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "rtnetlink message with a wrong length"));
                }
                let (message, body) = (&rest[..length], &rest[16..length]);
                match u16::from_ne_bytes([message[4], message[5]]) {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR if body.len() >= 4 && number(body, 0) == 0 => return Ok(()),
                    NLMSG_ERROR if body.len() >= 4 => return Err(io::Error::from_raw_os_error(-(number(body, 0) as i32))),
                    kind => each(kind, body),
                }
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
            }
        }
    }
}

/// The four bytes at `at` in the machine's own order; zero beyond the end.
fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// The value of the first routing attribute of a kind (rtnetlink(7), `struct rtattr`).
fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    while rest.len() >= 4 {
        let length = u16::from_ne_bytes([rest[0], rest[1]]) as usize;
        let value = rest.get(4..length)?;
        if u16::from_ne_bytes([rest[2], rest[3]]) == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// Checks that serving or asking `addresses` cannot leave this machine: each is a loopback address, or it is configured on
/// `lo` of the calling thread's network namespace and that namespace has no other interface up.
///
/// # Errors
/// A sentence that names the address or interface in the way.
pub fn assert_private(addresses: &[IpAddr]) -> Result<(), String> {
    let wanted: Vec<Ipv4Addr> = addresses
        .iter()
        .filter(|a| !a.is_loopback())
        .map(|a| match a {
            IpAddr::V4(v4) => Ok(*v4),
            IpAddr::V6(v6) => Err(format!("{v6} is neither loopback nor an IPv4 address")),
        })
        .collect::<Result<_, _>>()?;
    if wanted.is_empty() {
        return Ok(());
    }
    let look = || {
        let netlink = Netlink::open()?;
        Ok((netlink.links()?, netlink.addresses()?))
    };
    let (links, configured) = look().map_err(|e: io::Error| format!("cannot read this network namespace: {e}"))?;
    judge(&wanted, &links, &configured)
}

fn judge(wanted: &[Ipv4Addr], links: &[Link], configured: &[(i32, Ipv4Addr)]) -> Result<(), String> {
    let others: Vec<&str> = links.iter().filter(|l| l.up && l.name != "lo").map(|l| l.name.as_str()).collect();
    if !others.is_empty() {
        return Err(format!(
            "{} would be reachable from outside: this network namespace has {} up; only lo may be up",
            wanted[0],
            others.join(", ")
        ));
    }
    let lo = links.iter().find(|l| l.name == "lo" && l.up).ok_or("lo of this network namespace is not up")?;
    match wanted.iter().find(|w| !configured.contains(&(lo.index, **w))) {
        Some(missing) => Err(format!("{missing} is not configured on lo of this network namespace")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMDS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

    fn link(index: i32, name: &str, up: bool) -> Link {
        Link { index, name: name.to_owned(), up }
    }

    #[test]
    fn the_kernel_tells_of_lo() {
        let netlink = Netlink::open().unwrap();
        assert!(netlink.links().unwrap().iter().any(|l| l.name == "lo" && l.index == 1));
    }

    #[test]
    fn loopback_is_always_private() {
        assert_eq!(assert_private(&["127.9.9.9".parse().unwrap(), "::1".parse().unwrap()]), Ok(()));
    }

    #[test]
    fn only_lo_with_the_address_is_private() {
        let lo = link(1, "lo", true);
        let eth = link(2, "eth0", true);
        assert_eq!(judge(&[IMDS], std::slice::from_ref(&lo), &[(1, IMDS)]), Ok(()));
        assert_eq!(judge(&[IMDS], &[lo.clone(), link(2, "sit0", false)], &[(1, IMDS)]), Ok(()));
        assert!(judge(&[IMDS], &[lo.clone(), eth.clone()], &[(1, IMDS)]).unwrap_err().contains("eth0"));
        assert!(judge(&[IMDS], &[lo, link(2, "sit0", false)], &[(2, IMDS)]).unwrap_err().contains("not configured on lo"));
        assert!(judge(&[IMDS], &[link(1, "lo", false)], &[(1, IMDS)]).unwrap_err().contains("not up"));
    }
}
