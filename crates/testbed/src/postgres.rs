//! A private PostgreSQL cluster: `initdb`, start, stop in every mode, kill, freeze, start again on the same port.
//!
//! Superuser `postgres` is trusted on TCP and on the Unix socket. Not durable by default (`fsync=off`): the machine is
//! not what these tests crash, and a `kill -9` of the server loses nothing that was written.

use crate::clock::Clock;
use crate::process::{Server, signal};
use crate::tls::Authority;
use crate::wait::{eventually, note, unique};
use crate::workdir::{WorkDir, chown, set_mode};
use crate::{free_port, process};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

const INSTALL: &str = "PostgreSQL server not found; type: apt-get install -y --no-install-recommends postgresql-15";
/// Names the folder with `postgres` and `initdb` of the server to test with.
const BIN: &str = "TAILWATER_TEST_POSTGRES_BIN";
/// The programs of a server.
const SERVER: [&str; 2] = ["postgres", "initdb"];
/// A start that takes longer has failed.
const START_LIMIT: Duration = Duration::from_secs(60);
/// A stop that takes longer hangs.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// How the server is asked to stop (`pg_ctl stop -m …`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Waits for clients to leave.
    Smart,
    /// Ends clients, writes a checkpoint.
    Fast,
    /// A crash: recovery at the next start.
    Immediate,
}

/// What differs from the default cluster.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions<'a> {
    /// Lines of `postgresql.conf`, later ones win (`ALTER SYSTEM` still beats them).
    pub settings: Vec<(&'a str, &'a str)>,
    /// Serve TLS with a certificate for `localhost` and `127.0.0.1` by [`Postgres::authority`].
    pub tls: bool,
    /// Lines put before the trusting ones in `pg_hba.conf`, e.g. `host all scram_user 127.0.0.1/32 scram-sha-256`.
    pub hba: Vec<&'a str>,
    /// Leave `fsync` on.
    pub fsync: bool,
    /// The time of day that the server sees.
    pub clock: Option<&'a Clock>,
}

/// A running (or stopped) cluster; gone with this value, or with the process.
#[derive(Debug)]
pub struct Postgres {
    server: Mutex<Option<Server>>,
    port: u16,
    socket_dir: PathBuf,
    data: PathBuf,
    authority: Option<Authority>,
    variables: Vec<(&'static str, PathBuf)>,
    dir: Option<Arc<WorkDir>>,
}

/// The server of the whole run (`TAILWATER_TEST_PG_PORT`, `TAILWATER_TEST_PG_SOCKET`), else one for this process.
///
/// Use databases of your own in it ([`Postgres::database`]) and never stop it.
pub async fn shared_postgres() -> &'static Postgres {
    static SHARED: OnceCell<Postgres> = OnceCell::const_new();
    SHARED
        .get_or_init(|| async {
            let port = std::env::var("TAILWATER_TEST_PG_PORT").ok().and_then(|port| port.parse().ok());
            match (port, std::env::var("TAILWATER_TEST_PG_SOCKET")) {
                (Some(port), Ok(socket)) => Postgres {
                    server: Mutex::new(None),
                    port,
                    socket_dir: socket.into(),
                    data: PathBuf::new(),
                    authority: None,
                    variables: Vec::new(),
                    dir: None,
                },
                _ => Postgres::start().await,
            }
        })
        .await
}

impl Postgres {
    /// Whether a private server can be started here; what to install if not.
    pub fn installed() -> Result<(), &'static str> {
        SERVER
            .iter()
            .all(|program| find_program(named_folder().as_deref(), program).is_some())
            .then_some(())
            .ok_or(INSTALL)
    }

    /// A cluster with `wal_level = logical` and the defaults of [`PostgresOptions`].
    pub async fn start() -> Postgres {
        Postgres::start_with(PostgresOptions::default()).await
    }

    /// A cluster that differs from the default.
    pub async fn start_with(options: PostgresOptions<'_>) -> Postgres {
        let dir = Arc::new(WorkDir::new());
        let owner = server_user();
        let socket_dir = dir.subdir("pg", owner);
        let data = socket_dir.join("data");
        copy_template(&data).await;
        let authority = options.tls.then(|| certificates(&dir, &data, owner));
        write_hba(&data, &options);
        let variables = options.clock.map(|clock| clock.variables().to_vec()).unwrap_or_default();
        let mut postgres =
            Postgres { server: Mutex::new(None), port: 0, socket_dir, data, authority, variables, dir: Some(dir) };
        for attempt in 0.. {
            postgres.port = free_port();
            postgres.write_settings(&options);
            match postgres.try_start().await {
                Ok(()) => break,
                Err(log) if attempt < 5 && log.contains("Address already in use") => {}
                Err(log) => panic!("PostgreSQL did not start:\n{log}"),
            }
        }
        postgres
    }

    /// TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Directory of the Unix socket (its name holds the port).
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// The data directory; empty for the server of the whole run.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// The authority that signed the server's certificate, with [`PostgresOptions::tls`].
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// `postgres://postgres@127.0.0.1:port/db`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// An ordinary client as superuser; its connection is driven by a task of the current runtime.
    pub async fn client(&self, database: &str) -> tokio_postgres::Client {
        self.try_client(database).await.unwrap_or_else(|error| panic!("cannot connect to {database}: {error}"))
    }

    /// Like [`Postgres::client`], while the server may be away.
    pub async fn try_client(&self, database: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.url(database), tokio_postgres::NoTls).await?;
        tokio::spawn(async move {
            // Its end is seen by whoever uses the client.
            let _ = connection.await;
        });
        Ok(client)
    }

    /// Creates a database with a name of its own and returns that name.
    pub async fn database(&self, hint: &str) -> String {
        let name = unique(hint);
        let client = self.client("postgres").await;
        let statement = format!("create database {name} template template0");
        client.batch_execute(&statement).await.unwrap_or_else(|error| panic!("cannot create {name}: {error}"));
        name
    }

    /// Stops the server and says how long that took; panics after two minutes.
    pub async fn stop(&self, mode: StopMode) -> Duration {
        let number = match mode {
            StopMode::Smart => libc::SIGTERM,
            StopMode::Fast => libc::SIGINT,
            StopMode::Immediate => libc::SIGQUIT,
        };
        let server = self.take();
        server.signal(number);
        match server.wait(STOP_LIMIT).await {
            Some(took) => took,
            None => panic!("PostgreSQL did not stop within {STOP_LIMIT:?}:\n{}", self.log()),
        }
    }

    /// Starts it again, same port, same data.
    pub async fn start_again(&self) {
        assert!(self.lock().is_none(), "PostgreSQL still runs");
        let start = Instant::now();
        while let Err(log) = self.try_start().await {
            // After a kill, sessions of the former server hold its memory until they notice.
            let patience = still_in_use(&log) && start.elapsed() < STOP_LIMIT;
            assert!(patience, "PostgreSQL did not start again:\n{log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// `kill -9` of the postmaster; its sessions end by themselves; `start_again` waits for them.
    pub fn kill9(&self) {
        self.take().signal(libc::SIGKILL);
    }

    /// SIGSTOP to the server and all its sessions: sockets stay open and nobody answers.
    pub fn freeze(&self) {
        self.signal_all(libc::SIGSTOP);
    }

    /// Undoes [`Postgres::freeze`].
    pub fn thaw(&self) {
        self.signal_all(libc::SIGCONT);
    }

    /// Waits until the server accepts clients (after a crash of a session, while it recovers).
    pub async fn wait_ready(&self) {
        eventually(START_LIMIT, || async { self.try_client("postgres").await.map_err(|error| note(&error)).ok() })
            .await;
    }

    /// What the server has logged (the last 20 kB).
    pub fn log(&self) -> String {
        let Some(dir) = &self.dir else { return String::new() };
        let text = std::fs::read(dir.path().join("postgres.log")).unwrap_or_default();
        String::from_utf8_lossy(text.get(text.len().saturating_sub(20_000)..).unwrap_or(&text)).into_owned()
    }

    /// Variables that make [`shared_postgres`] of other processes use this server.
    pub fn share(&self) -> Vec<(&'static str, String)> {
        vec![
            ("TAILWATER_TEST_PG_PORT", self.port.to_string()),
            ("TAILWATER_TEST_PG_SOCKET", self.socket_dir.display().to_string()),
        ]
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Server>> {
        self.server.lock().expect("no panic while held")
    }

    fn take(&self) -> Server {
        self.lock().take().expect("PostgreSQL runs and belongs to this test")
    }

    fn signal_all(&self, number: i32) {
        let server = self.lock();
        let pid = server.as_ref().expect("PostgreSQL runs and belongs to this test").pid();
        signal(pid, number);
        for child in children(pid) {
            signal(child, number);
        }
    }

    fn write_settings(&self, options: &PostgresOptions<'_>) {
        let mut text = format!(
            "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nwal_level = logical\n\
             max_replication_slots = 500\nmax_wal_senders = 200\nmax_connections = 300\nmax_prepared_transactions = 20\n\
             shared_buffers = '64MB'\nmax_wal_size = '2GB'\nlog_line_prefix = '%m [%p] '\nlogging_collector = off\n",
            self.port,
            self.socket_dir.display()
        );
        if !options.fsync {
            text.push_str("fsync = off\nfull_page_writes = off\n");
        }
        if options.tls {
            text.push_str("ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\n");
        }
        for (name, value) in &options.settings {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        std::fs::write(self.data.join("testbed.conf"), text).expect("the private directory is writable");
        chown(&self.data.join("testbed.conf"), server_user());
    }

    /// Starts and waits for an answer; the log if it ended instead.
    async fn try_start(&self) -> Result<(), String> {
        let dir = self.dir.clone().expect("the server of the whole run is never started here");
        let log = std::fs::File::options().create(true).append(true).open(dir.path().join("postgres.log"));
        let log = log.expect("the private directory is writable");
        let mut command = command("postgres");
        command.arg("-D").arg(&self.data).stdout(Stdio::null()).stderr(log);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        // SIGQUIT: immediate shutdown, which also ends the sessions and frees shared memory.
        let server = Server::spawn("postgres", dir, command, libc::SIGQUIT).map_err(|error| error.to_string())?;
        let start = Instant::now();
        loop {
            if server.ended().is_some() {
                return Err(self.log());
            }
            match self.try_client("postgres").await {
                Ok(_) => break,
                Err(error) => note(error),
            }
            if start.elapsed() > START_LIMIT {
                return Err(self.log());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // The port may have been another server's all along.
        if server.ended().is_some() {
            return Err(self.log());
        }
        *self.lock() = Some(server);
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(server) = self.lock().take() {
            for child in children(server.pid()) {
                signal(child, libc::SIGCONT);
            }
            server.signal(libc::SIGQUIT);
            server.signal(libc::SIGCONT);
            let start = Instant::now();
            while server.ended().is_none() && start.elapsed() < Duration::from_secs(2) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Whether the last start failed because a former server's processes are still ending.
fn still_in_use(log: &str) -> bool {
    log.lines().rev().take(3).any(|line| line.contains("still in use") || line.contains("another server"))
}

/// Pids of the direct children of a process.
fn children(pid: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|candidate| parent(*candidate) == Some(pid)).collect()
}

/// Field 4 of `/proc/<pid>/stat` (proc(5)); the name before it may hold spaces and brackets.
fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// As root, the user the server runs as (it refuses root); else nobody in particular.
fn server_user() -> Option<(u32, u32)> {
    if process::effective_uid() != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let mut fields = line.unwrap_or_else(|| panic!("no user \"postgres\"; {INSTALL}")).split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// A server program, run as the right user from a directory it may enter.
fn command(program: &str) -> Command {
    let mut command = Command::new(postgres_program(program));
    command.current_dir("/").env_remove("PGDATA").env_remove("PGPORT").env("LC_ALL", "C").stdin(Stdio::null());
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    command.process_group(0);
    command
}

/// The program in `TAILWATER_TEST_POSTGRES_BIN`, else the newest installed major's, else one in PATH. A folder that is named
/// has the server; clients (`psql`, `pg_recvlogical`) may be missing in it.
pub fn postgres_program(program: &str) -> PathBuf {
    let named = named_folder();
    find_program(named.as_deref(), program).unwrap_or_else(|| match named {
        Some(folder) => panic!("{BIN}={} has no {program}", folder.display()),
        None => panic!("{INSTALL}"),
    })
}

fn named_folder() -> Option<PathBuf> {
    std::env::var_os(BIN).filter(|folder| !folder.is_empty()).map(PathBuf::from)
}

fn find_program(named: Option<&Path>, program: &str) -> Option<PathBuf> {
    if let Some(path) = named.map(|folder| folder.join(program)) {
        // Never another server than the one that was named.
        if path.exists() || SERVER.contains(&program) {
            return path.exists().then_some(path);
        }
    }
    let majors = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = majors
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin").join(program))))
        .filter(|(_, path)| path.exists())
        .collect();
    found.sort();
    let in_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.exists())
    };
    found.pop().map(|(_, path)| path).or_else(in_path)
}

/// `initdb` once per process, then copies.
async fn copy_template(data: &Path) {
    static TEMPLATE: OnceCell<(WorkDir, PathBuf)> = OnceCell::const_new();
    let (_, template) = TEMPLATE
        .get_or_init(|| async {
            let dir = WorkDir::new();
            let template = dir.subdir("pg", server_user()).join("data");
            let mut initdb = command("initdb");
            initdb.arg("-D").arg(&template);
            initdb.args(["--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8"]);
            run(initdb).await;
            let conf = template.join("postgresql.conf");
            let mut text = std::fs::read_to_string(&conf).expect("initdb wrote postgresql.conf");
            text.push_str("\ninclude 'testbed.conf'\n");
            std::fs::write(&conf, text).expect("the private directory is writable");
            (dir, template)
        })
        .await;
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(template).arg(data);
    run(copy).await;
}

async fn run(mut command: Command) {
    let shown = format!("{command:?}");
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("not cancelled");
    let output = output.unwrap_or_else(|error| panic!("{shown}: {error}"));
    assert!(output.status.success(), "{shown} failed:\n{}", String::from_utf8_lossy(&output.stderr));
}

fn write_hba(data: &Path, options: &PostgresOptions<'_>) {
    let mut text = options.hba.join("\n");
    text.push_str("\nlocal all all trust\nhost all all 127.0.0.1/32 trust\n");
    text.push_str("local replication all trust\nhost replication all 127.0.0.1/32 trust\n");
    std::fs::write(data.join("pg_hba.conf"), text).expect("the private directory is writable");
}

fn certificates(dir: &WorkDir, data: &Path, owner: Option<(u32, u32)>) -> Authority {
    let authority = Authority::new(dir.path());
    let (certificate, key) = authority.certificate(&["localhost", "127.0.0.1"]);
    for (name, text) in [("server.crt", certificate), ("server.key", key)] {
        let path = data.join(name);
        std::fs::write(&path, text).expect("the private directory is writable");
        set_mode(&path, 0o600);
        chown(&path, owner);
    }
    authority
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_folder_comes_first_and_its_server_is_never_replaced() {
        let dir = WorkDir::new();
        let folder = dir.path();
        assert_eq!(find_program(Some(folder), "postgres"), None, "not the installed one");
        assert_eq!(find_program(Some(folder), "psql"), find_program(None, "psql"));
        for program in ["postgres", "psql"] {
            std::fs::write(folder.join(program), "").unwrap();
            assert_eq!(find_program(Some(folder), program), Some(folder.join(program)));
        }
    }
}
