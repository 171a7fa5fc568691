//! A controller (on PostgreSQL: two) in this process, on a port of its own, with a database of its own.

use pool_controller::api::Api;
use pool_controller::serve;
use pool_controller::store::Store;
use pool_core::Millis;
use serde_json::Value;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::id;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Runtime;

/// Runs a test on every database that there is.
pub(crate) fn each(test: impl Fn(&World)) {
    test(&World::sqlite());
    if let Some(world) = World::postgres() {
        test(&world);
    }
}

/// Controllers and their database.
pub(crate) struct World {
    url: String,
    controllers: Mutex<Vec<Controller>>,
    count: usize,
    admin: String,
    folder: PathBuf,
    /// PostgreSQL: the server's own database, and the name of ours.
    server: Option<(String, String)>,
}

struct Controller {
    address: SocketAddr,
    store: Arc<Store>,
    runtime: Option<Runtime>,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl World {
    /// On a file.
    pub(crate) fn sqlite() -> Self {
        let folder = folder();
        Self::start(folder.join("pool.db").display().to_string(), 1, folder, None)
    }

    fn postgres() -> Option<Self> {
        let server = std::env::var("POOL_TEST_POSTGRES").ok()?;
        let folder = folder();
        let name = folder.file_name().unwrap().to_string_lossy().replace('-', "_");
        on_server(&server, &format!("CREATE DATABASE {name}"));
        let (base, query) =
            server.split_once('?').map_or((server.as_str(), String::new()), |(base, query)| (base, format!("?{query}")));
        let url = format!("{}/{name}{query}", base.rsplit_once('/').unwrap().0);
        Some(Self::start(url, 2, folder, Some((server, name))))
    }

    fn start(url: String, count: usize, folder: PathBuf, server: Option<(String, String)>) -> Self {
        let token = folder.join("token");
        let mut controllers = Vec::new();
        for _ in 0..count {
            controllers.push(Controller::start(&url, &token));
        }
        let admin = std::fs::read_to_string(&token).unwrap().trim().to_owned();
        Self { url, controllers: Mutex::new(controllers), count, admin, folder, server }
    }

    /// All controllers end, and others take their place.
    pub(crate) fn restart(&self) {
        let mut controllers = self.controllers.lock().unwrap();
        controllers.clear();
        let token = self.folder.join("token");
        controllers.extend((0..self.count).map(|_| Controller::start(&self.url, &token)));
    }

    /// A client with the first administrator's token, at the first controller.
    pub(crate) fn admin(&self) -> Client {
        self.client(&self.admin)
    }

    /// A client with a token.
    pub(crate) fn client(&self, token: &str) -> Client {
        let address = self.controllers.lock().unwrap()[0].address;
        let config =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(70))).build();
        Client { agent: config.into(), base: format!("http://{address}/api/v1"), token: format!("Bearer {token}") }
    }

    /// The address of the last controller.
    pub(crate) fn last(&self) -> SocketAddr {
        self.controllers.lock().unwrap().last().unwrap().address
    }

    /// A statement, around everything.
    pub(crate) fn sql(&self, statement: &str) -> Result<(), String> {
        let controllers = self.controllers.lock().unwrap();
        let controller = &controllers[0];
        controller.runtime.as_ref().unwrap().block_on(controller.store.execute(statement)).map_err(|e| e.to_string())
    }

    /// Forgets what is older, as the controller does.
    pub(crate) fn forget(&self, pool: i64, jobs: u64, keys: u64, limit: i64) -> u64 {
        let controllers = self.controllers.lock().unwrap();
        let Controller { runtime, store, .. } = &controllers[0];
        runtime.as_ref().unwrap().block_on(store.forget(pool, Millis(jobs), Millis(keys), limit)).unwrap()
    }

    /// Another store on the same database.
    pub(crate) fn open_again(&self) -> Result<(), String> {
        Runtime::new().unwrap().block_on(Store::open(&self.url)).map(drop).map_err(|e| e.to_string())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.controllers.lock().unwrap().clear();
        let _ = std::fs::remove_dir_all(&self.folder);
        if let Some((server, name)) = &self.server {
            on_server(server, &format!("DROP DATABASE {name} WITH (FORCE)"));
        }
    }
}

impl Controller {
    fn start(url: &str, token: &std::path::Path) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let store = runtime.block_on(async {
            let store = Arc::new(Store::open(url).await.unwrap());
            serve::first_token(&store, token).await.unwrap();
            let app = serve::app(Api::start(Arc::clone(&store)).await.unwrap());
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
            store
        });
        Self { address, store, runtime: Some(runtime) }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("pool-test-{}-{}", id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn on_server(server: &str, statement: &str) {
    Runtime::new().unwrap().block_on(async {
        sqlx::any::install_default_drivers();
        let pool = sqlx::any::AnyPoolOptions::new().max_connections(1).connect(server).await.unwrap();
        sqlx::query(statement).execute(&pool).await.unwrap();
    });
}

/// Somebody who asks.
pub(crate) struct Client {
    agent: ureq::Agent,
    base: String,
    token: String,
}

impl Client {
    /// The same at another controller.
    pub(crate) fn at(self, address: SocketAddr) -> Self {
        Self { base: format!("http://{address}/api/v1"), ..self }
    }

    /// Asks; whatever is no 2xx is a failed test.
    pub(crate) fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Asks.
    pub(crate) fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        self.raw(method, path, &text)
    }

    /// Asks with a body as it is.
    pub(crate) fn raw(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        self.send(method, path, body, None)
    }

    /// Submits a job with an idempotency key.
    pub(crate) fn keyed(&self, key: &str, body: &Value) -> (u16, Value) {
        self.send("POST", "/pools/p/jobs", &body.to_string(), Some(key))
    }

    fn send(&self, method: &str, path: &str, body: &str, key: Option<&str>) -> (u16, Value) {
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("authorization", &self.token);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request = request.header("content-type", "application/json").body(body.to_owned()).unwrap();
        let mut answer = self.agent.run(request).unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        let status = answer.status().as_u16();
        let kind = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
        let text = answer.body_mut().read_to_string().unwrap();
        if status >= 400 {
            assert_eq!(kind.as_deref(), Some("application/problem+json"), "{method} {path}: {status} {text}");
        }
        (status, if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() })
    }

    /// Uploads a file.
    pub(crate) fn upload(&self, path: &str, content: &[u8]) -> (u16, Value) {
        let mut answer =
            self.agent.put(format!("{}{path}", self.base)).header("authorization", &self.token).send(content).unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Downloads a file, or the rest of it.
    pub(crate) fn download(&self, path: &str, range: Option<&str>) -> (u16, Vec<u8>) {
        let mut request = self.agent.get(format!("{}{path}", self.base)).header("authorization", &self.token);
        if let Some(range) = range {
            request = request.header("range", range);
        }
        let mut answer = request.call().unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_vec().unwrap())
    }
}

/// Whether a value is what a schema of the description says, with no member that it does not name.
pub(crate) fn conforms(value: &Value, schema: &Value, description: &Value, place: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = description.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("{place}: no {name}"));
        return conforms(value, schema, description, place);
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        conforms(value, part, description, place);
    }
    if let Some(kinds) = schema["anyOf"].as_array() {
        // Null, or the one other.
        let other = kinds.iter().find(|kind| kind["type"] != "null").unwrap();
        if !value.is_null() {
            conforms(value, other, description, place);
        }
        return;
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => kind.as_str().into_iter().collect(),
    };
    let is = |kind: &&str| match *kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{place}: unknown type {other}"),
    };
    assert!(kinds.is_empty() || kinds.iter().any(is), "{place}: {value} is not {kinds:?}");
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{place}: {value} is not one of {words:?}");
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(value.get(name.as_str().unwrap()).is_some(), "{place}: {name} is missing in {value}");
    }
    if let (Some(members), Some(known)) = (value.as_object(), schema["properties"].as_object()) {
        for (name, member) in members {
            let schema = known.get(name).unwrap_or_else(|| panic!("{place}: {name} is not described"));
            conforms(member, schema, description, &format!("{place}.{name}"));
        }
    }
    for item in value.as_array().into_iter().flatten().filter(|_| schema["items"].is_object()) {
        conforms(item, &schema["items"], description, &format!("{place}[]"));
    }
}
