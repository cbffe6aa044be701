//! Reaching the server: TLS, passwords, several hosts, Unix sockets.

use crate::harness::{Outbox, expected, values};
use tailwater::config::secret::Secret;
use tailwater::sources::postgres::config::{Connection, SslMode};
use tailwater::sources::postgres::connect::sql;
use testbed::{Postgres, PostgresOptions, free_port, shared_postgres};

/// Streams a row over the connection, and runs a query over an SQL session with the same settings.
async fn works(outbox: &mut Outbox, connection: Connection) {
    outbox.config.connection = connection;
    let mut source = outbox.open(None).await;
    outbox.insert(0..1).await;
    assert_eq!(values(&source.take(1).await), expected(0..1));
    source.confirm_all().await;
    sql(&outbox.config.connection).await.unwrap().batch_execute("select 1").await.unwrap();
    drop(source);
}

async fn refused(outbox: &mut Outbox, connection: Connection) -> String {
    outbox.config.connection = connection;
    let stream = outbox.try_open(None).await.err().expect("must be refused");
    assert!(stream.is_fatal(), "{stream}");
    let session = sql(&outbox.config.connection).await.expect_err("must be refused");
    assert!(session.is_fatal(), "{session}");
    stream.to_string()
}

fn at(host: &str, pg: &Postgres, outbox: &Outbox, user: &str, sslmode: SslMode) -> Connection {
    Connection {
        host: Some(host.into()),
        port: Some(pg.port()),
        user: Some(user.into()),
        dbname: Some(outbox.database.clone()),
        sslmode: Some(sslmode),
        ..Connection::default()
    }
}

const ROLES: &str = "set password_encryption = 'scram-sha-256'; create role scram login replication password 'pässword'; \
                     create role clear login replication password 'secret'; create role plain_only login replication; \
                     create role tls_only login replication; set password_encryption = 'md5'; \
                     create role digest login replication password 'secret'; \
                     grant pg_read_all_data to scram, clear, plain_only, tls_only, digest";

async fn server() -> Postgres {
    let hba = vec![
        "host all scram 127.0.0.1/32 scram-sha-256",
        "host all clear 127.0.0.1/32 password",
        "host all digest 127.0.0.1/32 md5",
        "hostssl all tls_only 127.0.0.1/32 trust",
        "host all tls_only 127.0.0.1/32 reject",
        "hostnossl all plain_only 127.0.0.1/32 trust",
        "host all plain_only 127.0.0.1/32 reject",
    ];
    let pg = Postgres::start_with(PostgresOptions { tls: true, hba, ..PostgresOptions::default() }).await;
    pg.client("postgres").await.batch_execute(ROLES).await.unwrap();
    pg
}

#[tokio::test]
async fn every_tls_mode_connects_or_refuses_as_libpq_does() {
    let pg = server().await;
    let mut outbox = Outbox::with_slot(&pg).await;
    let ca = pg.authority().unwrap().ca_path().to_path_buf();
    let with_ca = |connection: Connection| Connection { sslrootcert: Some(ca.clone()), ..connection };
    for mode in [SslMode::Disable, SslMode::Allow, SslMode::Prefer, SslMode::Require] {
        let connection = at("127.0.0.1", &pg, &outbox, "postgres", mode);
        works(&mut outbox, connection).await;
    }
    for mode in [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
        let connection = with_ca(at("localhost", &pg, &outbox, "postgres", mode));
        works(&mut outbox, connection).await;
    }
    // A name the certificate is not for: any name will do for verify-ca.
    let other_name = |outbox: &Outbox, mode| with_ca(at("localhost.localdomain", &pg, outbox, "postgres", mode));
    if tokio::net::lookup_host(("localhost.localdomain", 1)).await.is_ok() {
        let connection = other_name(&outbox, SslMode::VerifyCa);
        works(&mut outbox, connection).await;
        let connection = other_name(&outbox, SslMode::VerifyFull);
        assert!(refused(&mut outbox, connection).await.contains("certificate"));
    }
    // The system's authorities did not sign it.
    let connection = at("localhost", &pg, &outbox, "postgres", SslMode::VerifyFull);
    assert!(refused(&mut outbox, connection).await.contains("certificate"));
    // Where pg_hba.conf stands in the way, `prefer` and `allow` try the other kind.
    let connection = at("127.0.0.1", &pg, &outbox, "plain_only", SslMode::Prefer);
    works(&mut outbox, connection).await;
    let connection = at("127.0.0.1", &pg, &outbox, "tls_only", SslMode::Allow);
    works(&mut outbox, connection).await;
    let connection = at("127.0.0.1", &pg, &outbox, "tls_only", SslMode::Disable);
    refused(&mut outbox, connection).await;
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_required() {
    let pg = shared_postgres().await;
    let mut outbox = Outbox::with_slot(pg).await;
    let connection = at("127.0.0.1", pg, &outbox, "postgres", SslMode::Require);
    assert!(refused(&mut outbox, connection).await.contains("offers no TLS"));
}

#[tokio::test]
async fn passwords_travel_by_scram_md5_and_in_the_clear() {
    let pg = server().await;
    let mut outbox = Outbox::with_slot(&pg).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    for (role, password) in [("scram", "pässword"), ("digest", "secret"), ("clear", "secret")] {
        // With TLS SCRAM is bound to the channel: the server would refuse another hash of its certificate.
        for mode in [SslMode::Disable, SslMode::Require] {
            std::fs::write(file.path(), "wrong").unwrap();
            let connection =
                Connection { password_file: Some(file.path().into()), ..at("127.0.0.1", &pg, &outbox, role, mode) };
            let said = refused(&mut outbox, connection.clone()).await;
            assert!(said.contains("password_file") && !said.contains("wrong\n"), "{said}");
            std::fs::write(file.path(), format!("{password}\n")).unwrap();
            works(&mut outbox, connection).await;
        }
    }
    let connection = at("127.0.0.1", &pg, &outbox, "scram", SslMode::Disable);
    assert!(refused(&mut outbox, connection).await.contains("password"));
}

#[tokio::test]
async fn a_unix_socket_will_do() {
    let pg = shared_postgres().await;
    let mut outbox = Outbox::with_slot(pg).await;
    let connection = at(pg.socket_dir().to_str().unwrap(), pg, &outbox, "postgres", SslMode::VerifyFull);
    works(&mut outbox, connection).await;
}

#[tokio::test]
async fn of_several_hosts_the_first_that_is_what_we_want_is_taken() {
    let pg = shared_postgres().await;
    let mut outbox = Outbox::with_slot(pg).await;
    let url = |attrs: &str, outbox: &Outbox| {
        let url = format!(
            "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/{}?target_session_attrs={attrs}&connect_timeout=5",
            free_port(),
            pg.port(),
            outbox.database
        );
        Connection { url: Some(Secret::new(url)), ..Connection::default() }
    };
    for attrs in ["any", "read-write", "primary"] {
        let connection = url(attrs, &outbox);
        works(&mut outbox, connection).await;
    }
    outbox
        .sql
        .batch_execute(&format!("alter database {} set default_transaction_read_only = on", outbox.database))
        .await
        .unwrap();
    outbox.config.connection = url("read-write", &outbox);
    let failure = outbox.try_open(None).await.err().unwrap();
    assert!(!failure.is_fatal() && failure.to_string().contains("connect to"), "may pass: {failure}");
}
