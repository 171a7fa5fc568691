//! Where a controller is, and whether secrets may go there.

use std::borrow::Cow;

/// Whether this can be a controller's address: secrets cross networks only under TLS.
///
/// # Errors
/// Why not.
pub fn check(server: &str) -> Result<(), String> {
    let host = |rest: &str| {
        let authority = rest.split('/').next().unwrap_or_default();
        authority
            .strip_prefix("[::1]")
            .map_or_else(|| authority.split(':').next().unwrap_or_default().to_owned(), |_| "::1".into())
    };
    match (server.strip_prefix("https://"), server.strip_prefix("http://")) {
        (Some(_), _) => Ok(()),
        (_, Some(rest)) if matches!(host(rest).as_str(), "127.0.0.1" | "localhost" | "::1") => Ok(()),
        (_, Some(_)) => Err(format!("{server}: the key would cross the network in the clear; use https://")),
        _ => Err(format!("{server}: write https://HOST[:PORT]")),
    }
}

/// What the TLS library says of a certificate, in words that say what to do.
#[must_use]
pub fn explained(said: &str) -> Cow<'_, str> {
    if said.contains("UnknownIssuer") {
        return "its certificate comes from no authority that is trusted here; name the file with its authority's certificate (--ca)".into();
    }
    match said.find("certificate not valid for name") {
        Some(at) => format!("its certificate is for another name: {}", said.get(at..).unwrap_or_default()).into(),
        None => said.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{check, explained};

    #[test]
    fn keys_cross_networks_only_under_tls() {
        for good in ["https://pool.example", "http://127.0.0.1:8440", "http://localhost", "http://[::1]:8440/x"] {
            assert_eq!(check(good), Ok(()));
        }
        for bad in ["http://pool.example", "http://127.0.0.1.example", "http://localhost@evil.example", "pool.example", "ftp://x"]
        {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_matter_of_certificates_stays_as_it_was_said() {
        assert_eq!(explained("io: Connection refused"), "io: Connection refused");
    }
}
