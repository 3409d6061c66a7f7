//! Accelerator classes.

use domain::accelerators::AcceleratorClass;
use sqlx::{query, query_as};

use crate::{StoreError, Tx};

/// Every class; there are few.
pub async fn classes(tx: &mut impl Tx) -> Result<Vec<AcceleratorClass>, StoreError> {
    Ok(query_as!(AcceleratorClass, "SELECT name, description FROM accelerator_classes ORDER BY name")
        .fetch_all(tx.conn())
        .await?)
}

/// Whether there is such a class.
pub async fn class_exists(tx: &mut impl Tx, name: &str) -> Result<bool, StoreError> {
    let row = query!(r#"SELECT EXISTS (SELECT FROM accelerator_classes WHERE name = $1) AS "exists!""#, name)
        .fetch_one(tx.conn())
        .await?;
    Ok(row.exists)
}
