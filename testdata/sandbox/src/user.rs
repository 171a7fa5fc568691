//! Who a client runs as.

use std::fs;
use std::io;

use rustix::process::{Gid, Uid};

/// A user with groups. Not necessarily one of the machine's: any numbers will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
    /// Home directory, if known.
    pub home: Option<String>,
}

impl User {
    /// A user by numbers.
    pub fn new(uid: u32, gid: u32, groups: &[u32]) -> Self {
        Self { uid, gid, groups: groups.to_vec(), home: None }
    }

    /// A user of `/etc/passwd`, with the groups of `/etc/group`.
    ///
    /// # Errors
    /// `NotFound` if there is none of that name.
    pub fn named(name: &str) -> io::Result<Self> {
        let passwd = fs::read_to_string("/etc/passwd")?;
        let group = fs::read_to_string("/etc/group")?;
        find(name, &passwd, &group)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no user {name} in /etc/passwd")))
    }

    pub(crate) fn credentials(&self) -> (Uid, Gid, Vec<Gid>) {
        (Uid::from_raw(self.uid), Gid::from_raw(self.gid), self.groups.iter().map(|g| Gid::from_raw(*g)).collect())
    }
}

fn find(name: &str, passwd: &str, group: &str) -> Option<User> {
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let entry = passwd.lines().map(fields).find(|f| f.len() >= 6 && f[0] == name)?;
    let groups = group
        .lines()
        .map(fields)
        .filter(|f| f.len() >= 4 && f[3].split(',').any(|member| member == name))
        .filter_map(|f| f[2].parse().ok())
        .collect();
    Some(User { uid: entry[2].parse().ok()?, gid: entry[3].parse().ok()?, groups, home: Some(entry[5].clone()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supplementary_groups_come_from_the_group_file() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:100::/home/ann:/bin/sh\n";
        let group = "root:x:0:\nusers:x:100:\nadm:x:4:bob,ann\nann2:x:7:annette\n";
        let ann = find("ann", passwd, group);
        assert_eq!(ann, Some(User { uid: 1000, gid: 100, groups: vec![4], home: Some("/home/ann".into()) }));
        assert_eq!(find("eve", passwd, group), None);
    }
}
