//! Answers that were given, by all that they depend on: the same facts have
//! the same answer, so none need be forgotten when something changes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use domain::principals::{Credential, KeyBounds, Role};
use domain::{PrincipalId, TenantId};

use super::{Answer, Question, Resource};

/// Answers kept at once.
const MAX_ANSWERS: usize = 50_000;

/// All that an answer depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Facts {
    policies: [u8; 32],
    action: usize,
    resource: Resource,
    role: Role,
    tenant: Option<TenantId>,
    principal: Option<PrincipalId>,
    credential: Credential,
    bounds: Option<Arc<KeyBounds>>,
    must_change_password: bool,
    one_time_code: bool,
    address: IpAddr,
}

impl Facts {
    /// Of a question about the action in this place, to the policies with this digest.
    pub(super) fn of(policies: [u8; 32], action: usize, question: Question<'_>) -> Self {
        let caller = question.caller;
        Self {
            policies,
            action,
            resource: question.resource,
            role: question.role,
            tenant: caller.tenant,
            principal: caller.principal,
            credential: caller.credential,
            bounds: caller.bounds.clone(),
            must_change_password: caller.must_change_password,
            one_time_code: caller.one_time_code,
            address: question.address,
        }
    }
}

/// The answers.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<HashMap<Facts, Answer>>);

impl Memory {
    pub(super) fn get(&self, facts: &Facts) -> Option<Answer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(facts).cloned()
    }

    pub(super) fn put(&self, facts: Facts, answer: Answer) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MAX_ANSWERS {
            answers.clear();
        }
        answers.insert(facts, answer);
    }
}
