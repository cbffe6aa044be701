//! Recorded cases with their own connector configuration and their own SQL, on real servers, byte for byte: what the server
//! sends to us is what it sent to Debezium, through the snapshot and through the stream.

use super::*;
use std::collections::BTreeMap;
use std::path::Path;

/// The common types, by snapshot and stream; operations; the filters; transforms.
const CASES: &[&str] = &[
    "b_snap_types",
    "b_snap_one_row",
    "b_snap_empty",
    "b_snap_initial_schemas",
    "b_type_int_schemas",
    "b_type_text",
    "b_type_text_schemas",
    "b_type_bool_schemas",
    "b_type_float",
    "b_type_numeric_precise",
    "b_type_numeric_string",
    "b_type_numeric_double_schemas",
    "b_type_uuid_json_xml_schemas",
    "b_type_bytea_bytes",
    "b_type_bytea_hex",
    "b_type_time_adaptive",
    "b_type_time_connect_schemas",
    "b_type_array_basic_schemas",
    "b_type_array_numeric_precise_schemas",
    "b_type_array_other",
    "b_type_enum",
    "b_type_domain",
    "b_type_serial",
    "b_type_defaults_string_schemas",
    "b_ops",
    "b_ops_full",
    "b_ops_pk_change",
    "b_ops_no_tombstone",
    "b_ops_no_pk_full",
    "b_toast",
    "b_toast_full",
    "b_truncate_schemas",
    "b_col_include",
    "b_message_key",
    "b_messages_schemas",
    "b_messages_exclude",
    "b_partition_root",
    "b_table_regex",
    "b_skip_unchanged",
    "b_topic_delimiter",
    "b_multi",
    "b_ddl_add",
    "b_unwrap",
    "b_unwrap_add_fields_schemas",
    "b_unwrap_add_headers",
    "b_unwrap_rewrite_with_tombstone",
    "b_regex_router",
];

pub fn load(folder: &str, name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tailwater-core/tests/golden").join(folder);
    serde_json::from_str(&std::fs::read_to_string(path.join(format!("{name}.json"))).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_cases_come_out_of_the_binary_as_debezium_recorded_them() {
    let process = Process::start().await;
    let (mut problems, mut skipped) = (Vec::new(), 0);
    let sql = shared_postgres().await.client("postgres").await;
    let version =
        sql.query_one("SELECT current_setting('server_version_num')::int", &[]).await.unwrap().get::<_, i32>(0);
    for name in CASES {
        if version < 150_000 && name.starts_with("b_type_numeric_") {
            println!("{name} is skipped on PostgreSQL {}: numeric(3,-2) needs 15", version / 10_000);
            skipped += 1;
            continue;
        }
        if let Err(problem) = replay(&process, name).await {
            problems.push(format!("{name}: {problem}"));
        }
    }
    let same = CASES.len() - skipped - problems.len();
    println!("golden end to end: same {same}, skipped {skipped}, unexplained {}", problems.len());
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

async fn replay(process: &Process, name: &str) -> Result<(), String> {
    let (case, recorded) = (load("cases", name), load("records", name));
    let shop = Shop::named(name).await;
    for statement in case["ddl"].as_array().into_iter().flatten() {
        shop.sql.batch_execute(statement.as_str().unwrap()).await.map_err(|error| format!("{statement}: {error:?}"))?;
    }
    transactions(&shop.sql, &case["before"]).await?;
    let expected = by_topic(&recorded);
    for topic in expected.keys() {
        process.topic(topic).await;
    }
    let mut config = shop.connector(json!({
        "snapshot.mode": "no_data", "poll.interval.ms": "50", "errors.max.retries": "0",
        "tailwater.compatibility": "strict",
    }));
    merge(&mut config, &serde_json::from_str(&case["config"].to_string().replace("@case@", name)).unwrap());
    process.post(name, &config).await?;
    shop.streaming().await;
    transactions(&shop.sql, &case["tx"]).await?;
    let mut result = Ok(());
    for (topic, records) in &expected {
        let arrived = tokio::time::timeout(Duration::from_secs(20), process.records(topic, records.len())).await;
        let Ok(ours) = arrived else {
            result = result.and(Err(format!("{topic} has less than {} records", records.len())));
            continue;
        };
        for (index, (record, ours)) in records.iter().zip(&ours).enumerate() {
            let same = same(record, ours).map_err(|why| format!("{topic} record {index}: {why}"));
            result = result.and(same);
        }
    }
    process.request("DELETE", &format!("/connectors/{name}"), None).await?;
    shop.leave().await;
    result
}

/// A list of transactions, each a list of statements or an object around one.
pub async fn transactions(sql: &Client, list: &Value) -> Result<(), String> {
    for transaction in list.as_array().into_iter().flatten() {
        let Some(statements) = transaction.as_array().or_else(|| transaction["statements"].as_array()) else {
            continue;
        };
        let end = if transaction["rollback"] == json!(true) { "ROLLBACK" } else { "COMMIT" };
        let statements: Vec<&str> = statements.iter().map(|statement| statement.as_str().unwrap()).collect();
        let whole = format!("BEGIN; {}; {end}", statements.join("; "));
        sql.batch_execute(&whole).await.map_err(|error| format!("{whole}: {error:?}"))?;
    }
    Ok(())
}

fn by_topic(recorded: &Value) -> BTreeMap<String, Vec<&Value>> {
    let mut topics: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for record in recorded["records"].as_array().unwrap() {
        topics.entry(record["topic"].as_str().unwrap().to_owned()).or_default().push(record);
    }
    topics
}

/// What is another in another server: places in its log, its clock, its transactions.
pub const SERVERS_OWN: [&str; 6] = ["ts_ms", "ts_us", "ts_ns", "sequence", "txId", "lsn"];

fn same(record: &Value, ours: &Record) -> Result<(), String> {
    let mut masks: Vec<Value> = record["volatile"].as_array().cloned().unwrap_or_default();
    for part in ["", "/payload"] {
        masks.extend(SERVERS_OWN.map(|name| json!({ "part": "value", "path": format!("{part}/source/{name}") })));
    }
    same_bytes("key", &record["key"], ours.key.as_deref(), &masks)?;
    same_bytes("value", &record["value"], ours.value.as_deref(), &masks)?;
    let headers = record["headers"].as_array().unwrap();
    let names: Vec<&str> = headers.iter().map(|header| header[0].as_str().unwrap()).collect();
    let our_names: Vec<&str> = ours.headers.iter().map(|(name, _)| name.as_str()).collect();
    if names != our_names {
        return Err(format!("headers {our_names:?} instead of {names:?}"));
    }
    for (index, (header, (name, value))) in headers.iter().zip(&ours.headers).enumerate() {
        if !masks.iter().any(|mask| mask["part"] == "header" && mask["index"] == index) {
            same_bytes(&format!("header {name}"), &header[1], value.as_deref(), &[])?;
        }
    }
    Ok(())
}

pub fn same_bytes(part: &str, expected: &Value, ours: Option<&[u8]>, masks: &[Value]) -> Result<(), String> {
    let (mut expected, Some(ours)) = (expected["utf8"].as_str().map(str::to_owned), ours) else {
        let none = expected.is_null() && ours.is_none();
        return if none { Ok(()) } else { Err(format!("{part}: {ours:?} instead of {expected}")) };
    };
    let mut ours = Some(String::from_utf8_lossy(ours).into_owned());
    for path in masks.iter().filter(|mask| mask["part"] == *part).filter_map(|mask| mask["path"].as_str()) {
        for text in [&mut expected, &mut ours].into_iter().flatten() {
            if let Some(span) = pointer::span(text, path) {
                text.replace_range(span, "0");
            }
        }
    }
    let (expected, ours) = (expected.unwrap_or_default(), ours.unwrap_or_default());
    let Some(at) = expected.bytes().zip(ours.bytes()).position(|(a, b)| a != b) else {
        return if expected.len() == ours.len() {
            Ok(())
        } else {
            Err(format!("{part}: {ours} instead of {expected}"))
        };
    };
    let near = |text: &str| text.chars().skip(at.saturating_sub(60)).take(160).collect::<String>();
    Err(format!("{part}, near byte {at}\n  {}\n  instead of\n  {}", near(&ours), near(&expected)))
}
