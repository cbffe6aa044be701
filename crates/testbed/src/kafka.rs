//! A private Kafka broker (KRaft, one node): start, stop, kill, freeze, start again on the same ports.
//!
//! The jars are those that `script/setup` fetches; `TAILWATER_KAFKA_LIBS` names another directory of them.

use crate::process::Server;
use crate::proxy::Proxy;
use crate::tls::Authority;
use crate::workdir::WorkDir;
use crate::{free_port, note};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

/// Version of the broker that is started here.
pub const KAFKA_VERSION: &str = "4.3.0";

const INSTALL: &str = "no Kafka broker: it needs Java 17 or newer (apt-get install -y --no-install-recommends openjdk-17-jre-headless) and the \
                       broker's jars (in the source tree: script/setup; else TAILWATER_KAFKA_LIBS names the directory libs \
                       of a Kafka distribution)";
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// What differs from the default broker.
#[derive(Clone, Debug, Default)]
pub struct KafkaOptions<'a> {
    /// More lines of `server.properties`.
    pub settings: Vec<&'a str>,
    /// Listeners beside the plain one: security protocol and further properties, see [`Kafka::listener`].
    pub listeners: Vec<Listener<'a>>,
    /// Lines given to the formatting of the storage: `SCRAM-SHA-256=[name=alice,password=secret]`.
    pub scram: Vec<&'a str>,
    /// So many plain listeners are reached, and advertised, through a [`Proxy`] each: see [`Kafka::take_proxy`].
    pub proxies: usize,
}

/// One more listener, named like its protocol without underscores.
#[derive(Clone, Debug)]
pub struct Listener<'a> {
    /// `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`. For the TLS ones a certificate for `localhost` and `127.0.0.1` is made.
    pub protocol: &'a str,
    /// Lines below `listener.name.<name>.`, e.g. `plain.sasl.jaas.config=…`.
    pub properties: Vec<String>,
}

/// One broker's place in its cluster; every node is also a voting controller.
#[derive(Clone, Debug)]
struct Node {
    /// From 1.
    id: usize,
    /// Ports of all controllers, in order of ids.
    controllers: Vec<u16>,
    cluster: String,
}

impl Node {
    /// All nodes of a new cluster.
    fn several(count: usize) -> Vec<Node> {
        // Any 16 bytes in URL-safe base64 identify a cluster; a first byte of 0 keeps the text from looking like an option.
        let mut bytes = rand::random::<[u8; 16]>();
        bytes[0] = 0;
        let cluster = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, bytes);
        let controllers: Vec<u16> = (0..count).map(|_| free_port()).collect();
        (1..=count).map(|id| Node { id, controllers: controllers.clone(), cluster: cluster.clone() }).collect()
    }

    fn controller(&self) -> u16 {
        self.controllers[self.id - 1]
    }

    fn voters(&self) -> String {
        let voters = self.controllers.iter().zip(1..).map(|(port, id)| format!("{id}@127.0.0.1:{port}"));
        voters.collect::<Vec<_>>().join(",")
    }
}

/// A running (or stopped) broker; gone with this value, or with the process.
#[derive(Debug)]
pub struct Kafka {
    server: Mutex<Option<Server>>,
    port: u16,
    listeners: Vec<(String, u16)>,
    authority: Option<Authority>,
    proxies: Mutex<Vec<Proxy>>,
    dir: Option<Arc<WorkDir>>,
}

/// The broker of the whole run (`TAILWATER_TEST_KAFKA_PORT`), else one for this process.
///
/// Use topics and groups with names of your own in it and never stop it.
pub async fn shared_kafka() -> &'static Kafka {
    static SHARED: OnceCell<Kafka> = OnceCell::const_new();
    SHARED
        .get_or_init(|| async {
            let port = std::env::var("TAILWATER_TEST_KAFKA_PORT").ok().and_then(|port| port.parse().ok());
            match port {
                Some(port) => Kafka {
                    server: Mutex::new(None),
                    port,
                    listeners: Vec::new(),
                    authority: None,
                    proxies: Mutex::default(),
                    dir: None,
                },
                None => Kafka::start().await,
            }
        })
        .await
}

impl Kafka {
    /// Whether a private broker can be started here; what to install if not.
    pub fn installed() -> Result<(), &'static str> {
        let java = Command::new("java").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        let runs = java.is_ok_and(|status| status.success()) && find_libs().is_some();
        runs.then_some(()).ok_or(INSTALL)
    }

    /// A broker with the defaults of [`KafkaOptions`]; about 4 s.
    pub async fn start() -> Kafka {
        Kafka::start_with(KafkaOptions::default()).await
    }

    /// A broker that differs from the default.
    pub async fn start_with(options: KafkaOptions<'_>) -> Kafka {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let node = Node::several(1).remove(0);
            match Kafka::try_new(&options, &node).await {
                Ok(broker) => return broker,
                Err(log) if attempt < 3 && log.contains("Address already in use") => {}
                Err(log) => panic!("Kafka did not start:\n{log}"),
            }
        }
    }

    /// Three brokers of one cluster, each by its id less one; about 300 MB of memory each.
    pub async fn start_three() -> [Kafka; 3] {
        let options = KafkaOptions::default();
        let nodes = Node::several(3);
        let node = |n: usize| Kafka::try_new(&options, &nodes[n]);
        let (one, two, three) = tokio::join!(node(0), node(1), node(2));
        let started = |node: Result<Kafka, String>| node.unwrap_or_else(|log| panic!("Kafka did not start:\n{log}"));
        [started(one), started(two), started(three)]
    }

    async fn try_new(options: &KafkaOptions<'_>, node: &Node) -> Result<Kafka, String> {
        let dir = Arc::new(WorkDir::new());
        let port = free_port();
        let listeners: Vec<_> = options.listeners.iter().map(|l| (l.protocol.to_owned(), free_port())).collect();
        let authority = listeners.iter().any(|(protocol, _)| protocol.ends_with("SSL")).then(|| {
            let authority = Authority::new(dir.path());
            let (certificate, key) = authority.certificate(&["localhost", "127.0.0.1"]);
            write(&dir.path().join("server.pem"), &format!("{key}{certificate}"));
            authority
        });
        let (mut proxies, mut proxied) = (Vec::new(), Vec::new());
        for _ in 0..options.proxies {
            let port = free_port();
            let proxy = Proxy::to(([127, 0, 0, 1], port).into()).await;
            proxied.push((port, proxy.addr().port()));
            proxies.push(proxy);
        }
        write_settings(dir.path(), port, node, (&listeners, &proxied), options);
        format_storage(dir.path(), node, options).await?;
        let proxies = Mutex::new(proxies);
        let broker = Kafka { server: Mutex::new(None), port, listeners, authority, proxies, dir: Some(dir) };
        broker.try_start().await?;
        Ok(broker)
    }

    /// Port of the plain listener on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port` of the plain listener.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `localhost:port` of the listener with this protocol.
    pub fn listener(&self, protocol: &str) -> String {
        let (_, port) =
            self.listeners.iter().find(|(name, _)| name == protocol).expect("a listener that was asked for");
        format!("localhost:{port}")
    }

    /// One of [`KafkaOptions::proxies`]: its address is the bootstrap server, and all that such a client ever reaches.
    pub fn take_proxy(&self) -> Proxy {
        self.proxies.lock().expect("no panic while held").pop().expect("a proxy that was asked for")
    }

    /// The authority that signed the broker's certificate.
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// Variables that make [`shared_kafka`] of other processes use this broker.
    pub fn share(&self) -> Vec<(&'static str, String)> {
        vec![("TAILWATER_TEST_KAFKA_PORT", self.port.to_string())]
    }

    /// Settings of a client of the plain listener.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap()).set("broker.address.family", "v4");
        config
    }

    /// An administrator.
    pub fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("an admin client needs no connection")
    }

    /// Creates a topic; `config` are pairs like `("cleanup.policy", "compact")`.
    pub async fn create_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        self.create_replicated_topic(name, partitions, 1, config).await;
    }

    /// As [`Kafka::create_topic`], on so many brokers.
    pub async fn create_replicated_topic(&self, name: &str, partitions: i32, replicas: i32, config: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
        for (key, value) in config {
            topic = topic.set(key, value);
        }
        let results = self.admin().create_topics([&topic], &AdminOptions::new()).await.expect("the broker answers");
        results.into_iter().for_each(|result| drop(result.expect("a topic that was not there")));
    }

    /// Id of the broker that leads the topic's first partition, and how many replicas are in sync; `None` while there is none.
    pub async fn leader(&self, topic: &str) -> Option<(usize, usize)> {
        let (client, name): (BaseConsumer, _) =
            (self.client().create().expect("a client needs no connection"), topic.to_owned());
        let ask = move || client.fetch_metadata(Some(&name), Duration::from_secs(2));
        let found = tokio::task::spawn_blocking(ask).await.expect("not cancelled").ok()?;
        let partition = found.topics().first()?.partitions().first()?;
        Some((usize::try_from(partition.leader()).ok()?, partition.isr().len()))
    }

    /// An orderly stop.
    pub async fn stop(&self) -> Duration {
        let server = self.take();
        server.signal(libc::SIGTERM);
        server.wait(STOP_LIMIT).await.unwrap_or_else(|| panic!("Kafka did not stop within {STOP_LIMIT:?}"))
    }

    /// Starts it again: same ports, same data.
    pub async fn start_again(&self) {
        assert!(self.lock().is_none(), "Kafka still runs");
        if let Err(log) = self.try_start().await {
            panic!("Kafka did not start again:\n{log}");
        }
    }

    /// `kill -9`.
    pub fn kill9(&self) {
        self.take().signal(libc::SIGKILL);
    }

    /// SIGSTOP: sockets stay open and nobody answers.
    pub fn freeze(&self) {
        self.lock().as_ref().expect("Kafka runs and belongs to this test").signal(libc::SIGSTOP);
    }

    /// Undoes [`Kafka::freeze`].
    pub fn thaw(&self) {
        self.lock().as_ref().expect("Kafka runs and belongs to this test").signal(libc::SIGCONT);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Server>> {
        self.server.lock().expect("no panic while held")
    }

    fn take(&self) -> Server {
        self.lock().take().expect("Kafka runs and belongs to this test")
    }

    async fn try_start(&self) -> Result<(), String> {
        let dir = self.dir.clone().expect("the broker of the whole run is never started here");
        let log_path = dir.path().join("kafka.log");
        let log = std::fs::File::options().create(true).append(true).open(&log_path).expect("writable directory");
        let mut command = java(dir.path());
        command
            .arg("kafka.Kafka")
            .arg(dir.path().join("server.properties"))
            .stdout(log.try_clone().expect("a file handle can be cloned"))
            .stderr(log)
            .process_group(0);
        let server = Server::spawn("kafka", dir.clone(), command, libc::SIGKILL).map_err(|error| error.to_string())?;
        let start = Instant::now();
        let probe: Arc<BaseConsumer> = Arc::new(self.client().create().expect("a client needs no connection"));
        loop {
            if server.ended().is_some() || start.elapsed() > START_LIMIT {
                return Err(String::from_utf8_lossy(&std::fs::read(&log_path).unwrap_or_default()).into_owned());
            }
            let probe = probe.clone();
            let ask = move || probe.fetch_metadata(None, Duration::from_secs(1)).map(|found| found.brokers().len());
            match tokio::task::spawn_blocking(ask).await.expect("not cancelled") {
                Ok(brokers) if brokers > 0 => break,
                other => note(other),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        *self.lock() = Some(server);
        Ok(())
    }
}

/// `java` with the broker's class path, small and quick to start.
fn java(dir: &Path) -> Command {
    let mut command = Command::new("java");
    command
        .args(["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .arg(format!("-Djava.io.tmpdir={}", dir.display()))
        .arg("-cp")
        .arg(format!("{}/*", libs().display()))
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

fn libs() -> PathBuf {
    find_libs().unwrap_or_else(|| panic!("{INSTALL}"))
}

/// The directory that the environment names, else the one that `script/setup` fills.
fn find_libs() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("TAILWATER_KAFKA_LIBS").map(PathBuf::from) {
        return given.is_dir().then_some(given);
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let dir = cache.or_else(home)?.join("tailwater/kafka-4.3.0");
    dir.join("kafka_2.13-4.3.0.jar").exists().then_some(dir)
}

async fn format_storage(dir: &Path, node: &Node, options: &KafkaOptions<'_>) -> Result<(), String> {
    let mut command = java(dir);
    command.args(["kafka.tools.StorageTool", "format", "-t", &node.cluster, "-c"]).arg(dir.join("server.properties"));
    for line in &options.scram {
        command.args(["--add-scram", line]);
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("not cancelled");
    let output = output.map_err(|error| format!("java does not start: {error}\n{INSTALL}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

/// Listeners by protocol, and proxied ones: port, port of the proxy.
type Listeners<'a> = (&'a [(String, u16)], &'a [(u16, u16)]);

fn write_settings(dir: &Path, port: u16, node: &Node, listeners: Listeners<'_>, options: &KafkaOptions<'_>) {
    let (listeners, proxied) = listeners;
    let name = |protocol: &str| protocol.replace('_', "");
    let each = |format: &dyn Fn(&(String, u16)) -> String| listeners.iter().map(format).collect::<String>();
    let through = |format: &dyn Fn(usize, &(u16, u16)) -> String| {
        proxied.iter().enumerate().map(|(n, ports)| format(n, ports)).collect::<String>()
    };
    let bind = through(&|n, (port, _)| format!(",PROXIED{n}://127.0.0.1:{port}"))
        + &each(&|(protocol, port)| format!(",{}://127.0.0.1:{port}", name(protocol)));
    let advertised = through(&|n, (_, proxy)| format!(",PROXIED{n}://127.0.0.1:{proxy}"))
        + &each(&|(protocol, port)| format!(",{}://localhost:{port}", name(protocol)));
    let map = through(&|n, _| format!(",PROXIED{n}:PLAINTEXT"))
        + &each(&|(protocol, _)| format!(",{}:{protocol}", name(protocol)));
    let mut lines = vec![
        "process.roles=broker,controller".to_owned(),
        format!("node.id={}", node.id),
        format!("controller.quorum.voters={}", node.voters()),
        format!("listeners=INTERNAL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{}{bind}", node.controller()),
        format!("advertised.listeners=INTERNAL://127.0.0.1:{port}{advertised}"),
        "controller.listener.names=CONTROLLER".into(),
        "inter.broker.listener.name=INTERNAL".into(),
        format!("listener.security.protocol.map=INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT{map}"),
        format!("log.dirs={}", dir.join("kafka-data").display()),
        "auto.create.topics.enable=false".into(),
        "offsets.topic.num.partitions=1".into(),
        "offsets.topic.replication.factor=1".into(),
        "transaction.state.log.num.partitions=1".into(),
        "transaction.state.log.replication.factor=1".into(),
        "transaction.state.log.min.isr=1".into(),
        "share.coordinator.state.topic.replication.factor=1".into(),
        "share.coordinator.state.topic.min.isr=1".into(),
        "group.initial.rebalance.delay.ms=0".into(),
        // events in tests may be of any age
        "log.retention.ms=-1".into(),
    ];
    for listener in &options.listeners {
        let prefix = format!("listener.name.{}", name(listener.protocol).to_lowercase());
        if listener.protocol.ends_with("SSL") {
            lines.push(format!("{prefix}.ssl.keystore.type=PEM"));
            lines.push(format!("{prefix}.ssl.keystore.location={}", dir.join("server.pem").display()));
        }
        lines.extend(listener.properties.iter().map(|property| format!("{prefix}.{property}")));
    }
    lines.extend(options.settings.iter().map(|line| (*line).to_owned()));
    write(&dir.join("server.properties"), &(lines.join("\n") + "\n"));
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}
