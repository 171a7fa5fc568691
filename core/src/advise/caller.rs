//! A caller as people describe one: by name, groups and program, without a process.

use crate::identity::{Claims, Confidence, ExeHash, Executable, Fact, OnDemand};
use core::fmt;
use serde::{Deserialize, Serialize};

/// The user id of a caller of whom none is known: no account has it.
pub const UNKNOWN_UID: u32 = u32::MAX;

/// Who asks. Members are named as the selectors of an identity are (R-05c).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Caller {
    /// Account name. Without one: `root` for user id 0, else that of a user without account (I-14).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// User id. Without one: 0 for `root`, else one that nobody has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Names of the caller's groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Path of the executable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe_path: Option<String>,
    /// Last component of that path, if only that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_name: Option<String>,
    /// Real group id; without one, none that any group has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// SHA-256 of the executable's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe_sha256: Option<String>,
    /// Path of the control group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_path: Option<String>,
    /// Whether the caller is elevated, which is user id 0 and nothing else (I-20).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elevated: Option<bool>,
}

/// Why there is no such caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerError {
    /// Elevated, but with a user id that is not 0.
    ElevatedUid(u32),
    /// Not elevated, but with user id 0.
    RootUid,
    /// The hash is not 64 hexadecimal digits.
    ExeHash,
    /// The process name is not the last component of the executable's path (I-07).
    ProcessName,
}

impl fmt::Display for CallerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ElevatedUid(uid) => write!(f, "elevated means user id 0, not {uid}"),
            Self::RootUid => f.write_str("user id 0 is elevated, whatever its name"),
            Self::ExeHash => f.write_str("exeSha256 is not 64 hexadecimal digits"),
            Self::ProcessName => {
                f.write_str("the process name is the last component of the executable's path, and this one is not")
            }
        }
    }
}

impl core::error::Error for CallerError {}

impl Caller {
    /// The claims that decide.
    ///
    /// # Errors
    /// The members contradict each other.
    pub fn claims(&self) -> Result<Claims, CallerError> {
        let user_id = match (self.uid, self.elevated) {
            (Some(0), Some(false)) => return Err(CallerError::RootUid),
            (Some(uid @ 1..), Some(true)) => return Err(CallerError::ElevatedUid(uid)),
            (Some(uid), _) => uid,
            (None, Some(true)) => 0,
            (None, None) if self.user_name.as_deref() == Some("root") => 0,
            (None, _) => UNKNOWN_UID,
        };
        let user_name = self.user_name.as_deref().unwrap_or(if user_id == 0 { "root" } else { "undefined" });
        let known = |path: &str| Executable::Known(path.into());
        let exe_hash = match self.exe_sha256.as_deref() {
            Some(text) => Fact::Known(ExeHash::from_hex(text).ok_or(CallerError::ExeHash)?),
            None => Fact::Unknown,
        };
        let cgroup_path = self.cgroup_path.as_deref().map_or(Fact::Unknown, |path| Fact::Known(path.into()));
        let claims = Claims {
            user_id,
            group_id: self.gid.unwrap_or(u32::MAX),
            user_name: user_name.into(),
            user_groups: self.groups.iter().map(|group| group.as_str().into()).collect(),
            process_id: 0,
            // A path of one component has that name; a program of which only the hash is said has none.
            executable: self
                .exe_path
                .as_deref()
                .or(self.process_name.as_deref())
                .or(self.exe_sha256.is_some().then_some(""))
                .map_or(Executable::Unknown, known),
            command_line: "".into(),
            cgroup: 0,
            confidence: Confidence::Verified,
            on_demand: OnDemand { exe_hash, cgroup_path, ..OnDemand::default() },
        };
        match self.process_name.as_deref() {
            Some(name) if claims.process_name() != Some(name.as_bytes()) => Err(CallerError::ProcessName),
            _ => Ok(claims),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(json: &str) -> Result<Claims, CallerError> {
        serde_json::from_str::<Caller>(json).unwrap().claims()
    }

    /// I-07, I-14, I-20
    #[test]
    fn what_is_not_said_follows_from_what_is_i20() {
        for (json, uid, name, process) in [
            (r#"{"userName":"root"}"#, 0, "root", None),
            (r#"{"userName":"root","elevated":false}"#, UNKNOWN_UID, "root", None),
            (r#"{"userName":"root","uid":7}"#, 7, "root", None),
            (r#"{"userName":"alice"}"#, UNKNOWN_UID, "alice", None),
            (r#"{"userName":"toor","elevated":true}"#, 0, "toor", None),
            (r#"{"uid":0}"#, 0, "root", None),
            (r#"{"uid":8,"exePath":"/usr/bin/curl"}"#, 8, "undefined", Some("curl")),
            (r#"{"processName":"curl"}"#, UNKNOWN_UID, "undefined", Some("curl")),
            (r#"{"processName":"curl","exePath":"/usr/bin/curl"}"#, UNKNOWN_UID, "undefined", Some("curl")),
        ] {
            let claims = caller(json).unwrap();
            let found = (claims.user_id, claims.user_name.lossy().into_owned(), claims.process_name());
            assert_eq!(found, (uid, name.to_owned(), process.map(str::as_bytes)), "{json}");
        }
        assert_eq!(caller(r#"{"uid":0,"elevated":false}"#), Err(CallerError::RootUid));
        assert_eq!(caller(r#"{"uid":5,"elevated":true}"#), Err(CallerError::ElevatedUid(5)));
        assert_eq!(caller(r#"{"exePath":"/a/b","processName":"c"}"#), Err(CallerError::ProcessName));
        serde_json::from_str::<Caller>(r#"{"username":"x"}"#).unwrap_err();
    }
}
