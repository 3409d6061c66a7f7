//! Identifiers: one type each, so that a project's cannot be passed for a
//! tenant's. UUID version 7, which sorts by creation time.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh identifier.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                s.parse().map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    )*};
}

ids! {
    /// A tenant (ministry).
    TenantId,
    /// A project of a tenant.
    ProjectId,
    /// A node of the quota tree that lets tenants lend and borrow.
    CohortId,
    /// A person, service account or worker.
    PrincipalId,
    /// An identity provider.
    ProviderId,
    /// An API key.
    KeyId,
    /// A tenant's own restriction.
    RestrictionId,
    /// A model.
    ModelId,
    /// An immutable version of a model.
    VersionId,
    /// A worker.
    WorkerId,
    /// A device of a worker.
    DeviceId,
    /// An endpoint.
    EndpointId,
    /// What the scheduler places: a replica or a job's share.
    WorkloadId,
    /// A workload on particular devices of one worker.
    PlacementId,
    /// A job.
    JobId,
    /// An uploaded or produced file.
    FileId,
    /// A usage row.
    UsageId,
    /// An audit event.
    AuditId,
    /// One request through the gateway.
    RequestId,
    /// The secret of a lease: whoever holds it may commit.
    LeaseToken,
}
