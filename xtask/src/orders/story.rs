//! Orders in three patterns while a poller, an order service and the relay are killed; then all counts, from the database
//! and the topics themselves. An error if one is not what it must be.

use clap::Args;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;
use testbed::http_get;
use testbed::orders::{Outcome, Ports, Stack};
use uuid::Uuid;

#[derive(Debug, Args)]
pub struct StoryArgs {
    /// Orders in each pattern
    #[arg(long, default_value_t = 100)]
    orders: usize,
    /// Where each service's log goes
    #[arg(long, default_value = "target/orders-logs")]
    logs: PathBuf,
    /// Leave everything running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// Name in paths, topic, table.
const PATTERNS: [(&str, &str, &str); 3] = [
    ("transactional-outbox", "Orders_1", "Transactional_Outbox"),
    ("listen-to-yourself", "Orders_2", "Listen_To_Yourself"),
    ("transactional-log-tailing", "Orders_3", "Transactional_Log_Tailing"),
];

pub async fn run(args: StoryArgs) -> Outcome<()> {
    let start = Instant::now();
    let say = |text: &str| println!("{:5.1} s  {text}", start.elapsed().as_secs_f64());
    say("Starting a private PostgreSQL and a private Kafka; this machine's own servers are left alone.");
    let mut stack = Stack::start(Ports::any(), &args.logs).await?;
    say("Running: two order services, two pollers, inventory, notification, and a connect process, to which");
    say("         the connector was posted with curl   examples/orders/register-postgres.json");
    let mut placed = Placed::default();
    let third = args.orders / 3;

    say(&format!("{third} orders in each pattern, both services in turn."));
    placed.place(&stack, third).await?;
    in_between(&stack, &mut placed, &say).await?;

    say(&format!(
        "{third} more in each pattern; poller-1, order-service-2 and the connect process get kill -9 meanwhile."
    ));
    placed.place(&stack, third / 3).await?;
    stack.kill("poller-1");
    placed.place(&stack, third / 3).await?;
    stack.kill("order-service-2");
    placed.place(&stack, third / 3).await?;
    stack.kill("connect");
    placed.place(&stack, third - 3 * (third / 3)).await?;
    say("They start again; the connect process still knows its connector.");
    for name in ["poller-1", "order-service-2", "connect"] {
        stack.run(name);
    }
    placed.place(&stack, (args.orders - 2 * third).saturating_sub(1)).await?;

    stack.wait("the consumers", async |stack| consumers_done(stack, &placed).await).await?;
    say("Everything has come to rest. The counts, from the tables and the topics themselves:\n");
    let counts = Counts::of(&stack, &placed).await?;
    counts.iter().for_each(Counts::print);
    for count in &counts {
        count.verdict()?;
    }
    println!();
    say("Every order, in each pattern, had its effect exactly once at both consumers.\n");
    println!("Where to look further: examples/orders/README.md, docs/polling.md, docs/connect.md, tailwater lab");
    if args.keep {
        println!("\nEverything runs on. Ctrl-C ends it.\n{}", stack.addresses());
        tokio::signal::ctrl_c().await?;
    }
    stack.stop().await;
    Ok(())
}

/// What a reader sees between the answer and the effect, in "listen to yourself".
async fn in_between(stack: &Stack, placed: &mut Placed, say: &impl Fn(&str)) -> Outcome<()> {
    for (name, _, _) in [PATTERNS[0], PATTERNS[1], PATTERNS[2]] {
        let id = placed.one(stack, name).await?;
        let port = stack.ports.services[0];
        let first = http_get(port, &format!("/orders/{id}"), None).await?.status;
        let began = Instant::now();
        stack
            .wait("the order", async |_| Ok(http_get(port, &format!("/orders/{id}"), None).await?.status == 200))
            .await?;
        let after = began.elapsed().as_millis();
        match first {
            200 => say(&format!("{name}: read at once: 200, the order is there.")),
            _ => say(&format!("{name}: read at once: {first}, accepted but not there yet; 200 after {after} ms.")),
        }
    }
    Ok(())
}

/// The ids of the orders that the API took, by pattern.
#[derive(Default)]
struct Placed([BTreeSet<String>; 3]);

impl Placed {
    async fn place(&mut self, stack: &Stack, count: usize) -> Outcome<()> {
        for _ in 0..count {
            for (name, _, _) in PATTERNS {
                self.one(stack, name).await?;
            }
        }
        Ok(())
    }

    async fn one(&mut self, stack: &Stack, pattern: &str) -> Outcome<String> {
        let index = PATTERNS.iter().position(|(name, _, _)| *name == pattern).expect("one of the three");
        let number = self.0[index].len();
        let id = Uuid::now_v7().to_string();
        let item = ["hat", "scarf", "gloves", "boots"][number % 4];
        let body =
            json!({ "id": id, "customer": format!("customer {number}"), "item": item, "quantity": 1 + number % 3 });
        stack.place(number, pattern, &body).await?;
        self.0[index].insert(id.clone());
        Ok(id)
    }
}

async fn consumers_done(stack: &Stack, placed: &Placed) -> Outcome<bool> {
    for (index, (name, _, _)) in PATTERNS.iter().enumerate() {
        for table in ["reservation", "notification", "orders"] {
            let column = if table == "orders" { "id" } else { "order_id" };
            if ids(stack, table, column, name).await?.len() < placed.0[index].len() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// All ids of a pattern in a table, repeats included.
async fn ids(stack: &Stack, table: &str, column: &str, pattern: &str) -> Outcome<Vec<String>> {
    let sql = format!("SELECT {column}::text FROM {table} WHERE pattern = $1");
    Ok(stack.db.query(&sql, &[&pattern]).await?.iter().map(|row| row.get(0)).collect())
}

/// One pattern's end.
struct Counts {
    pattern: &'static str,
    topic: &'static str,
    placed: BTreeSet<String>,
    orders: Vec<String>,
    events: usize,
    records: usize,
    published: BTreeSet<String>,
    reserved: Vec<String>,
    notified: Vec<String>,
}

impl Counts {
    async fn of(stack: &Stack, placed: &Placed) -> Outcome<Vec<Counts>> {
        let mut all = Vec::new();
        for (index, (pattern, topic, table)) in PATTERNS.into_iter().enumerate() {
            let records = stack.kafka.records(topic).await;
            let events: i64 = stack.db.query_one(&format!("SELECT count(*) FROM \"{table}\""), &[]).await?.get(0);
            all.push(Counts {
                pattern,
                topic,
                placed: placed.0[index].clone(),
                orders: ids(stack, "orders", "id", pattern).await?,
                events: usize::try_from(events)?,
                records: records.len(),
                published: records.iter().filter_map(|record| record.header("id").map(str::to_owned)).collect(),
                reserved: ids(stack, "reservation", "order_id", pattern).await?,
                notified: ids(stack, "notification", "order_id", pattern).await?,
            });
        }
        Ok(all)
    }

    fn print(&self) {
        println!(
            "         {:<26} accepted {:>4}   orders {:>4}   events {:>4}   on {} {:>4} ({} repeated)   reserved {:>4}   notified {:>4}",
            self.pattern,
            self.placed.len(),
            self.orders.len(),
            self.events,
            self.topic,
            self.published.len(),
            self.records - self.published.len(),
            self.reserved.len(),
            self.notified.len(),
        );
    }

    fn verdict(&self) -> Outcome<()> {
        let once = |ids: &[String]| ids.len() == self.placed.len() && ids.iter().all(|id| self.placed.contains(id));
        let distinct = |ids: &[String]| ids.iter().collect::<BTreeSet<_>>().len() == ids.len();
        let wrong = [
            (once(&self.orders) && distinct(&self.orders), "every accepted order is in the table, once"),
            (self.published == self.placed, "every accepted order is on the topic, and nothing else is"),
            (once(&self.reserved) && distinct(&self.reserved), "the inventory reserved each order once"),
            (once(&self.notified) && distinct(&self.notified), "each customer was told once"),
        ];
        match wrong.iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, what)) => Err(format!("{}: this does not hold: {what}", self.pattern).into()),
        }
    }
}
