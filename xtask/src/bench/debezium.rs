//! Debezium in Kafka Connect, beside the relay (`--debezium`): fetched by Maven, one standalone worker, the same slot and rows.
//!
//! Only what is needed to drain an outbox; its settings are Debezium's defaults but for the converters without schemas.

use super::Bench;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const CONNECTOR: &str = "io.debezium:debezium-connector-postgres:3.7.0.Final:tar.gz:plugin";

/// Worker and connector as fetched.
pub struct Debezium {
    libs: PathBuf,
    plugins: PathBuf,
}

impl Debezium {
    /// Fetches what is not in the user's cache yet (41 MB).
    pub fn fetch() -> Result<Debezium, String> {
        let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
        let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from);
        let folder = cache.join("tailwater/debezium-3.7.0");
        let debezium = Debezium { libs: folder.join("libs"), plugins: folder.join("plugins") };
        if !debezium.libs.exists() {
            eprintln!("fetch a Kafka Connect worker into {} …", folder.display());
            let pom = concat!(env!("CARGO_MANIFEST_DIR"), "/connect/pom.xml");
            let to = format!("-DoutputDirectory={}", debezium.libs.display());
            run(Command::new("mvn").args(["-B", "-q", "-f", pom, "dependency:copy-dependencies", &to]))?;
        }
        if !debezium.plugins.exists() {
            eprintln!("fetch Debezium's connector into {} …", folder.display());
            let (what, to) = (format!("-Dartifact={CONNECTOR}"), format!("-DoutputDirectory={}", folder.display()));
            run(Command::new("mvn").current_dir(&folder).args(["-B", "-q", "dependency:copy", &what, &to]))?;
            let archive = fs::read_dir(&folder).map_err(|error| error.to_string())?;
            let archive = archive.flatten().find(|entry| entry.path().extension().is_some_and(|end| end == "gz"));
            let archive = archive.ok_or("Maven brought no archive")?.path();
            let unpacked = folder.join("unpacking");
            fs::create_dir_all(&unpacked).map_err(|error| error.to_string())?;
            run(Command::new("tar").arg("xzf").arg(archive).arg("-C").arg(&unpacked))?;
            fs::rename(unpacked, &debezium.plugins).map_err(|error| error.to_string())?;
        }
        Ok(debezium)
    }

    /// A worker that drains `slot` into `topic`; its files lie in `directory`.
    pub fn command(
        &self,
        bench: &Bench,
        directory: &Path,
        database: &str,
        slot: &str,
        topic: &str,
    ) -> Result<Command, String> {
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            fs::write(&path, text).map(|()| path).map_err(|error| error.to_string())
        };
        let kafka = bench.kafka.as_ref().expect("started when it is measured").bootstrap();
        let json = "org.apache.kafka.connect.json.JsonConverter";
        let worker = write(
            "worker.properties",
            format!(
                "bootstrap.servers={kafka}\nlisteners=http://127.0.0.1:0\nplugin.path={}\nplugin.discovery=service_load\n\
                 key.converter=org.apache.kafka.connect.storage.StringConverter\nvalue.converter={json}\n\
                 value.converter.schemas.enable=false\noffset.storage.file.filename={}\n",
                self.plugins.display(),
                directory.join("offsets").display()
            ),
        )?;
        let router = "transforms.outbox";
        let connector = write(
            "connector.properties",
            format!(
                "name=bench\nconnector.class=io.debezium.connector.postgresql.PostgresConnector\ntopic.prefix=bench\n\
                 database.hostname=127.0.0.1\ndatabase.port={}\ndatabase.user=postgres\ndatabase.password=postgres\n\
                 database.dbname={database}\nplugin.name=pgoutput\nslot.name={slot}\npublication.name=pub\n\
                 publication.autocreate.mode=disabled\nsnapshot.mode=no_data\ntable.include.list=public.outbox\n\
                 transforms=outbox\n{router}.type=io.debezium.transforms.outbox.EventRouter\n\
                 {router}.route.topic.replacement={topic}\n{router}.table.expand.json.payload=true\n",
                bench.pg.port()
            ),
        )?;
        let quiet = "rootLogger.level=ERROR\nappender.c.type=Console\nappender.c.name=C\n\
                     appender.c.layout.type=PatternLayout\nrootLogger.appenderRef.c.ref=C\n";
        let logging = write("log4j2.properties", quiet.into())?;
        let mut command = Command::new("java");
        command
            .args(["-Xmx512m", &format!("-Dlog4j2.configurationFile={}", logging.display())])
            .args(["-cp", &format!("{}/*", self.libs.display()), "org.apache.kafka.connect.cli.ConnectStandalone"])
            .args([worker, connector])
            .stdout(Stdio::inherit());
        Ok(command)
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}")) }
}
