//! Puts a dataset where others find it: its files under names that say what is in them, and the
//! manifest beside them.

use serde_json::Value;
use serde_json::json;

use crate::store::DatasetRow;
use crate::store::Datasets;
use crate::store::Objects;

use super::dataset::BuildError;

/// Where a published dataset lies.
///
/// # Errors
/// It is not ready, or an object store is away.
pub async fn publish(
    datasets: &Datasets,
    row: &DatasetRow,
    to: Option<&Objects>,
) -> Result<Value, BuildError> {
    let own = datasets.objects().ok_or(BuildError::NoObjects)?;
    let to = to.unwrap_or(own);
    let folder = format!("datasets/{}/{}", row.name, row.version);
    let mut files = serde_json::Map::new();
    for (side, file) in [("train", &row.train), ("validation", &row.validation)] {
        let Some(file) = file else { continue };
        let sent = match &file.key {
            Some(key) => own.copy_to(to, key, file.bytes).await?,
            None => false,
        };
        let told = json!({ "key": file.key, "sha256": file.sha256, "bytes": file.bytes,
            "rows": file.rows, "sent": sent });
        files.insert(side.to_owned(), told);
    }
    let key = format!("{folder}/manifest.json");
    let manifest = json!({
        "name": row.name,
        "version": row.version,
        "method": row.method,
        "format": row.format,
        "recipe": row.recipe,
        "stats": row.stats,
        "files": files,
    });
    to.put(&key, manifest.to_string().into_bytes()).await?;
    let published = json!({ "object": "dataset.published", "id": row.id, "store": to.to_string(),
        "manifest": key, "files": files });
    let mut stats = row.stats.clone();
    stats["published"] = json!({ "store": to.to_string(), "manifest": key });
    datasets.set_published(row.id, &stats).await?;
    Ok(published)
}
