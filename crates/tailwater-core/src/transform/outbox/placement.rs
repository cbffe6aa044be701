//! The grammar of `table.fields.additional.placement`: which further columns go where.
//!
//! `list := item ("," item)*`, `item := column ":" header|envelope|partition [":" alias]`; spaces around parts do not count.

use super::RouteConfigError;

/// One item of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub column: String,
    pub place: Place,
    /// Name of the header or envelope member; the column's own without an alias.
    pub alias: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Header,
    Envelope,
    Partition,
}

/// Parses the list and refuses what could never be written.
pub fn parse(list: &str) -> Result<Vec<Placement>, RouteConfigError> {
    // As Java's split: empty items at the end do not count, so a trailing comma is fine.
    let items = list.trim_end_matches([',', ' ']);
    let placements = items.split(',').map(|item| parse_item(item, list)).collect::<Result<Vec<_>, _>>()?;
    let mut members = vec!["payload"];
    for placement in placements.iter().filter(|p| p.place == Place::Envelope) {
        if members.contains(&placement.alias.as_str()) {
            return Err(RouteConfigError::DuplicateMember { name: placement.alias.clone() });
        }
        members.push(&placement.alias);
    }
    Ok(placements)
}

fn parse_item(item: &str, list: &str) -> Result<Placement, RouteConfigError> {
    let parts: Vec<&str> = item.split(':').map(str::trim).collect();
    let (column, place, alias) = match parts.as_slice() {
        [column, place] => (*column, *place, *column),
        [column, place, alias] => (*column, *place, *alias),
        _ => return Err(RouteConfigError::Placement { item: item.trim().into(), list: list.into() }),
    };
    if column.is_empty() || alias.is_empty() {
        return Err(RouteConfigError::Placement { item: item.trim().into(), list: list.into() });
    }
    let place = match place.to_ascii_lowercase().as_str() {
        "header" => Place::Header,
        "envelope" => Place::Envelope,
        "partition" => Place::Partition,
        _ => return Err(RouteConfigError::Place { place: place.into(), item: item.trim().into() }),
    };
    Ok(Placement { column: column.into(), place, alias: alias.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_with_its_spaces_cases_and_aliases() {
        let list =
            parse("type:envelope:payloadType, aggregateid : ENVELOPE : payloadId ,type:Header,p:partition,").unwrap();
        let expect = |column: &str, place, alias: &str| Placement { column: column.into(), place, alias: alias.into() };
        assert_eq!(
            list,
            [
                expect("type", Place::Envelope, "payloadType"),
                expect("aggregateid", Place::Envelope, "payloadId"),
                expect("type", Place::Header, "type"),
                expect("p", Place::Partition, "p"),
            ]
        );
    }

    #[test]
    fn what_is_no_item_is_refused_at_construction() {
        for bad in ["", "type", "type:header:a:b", "type:nowhere", ":header", "type:header:", "a:header,,b:header"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_name_is_given_to_one_member_of_the_envelope() {
        assert!(parse("type:envelope:payload").is_err());
        assert!(parse("a:envelope:x,b:envelope:x").is_err());
        assert!(parse("a:header:x,b:header:x").is_ok(), "header names may repeat");
    }
}
