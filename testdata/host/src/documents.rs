//! The documents that a virtual machine finds at its host, as realistic as clients need them: agents and SDKs run
//! unmodified against these.

use serde_json::{Value, json};

use crate::reply::Reply;

/// The virtual machine's id, the same in every document.
pub const VM_ID: &str = "02aab8a4-74ef-476e-8182-f6d2ba4166a6";
/// The container id of the goal state (T-80).
pub const CONTAINER_ID: &str = "a8016240-7286-49ef-8981-63520cb8f6d0";
/// The client id of the managed identity.
pub const CLIENT_ID: &str = "5e29463d-71da-4fe0-8e69-999b57db23b0";
const ROLE_INSTANCE: &str = "49c242ba-c18a-4f6c-8cf8-85ff790b6431._demo-vm";
const SUBSCRIPTION: &str = "8d10da13-8125-4ba9-a717-bf7490507b3d";
/// How long a token is good for, in seconds.
const TOKEN_SECONDS: i64 = 86_400;

/// The path and the decoded query parameters of a request target.
#[derive(Debug)]
pub struct Target {
    /// The path as received.
    pub path: String,
    /// Name (lower case) and percent-decoded value of each parameter.
    pub parameters: Vec<(String, String)>,
}

impl Target {
    /// Takes a target apart; bytes that are not UTF-8 are replaced.
    pub fn parse(target: &[u8]) -> Self {
        let text = String::from_utf8_lossy(target);
        let text = match text.find("://") {
            Some(at) if !text.starts_with('/') => text[at + 3..].find('/').map_or("/", |slash| &text[at + 3 + slash..]),
            _ => &text,
        };
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        let parameters = query
            .split('&')
            .filter(|p| !p.is_empty())
            .map(|p| p.split_once('=').unwrap_or((p, "")))
            .map(|(name, value)| (percent_decode(name).to_ascii_lowercase(), percent_decode(value)))
            .collect();
        Self { path: path.to_owned(), parameters }
    }

    /// The first parameter of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A parameter as a number, or `default`.
    pub fn number(&self, name: &str, default: u64) -> u64 {
        self.get(name).and_then(|v| v.parse().ok()).unwrap_or(default)
    }
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[at], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The instance document of IMDS.
pub fn instance() -> Value {
    json!({
        "compute": {
            "azEnvironment": "AzurePublicCloud", "customData": "", "evictionPolicy": "", "isHostCompatibilityLayerVm": "false",
            "licenseType": "", "location": "westeurope", "name": "demo-vm", "offer": "debian-12", "osProfile": {
                "adminUsername": "azureuser", "computerName": "demo-vm", "disablePasswordAuthentication": "true"
            },
            "osType": "Linux", "placementGroupId": "", "plan": {"name": "", "product": "", "publisher": ""},
            "platformFaultDomain": "0", "platformUpdateDomain": "0", "priority": "", "provider": "Microsoft.Compute",
            "publicKeys": [], "publisher": "debian", "resourceGroupName": "demo-group",
            "resourceId": format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/demo-group/providers/Microsoft.Compute/virtualMachines/demo-vm"),
            "securityProfile": {"secureBootEnabled": "true", "virtualTpmEnabled": "true"}, "sku": "12-gen2",
            "subscriptionId": SUBSCRIPTION, "tags": "purpose:demo", "tagsList": [{"name": "purpose", "value": "demo"}],
            "userData": "", "version": "0.20250703.2162", "vmId": VM_ID, "vmScaleSetName": "", "vmSize": "Standard_D2s_v5", "zone": "1"
        },
        "network": {"interface": [{
            "ipv4": {
                "ipAddress": [{"privateIpAddress": "10.0.0.4", "publicIpAddress": ""}],
                "subnet": [{"address": "10.0.0.0", "prefix": "24"}]
            },
            "ipv6": {"ipAddress": []}, "macAddress": "0022480A1B2C"
        }]}
    })
}

/// Answers `/metadata/…` below the headers check: versions, instance (also parts of it) and identity.
pub fn imds(target: &Target, instance: &Value, now: i64) -> Reply {
    let path = target.path.trim_end_matches('/');
    if path == "/metadata/versions" {
        return Reply::json(
            200,
            &json!({"apiVersions": ["2017-08-01", "2018-02-01", "2019-08-01", "2021-02-01", "2021-08-01", "2023-07-01"]}),
        );
    }
    if target.get("api-version").is_none_or(str::is_empty) {
        let error = "Bad request. api-version is invalid or was not specified in the request.";
        return Reply::json(400, &json!({"error": error, "newest-versions": ["2023-07-01", "2021-08-01", "2021-02-01"]}));
    }
    match path {
        "/metadata/identity/oauth2/token" => token(target, now),
        "/metadata/identity/info" => Reply::json(200, &json!({"tenantId": "72f988bf-86f1-41af-91ab-2d7cd011db47"})),
        _ => match path.strip_prefix("/metadata/instance") {
            Some(rest) => part(instance, rest, target.get("format")),
            None => Reply::json(404, &json!({"error": "Not found"})),
        },
    }
}

fn part(instance: &Value, rest: &str, format: Option<&str>) -> Reply {
    let found = instance.pointer(rest);
    match (found, format) {
        (Some(Value::String(text)), Some("text")) => Reply::new(200, "text/plain; charset=utf-8", text.clone().into_bytes()),
        (Some(value), None | Some("json")) => Reply::json(200, value),
        (Some(_), _) => Reply::json(400, &json!({"error": "Bad request. Format is not supported for this resource."})),
        (None, _) => Reply::json(404, &json!({"error": "Not found"})),
    }
}

fn token(target: &Target, now: i64) -> Reply {
    let Some(resource) = target.get("resource").filter(|r| !r.is_empty()) else {
        let text = "Required query variable 'resource' is missing";
        return Reply::json(400, &json!({"error": "invalid_request", "error_description": text}));
    };
    let claims = json!({
        "aud": resource, "iss": "https://sts.windows.net/72f988bf-86f1-41af-91ab-2d7cd011db47/", "iat": now, "nbf": now,
        "exp": now + TOKEN_SECONDS, "appid": CLIENT_ID, "idtyp": "app",
        "xms_mirid": format!("/subscriptions/{SUBSCRIPTION}/resourcegroups/demo-group/providers/Microsoft.Compute/virtualMachines/demo-vm"),
    });
    let jwt = [
        base64url(br#"{"typ":"JWT","alg":"RS256","kid":"simulated"}"#),
        base64url(claims.to_string().as_bytes()),
        base64url(b"this token was made by a simulated host and opens nothing"),
    ]
    .join(".");
    // Numbers are strings here: so the service answers and so the SDKs parse it.
    Reply::json(
        200,
        &json!({
            "access_token": jwt, "client_id": target.get("client_id").unwrap_or(CLIENT_ID),
            "expires_in": TOKEN_SECONDS.to_string(), "expires_on": (now + TOKEN_SECONDS).to_string(),
            "ext_expires_in": TOKEN_SECONDS.to_string(), "not_before": now.to_string(),
            "resource": resource, "token_type": "Bearer",
        }),
    )
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        for digit in 0..=group.len() {
            out.push(ALPHABET[(bits >> (18 - 6 * digit) & 63) as usize] as char);
        }
    }
    out
}

/// Answers `/machine…` of the WireServer.
pub fn machine(method: &str, target: &Target) -> Reply {
    let component = target.get("comp").unwrap_or_default().to_ascii_lowercase();
    let root = matches!(target.path.as_str(), "/" | "/machine" | "/machine/");
    match (method, root, component.as_str()) {
        ("POST", true, "telemetrydata" | "health" | "roleproperties") => Reply::new(200, "text/plain", &b""[..]),
        (_, true, "goalstate") => xml(&goal_state()),
        (_, true, "versions") => xml(VERSIONS),
        (_, true, "certificates") => {
            xml("<?xml version=\"1.0\"?><CertificateFile><Version>2012-11-30</Version></CertificateFile>")
        }
        (_, _, "config") => match target.get("type").unwrap_or_default().to_ascii_lowercase().as_str() {
            "sharedconfig" => xml(&shared_config()),
            "hostingenvironmentconfig" => xml(&hosting_environment()),
            "extensionsconfig" => xml("<?xml version=\"1.0\"?><Extensions version=\"1.0.0.0\" goalStateIncarnation=\"1\"/>"),
            _ => Reply::new(404, "text/plain", &b"unknown configuration type"[..]),
        },
        _ => Reply::new(404, "text/plain", &b"unknown component"[..]),
    }
}

const VERSIONS: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?><Versions><Preferred><Version>2015-04-05</Version></Preferred>\
    <Supported><Version>2015-04-05</Version><Version>2012-11-30</Version><Version>2012-09-15</Version></Supported></Versions>";

fn xml(text: &str) -> Reply {
    Reply::new(200, "text/xml; charset=utf-8", text.as_bytes())
}

fn config_url(kind: &str) -> String {
    format!("http://168.63.129.16:80/machine/{CONTAINER_ID}/{ROLE_INSTANCE}?comp=config&amp;type={kind}&amp;incarnation=1")
}

fn goal_state() -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><GoalState xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
         xsi:noNamespaceSchemaLocation=\"goalstate10.xsd\"><Version>2012-11-30</Version><Incarnation>1</Incarnation>\
         <Machine><ExpectedState>Started</ExpectedState><StopRolesDeadlineHint>300000</StopRolesDeadlineHint><LBProbePorts>\
         <Port>16001</Port></LBProbePorts><ExpectHealthReport>FALSE</ExpectHealthReport></Machine><Container>\
         <ContainerId>{CONTAINER_ID}</ContainerId><RoleInstanceList><RoleInstance><InstanceId>{ROLE_INSTANCE}</InstanceId>\
         <State>Started</State><Configuration><HostingEnvironmentConfig>{}</HostingEnvironmentConfig><SharedConfig>{}</SharedConfig>\
         <ExtensionsConfig>{}</ExtensionsConfig><ConfigName>{CONTAINER_ID}.1.xml</ConfigName></Configuration></RoleInstance>\
         </RoleInstanceList></Container></GoalState>",
        config_url("hostingEnvironmentConfig"),
        config_url("sharedConfig"),
        config_url("extensionsConfig"),
    )
}

fn shared_config() -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><SharedConfig version=\"1.0.0.0\" goalStateIncarnation=\"1\">\
         <Deployment name=\"db00a7755a5e4e8a8fe4b19bc3b330c3\" guid=\"{{ce5a036f-5c93-40e7-8adf-2613631008ab}}\" incarnation=\"0\">\
         <Service name=\"MyVMRoleService\" guid=\"{{00000000-0000-0000-0000-000000000000}}\"/></Deployment>\
         <Incarnation number=\"1\" instance=\"demo-vm\" guid=\"{{a0faca35-52e5-4ec7-8fd1-63d2bc107d9b}}\"/>\
         <Role guid=\"{{73d95f1c-6472-e58e-7a1a-523554e11d46}}\" name=\"demo-vm\" settleTimeSeconds=\"10\"/>\
         <Instances><Instance id=\"{ROLE_INSTANCE}\" address=\"10.0.0.4\"><FaultDomains randomId=\"0\" updateId=\"0\" updateCount=\"0\"/>\
         </Instance></Instances></SharedConfig>"
    )
}

fn hosting_environment() -> String {
    "<?xml version=\"1.0\" encoding=\"utf-8\"?><HostingEnvironmentConfig version=\"1.0.0.0\" goalStateIncarnation=\"1\">\
     <StoredCertificates/><Deployment name=\"db00a7755a5e4e8a8fe4b19bc3b330c3\" incarnation=\"0\"/><Role name=\"demo-vm\"/>\
     </HostingEnvironmentConfig>"
        .to_owned()
}

/// Answers the host plug-in's services.
pub fn host_plugin(method: &str, target: &Target) -> Reply {
    match (method, target.path.as_str()) {
        ("GET" | "HEAD", "/vmSettings") => Reply::json(
            200,
            &json!({
                "hostGAPluginVersion": "1.0.8.179", "vmSettingsSchemaVersion": "0.0", "activityId": "a33f6f53-43d6-4625-b322-1a39651a00c9",
                "correlationId": "9a47a2a2-e740-4bfc-b11b-4f2f7cfe7d2e", "inVMArtifactsProfileBlob": {"onHold": false},
                "inSvdSeqNo": 1, "extensionsLastModifiedTickCount": 638_000_000_000_000_000_i64, "extensionGoalStatesSource": "FastTrack",
                "statusUploadBlob": {"statusBlobType": "BlockBlob", "value": "https://example.invalid/status"},
                "gaFamilies": [], "extensionGoalStates": []
            }),
        )
        .header("ETag", "\"1\""),
        ("PUT", "/vmAgentLog" | "/status") => Reply::new(200, "text/plain", &b""[..]),
        ("GET" | "HEAD", "/versions") => Reply::json(200, &json!(["2015-09-01"])),
        ("GET" | "HEAD" | "POST", "/health") => Reply::new(200, "text/plain", &b""[..]),
        ("GET" | "HEAD", "/extensionArtifact") => Reply::new(200, "application/octet-stream", &b"artifact"[..]),
        _ => Reply::new(404, "text/plain", &b"unknown service"[..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Body;

    fn json_of(reply: &Reply) -> Value {
        let Body::Bytes(bytes) = &reply.body else { panic!("no body") };
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn a_token_has_what_the_sdks_read() {
        let target =
            Target::parse(b"/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net");
        let token = json_of(&imds(&target, &instance(), 1_767_687_330));
        assert_eq!(token["resource"], "https://vault.azure.net");
        assert_eq!((token["expires_on"].as_str(), token["expires_in"].as_str()), (Some("1767773730"), Some("86400")));
        for member in ["access_token", "client_id", "not_before", "token_type"] {
            assert!(token[member].as_str().is_some_and(|t| !t.is_empty()), "{member}");
        }
        assert_eq!(token["access_token"].as_str().unwrap().split('.').count(), 3);
    }

    #[test]
    fn parts_of_the_instance_document() {
        let get = |target: &str| imds(&Target::parse(target.as_bytes()), &instance(), 0);
        assert_eq!(json_of(&get("/metadata/instance?api-version=1"))["compute"]["vmId"], VM_ID);
        assert_eq!(json_of(&get("/metadata/instance/compute/location?api-version=1&format=json")), "westeurope");
        assert_eq!(get("/metadata/instance").status, 400);
        assert_eq!(get("/metadata/instance/nothing?api-version=1").status, 404);
    }

    #[test]
    fn base64url_of_all_remainders() {
        assert_eq!([base64url(b"f"), base64url(b"fo"), base64url(b"foo"), base64url(b"\xfb\xff")], ["Zg", "Zm8", "Zm9v", "-_8"]);
    }
}
