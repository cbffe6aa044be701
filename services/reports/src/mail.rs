//! Sends what the `mail` table holds, each row once as far as a mail can: it is marked as sent in the transaction that holds
//! its lock while it is sent. A crash in between sends it again under the same Message-ID (or over the same file).
//!
//! ```text
//! to send ──lock row, send──▶ sent            (several mailers: SKIP LOCKED shares the rows among them)
//!    ▲            │ refused or unreachable
//!    └── wait ◀───┘ 2, 4, 8 … s, at most 10 min, for ever; `last_error` says why
//! ```

use deadpool_postgres::Pool;
use lettre::message::{Attachment, MultiPart, SinglePart, header::ContentType};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_postgres::Row;
use tokio_util::sync::CancellationToken;

/// How a mail leaves.
#[derive(Clone)]
pub enum Outlet {
    Smtp(AsyncSmtpTransport<Tokio1Executor>),
    /// One `.eml` file a mail, named after its key: sending again overwrites it.
    Folder(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read the mail setting; expected folder:/path, smtp://host:25 or smtps://user:password@host")]
    Setting,
    #[error("compose the mail")]
    Compose(#[from] lettre::error::Error),
    #[error("compose the mail: address")]
    Address(#[from] lettre::address::AddressError),
    #[error("send the mail over SMTP")]
    Smtp(#[from] lettre::transport::smtp::Error),
    #[error("write the mail to the folder")]
    Write(#[from] std::io::Error),
    #[error("connect to the database")]
    Connect(#[from] deadpool_postgres::PoolError),
    #[error("query the database")]
    Database(#[from] tokio_postgres::Error),
}

impl Outlet {
    /// `folder:/path`, `smtp://host:port` or `smtps://user:password@host:port`.
    pub fn parse(setting: &str) -> Result<Outlet, Error> {
        if let Some(folder) = setting.strip_prefix("folder:") {
            std::fs::create_dir_all(folder)?;
            return Ok(Outlet::Folder(folder.into()));
        }
        if !setting.starts_with("smtp") {
            return Err(Error::Setting);
        }
        let smtp = AsyncSmtpTransport::<Tokio1Executor>::from_url(setting).map_err(|_| Error::Setting)?;
        Ok(Outlet::Smtp(smtp.timeout(Some(Duration::from_secs(20))).build()))
    }

    async fn send(&self, key: &str, mail: Message) -> Result<(), Error> {
        match self {
            Outlet::Smtp(smtp) => {
                smtp.send(mail).await?;
                Ok(())
            }
            Outlet::Folder(folder) => Ok(write(folder, key, &mail.formatted()).await?),
        }
    }
}

/// Whole or not at all: a reader never sees half a mail.
async fn write(folder: &Path, key: &str, mail: &[u8]) -> std::io::Result<()> {
    let name = message_id(key);
    let partial = folder.join(format!(".{name}.{}", std::process::id()));
    tokio::fs::write(&partial, mail).await?;
    tokio::fs::rename(&partial, folder.join(format!("{name}.eml"))).await
}

/// Sends until `stop`, looking for new rows every `pause`.
pub async fn run(pool: Pool, outlet: Outlet, pause: Duration, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match send_next(&pool, &outlet).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::warn!(error = %chain(&error), "mailer waits"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Sends the mail that is due next. `false`: none is due (or another mailer has it).
pub async fn send_next(pool: &Pool, outlet: &Outlet) -> Result<bool, Error> {
    let mut client = pool.get().await?;
    let tx = client.transaction().await?;
    let due = tx
        .query_opt(
            "SELECT key, recipient, subject, body, file_name, attachment FROM mail \
             WHERE sent_at IS NULL AND next_attempt <= now() ORDER BY next_attempt LIMIT 1 FOR UPDATE SKIP LOCKED",
            &[],
        )
        .await?;
    let Some(row) = due else { return Ok(false) };
    let key: &str = row.get(0);
    let outcome = match compose(&row) {
        Ok(mail) => outlet.send(key, mail).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => {
            let sent = "UPDATE mail SET sent_at = now(), attempts = attempts + 1, last_error = NULL WHERE key = $1";
            tx.execute(sent, &[&key]).await?;
        }
        Err(error) => {
            tracing::warn!(error = %chain(&error), "mail not sent; tried again later");
            let later = "UPDATE mail SET attempts = attempts + 1, last_error = $2, next_attempt = \
                         now() + least(interval '10 minutes', interval '2 seconds' * power(2, least(attempts, 20))) WHERE key = $1";
            tx.execute(later, &[&key, &chain(&error)]).await?;
        }
    }
    tx.commit().await?;
    Ok(true)
}

fn compose(row: &Row) -> Result<Message, Error> {
    let (key, recipient, subject): (&str, &str, &str) = (row.get(0), row.get(1), row.get(2));
    let (body, file_name, attachment): (String, String, Vec<u8>) = (row.get(3), row.get(4), row.get(5));
    let csv = ContentType::parse("text/csv; charset=utf-8").expect("a valid content type");
    let mail = Message::builder()
        .message_id(Some(format!("<{}@reports.example>", message_id(key))))
        .from("Reports <reports@reports.example>".parse()?)
        .to(recipient.parse()?)
        .subject(subject)
        .multipart(
            MultiPart::mixed()
                .singlepart(SinglePart::plain(body))
                .singlepart(Attachment::new(file_name).body(attachment, csv)),
        )?;
    Ok(mail)
}

/// The key as the left side of a Message-ID (RFC 5322, section 3.6.4: dot-atom) and as a file's name; other bytes than
/// letters, digits and `-_.` become `=XX`. Two keys never give the same id.
pub fn message_id(key: &str) -> String {
    let mut id = String::with_capacity(key.len());
    for (at, byte) in key.bytes().enumerate() {
        let edge = at == 0 || at + 1 == key.len() || id.ends_with('.');
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && !edge) {
            id.push(char::from(byte));
        } else {
            id.push_str(&format!("={byte:02X}"));
        }
    }
    id
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_becomes_a_valid_message_id_and_file_name() {
        for (key, id) in [
            ("8e03978e-40d5", "8e03978e-40d5"),
            ("report.17", "report.17"),
            ("..a..b.", "=2E.a.=2Eb=2E"),
            ("a\r\nBcc: x", "a=0D=0ABcc=3A=20x"),
            ("../../etc/passwd", "=2E.=2F.=2E=2Fetc=2Fpasswd"),
            ("a=2E", "a=3D2E"),
        ] {
            assert_eq!(message_id(key), id);
        }
    }

    #[test]
    fn an_unknown_outlet_is_refused_in_words() {
        for setting in ["", "ftp://x", "/tmp/mails"] {
            assert!(matches!(Outlet::parse(setting), Err(Error::Setting)), "{setting:?}");
        }
        assert!(Outlet::parse("smtp://localhost:2525").is_ok());
    }
}
