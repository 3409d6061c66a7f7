//! Accelerator classes.

use domain::accelerators::AcceleratorClass;
use domain::tenants::Slug;
use sqlx::{query, query_as};

use crate::{StoreError, SystemTx, Tx};

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

/// Makes a class, or describes what is there of that name.
pub async fn put_class(
    tx: &mut SystemTx,
    name: &Slug,
    description: &str,
) -> Result<AcceleratorClass, StoreError> {
    Ok(query_as!(
        AcceleratorClass,
        "INSERT INTO accelerator_classes (name, description) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET description = excluded.description RETURNING name, description",
        name.as_str(),
        description,
    )
    .fetch_one(tx.conn())
    .await?)
}

/// Takes a class away that nothing names: no device, quota or work, be it over.
pub async fn delete_class(tx: &mut SystemTx, name: &Slug) -> Result<(), StoreError> {
    let gone = query!("DELETE FROM accelerator_classes WHERE name = $1", name.as_str())
        .execute(tx.conn())
        .await
        .map_err(|e| match &e {
            sqlx::Error::Database(d) if d.is_foreign_key_violation() => {
                StoreError::Conflict("devices, quotas or work name the class, or did")
            }
            _ => e.into(),
        })?;
    if gone.rows_affected() == 1 { Ok(()) } else { Err(StoreError::NotFound("accelerator class")) }
}
