//! Segments in object storage: a second home for them, and the place a lost machine's store is rebuilt from.
//!
//! The data directory stays the first home. A segment is written and named by the catalog there; only then, in the
//! background, it is uploaded, and the catalog notes that the object store has it too. Ingest, queries of recent data and
//! rules never wait for the network, and an object store that is away for a day costs nothing but a longer list of what is
//! to be uploaded.
//!
//! With `store.local_cache_bytes` the oldest segments that have been uploaded are removed from the directory until the rest
//! fits. Whoever opens one of them fetches it first, as a whole, and verifies its checksum: Parquet readers want to jump
//! about in a file, segments are read again and again, and a local file is what all readers know how to read.
//!
//! Below the prefix lie `segments/FILE`, `series.log`, `facts.json`, `catalog.json` and `owner.json`. The catalog there is
//! put last and names only what is there, so it is complete at every instant: `tidegate restore URL` makes a data directory
//! from it. What was not uploaded yet - the samples still in memory and in the write-ahead log - stays on this machine alone.

mod bucket;
mod cache;
mod upload;

use serde::{Deserialize, Serialize};

pub(crate) use bucket::Bucket;
pub(crate) use cache::fetch;
pub(crate) use cache::{SegmentCache, open};
pub(crate) use upload::UploadProgress;
pub use upload::UploadReport;

/// Says whose the prefix is.
pub(crate) const OWNER: &str = "owner.json";

/// Where segments are stored besides the data directory. Keys come from the environment: `AWS_ACCESS_KEY_ID` and
/// `AWS_SECRET_ACCESS_KEY`, or what else the AWS tools use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectStoreConfig {
    /// `s3://BUCKET/PREFIX`, or `file:///DIRECTORY` for another disk.
    pub url: String,
    /// The server's address, where it is not Amazon's: `http://127.0.0.1:9000`. `AWS_ENDPOINT_URL` when not set.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The bucket's region. `AWS_REGION` when not set.
    #[serde(default)]
    pub region: Option<String>,
    /// Whether the endpoint may be plain HTTP.
    #[serde(default)]
    pub allow_http: bool,
}
