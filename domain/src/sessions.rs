//! Sessions of people, as lists show them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Timestamp;

/// An open session, without its token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Session {
    /// Identifier.
    pub id: Uuid,
    /// When it was opened.
    pub created_at: Timestamp,
    /// Last use, to the minute.
    pub last_seen_at: Timestamp,
    /// When it ends at the latest.
    pub expires_at: Timestamp,
    /// Whether a one-time code was given.
    pub one_time_code: bool,
    /// Where it was opened from.
    pub address: Option<String>,
    /// With what program, as it called itself.
    pub user_agent: Option<String>,
    /// Whether it is the one that asks.
    #[serde(default)]
    pub current: bool,
}
