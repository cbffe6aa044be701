//! One lane's path to the cluster (rules P1–P6 of `tailwater_core::seams`).
//!
//! ```text
//!   push ─▶ backlog ─fill─▶ librdkafka ─delivery─▶ window ─▶ Settled
//!              │ topic unknown: look it up, meanwhile nothing passes
//!              └ too large, no such topic or partition: rejected before it is sent
//! ```
//! A delivery that fails ends the publisher before anything behind it can pass (`enable.gapless.guarantee`); the lane sends
//! everything unsettled again, in order. Alone in flight, a message that is to blame is a rejection.

use crate::failure::KafkaProblem;
use crate::flight::Flight;
use crate::outlet::{Outlet, Sent};
use async_trait::async_trait;
use tailwater_core::{Failure, Publisher, Settled, Slice};

pub struct KafkaPublisher {
    flight: Flight,
}

impl KafkaPublisher {
    pub fn new(outlet: Outlet) -> Self {
        KafkaPublisher { flight: Flight::new(outlet) }
    }

    /// Hands to the client library what may travel now.
    fn fill(&mut self) -> Result<(), KafkaProblem> {
        let flight = &mut self.flight;
        while flight.backlog.waits() {
            let next = flight.backlog.next;
            let (slice, offset) = flight.backlog.find(next);
            let messages = slice.messages.clone();
            for message in &messages[offset..] {
                let index = flight.backlog.next;
                match flight.outlet.send(message, index, flight.window.open(), &flight.backlog)? {
                    Sent::Yes => flight.window.sent(index),
                    Sent::No(reason) => flight.reject(index, message.id.clone(), reason),
                    Sent::Wait => return Ok(()),
                }
                flight.backlog.next += 1;
            }
        }
        Ok(())
    }

    /// Takes in what the client library reported.
    fn absorb(&mut self) {
        let (deliveries, broken) = self.flight.outlet.deliveries();
        for (index, outcome) in deliveries {
            match outcome {
                None => self.flight.window.delivered(index as u64),
                Some(code) => drop(self.flight.refused(index as u64, code)),
            }
        }
        if broken {
            self.flight.broken();
        }
    }
}

#[async_trait]
impl Publisher for KafkaPublisher {
    fn push(&mut self, slice: Slice) {
        self.flight.push(slice);
    }

    async fn drive(&mut self) -> Result<Settled, Failure> {
        self.flight.alive()?;
        loop {
            self.absorb();
            if self.flight.failed.is_none() {
                self.flight.failed = self.fill().err();
                self.flight.outlet.refresh();
            }
            if let Some(settled) = self.flight.report() {
                return Ok(settled);
            }
            self.flight.end()?;
            self.flight.failed = self.flight.outlet.wait(self.flight.backlog.waits()).await.err();
        }
    }

    fn release(&mut self, index: u64) {
        self.flight.window.release(index);
    }
}
