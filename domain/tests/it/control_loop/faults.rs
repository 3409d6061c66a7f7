//! What goes wrong, while it may.

use super::scheduler::KEEPALIVE;
use super::worker::{Process, Timer};
use super::{Event, MILLI, SECOND, World};

impl World {
    /// Something breaks.
    pub fn break_something(&mut self) {
        let (scheduler, node) =
            (self.random.index(self.schedulers.len()), self.random.index(self.nodes.len()));
        let leader = self.schedulers.iter().position(|scheduler| scheduler.term.is_some());
        // Mostly who leads.
        let scheduler = leader.filter(|_| !self.random.once_in(4)).unwrap_or(scheduler);
        let (short, long) =
            (self.random.between(SECOND, 8 * SECOND), self.random.between(SECOND, 40 * SECOND));
        let until = self.now + if self.random.once_in(2) { short } else { long };
        let secs = (until - self.now) / SECOND;
        match self.random.below(9) {
            0 => {
                self.say(|| format!("scheduler {scheduler} is paused for {secs} s"));
                self.schedulers[scheduler].paused_until = until;
            }
            1 => {
                self.say(|| format!("scheduler {scheduler} is paused for {secs} s and loses its connection"));
                self.schedulers[scheduler].paused_until = until;
                if let Some(connection) = self.schedulers[scheduler].connection {
                    self.later(0, 5 * SECOND, Event::Close(connection));
                }
            }
            2 => {
                self.say(|| format!("scheduler {scheduler} crashes for {secs} s"));
                self.crash_scheduler(scheduler);
                self.at(until, Event::StartScheduler(scheduler));
            }
            3 => {
                self.say(|| format!("scheduler {scheduler} is cut off for {secs} s"));
                self.schedulers[scheduler].cut_until = until;
                if let Some(connection) = self.schedulers[scheduler].connection
                    && until > self.now + KEEPALIVE
                {
                    self.after(KEEPALIVE, Event::Close(connection));
                }
            }
            4 | 5 => {
                self.say(|| format!("node {node} is paused for {secs} s"));
                self.nodes[node].paused_until = until;
            }
            6 => {
                self.say(|| format!("node {node} crashes for {secs} s"));
                self.nodes[node].process = None;
                self.at(until, Event::StartWorker(node));
            }
            _ => {
                // Mostly about as long as it takes to be lost.
                let about = self.now + self.random.between(14 * SECOND, 18 * SECOND);
                let until = if self.random.once_in(4) { until } else { about };
                let secs = (until - self.now) / SECOND;
                self.say(|| format!("node {node} is cut off for {secs} s"));
                self.nodes[node].cut_until = until;
            }
        }
    }

    fn crash_scheduler(&mut self, at: usize) {
        let connection = self.schedulers[at].connection;
        let tx = self.schedulers[at].crash();
        // The machine lives, and its system says so; or it does not.
        let most = if self.random.once_in(2) { 10 * MILLI } else { KEEPALIVE };
        if let Some(connection) = connection {
            self.later(MILLI, most, Event::Close(connection));
        }
        if let Some(tx) = tx {
            self.later(MILLI, most, Event::RollBack(tx));
        }
    }

    pub fn start_scheduler(&mut self, at: usize) {
        if !std::mem::replace(&mut self.schedulers[at].up, true) {
            let wait = self.random.between(MILLI, SECOND);
            self.wake(at, wait);
        }
    }

    pub fn start_worker(&mut self, at: usize) {
        if self.nodes[at].process.is_some() {
            return;
        }
        if self.faulty() && self.random.once_in(6) {
            // It comes back with another device.
            let device = self.random.index(self.nodes[at].joining.devices.len());
            self.nodes[at].joining.devices[device].milli = 1000 * self.random.few(1, 3);
        }
        let now = self.instant();
        self.nodes[at].number += 1;
        self.nodes[at].process = Some(Process::new(now));
        self.after(MILLI, Event::Worker(at, self.nodes[at].number, Timer::Join));
    }

    /// All goes on, and nothing breaks any more.
    pub fn calm_down(&mut self) {
        self.say(|| "calm".to_owned());
        self.calm = true;
        for at in 0..self.schedulers.len() {
            let scheduler = &mut self.schedulers[at];
            (scheduler.paused_until, scheduler.cut_until) = (self.now, self.now);
            self.start_scheduler(at);
        }
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            (node.paused_until, node.cut_until) = (self.now, self.now);
            self.start_worker(at);
        }
    }
}
