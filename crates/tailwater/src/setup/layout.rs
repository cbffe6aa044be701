//! The outbox table that a route asks for. Pure: options in, columns out.

use super::sql::ident;
use tailwater_core::transform::outbox::OutboxOptions;

/// A column to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewColumn {
    pub name: String,
    /// Type and constraints, as SQL.
    pub definition: &'static str,
}

impl NewColumn {
    pub fn sql(&self) -> String {
        format!("{} {}", ident(&self.name), self.definition)
    }
}

/// The columns of a new outbox table, in order: id, what the route reads, time, payload.
pub fn columns(options: &OutboxOptions) -> Vec<NewColumn> {
    let mut columns: Vec<NewColumn> = Vec::new();
    let mut add = |name: &str, definition: &'static str| {
        if !columns.iter().any(|column| column.name == name) {
            columns.push(NewColumn { name: name.into(), definition });
        }
    };
    add(options.id_column.as_deref().unwrap_or("id"), "uuid PRIMARY KEY DEFAULT gen_random_uuid()");
    add(&options.route_by, "text NOT NULL");
    if is_needed_type(options) {
        add(&options.type_column, "text NOT NULL");
    }
    if recipe(options) {
        add("user_id", "bigint");
    }
    let time = options.timestamp_column.as_deref().unwrap_or("occurred_at");
    add(time, "timestamptz NOT NULL DEFAULT now()");
    add(&options.key_column, "text NOT NULL");
    if let Some(version) = &options.schema_version_column {
        add(version, "integer NOT NULL DEFAULT 1");
    }
    for (name, is_partition) in placed(options) {
        if name != options.payload_column {
            add(&name, if is_partition { "integer" } else { "text" });
        }
    }
    add(&options.payload_column, "jsonb NOT NULL");
    columns
}

/// Columns that the route cannot do without in a table that exists.
pub fn required(options: &OutboxOptions) -> Vec<String> {
    let mut names = vec![options.route_by.clone(), options.key_column.clone(), options.payload_column.clone()];
    names.extend(options.id_column.clone());
    names.extend(options.timestamp_column.clone());
    names.extend(options.schema_version_column.clone());
    names.extend(placed(options).into_iter().map(|(name, _)| name));
    let mut seen = Vec::new();
    names.retain(|name| {
        !seen.contains(name) && {
            seen.push(name.clone());
            true
        }
    });
    names
}

/// The time column of a new table: worth an index, since pruning goes by it.
pub fn time_column(options: &OutboxOptions) -> &str {
    options.timestamp_column.as_deref().unwrap_or("occurred_at")
}

/// Debezium's own layout routes by `aggregatetype` and has a `type` besides; where the event type is what is routed by,
/// a second column of that kind would stay empty.
fn is_needed_type(options: &OutboxOptions) -> bool {
    options.type_column != OutboxOptions::default().type_column || options.route_by == OutboxOptions::default().route_by
}

/// `event_type, user_id, occurred_at, idempotency_key, payload`: what the recipe's services insert.
fn recipe(options: &OutboxOptions) -> bool {
    options.route_by == "event_type" && options.key_column == "idempotency_key"
}

/// Columns of `column:placement[:alias], …`, and whether they hold a partition number.
fn placed(options: &OutboxOptions) -> Vec<(String, bool)> {
    let items = options.placement.as_deref().unwrap_or_default().split(',');
    items
        .filter_map(|item| {
            let mut parts = item.split(':').map(str::trim);
            let name = parts.next().filter(|name| !name.is_empty())?;
            Some((name.to_owned(), parts.next() == Some("partition")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(options: &OutboxOptions) -> Vec<String> {
        columns(options).iter().map(NewColumn::sql).collect()
    }

    fn recipe_options() -> OutboxOptions {
        OutboxOptions {
            route_by: "event_type".into(),
            key_column: "idempotency_key".into(),
            placement: Some("event_type:envelope:event_type,idempotency_key:envelope:idempotency_key".into()),
            ..OutboxOptions::default()
        }
    }

    #[test]
    fn the_recipe_gets_the_recipes_table() {
        assert_eq!(
            shown(&recipe_options()),
            [
                "id uuid PRIMARY KEY DEFAULT gen_random_uuid()",
                "event_type text NOT NULL",
                "user_id bigint",
                "occurred_at timestamptz NOT NULL DEFAULT now()",
                "idempotency_key text NOT NULL",
                "payload jsonb NOT NULL",
            ]
        );
        assert_eq!(required(&recipe_options()), ["event_type", "idempotency_key", "payload"]);
    }

    #[test]
    fn the_routers_defaults_get_debeziums_table() {
        let names: Vec<_> = columns(&OutboxOptions::default()).into_iter().map(|column| column.name).collect();
        assert_eq!(names, ["id", "aggregatetype", "type", "occurred_at", "aggregateid", "payload"]);
    }

    #[test]
    fn every_column_that_the_route_reads_is_there_once() {
        let options = OutboxOptions {
            id_column: Some("event_id".into()),
            timestamp_column: Some("at".into()),
            schema_version_column: Some("version".into()),
            placement: Some(" tenant : header , shard:partition,payload:header:copy".into()),
            ..recipe_options()
        };
        let columns = shown(&options);
        for required in required(&options) {
            assert_eq!(columns.iter().filter(|c| c.split(' ').next() == Some(&required)).count(), 1, "{required}");
        }
        assert!(columns.contains(&"shard integer".into()) && columns.contains(&"tenant text".into()));
        assert_eq!(time_column(&options), "at");
    }
}
