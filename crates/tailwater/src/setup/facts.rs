//! What is there: one look at the catalog, without judgement and without changes.

use super::plan::Wanted;
use tokio_postgres::{Client, Error, Row};

/// The server, and what of [`Wanted`] exists in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub version_num: i32,
    pub wal_level: String,
    pub slots_max: i32,
    pub slots_used: i32,
    pub senders_max: i32,
    pub senders_used: i32,
    pub in_recovery: bool,
    pub database: String,
    /// Role of the admin connection.
    pub admin: String,
    pub schema_exists: bool,
    pub table: Option<Table>,
    pub publication: Option<Publication>,
    /// Other publications of this table that send updates or deletes.
    pub others_with_deletes: Vec<String>,
    pub role: Option<Role>,
    /// Of the relay's role, or where it does not exist yet, of everybody.
    pub can_connect: bool,
    pub can_use_schema: bool,
    pub can_select: bool,
    pub slot: Option<Slot>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub oid: u32,
    /// `pg_class.relkind`: `r` table, `p` partitioned table, `v` view …
    pub kind: String,
    /// `pg_class.relpersistence`: `u` is not in the log at all.
    pub persistence: String,
    pub columns: Vec<String>,
    /// A row can be named in the log when it is deleted (primary key, index or the whole row).
    pub has_identity: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publication {
    pub all_tables: bool,
    pub insert: bool,
    pub update_or_delete: bool,
    pub via_root: bool,
    pub has_table: bool,
    /// Only some rows or columns of the table are published (15 and later).
    pub is_filtered: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Role {
    pub superuser: bool,
    pub replication: bool,
    pub login: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    pub plugin: Option<String>,
    pub database: Option<String>,
    pub lost: bool,
}

/// Looks.
pub async fn look(client: &Client, wanted: &Wanted) -> Result<Facts, Error> {
    let mut facts = server(client).await?;
    let (schema, name) = (&wanted.table.schema, &wanted.table.name);
    let sql = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)";
    facts.schema_exists = client.query_one(sql, &[schema]).await?.get(0);
    facts.table = table(client, schema, name).await?;
    facts.publication = publication(client, wanted, facts.table.as_ref(), facts.version_num).await?;
    const OTHERS: &str = "SELECT DISTINCT p.pubname::text FROM pg_publication p JOIN pg_publication_tables t USING (pubname) \
         WHERE t.schemaname = $1 AND t.tablename = $2 AND p.pubname <> $3 AND (p.pubupdate OR p.pubdelete) ORDER BY 1";
    let others = client.query(OTHERS, &[schema, name, &wanted.publication]).await?;
    facts.others_with_deletes = others.iter().map(|row| row.get(0)).collect();
    rights(client, wanted, &mut facts).await?;
    const SLOT: &str = "SELECT plugin::text, database::text, coalesce(wal_status = 'lost', false) \
         FROM pg_replication_slots WHERE slot_name = $1";
    let slot = client.query_opt(SLOT, &[&wanted.slot]).await?;
    facts.slot = slot.map(|row| Slot { plugin: row.get(0), database: row.get(1), lost: row.get(2) });
    Ok(facts)
}

async fn server(client: &Client) -> Result<Facts, Error> {
    const SERVER: &str = "SELECT current_setting('server_version_num')::int, current_setting('wal_level'), \
         current_setting('max_replication_slots')::int, (SELECT count(*)::int FROM pg_replication_slots), \
         current_setting('max_wal_senders')::int, \
         (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'walsender'), \
         pg_is_in_recovery(), current_database()::text, current_user::text";
    let row = client.query_one(SERVER, &[]).await?;
    Ok(Facts {
        version_num: row.get(0),
        wal_level: row.get(1),
        slots_max: row.get(2),
        slots_used: row.get(3),
        senders_max: row.get(4),
        senders_used: row.get(5),
        in_recovery: row.get(6),
        database: row.get(7),
        admin: row.get(8),
        ..Facts::default()
    })
}

async fn table(client: &Client, schema: &str, name: &str) -> Result<Option<Table>, Error> {
    // relreplident d: the primary key, i: an index, f: the whole row, n: nothing
    const TABLE: &str = "SELECT c.oid, c.relkind::text, c.relpersistence::text, \
         ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped \
               ORDER BY attnum), \
         CASE c.relreplident WHEN 'd' THEN EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary) \
              WHEN 'n' THEN false ELSE true END \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2";
    let row = client.query_opt(TABLE, &[&schema, &name]).await?;
    Ok(row.map(|row| Table {
        oid: row.get(0),
        kind: row.get(1),
        persistence: row.get(2),
        columns: row.get(3),
        has_identity: row.get(4),
    }))
}

async fn publication(
    client: &Client,
    wanted: &Wanted,
    table: Option<&Table>,
    version_num: i32,
) -> Result<Option<Publication>, Error> {
    const PUBLICATION: &str = "SELECT p.puballtables, p.pubinsert, p.pubupdate OR p.pubdelete, p.pubviaroot, \
         EXISTS (SELECT FROM pg_publication_rel WHERE prpubid = p.oid AND prrelid = $2) \
         OR EXISTS (SELECT FROM pg_publication_tables t WHERE t.pubname = p.pubname AND t.schemaname = $3 AND t.tablename = $4) \
         FROM pg_publication p WHERE p.pubname = $1";
    const FILTERED: &str = "SELECT EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid \
         WHERE p.pubname = $1 AND r.prrelid = $2 AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL))";
    let oid = table.map_or(0, |table| table.oid);
    let (name, schema, relation) = (&wanted.publication, &wanted.table.schema, &wanted.table.name);
    let Some(row) = client.query_opt(PUBLICATION, &[name, &oid, schema, relation]).await? else { return Ok(None) };
    let is_filtered =
        if version_num >= 150_000 { client.query_one(FILTERED, &[name, &oid]).await?.get(0) } else { false };
    Ok(Some(Publication {
        all_tables: row.get(0),
        insert: row.get(1),
        update_or_delete: row.get(2),
        via_root: row.get(3),
        has_table: row.get(4),
        is_filtered,
    }))
}

async fn rights(client: &Client, wanted: &Wanted, facts: &mut Facts) -> Result<(), Error> {
    const ROLE: &str = "SELECT rolsuper, rolreplication, rolcanlogin FROM pg_roles WHERE rolname = $1";
    let role: Option<Row> = client.query_opt(ROLE, &[&wanted.role.name]).await?;
    facts.role = role.map(|row| Role { superuser: row.get(0), replication: row.get(1), login: row.get(2) });
    // `public` stands for what everybody may
    let whose = if facts.role.is_some() { wanted.role.name.as_str() } else { "public" };
    let sql = "SELECT has_database_privilege($1::name, current_database(), 'CONNECT')";
    facts.can_connect = client.query_one(sql, &[&whose]).await?.get(0);
    if facts.schema_exists {
        let sql = "SELECT has_schema_privilege($1::name, $2::text, 'USAGE')";
        facts.can_use_schema = client.query_one(sql, &[&whose, &wanted.table.schema]).await?.get(0);
    }
    if let Some(table) = &facts.table {
        let sql = "SELECT has_table_privilege($1::name, $2::oid, 'SELECT')";
        facts.can_select = client.query_one(sql, &[&whose, &table.oid]).await?.get(0);
    }
    Ok(())
}
