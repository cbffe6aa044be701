//! Rows that were there before the first start, then the hand-off to the stream.

use super::client::Client;
use super::failure::Error;
use super::open::{Opening, quoted};
use tailwater_core::Batch;
use tailwater_core::pgoutput::Lsn;

/// Creates the slot (or, temporarily, one for the snapshot) and returns where it begins.
pub(super) async fn create_slot(client: &mut Client, opening: &Opening, temporary: bool) -> Result<u64, Error> {
    let sql = format!(
        "CREATE_REPLICATION_SLOT {}{} LOGICAL pgoutput {}",
        quoted(&opening.config.slot),
        if temporary { " TEMPORARY" } else { "" },
        if temporary { "USE_SNAPSHOT" } else { "NOEXPORT_SNAPSHOT" },
    );
    let rows = client.query(&sql).await?;
    let consistent = rows.first().and_then(|row| row.text(1)?.parse::<Lsn>().ok());
    consistent
        .map(|lsn| lsn.0)
        .ok_or_else(|| Error::Protocol("no sense in the answer to CREATE_REPLICATION_SLOT".into()))
}

pub(super) struct Rows {
    pub client: Client,
    pub opening: Opening,
}

pub(super) async fn begin(client: Client, opening: Opening) -> Result<Rows, Error> {
    Ok(Rows { client, opening })
}

impl Rows {
    pub async fn next(&mut self, _room: usize) -> Result<Option<Batch>, Error> {
        Ok(None)
    }
}
