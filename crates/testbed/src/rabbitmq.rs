//! A private RabbitMQ node with the management API: start, stop, kill, freeze, start again on the same ports.
//!
//! User `guest`, password `guest`, virtual host `/`. `HOME` is the private directory, since it holds the cookie that
//! server and `rabbitmqctl` share.

use crate::http::{HttpAnswer, http_get, http_request};
use crate::process::Server;
use crate::tls::Authority;
use crate::workdir::WorkDir;
use crate::{free_port, note};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

const INSTALL: &str = "RabbitMQ server not found; type: apt-get install -y --no-install-recommends rabbitmq-server";
/// A start takes 7–10 s, much longer where several start at once on two cores.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const AUTH: &str = "guest:guest";

/// What differs from the default node.
#[derive(Clone, Debug, Default)]
pub struct RabbitMqOptions<'a> {
    /// More lines of `rabbitmq.conf`.
    pub settings: Vec<&'a str>,
    /// Also listen with TLS ([`RabbitMq::amqps_port`]), certificate for `localhost` and `127.0.0.1`.
    pub tls: bool,
}

/// A running (or stopped) node; gone with this value, or with the process.
#[derive(Debug)]
pub struct RabbitMq {
    server: Mutex<Option<Server>>,
    epmd: Option<Server>,
    ports: Ports,
    home: PathBuf,
    authority: Option<Authority>,
    dir: Option<Arc<WorkDir>>,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    amqp: u16,
    amqps: u16,
    http: u16,
    dist: u16,
    epmd: u16,
}

/// The node of the whole run (`TAILWATER_TEST_AMQP_PORT`, `…_HTTP_PORT`, `…_HOME`), else one for this process.
///
/// Use exchanges and queues with names of your own in it and never stop it, nor raise its alarms.
pub async fn shared_rabbitmq() -> &'static RabbitMq {
    static SHARED: OnceCell<RabbitMq> = OnceCell::const_new();
    SHARED
        .get_or_init(|| async {
            match of_the_whole_run() {
                Some(node) => node,
                None => RabbitMq::start().await,
            }
        })
        .await
}

fn of_the_whole_run() -> Option<RabbitMq> {
    let port = |name: &str| std::env::var(format!("TAILWATER_TEST_{name}")).ok()?.parse().ok();
    let ports = Ports {
        amqp: port("AMQP_PORT")?,
        amqps: 0,
        http: port("HTTP_PORT")?,
        dist: port("AMQP_DIST_PORT")?,
        epmd: port("AMQP_EPMD_PORT")?,
    };
    let home = std::env::var_os("TAILWATER_TEST_AMQP_HOME")?.into();
    Some(RabbitMq { server: Mutex::new(None), epmd: None, ports, home, authority: None, dir: None })
}

impl RabbitMq {
    /// A node with the defaults of [`RabbitMqOptions`]; 7–10 s.
    pub async fn start() -> RabbitMq {
        RabbitMq::start_with(RabbitMqOptions::default()).await
    }

    /// A node that differs from the default.
    pub async fn start_with(options: RabbitMqOptions<'_>) -> RabbitMq {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match RabbitMq::try_new(&options).await {
                Ok(node) => return node,
                Err(log) if attempt < 3 && (log.contains("eaddrinuse") || log.contains("address in use")) => {}
                Err(log) => panic!("RabbitMQ did not start:\n{log}"),
            }
        }
    }

    async fn try_new(options: &RabbitMqOptions<'_>) -> Result<RabbitMq, String> {
        let dir = Arc::new(WorkDir::new());
        let home = dir.subdir("mq", None);
        let ports =
            Ports { amqp: free_port(), amqps: free_port(), http: free_port(), dist: free_port(), epmd: free_port() };
        let authority = write_settings(&dir, &home, ports, options);
        let mut epmd = Command::new(epmd_binary());
        epmd.args(["-port", &ports.epmd.to_string(), "-address", "127.0.0.1"]).current_dir("/").process_group(0);
        epmd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let epmd = Server::spawn("epmd", dir.clone(), epmd, libc::SIGKILL).map_err(|error| error.to_string())?;
        let node = RabbitMq { server: Mutex::new(None), epmd: Some(epmd), ports, home, authority, dir: Some(dir) };
        node.try_start().await?;
        Ok(node)
    }

    /// AMQP port on 127.0.0.1.
    pub fn amqp_port(&self) -> u16 {
        self.ports.amqp
    }

    /// AMQP port with TLS, with [`RabbitMqOptions::tls`].
    pub fn amqps_port(&self) -> u16 {
        self.ports.amqps
    }

    /// Port of the management API.
    pub fn http_port(&self) -> u16 {
        self.ports.http
    }

    /// The authority that signed the server's certificate, with [`RabbitMqOptions::tls`].
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// `amqp://guest:guest@127.0.0.1:port/%2f`.
    pub fn url(&self) -> String {
        format!("amqp://{AUTH}@127.0.0.1:{}/%2f", self.ports.amqp)
    }

    /// `http://guest:guest@127.0.0.1:port`.
    pub fn management_url(&self) -> String {
        format!("http://{AUTH}@127.0.0.1:{}", self.ports.http)
    }

    /// GET from the management API, e.g. `/api/queues`. Its counts lag by up to 5 s.
    pub async fn management(&self, path: &str) -> HttpAnswer {
        self.manage("GET", path, None).await
    }

    /// Any request to the management API, with a JSON body if given.
    pub async fn manage(&self, method: &str, path: &str, json: Option<&str>) -> HttpAnswer {
        let answer = http_request(method, self.ports.http, path, Some(AUTH), json).await;
        answer.unwrap_or_else(|error| panic!("the management API does not answer: {error}"))
    }

    /// `rabbitmqctl -q …`: its output; panics if it fails. About 0.5 s a call.
    pub async fn ctl(&self, args: &[&str]) -> String {
        let mut command = self.command("rabbitmqctl");
        command.arg("-q").args(args);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("not cancelled");
        let output = output.expect("rabbitmqctl starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "rabbitmqctl {args:?} failed:\n{}{}", said.0, said.1);
        said.0
    }

    /// An orderly stop, with durable state written.
    pub async fn stop(&self) -> Duration {
        let server = self.take();
        server.signal(libc::SIGTERM);
        server.wait(STOP_LIMIT).await.unwrap_or_else(|| panic!("RabbitMQ did not stop within {STOP_LIMIT:?}"))
    }

    /// Starts it again: same ports, same data.
    pub async fn start_again(&self) {
        assert!(self.lock().is_none(), "RabbitMQ still runs");
        if let Err(log) = self.try_start().await {
            panic!("RabbitMQ did not start again:\n{log}");
        }
    }

    /// `kill -9`.
    pub fn kill9(&self) {
        self.take().signal(libc::SIGKILL);
    }

    /// SIGSTOP: sockets stay open and nobody answers.
    pub fn freeze(&self) {
        self.lock().as_ref().expect("RabbitMQ runs and belongs to this test").signal(libc::SIGSTOP);
    }

    /// Undoes [`RabbitMq::freeze`].
    pub fn thaw(&self) {
        self.lock().as_ref().expect("RabbitMQ runs and belongs to this test").signal(libc::SIGCONT);
    }

    /// Variables that make [`shared_rabbitmq`] of other processes use this node.
    pub fn share(&self) -> Vec<(&'static str, String)> {
        vec![
            ("TAILWATER_TEST_AMQP_PORT", self.ports.amqp.to_string()),
            ("TAILWATER_TEST_HTTP_PORT", self.ports.http.to_string()),
            ("TAILWATER_TEST_AMQP_DIST_PORT", self.ports.dist.to_string()),
            ("TAILWATER_TEST_AMQP_EPMD_PORT", self.ports.epmd.to_string()),
            ("TAILWATER_TEST_AMQP_HOME", self.home.display().to_string()),
        ]
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Server>> {
        self.server.lock().expect("no panic while held")
    }

    fn take(&self) -> Server {
        self.lock().take().expect("RabbitMQ runs and belongs to this test")
    }

    /// A script of the server's `sbin`: those in PATH are wrappers that switch user and directories.
    fn command(&self, script: &str) -> Command {
        let mut command = Command::new(sbin().join(script));
        let home = |name: &str| self.home.join(name);
        command
            .env("HOME", &self.home)
            .env("RABBITMQ_NODENAME", format!("tw{}@localhost", self.ports.amqp))
            .env("RABBITMQ_MNESIA_BASE", home("mnesia"))
            .env("RABBITMQ_LOG_BASE", home("log"))
            .env("RABBITMQ_CONFIG_FILE", home("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", home("enabled_plugins"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_DIST_PORT", self.ports.dist.to_string())
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("LC_ALL", "C.UTF-8")
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }

    async fn try_start(&self) -> Result<(), String> {
        let dir = self.dir.clone().expect("the node of the whole run is never started here");
        let log_path = dir.path().join("rabbitmq.log");
        let log = std::fs::File::options().create(true).append(true).open(&log_path).expect("writable directory");
        let mut command = self.command("rabbitmq-server");
        command
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
            // The script then becomes the server by exec, instead of staying its parent: signals reach the server.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .env_remove("NOTIFY_SOCKET")
            .stdout(log.try_clone().expect("a file handle can be cloned"))
            .stderr(log)
            .process_group(0);
        let server = Server::spawn("rabbitmq", dir, command, libc::SIGKILL).map_err(|error| error.to_string())?;
        let start = Instant::now();
        loop {
            let log = || String::from_utf8_lossy(&std::fs::read(&log_path).unwrap_or_default()).into_owned();
            if server.ended().is_some() || start.elapsed() > START_LIMIT {
                return Err(log());
            }
            match http_get(self.ports.http, "/api/health/checks/local-alarms", Some(AUTH)).await {
                Ok(answer) if answer.status == 200 => break,
                other => note(other),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        *self.lock() = Some(server);
        Ok(())
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        // The server first: it would start an epmd of its own otherwise.
        drop(self.lock().take());
        drop(self.epmd.take());
    }
}

fn sbin() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/rabbitmq/lib").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("rabbitmq_server-"))
        .map(|entry| entry.path().join("sbin"))
        .filter(|path| path.join("rabbitmq-server").exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| panic!("{INSTALL}"))
}

fn epmd_binary() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).chain([PathBuf::from("/usr/bin")]);
    candidates
        .find_map(|dir| Some(dir.join("epmd")).filter(|file| file.exists()))
        .unwrap_or_else(|| panic!("{INSTALL}"))
}

fn write_settings(dir: &WorkDir, home: &Path, ports: Ports, options: &RabbitMqOptions<'_>) -> Option<Authority> {
    let mut lines = vec![
        format!("listeners.tcp.1 = 127.0.0.1:{}", ports.amqp),
        "management.tcp.ip = 127.0.0.1".into(),
        format!("management.tcp.port = {}", ports.http),
        "loopback_users = none".into(),
        "log.console = false".into(),
        "disk_free_limit.absolute = 50MB".into(),
    ];
    lines.extend(options.settings.iter().map(|line| (*line).to_owned()));
    let authority = options.tls.then(|| {
        let authority = Authority::new(dir.path());
        let (certificate, key) = authority.certificate(&["localhost", "127.0.0.1"]);
        write(&home.join("server.crt"), &certificate);
        write(&home.join("server.key"), &key);
        lines.push(format!("listeners.ssl.1 = 127.0.0.1:{}", ports.amqps));
        lines.push(format!("ssl_options.cacertfile = {}", authority.ca_path().display()));
        lines.push(format!("ssl_options.certfile = {}", home.join("server.crt").display()));
        lines.push(format!("ssl_options.keyfile = {}", home.join("server.key").display()));
        authority
    });
    write(&home.join("rabbitmq.conf"), &(lines.join("\n") + "\n"));
    write(&home.join("enabled_plugins"), "[rabbitmq_management].\n");
    authority
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}
