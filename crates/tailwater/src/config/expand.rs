//! `${…}` inside the values of a properties file: environment variables, other keys of the file, files with secrets.
//!
//! The router's own `${routedByValue}` looks the same and must survive, doubled (`$${…}`) or not.

use std::path::Path;

/// What became of a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    pub text: String,
    /// Names in `${…}` that nothing stands behind; they are left as they are.
    pub unresolved: Vec<String>,
}

/// Replaces what can be replaced. `$${` and `\${` stand for a literal `${`, `$$` for `$`.
pub fn expand(value: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Expanded, String> {
    let mut out = Expanded::default();
    let mut rest = value;
    while let Some(at) = rest.find(['$', '\\']) {
        out.text.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with("$$") || rest.starts_with("\\$") {
            out.text.push('$');
            rest = &rest[2..];
            // the brace after an escaped dollar is plain text
            if let Some(after) = rest.strip_prefix('{') {
                out.text.push('{');
                rest = after;
            }
            continue;
        }
        match rest.strip_prefix("${").and_then(|inside| inside.split_once('}')) {
            Some((name, after)) => {
                match resolve(name, lookup)? {
                    Some(text) => out.text.push_str(&text),
                    None => {
                        out.unresolved.push(name.to_owned());
                        out.text.push_str(&format!("${{{name}}}"));
                    }
                }
                rest = after;
            }
            None => {
                out.text.push_str(&rest[..1]);
                rest = &rest[1..];
            }
        }
    }
    out.text.push_str(rest);
    Ok(out)
}

fn resolve(inside: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
    match inside.split_once(':') {
        Some(("env", name)) => Ok(lookup(name)),
        // ${file:/path:key} and ${dir:/folder:file}: a secret that lives elsewhere
        Some(("file", rest)) => {
            let (path, key) = rest.rsplit_once(':').ok_or("write ${file:/path:key}")?;
            let text = read(Path::new(path))?;
            let properties =
                super::properties::parse(&text).map_err(|(line, reason)| format!("{path}:{line}: {reason}"))?;
            let found = properties.into_iter().rev().find(|p| p.key == key);
            Ok(Some(found.ok_or_else(|| format!("{path} has no key {key}"))?.value))
        }
        Some(("dir", rest)) => {
            let (folder, file) = rest.rsplit_once(':').ok_or("write ${dir:/folder:file}")?;
            read(&Path::new(folder).join(file)).map(|text| Some(text.trim_end_matches(['\n', '\r']).to_owned()))
        }
        Some((name, default)) => Ok(Some(lookup(name).unwrap_or_else(|| default.to_owned()))),
        None => Ok(lookup(inside)),
    }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_home(value: &str) -> Expanded {
        expand(value, &|name| (name == "HOME").then(|| "/root".to_owned())).unwrap()
    }

    #[test]
    fn variables_are_replaced_and_escaped_ones_are_not() {
        for (value, text) in [
            ("plain", "plain"),
            ("${HOME}/x", "/root/x"),
            ("${env:HOME}", "/root"),
            ("${HOME:other}", "/root"),
            ("${NONE:other}", "other"),
            ("${NONE:}", ""),
            ("$${HOME}", "${HOME}"),
            ("\\${HOME}", "${HOME}"),
            ("pa$$word", "pa$word"),
            ("pa$word\\d", "pa$word\\d"),
            ("a$1", "a$1"),
            ("${open", "${open"),
            ("$", "$"),
        ] {
            assert_eq!(with_home(value), Expanded { text: text.into(), unresolved: vec![] }, "{value}");
        }
    }

    #[test]
    fn what_stands_for_nothing_stays_and_is_named() {
        let expanded = with_home("outbox.${routedByValue}");
        assert_eq!(expanded.text, "outbox.${routedByValue}");
        assert_eq!(expanded.unresolved, ["routedByValue"]);
    }

    #[test]
    fn secrets_are_read_from_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("db.properties");
        std::fs::write(&file, "user=a\npassword=top\n").unwrap();
        let none = |_: &str| None;
        let value = format!("${{file:{}:password}}", file.display());
        assert_eq!(expand(&value, &none).unwrap().text, "top");
        let value = format!("${{dir:{}:db.properties}}", folder.path().display());
        assert!(expand(&value, &none).unwrap().text.starts_with("user=a"));
        assert!(expand("${file:/nowhere/at/all:password}", &none).is_err());
    }
}
