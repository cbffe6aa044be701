//! From the configured connection to what is dialled: hosts in order, role, password, database, TLS.
//!
//! URL, fields, password file and environment meet here, at every connect again; nothing is dialled here.

use super::config::{Connection, SslMode};
use super::failure::Error;
use crate::config::secret::Secret;
use crate::net::tls::{TlsOptions, Verify};
use percent_encoding::percent_decode_str;
use std::path::PathBuf;
use std::time::Duration;

const DEFAULT_PORT: u16 = 5432;
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One place to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Host name or address.
    Tcp { host: String, port: u16 },
    /// The socket file itself.
    Unix(PathBuf),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Endpoint::Tcp { host, port } => write!(f, "{host}:{port}"),
            Endpoint::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Which of several servers is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Session {
    #[default]
    Any,
    ReadWrite,
    Primary,
}

/// Everything needed to connect, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub endpoints: Vec<Endpoint>,
    pub user: String,
    pub password: Option<Secret>,
    pub dbname: String,
    pub sslmode: SslMode,
    pub tls: TlsOptions,
    pub session: Session,
    /// Limit for one host: name look-up, TCP, TLS and authentication together.
    pub connect_timeout: Duration,
}

#[derive(Default)]
struct Parts {
    hosts: Option<String>,
    ports: Option<String>,
    user: Option<String>,
    password: Option<Secret>,
    dbname: Option<String>,
    sslmode: Option<SslMode>,
    sslrootcert: Option<PathBuf>,
    sslcert: Option<PathBuf>,
    sslkey: Option<PathBuf>,
    session: Option<String>,
    connect_timeout: Option<Duration>,
}

impl Target {
    /// Resolves the connection: single fields override the URL; the password is, in this order, the field, the file (read
    /// now), the URL's, or `PGPASSWORD`.
    pub fn resolve(connection: &Connection) -> Result<Target, Error> {
        Target::resolve_with(connection, std::env::var("PGPASSWORD").ok())
    }

    fn resolve_with(connection: &Connection, environment_password: Option<String>) -> Result<Target, Error> {
        let url = match &connection.url {
            Some(url) => parse_url(url.expose())?,
            None => Parts::default(),
        };
        let hosts = connection.host.clone().or(url.hosts).unwrap_or_else(|| "localhost".into());
        let ports = connection.port.map(|port| port.to_string()).or(url.ports).unwrap_or_default();
        let user =
            connection.user.clone().or(url.user).unwrap_or_else(|| default_user(|name| std::env::var(name).ok()));
        let password = match (&connection.password, &connection.password_file) {
            (Some(password), _) => Some(password.clone()),
            (None, Some(path)) => Some(read_password(path)?),
            (None, None) => url.password.or(environment_password.map(Secret::new)),
        };
        let sslmode = connection.sslmode.or(url.sslmode).unwrap_or_default();
        let root_cert = connection.sslrootcert.clone().or(url.sslrootcert);
        Ok(Target {
            endpoints: endpoints(&hosts, &ports)?,
            dbname: connection.dbname.clone().or(url.dbname).unwrap_or_else(|| user.clone()),
            user,
            password,
            tls: TlsOptions {
                verify: verify(sslmode, root_cert.is_some()),
                root_cert: root_cert.filter(|path| path.as_os_str() != "system"),
                cert: connection.sslcert.clone().or(url.sslcert),
                key: connection.sslkey.clone().or(url.sslkey),
            },
            sslmode,
            session: session(connection.target_session_attrs.clone().or(url.session).as_deref())?,
            connect_timeout: connection.connect_timeout.or(url.connect_timeout).unwrap_or(DEFAULT_CONNECT_TIMEOUT),
        })
    }
}

/// As libpq has it: `PGUSER`, else the operating system's user.
fn default_user(variable: impl Fn(&str) -> Option<String>) -> String {
    let named = ["PGUSER", "USER", "LOGNAME"].iter().find_map(|name| variable(name).filter(|user| !user.is_empty()));
    named.unwrap_or_else(|| "postgres".into())
}

/// As libpq has it: `require` with a root certificate also checks the chain.
fn verify(sslmode: SslMode, root_cert: bool) -> Verify {
    match sslmode {
        SslMode::Disable | SslMode::Allow | SslMode::Prefer => Verify::Nobody,
        SslMode::Require if root_cert => Verify::Authority,
        SslMode::Require => Verify::Nobody,
        SslMode::VerifyCa => Verify::Authority,
        SslMode::VerifyFull => Verify::Full,
    }
}

fn read_password(path: &std::path::Path) -> Result<Secret, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::Config(format!("read password file {}: {error}", path.display())))?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

fn session(text: Option<&str>) -> Result<Session, Error> {
    match text.unwrap_or("any") {
        "any" | "" => Ok(Session::Any),
        "read-write" => Ok(Session::ReadWrite),
        "primary" => Ok(Session::Primary),
        other => {
            Err(Error::Config(format!("target_session_attrs `{other}` is not known: use any, read-write or primary")))
        }
    }
}

fn endpoints(hosts: &str, ports: &str) -> Result<Vec<Endpoint>, Error> {
    let hosts: Vec<&str> = hosts.split(',').map(str::trim).collect();
    let ports: Vec<&str> = if ports.is_empty() { vec![] } else { ports.split(',').map(str::trim).collect() };
    if ports.len() > 1 && ports.len() != hosts.len() {
        return Err(Error::Config(format!(
            "{} ports for {} hosts: give one port, or one each",
            ports.len(),
            hosts.len()
        )));
    }
    let port_of = |index: usize| -> Result<u16, Error> {
        let text = if ports.len() == 1 { ports[0] } else { ports.get(index).copied().unwrap_or("") };
        if text.is_empty() {
            return Ok(DEFAULT_PORT);
        }
        text.parse().map_err(|_| Error::Config(format!("`{text}` is not a port number")))
    };
    hosts
        .iter()
        .enumerate()
        .map(|(index, host)| {
            let port = port_of(index)?;
            Ok(match *host {
                "" => Endpoint::Tcp { host: "localhost".into(), port },
                directory if directory.starts_with('/') => {
                    Endpoint::Unix(PathBuf::from(directory).join(format!(".s.PGSQL.{port}")))
                }
                name => Endpoint::Tcp { host: name.trim_matches(['[', ']']).to_owned(), port },
            })
        })
        .collect()
}

/// `postgres://user:password@host1:port,host2/dbname?parameter=value`. Errors never repeat the URL: it may hold a password.
fn parse_url(url: &str) -> Result<Parts, Error> {
    let rest = url
        .strip_prefix("postgres://")
        .or_else(|| url.strip_prefix("postgresql://"))
        .ok_or_else(|| Error::Config("the database URL must begin with postgres://".into()))?;
    let mut parts = Parts::default();
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, dbname) = rest.split_once('/').map_or((rest, ""), |(authority, dbname)| (authority, dbname));
    if !dbname.is_empty() {
        parts.dbname = Some(decode(dbname)?);
    }
    let (credentials, hosts) = authority.rsplit_once('@').map_or(("", authority), |(left, right)| (left, right));
    if !credentials.is_empty() {
        let (user, password) =
            credentials.split_once(':').map_or((credentials, None), |(user, password)| (user, Some(password)));
        if !user.is_empty() {
            parts.user = Some(decode(user)?);
        }
        parts.password = password.map(decode).transpose()?.map(Secret::new);
    }
    if !hosts.is_empty() {
        let mut names = Vec::new();
        let mut ports = Vec::new();
        for host in hosts.split(',') {
            // The colon of a port comes after the bracket of an IPv6 address.
            let bracket = host.rfind(']').unwrap_or(0);
            let (name, port) = match host[bracket..].rfind(':') {
                Some(colon) => (&host[..bracket + colon], &host[bracket + colon + 1..]),
                None => (host, ""),
            };
            names.push(decode(name)?);
            ports.push(port.to_owned());
        }
        parts.hosts = Some(names.join(","));
        parts.ports = Some(ports.join(",")).filter(|ports| ports.chars().any(|c| c != ','));
    }
    for pair in query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        parameter(&mut parts, name, decode(value)?)?;
    }
    Ok(parts)
}

fn parameter(parts: &mut Parts, name: &str, value: String) -> Result<(), Error> {
    match name {
        "host" => parts.hosts = Some(value),
        "port" => parts.ports = Some(value),
        "user" => parts.user = Some(value),
        "password" => parts.password = Some(Secret::new(value)),
        "dbname" => parts.dbname = Some(value),
        "sslmode" => parts.sslmode = Some(sslmode(&value)?),
        "sslrootcert" => parts.sslrootcert = Some(value.into()),
        "sslcert" => parts.sslcert = Some(value.into()),
        "sslkey" => parts.sslkey = Some(value.into()),
        "target_session_attrs" => parts.session = Some(value),
        "connect_timeout" => {
            let seconds: u64 =
                value.parse().map_err(|_| Error::Config("connect_timeout in the URL is a number of seconds".into()))?;
            parts.connect_timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
        }
        // Ours is fixed: the slot's holder is told by it.
        "application_name" => {}
        other => return Err(Error::Config(format!("the database URL has the unknown parameter `{other}`"))),
    }
    Ok(())
}

fn sslmode(text: &str) -> Result<SslMode, Error> {
    Ok(match text {
        "disable" => SslMode::Disable,
        "allow" => SslMode::Allow,
        "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        other => {
            return Err(Error::Config(format!(
                "sslmode `{other}` is not known: use disable, allow, prefer, require, verify-ca or verify-full"
            )));
        }
    })
}

fn decode(text: &str) -> Result<String, Error> {
    percent_decode_str(text)
        .decode_utf8()
        .map(|text| text.into_owned())
        .map_err(|_| Error::Config("the database URL is not UTF-8 after percent-decoding".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_user_it_is_the_one_of_the_environment() {
        let user = |set: &[(&str, &str)]| {
            default_user(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(user(&[("PGUSER", "relay"), ("USER", "ann")]), "relay");
        assert_eq!(user(&[("USER", "ann")]), "ann");
        assert_eq!(user(&[]), "postgres");
    }

    fn from_url(url: &str) -> Result<Target, Error> {
        let connection = Connection { url: Some(Secret::new(url)), ..Connection::default() };
        Target::resolve_with(&connection, Some("from-environment".into()))
    }

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint::Tcp { host: host.into(), port }
    }

    #[test]
    fn a_url_names_hosts_role_database_and_tls() {
        let target = from_url("postgres://al%40ice:p%3Aw@h1:5433,h2,[::1]:7/app?sslmode=verify-full&connect_timeout=3&target_session_attrs=primary").unwrap();
        assert_eq!(target.endpoints, [tcp("h1", 5433), tcp("h2", 5432), tcp("::1", 7)]);
        assert_eq!((target.user.as_str(), target.dbname.as_str()), ("al@ice", "app"));
        assert_eq!(target.password.unwrap().expose(), "p:w");
        assert_eq!((target.sslmode, target.tls.verify), (SslMode::VerifyFull, Verify::Full));
        assert_eq!((target.session, target.connect_timeout), (Session::Primary, Duration::from_secs(3)));
    }

    #[test]
    fn a_directory_is_a_unix_socket() {
        let target = from_url("postgresql:///app?host=/run/pg&port=6000&user=me").unwrap();
        assert_eq!(target.endpoints, [Endpoint::Unix("/run/pg/.s.PGSQL.6000".into())]);
        assert_eq!(target.password.unwrap().expose(), "from-environment");
        assert_eq!(
            from_url("postgres://%2Frun%2Fpg/app").unwrap().endpoints,
            [Endpoint::Unix("/run/pg/.s.PGSQL.5432".into())]
        );
    }

    #[test]
    fn fields_override_the_url_and_the_password_file_is_read_each_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let connection = Connection {
            url: Some(Secret::new("postgres://u:old@h/db")),
            host: Some("a,b".into()),
            port: Some(6432),
            password_file: Some(file.path().into()),
            ..Connection::default()
        };
        for password in ["first", "second"] {
            std::fs::write(file.path(), format!("{password}\n")).unwrap();
            let target = Target::resolve_with(&connection, None).unwrap();
            assert_eq!(target.password.unwrap().expose(), password);
            assert_eq!(target.endpoints, [tcp("a", 6432), tcp("b", 6432)]);
        }
    }

    #[test]
    fn mistakes_are_named_without_showing_the_url() {
        for (url, said) in [
            ("mysql://u:topsecret@h/db", "postgres://"),
            ("postgres://u:topsecret@h/db?sslmod=x", "sslmod"),
            ("postgres://u:topsecret@h/db?sslmode=maybe", "maybe"),
            ("postgres://u:topsecret@h:port/db", "port"),
            ("postgres://u:topsecret@h/db?target_session_attrs=prefer-standby", "prefer-standby"),
        ] {
            let error = from_url(url).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("topsecret"), "{error}");
        }
    }
}
