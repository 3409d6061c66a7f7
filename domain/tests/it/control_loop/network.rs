//! The way between workers and the API, and the API itself: requests are lost,
//! late, and arrive again.

use domain::WorkerId;
use domain::workers::{DESIRED_WAIT_SECS, DesiredState, PlacementReport};

use super::database::Joining;
use super::worker::Turn;
use super::{Event, MILLI, Micros, SECOND, World};

#[derive(Clone, Debug)]
pub enum Request {
    Join(Joining),
    Report(Vec<PlacementReport>),
    /// After a revision.
    Desired(Option<String>),
}

#[derive(Clone, Debug)]
pub enum Answer {
    Joined(WorkerId, u64),
    Reported,
    Desired(DesiredState),
    /// The credential is not known.
    Unknown,
}

/// A request on its way.
#[derive(Clone, Debug)]
pub struct Call {
    pub node: usize,
    process: u64,
    number: u64,
    credential: Option<u64>,
    request: Request,
}

/// A request for desired state that the API holds.
pub struct Poll {
    call: Call,
    worker: WorkerId,
    after: Option<String>,
    until: Micros,
}

impl World {
    pub fn send(
        &mut self,
        node: usize,
        process: u64,
        number: u64,
        credential: Option<u64>,
        request: Request,
    ) {
        let call = Call { node, process, number, credential, request };
        if let Some(wait) = self.way(node) {
            self.after(wait, Event::ToApi(Box::new(call.clone())));
        }
        if self.faulty() && self.random.once_in(100) {
            let wait = self.random.between(0, 10 * SECOND);
            self.after(wait, Event::ToApi(Box::new(call)));
        }
    }

    /// How long something is under way, unless it is lost. What is sent while the
    /// network is cut may arrive once it is not.
    fn way(&mut self, node: usize) -> Option<Micros> {
        let cut = self.nodes[node].cut_until.saturating_sub(self.now);
        if !self.faulty() {
            return Some(cut + self.random.between(MILLI, 20 * MILLI));
        }
        if cut > 0 && self.random.once_in(2) || self.random.once_in(60) {
            return None;
        }
        let most = match self.random.below(40) {
            0 => 8 * SECOND,
            1..=3 => SECOND,
            _ => 30 * MILLI,
        };
        Some(cut + self.random.between(MILLI, most))
    }

    fn answer(&mut self, call: &Call, answer: Answer) {
        if let Some(wait) = self.way(call.node) {
            let answer = Box::new((call.credential, answer));
            self.after(wait, Event::ToWorker(call.node, call.process, call.number, answer));
        }
    }

    /// A request arrives at the API.
    pub fn arrive(&mut self, call: Call) {
        let now = self.timestamp();
        if let Request::Join(joining) = &call.request {
            // A join cannot be told from one of a former process that comes late. Where
            // its devices were others, it would end what the present one serves.
            if joining.devices != self.nodes[call.node].joining.devices {
                return;
            }
            self.credentials += 1;
            let credential = self.credentials;
            let worker = self.db.join(joining, credential, now);
            self.say(|| format!("  {} joins with credential {credential}", joining.name));
            self.notice();
            return self.answer(&call, Answer::Joined(worker, credential));
        }
        let remembered = self.faulty() && self.random.once_in(2);
        let known = call.credential.and_then(|shown| self.db.by_credential(shown, remembered, now));
        let Some(worker) = known else { return self.answer(&call, Answer::Unknown) };
        match &call.request {
            Request::Join(_) => {}
            Request::Report(reports) => {
                if self.db.report(worker, reports, now) {
                    self.say(|| format!("  node {} reports {reports:?}", call.node));
                    self.notice();
                }
                self.answer(&call, Answer::Reported);
            }
            Request::Desired(after) => {
                let (after, until) = (after.clone(), self.now + DESIRED_WAIT_SECS * SECOND);
                self.polled += 1;
                self.polls.insert(self.polled, Poll { call, worker, after, until });
                self.look(self.polled);
            }
        }
    }

    /// The API looks whether a worker's desired state is another by now.
    pub fn look(&mut self, at: u64) {
        let Some(poll) = self.polls.remove(&at) else { return };
        let desired = self.db.desired(poll.worker);
        if poll.after.as_deref() != Some(&desired.revision) || self.now >= poll.until {
            return self.answer(&poll.call, Answer::Desired(desired));
        }
        let again = (self.now + self.random.between(SECOND, 4 * SECOND)).min(poll.until);
        self.polls.insert(at, poll);
        self.at(again, Event::Look(at));
    }

    /// Something was committed: schedulers and the API are told, if that notice is
    /// not lost.
    pub fn notice(&mut self) {
        for at in 0..self.schedulers.len() {
            let lost = self.faulty() && self.random.once_in(8);
            if !lost && self.schedulers[at].notify() {
                let wait = self.pace();
                self.wake(at, wait);
            }
        }
        let news = |poll: &Poll| poll.after.as_deref() != Some(&self.db.desired(poll.worker).revision);
        let told: Vec<u64> = self.polls.iter().filter(|(_, poll)| news(poll)).map(|(at, _)| *at).collect();
        for at in told {
            let lost = self.faulty() && self.random.once_in(8);
            if !lost {
                let wait = self.random.between(MILLI, 20 * MILLI);
                self.after(wait, Event::Look(at));
            }
        }
    }

    /// An answer arrives at a process, or at nobody.
    pub fn deliver(&mut self, node: usize, number: u64, handle: impl FnOnce(&mut Turn<'_>)) {
        if self.nodes[node].number != number {
            return;
        }
        let Some(mut process) = self.nodes[node].process.take() else { return };
        handle(&mut Turn { world: self, node, number, process: &mut process });
        self.nodes[node].process = Some(process);
    }
}
