//! The service: listens, answers, ends in order.

use crate::api::{self, Api};
use crate::auth::Secret;
use crate::metrics;
use crate::store::{Store, Token};
use crate::web;
use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use pool_core::Millis;
use pool_core::pool::Audit;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long open requests may take when the service ends. Long polls are cut off: agents ask again.
const GRACE: Duration = Duration::from_secs(3);

/// How long the head of a request may take.
const SILENCE: Duration = Duration::from_secs(60);

/// How to serve.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Address and port. Other addresses than loopback need --tls-certificate and --tls-key.
    #[arg(long, default_value = "127.0.0.1:8440", env = "POOL_LISTEN")]
    pub listen: SocketAddr,
    /// A file (SQLite; one controller), or postgres://… (any number of controllers).
    #[arg(long, default_value = "/var/lib/azure-proxy-agent-pool/pool.db", env = "POOL_DATABASE", hide_env_values = true)]
    pub database: String,
    /// Certificate chain, PEM.
    #[arg(long, requires = "tls_key", env = "POOL_TLS_CERTIFICATE")]
    pub tls_certificate: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, requires = "tls_certificate", env = "POOL_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Where the first administrator's token is written, once, if the database has no token. Beside the database file if absent.
    #[arg(long)]
    pub admin_token_file: Option<PathBuf>,
    /// Log as JSON lines.
    #[arg(long)]
    pub log_json: bool,
}

/// Serves until a signal ends it.
///
/// # Errors
/// What to tell whoever started it.
pub async fn serve(options: Options) -> Result<(), String> {
    if !options.listen.ip().is_loopback() && options.tls_certificate.is_none() {
        return Err(format!(
            "{} is not a loopback address, and tokens would cross the network in the clear: give --tls-certificate and --tls-key, or listen on 127.0.0.1",
            options.listen.ip()
        ));
    }
    raise_file_limit();
    let store = Arc::new(Store::open(&options.database).await.map_err(|e| e.to_string())?);
    let admin = match &options.admin_token_file {
        Some(path) => path.clone(),
        None if options.database.contains("://") => PathBuf::from("/var/lib/azure-proxy-agent-pool/admin.token"),
        None => Path::new(&options.database).with_extension("admin-token"),
    };
    first_token(&store, &admin).await?;
    let app = app(Api::start(store).await.map_err(|e| e.to_string())?);
    let handle = axum_server::Handle::new();
    tokio::spawn(end(handle.clone()));
    let listener =
        std::net::TcpListener::bind(options.listen).map_err(|e| format!("cannot listen on {}: {e}", options.listen))?;
    let local = listener.local_addr().map_err(|e| e.to_string())?;
    listener.set_nonblocking(true).map_err(|e| e.to_string())?;
    let served = match (&options.tls_certificate, &options.tls_key) {
        (Some(certificate), Some(key)) => {
            let _ = rustls::crypto::ring::default_provider().install_default();
            let tls = axum_server::tls_rustls::RustlsConfig::from_pem_file(certificate, key).await;
            let tls = tls.map_err(|e| format!("{} and {}: {e}", certificate.display(), key.display()))?;
            ready(&format!("https://{local}"));
            let mut server = axum_server::tls_rustls::from_tcp_rustls(listener, tls).map_err(|e| e.to_string())?.handle(handle);
            patient(server.http_builder());
            server.serve(app.into_make_service()).await
        }
        _ => {
            ready(&format!("http://{local}"));
            let mut server = axum_server::from_tcp(listener).map_err(|e| e.to_string())?.handle(handle);
            patient(server.http_builder());
            server.serve(app.into_make_service()).await
        }
    };
    served.map_err(|e| e.to_string())
}

/// A connection on which no request comes is closed: else whoever opens many of them without a word keeps others out.
fn patient(builder: &mut Builder<TokioExecutor>) {
    builder.http1().timer(TokioTimer::new()).header_read_timeout(SILENCE);
}

/// Every agent that waits is an open connection. Services begin with 1024 open files (systemd.exec(5), LimitNOFILE=), and may raise that themselves.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(error = %e, "the limit of open files stays as it is");
    }
}

/// Says where it listens: to people, and to whoever started it and reads the line.
fn ready(address: &str) {
    tracing::info!(address, "listening");
    println!("listening on {address}");
}

async fn end(handle: axum_server::Handle<SocketAddr>) {
    let mut terminate = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(signal) => signal,
        Err(e) => return tracing::error!(error = %e, "no signal handler"),
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    tracing::info!("ending");
    handle.graceful_shutdown(Some(GRACE));
}

/// Everything that is served.
pub fn app(api: Api) -> Router {
    Router::new().merge(metrics::router(api.clone())).merge(web::router()).merge(api::router(api))
}

/// A database without tokens gets one, in a file that only we can read.
///
/// # Errors
/// The file cannot be written, or the database.
pub async fn first_token(store: &Store, path: &Path) -> Result<(), String> {
    if !store.tokens().await.map_err(|e| e.to_string())?.is_empty() {
        return Ok(());
    }
    let secret = Secret::generate("apat").map_err(|problem| problem.detail)?;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64);
    let token = Token { name: "admin".into(), role: "administrator".into(), pool: None, created, expires: None, used: None };
    let line = Audit {
        at: Millis(created.unsigned_abs()),
        actor: "serve".into(),
        action: "token".into(),
        detail: "`admin` with the role administrator, because there was none".into(),
    };
    // First a file, of our own and for us alone: a token that nobody can read would lock everybody out.
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(new);
    let said = |e: std::io::Error| format!("{}: {e}", path.display());
    let write = || {
        let _ = std::fs::remove_file(&new);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        writeln!(file, "{}", secret.reveal())?;
        file.sync_all()
    };
    write().map_err(said)?;
    // Another controller that starts at the same moment may have been first: then its token counts, and its file stays.
    let first = store.put_token(&secret.hash(), &token, &line).await;
    if !matches!(first, Ok(true)) {
        let _ = std::fs::remove_file(&new);
    }
    if first.map_err(|e| e.to_string())? {
        std::fs::rename(&new, path).map_err(|e| format!("{} has the first administrator's token: {}", new.display(), said(e)))?;
        println!("the first administrator's token is in {}", path.display());
    }
    Ok(())
}
