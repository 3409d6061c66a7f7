//! What a committed change tells the other processes. A row of the outbox is
//! written with the change and wakes listeners; loops poll anyway.

/// What changed. The subject that goes with it is an identifier, never content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Intent: endpoints, jobs, workers. The scheduler looks.
    Desired,
    /// Placements. Workers and gateways look.
    Placements,
    /// A credential was revoked or changed: subject is its id. Caches drop it.
    Credentials,
    /// A tenant's status or restrictions: subject is its id. Caches drop it.
    Tenants,
    /// Gateways hold requests for an endpoint: subject is its id. The autoscaler
    /// looks.
    Demand,
}

impl Topic {
    /// Name in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Desired => "desired",
            Self::Placements => "placements",
            Self::Credentials => "credentials",
            Self::Tenants => "tenants",
            Self::Demand => "demand",
        }
    }

    /// The topic of that name.
    pub fn parse(s: &str) -> Option<Self> {
        [Self::Desired, Self::Placements, Self::Credentials, Self::Tenants, Self::Demand]
            .into_iter()
            .find(|t| t.as_str() == s)
    }
}
