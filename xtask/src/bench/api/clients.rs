//! Clients that ask without pause, each over a connection of its own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::operations::{Operation, Page, Turn};
use super::timings::Timings;
use super::wire::{Answer, Connection};

/// Not counted: connections open, caches fill.
const WARM_UP: Duration = Duration::from_millis(300);

/// How many ask, for whom, for how long.
#[derive(Clone, Copy)]
pub struct Load {
    pub clients: u32,
    pub tenants: u32,
    pub seconds: u32,
}

impl Load {
    pub fn run(self, address: SocketAddr, operation: &Operation, page: &Page) -> Result<Timings> {
        let begin = Instant::now() + WARM_UP;
        let end = begin + Duration::from_secs(self.seconds.into());
        let mut timings = Timings::new(self.seconds.into());
        thread::scope(|scope| {
            let clients: Vec<_> = (0..self.clients)
                .map(|client| {
                    scope.spawn(move || self.client(client, address, operation, page, (begin, end)))
                })
                .collect();
            for client in clients {
                let millis = client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
                timings.extend(millis.with_context(|| format!("{} failed", operation.name))?);
            }
            if timings.is_empty() {
                bail!("{} was not answered once within {} s", operation.name, self.seconds);
            }
            Ok(timings)
        })
    }

    fn client(
        self,
        client: u32,
        address: SocketAddr,
        operation: &Operation,
        page: &Page,
        (begin, end): (Instant, Instant),
    ) -> Result<Vec<f64>> {
        let mut connection = Connection::open(address)?;
        let mut random = Random(u64::from(client) * 0x9E37_79B9 + 1);
        let mut millis = Vec::new();
        let mut etag = "*".to_owned();
        loop {
            let turn = Turn {
                unique: unique(),
                random: random.next(),
                client,
                tenants: self.tenants,
                page,
                etag: &etag,
            };
            let request = (operation.request)(&turn);
            let started = Instant::now();
            if started >= end {
                return Ok(millis);
            }
            let answer = connection.call(&request)?;
            let took = started.elapsed();
            if answer.status != operation.status {
                bail!("{} {} was answered with {}", request.method, request.path, said(&answer));
            }
            if let Some(found) = answer.etag {
                etag = found;
            }
            if started >= begin {
                millis.push(took.as_secs_f64() * 1000.0);
            }
        }
    }
}

/// Turns to a page of a list, or to its last full one.
pub fn turn_to(address: SocketAddr, operation: &Operation, wanted: usize) -> Result<Page> {
    let mut connection = Connection::open(address)?;
    let mut page = Page { number: 1, ..Page::default() };
    while page.number < wanted {
        let turn = Turn { unique: 0, random: 0, client: 0, tenants: 1, page: &page, etag: "*" };
        let answer = connection.call(&(operation.request)(&turn))?;
        if answer.status != 200 {
            bail!("page {} was answered with {}", page.number, said(&answer));
        }
        let found: Value = serde_json::from_slice(&answer.body).context("a page is JSON")?;
        let Some(next) = found["next"].as_str() else { break };
        let last = found["items"].as_array().and_then(|items| items.last()).context("a page has items")?;
        let key = ["projects", "tenants"].iter().any(|list| operation.name.contains(list));
        let key = if key {
            "slug"
        } else if operation.name.contains("workers") {
            "name"
        } else {
            "id"
        };
        page = Page {
            query: format!("?cursor={next}"),
            after: last[key].as_str().context("an item has a key")?.to_owned(),
            number: page.number + 1,
        };
    }
    Ok(page)
}

fn said(answer: &Answer) -> String {
    format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body))
}

/// A number that no other request of this run or an earlier one has.
fn unique() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    (u64::from(std::process::id()) << 32) + COUNT.fetch_add(1, Ordering::Relaxed)
}

/// xorshift: cheap, and the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
