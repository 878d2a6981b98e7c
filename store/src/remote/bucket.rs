//! An object store as blocking calls, on threads of its own: whoever reads a segment may be on any thread.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig, WriteMultipart};

use super::ObjectStoreConfig;
use crate::error::StoreError;

/// Attempts of one request; a failed round of uploads begins anew later.
const RETRIES: usize = 3;
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Files are sent in parts of this size.
const PART: usize = 8 << 20;
/// Parts of one file on their way at once.
const PARTS: usize = 2;

/// An object store and the prefix in it that is ours.
pub(crate) struct Bucket {
    url: String,
    store: Arc<dyn ObjectStore>,
    prefix: Key,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Bucket {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// The URL is none that is known, or the settings do not go together.
    pub(crate) fn new(config: &ObjectStoreConfig) -> Result<Self, StoreError> {
        let refuse = |why: String| StoreError::ObjectStoreSetting { url: config.url.clone(), why };
        let (store, prefix): (Arc<dyn ObjectStore>, Key) = if let Some(rest) = config.url.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(refuse("it names no bucket".to_owned()));
            }
            (Arc::new(s3(config, bucket).map_err(|error| refuse(error.to_string()))?), Key::from(prefix))
        } else if let Some(dir) = config.url.strip_prefix("file://").filter(|dir| dir.starts_with('/')) {
            fs::create_dir_all(dir).map_err(StoreError::io("create", Path::new(dir)))?;
            let store = LocalFileSystem::new_with_prefix(dir).map_err(|error| refuse(error.to_string()))?;
            (Arc::new(store), Key::default())
        } else {
            return Err(refuse("it begins neither with s3:// nor with file:///".to_owned()));
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("tidegate-remote")
            .enable_all()
            .build()
            .map_err(|error| refuse(format!("no threads for it: {error}")))?;
        Ok(Self { url: config.url.clone(), store, prefix, runtime: Some(runtime) })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    fn key(&self, name: &str) -> Key {
        name.split('/').fold(self.prefix.clone(), |key, part| key.join(part))
    }

    /// Puts an object.
    pub(crate) fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        let (store, key) = (self.store.clone(), self.key(name));
        self.run("put", name, async move { store.put(&key, bytes.into()).await.map(drop) })
    }

    /// Puts a file; only a few parts of it are in memory at once.
    pub(crate) fn put_file(&self, name: &str, path: &Path) -> Result<(), StoreError> {
        let mut file = File::open(path).map_err(StoreError::io("read", path))?;
        let bytes = file.metadata().map_err(StoreError::io("read", path))?.len();
        if bytes <= PART as u64 {
            let mut content = Vec::with_capacity(bytes as usize);
            file.read_to_end(&mut content).map_err(StoreError::io("read", path))?;
            return self.put(name, content);
        }
        let (store, key) = (self.store.clone(), self.key(name));
        self.run("put", name, async move {
            let failed = |source: std::io::Error| object_store::Error::Generic { store: "file", source: source.into() };
            let mut upload = WriteMultipart::new_with_chunk_size(store.put_multipart(&key).await?, PART);
            loop {
                let mut piece = Vec::with_capacity(PART);
                (&mut file).take(PART as u64).read_to_end(&mut piece).map_err(failed)?;
                if piece.is_empty() {
                    return upload.finish().await.map(drop);
                }
                upload.wait_for_capacity(PARTS).await?;
                upload.write(&piece);
            }
        })
    }

    /// An object's content; `None` when there is no such object.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let (store, key) = (self.store.clone(), self.key(name));
        self.run("get", name, async move {
            match store.get(&key).await {
                Ok(found) => found.bytes().await.map(|bytes| Some(bytes.to_vec())),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    /// Writes an object to a new file, durably; gives its checksum and size.
    pub(crate) fn get_file(&self, name: &str, path: &Path) -> Result<(u32, u64), StoreError> {
        let mut file = File::create(path).map_err(StoreError::io("create", path))?;
        let (store, key) = (self.store.clone(), self.key(name));
        let (file, sum, bytes) = self.run("get", name, async move {
            let failed = |source: std::io::Error| object_store::Error::Generic { store: "file", source: source.into() };
            let mut pieces = store.get(&key).await?.into_stream();
            let (mut sum, mut bytes) = (crc32fast::Hasher::new(), 0);
            while let Some(piece) = pieces.next().await {
                let piece = piece?;
                sum.update(&piece);
                bytes += piece.len() as u64;
                file.write_all(&piece).map_err(failed)?;
            }
            Ok((file, sum.finalize(), bytes))
        })?;
        file.sync_all().map_err(StoreError::io("sync", path))?;
        Ok((sum, bytes))
    }

    /// Removes an object; one that is not there is no error.
    pub(crate) fn delete(&self, name: &str) -> Result<(), StoreError> {
        let (store, key) = (self.store.clone(), self.key(name));
        self.run("delete", name, async move {
            match store.delete(&key).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                other => other,
            }
        })
    }

    /// The names of all objects directly below a folder, without the folder.
    pub(crate) fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let (store, key) = (self.store.clone(), self.key(folder));
        self.run("list", folder, async move {
            let found: Vec<_> = store.list(Some(&key)).try_collect().await?;
            Ok(found.iter().filter_map(|object| object.location.filename().map(str::to_owned)).collect())
        })
    }

    /// Runs a request on the bucket's own threads and waits for it here.
    fn run<T: Send + 'static>(
        &self,
        action: &'static str,
        name: &str,
        request: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let failed = |message: String| StoreError::Remote { action, name: format!("{}/{name}", self.url), message };
        let Some(runtime) = &self.runtime else { return Err(failed("it is being closed".to_owned())) };
        let (send, answer) = mpsc::sync_channel(1);
        runtime.spawn(async move {
            let _ = send.send(request.await); // nobody waits any more
        });
        match answer.recv() {
            Ok(outcome) => outcome.map_err(|error| failed(error.to_string())),
            Err(_) => Err(failed("the request was cut off".to_owned())),
        }
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // May happen on a thread that must not block.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn s3(config: &ObjectStoreConfig, bucket: &str) -> object_store::Result<object_store::aws::AmazonS3> {
    let retry = RetryConfig { max_retries: RETRIES, retry_timeout: TIMEOUT, ..RetryConfig::default() };
    let client = ClientOptions::new().with_timeout(TIMEOUT).with_connect_timeout(Duration::from_secs(5));
    let mut builder =
        AmazonS3Builder::from_env().with_client_options(client).with_retry(retry).with_bucket_name(bucket);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    if config.allow_http {
        builder = builder.with_allow_http(true);
    }
    builder.build()
}
