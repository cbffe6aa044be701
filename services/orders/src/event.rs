//! What is said about an order, the same in all patterns.

use crate::pattern::Pattern;
use serde::{Deserialize, Serialize};
use tailwater_client::outbox::Event;
use uuid::Uuid;

/// `order.placed`: the payload of the event, and all that anybody needs to apply it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderPlaced {
    pub order_id: Uuid,
    pub pattern: Pattern,
    pub customer: String,
    pub item: String,
    pub quantity: i32,
}

impl OrderPlaced {
    /// As the outbox takes it. The event's id is the order's: an order is placed once, whoever says it again.
    pub fn event(&self) -> Event {
        let payload = serde_json::to_value(self).expect("plain fields are JSON");
        Event::new("order.placed", payload)
            .with_id(self.order_id.to_string())
            .about(self.pattern.topic(), self.order_id.to_string())
    }
}
