//! Files of a project: inputs of jobs and what jobs produced.

use serde::{Deserialize, Serialize};

use crate::models::Sha256Digest;
use crate::{FileId, ProjectId, TenantId, Timestamp};

/// What a file is for, with OpenAI's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FilePurpose {
    /// Input of a batch.
    Batch,
    /// Results or errors of a batch.
    BatchOutput,
}

impl FilePurpose {
    /// Name in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::BatchOutput => "batch_output",
        }
    }
}

impl std::str::FromStr for FilePurpose {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "batch" => Ok(Self::Batch),
            "batch_output" => Ok(Self::BatchOutput),
            _ => Err(format!("{s:?} is not a purpose of files: use batch")),
        }
    }
}

/// A stored file. Its content is in the object store under `files/<tenant>/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct File {
    /// Identifier.
    pub id: FileId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its project.
    pub project_id: ProjectId,
    /// What it is for.
    pub purpose: FilePurpose,
    /// The name it was uploaded under.
    pub filename: String,
    /// Size.
    pub bytes: u64,
    /// Digest of the content.
    pub sha256: Sha256Digest,
    /// When it was stored.
    pub created_at: Timestamp,
}

impl File {
    /// Key of the content in the object store.
    pub fn object_key(tenant: TenantId, id: FileId) -> String {
        format!("files/{tenant}/{id}")
    }
}
