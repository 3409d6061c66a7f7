//! The end of tenants.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::certificates::SignedCertificate;
use crate::models::Sha256Digest;
use crate::{TenantId, Timestamp};

/// How far the deletion of a tenant is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TenantDeletion {
    /// The tenant.
    pub tenant_id: TenantId,
    /// The short name it had.
    pub slug: String,
    /// When the deletion was asked for.
    pub requested_at: Timestamp,
    /// By whom.
    pub requested_by: String,
    /// Where it stands.
    pub state: DeletionState,
    /// What it waits for, while it does.
    pub waits_for: Option<String>,
    /// SHA-256 of the export that was taken before, if one was.
    pub export_sha256: Option<Sha256Digest>,
    /// How many rows are erased so far, by table.
    pub rows: BTreeMap<String, u64>,
    /// How many objects are erased so far.
    pub objects: u64,
    /// Their size together.
    pub object_bytes: u64,
    /// When nothing was left.
    pub finished_at: Option<Timestamp>,
    /// What proves it, in the end.
    pub certificate: Option<SignedCertificate>,
}

/// Where a deletion stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeletionState {
    /// Work is being stopped.
    Stopping,
    /// Rows and objects are being erased.
    Erasing,
    /// Nothing is left, which the certificate says.
    Finished,
}
