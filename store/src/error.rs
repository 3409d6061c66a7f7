//! What can go wrong between us and the database.

use domain::workers::MAX_DEVICES;

/// An error of the store. Knows no HTTP.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such row, or not this tenant's: callers cannot tell.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// A unique name is taken.
    #[error("{0} already exists")]
    Exists(&'static str),
    /// The row is not in the state that the change expects.
    #[error("{0}")]
    Conflict(&'static str),
    /// The row has another revision than the change expects.
    #[error("it has changed since it was read")]
    Stale,
    /// The lease is not held (any more) by who says so.
    #[error("the lease is lost")]
    LeaseLost,
    /// Another scheduler leads.
    #[error("another scheduler leads")]
    NotLeader,
    /// The device has no room for it; nothing was placed.
    #[error("the device has no room left")]
    NoCapacity,
    /// No quota allows it; nothing was placed.
    #[error("no quota is left for it")]
    NoQuota,
    /// A budget has too little left for it; nothing was placed.
    #[error("a budget has too little left for it")]
    NoBudget,
    /// The nodes would make no quota tree.
    #[error("{0}")]
    QuotaTree(String),
    /// A worker reports more devices than can be kept.
    #[error("a worker has at most {MAX_DEVICES} devices")]
    TooManyDevices,
    /// A stored value is not what it must be.
    #[error("row {id} of {table} has a value in {column} that cannot be read")]
    Corrupt {
        /// Table.
        table: &'static str,
        /// Column.
        column: &'static str,
        /// Key of the row.
        id: String,
    },
    /// The database.
    #[error("database error")]
    Database(#[source] sqlx::Error),
    /// A migration.
    #[error("the database could not be migrated")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The object store.
    #[error("object store error")]
    Objects(#[from] object_store::Error),
}

impl StoreError {
    pub(crate) fn corrupt(table: &'static str, column: &'static str, id: impl std::fmt::Display) -> Self {
        Self::Corrupt { table, column, id: id.to_string() }
    }

    /// The database or the network may answer if asked again.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed) => true,
            // Serialization failure, deadlock, shutting down, starting up.
            Self::Database(sqlx::Error::Database(e)) => {
                matches!(e.code().as_deref(), Some("40001" | "40P01" | "57P01" | "57P03"))
            }
            _ => false,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(e: sqlx::Error) -> Self {
        match &e {
            sqlx::Error::Database(d)
                if matches!(d.constraint(), Some("devices_memory_fits" | "devices_milli_fits")) =>
            {
                Self::NoCapacity
            }
            sqlx::Error::Database(d) if d.constraint() == Some("quota_fits") => Self::NoQuota,
            sqlx::Error::Database(d) if d.constraint() == Some("budget_fits") => Self::NoBudget,
            _ => Self::Database(e),
        }
    }
}

/// `unique_violation` on any constraint becomes [`StoreError::Exists`].
pub(crate) fn exists(what: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |e| match &e {
        sqlx::Error::Database(d) if d.is_unique_violation() => StoreError::Exists(what),
        _ => e.into(),
    }
}
