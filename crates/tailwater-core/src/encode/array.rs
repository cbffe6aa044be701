//! The server's text of an array → its items (PostgreSQL manual 8.15.6).
//!
//! Not here: what the items mean.

use super::kind::Kind;

/// One place of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Null,
    Text(String),
    /// The next dimension.
    Nested(Vec<Item>),
}

/// The kind of the items of a built-in array type, by `pg_type.oid` (`pg_type.dat`).
pub fn item_oid(array_oid: u32) -> Option<u32> {
    Some(match array_oid {
        143 => 142,
        199 => 114,
        651 => 650,
        791 => 790,
        1000..=1003 => array_oid - 984,
        1005 => 21,
        1007 => 23,
        1009 => 25,
        1014 => 1042,
        1015 => 1043,
        1016 => 20,
        1021 => 700,
        1022 => 701,
        1028 => 26,
        1040 => 829,
        1041 => 869,
        1115 => 1114,
        1182 => 1082,
        1183 => 1083,
        1185 => 1184,
        1187 => 1186,
        1231 => 1700,
        1270 => 1266,
        1561 => 1560,
        1563 => 1562,
        2951 => 2950,
        3807 => 3802,
        _ => return None,
    })
}

/// The kind of an array's items; [`Kind::Text`] for what is no array.
pub fn item_kind(array_oid: u32) -> Kind {
    item_oid(array_oid).map_or(Kind::Text, Kind::of_oid)
}

/// `{1,NULL,"a \"b\""}`, also `{{1,2},{3,4}}` and `[2:4]={1,2,3}`. `None` for what is no such text.
pub fn parse(text: &str) -> Option<Vec<Item>> {
    let text = if text.starts_with('[') { text.split_once('=')?.1 } else { text };
    let mut rest = text.strip_prefix('{')?;
    let items = parse_items(&mut rest, 0)?;
    rest.is_empty().then_some(items)
}

/// PostgreSQL allows six dimensions.
const DEPTH_MAX: usize = 6;

fn parse_items(rest: &mut &str, depth: usize) -> Option<Vec<Item>> {
    let mut items = Vec::new();
    if let Some(after) = rest.strip_prefix('}') {
        *rest = after;
        return Some(items);
    }
    loop {
        if let Some(after) = rest.strip_prefix('{') {
            *rest = after;
            if depth + 1 >= DEPTH_MAX {
                return None;
            }
            items.push(Item::Nested(parse_items(rest, depth + 1)?));
        } else if let Some(after) = rest.strip_prefix('"') {
            *rest = after;
            items.push(Item::Text(quoted(rest)?));
        } else {
            let end = rest.find([',', '}'])?;
            let (bare, after) = rest.split_at(end);
            items.push(if bare == "NULL" { Item::Null } else { Item::Text(bare.into()) });
            *rest = after;
        }
        let mut next = rest.chars();
        match next.next()? {
            ',' => *rest = next.as_str(),
            '}' => {
                *rest = next.as_str();
                return Some(items);
            }
            _ => return None,
        }
    }
}

/// Up to the closing quote; a backslash stands before what is meant literally.
fn quoted(rest: &mut &str) -> Option<String> {
    let mut text = String::new();
    let mut characters = rest.chars();
    loop {
        match characters.next()? {
            '"' => {
                *rest = characters.as_str();
                return Some(text);
            }
            '\\' => text.push(characters.next()?),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Item {
        Item::Text(text.into())
    }

    #[test]
    fn arrays_are_read_with_their_quotes_nulls_and_dimensions() {
        assert_eq!(parse("{}"), Some(vec![]));
        assert_eq!(parse("{1,NULL,3}"), Some(vec![text("1"), Item::Null, text("3")]));
        let odd = parse(r#"{a,"b c","NULL","q\"x\\","","{,}"}"#);
        assert_eq!(odd, Some(vec![text("a"), text("b c"), text("NULL"), text("q\"x\\"), text(""), text("{,}")]));
        let row = |a, b| Item::Nested(vec![text(a), text(b)]);
        assert_eq!(parse("{{1,2},{3,4}}"), Some(vec![row("1", "2"), row("3", "4")]));
        assert_eq!(parse("[2:4]={1,2,3}"), Some(vec![text("1"), text("2"), text("3")]));
        for bad in ["", "1", "{", "{1", "{1,", "{\"a}", "{1}x", "{{{{{{{1}}}}}}}", "[1:2]"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn items_have_the_kind_of_their_type() {
        assert_eq!(item_kind(1007), Kind::Int4);
        assert_eq!(item_kind(1000), Kind::Bool);
        assert_eq!(item_kind(1001), Kind::Bytea);
        assert_eq!(item_kind(3807), Kind::Json);
        assert_eq!(item_oid(25), None);
    }
}
