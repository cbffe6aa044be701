//! Tailwater's own file format, TOML: values with the line they stand on. Names and types are judged elsewhere.

use super::origin::{Origin, Problem};
use super::settings::{Path, Setting, Settings};
use serde_json::{Map, Value};
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Reads a file's text; `file` is what origins name.
pub fn read(file: &str, text: &str) -> Result<Settings, Problem> {
    let lines = Lines::new(file, text);
    let table = DeTable::parse(text).map_err(|error| {
        let place = lines.at(error.span().map_or(0, |span| span.start));
        Problem::at(&place, error.message().to_owned())
    })?;
    let mut settings = Settings::default();
    walk(&lines, &mut Vec::new(), table.get_ref(), &mut settings)?;
    Ok(settings)
}

/// From a byte offset to a line.
struct Lines {
    file: Arc<str>,
    starts: Vec<usize>,
}

impl Lines {
    fn new(file: &str, text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(n, _)| n + 1);
        Lines { file: file.into(), starts: std::iter::once(0).chain(ends).collect() }
    }

    fn at(&self, offset: usize) -> Origin {
        let line = self.starts.partition_point(|start| *start <= offset);
        Origin::File { file: self.file.clone(), line, key: None }
    }
}

fn walk(lines: &Lines, path: &mut Path, table: &DeTable<'_>, settings: &mut Settings) -> Result<(), Problem> {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        setting(lines, path, key.span().start, value, settings)?;
        path.pop();
    }
    Ok(())
}

fn setting(
    lines: &Lines,
    path: &mut Path,
    start: usize,
    value: &Spanned<DeValue<'_>>,
    settings: &mut Settings,
) -> Result<(), Problem> {
    let origin = lines.at(start);
    match value.get_ref() {
        // `routing_key = { static = "…" }` is one value
        DeValue::Table(table) if !table.is_empty() && path.last().is_none_or(|name| name != "routing_key") => {
            walk(lines, path, table, settings)
        }
        // a transform's options depend on its type: the list is judged as a whole
        DeValue::Array(list)
            if path.last().is_none_or(|name| name != "transforms")
                && list.iter().any(|item| item.get_ref().is_table()) =>
        {
            for (n, item) in list.iter().enumerate() {
                path.push(n.to_string());
                setting(lines, path, item.span().start, item, settings)?;
                path.pop();
            }
            Ok(())
        }
        other => {
            let value = plain(other).map_err(|text| Problem::at(&origin, format!("{}: {text}", path.join("."))))?;
            settings.set(path.clone(), Setting { value, origin, text: false });
            Ok(())
        }
    }
}

fn plain(value: &DeValue<'_>) -> Result<Value, String> {
    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(&number.as_str().replace('_', ""), number.radix())
            .map(Value::from)
            .map_err(|_| format!("`{}` is beyond 64 bits", number.as_str()))?,
        DeValue::Float(number) => {
            number.as_str().replace('_', "").parse::<f64>().map(Value::from).map_err(|e| e.to_string())?
        }
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(_) => return Err("a date has no meaning here".into()),
        DeValue::Array(list) => {
            Value::Array(list.iter().map(|item| plain(item.get_ref())).collect::<Result<_, String>>()?)
        }
        DeValue::Table(table) => {
            let members = table.iter().map(|(k, v)| Ok((k.get_ref().to_string(), plain(v.get_ref())?)));
            Value::Object(members.collect::<Result<Map<_, _>, String>>()?)
        }
    })
}
