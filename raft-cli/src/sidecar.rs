//! The progress file of `raft load`: how far an earlier load came, and by which record its cluster is known again. Not how
//! records are loaded.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_kv::query::Record;
use serde::{Deserialize, Serialize};

use crate::load::{Place, Stored};
use crate::text::{self, Format};

/// How often the progress file is written.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// The progress file beside a file that is being loaded. Only a help: when it cannot be written, the load starts over next time.
pub(crate) struct Sidecar {
    path: Option<PathBuf>,
    /// What the file has to say of content and cluster to count.
    source: Source,
    place: Place,
    /// Of all that was acknowledged, what the cluster carried out last: if it holds that, it holds the rest.
    last: Option<Stored>,
    saved: Option<Instant>,
}

/// Which content goes into which cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Source {
    cluster: String,
    hash: String,
    format: String,
}

/// What the progress file holds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    source: Source,
    pub(crate) place: Place,
    pub(crate) last: Evidence,
}

/// A record by which a store is known again.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Evidence {
    key_hex: String,
    /// The revision since when it has its value.
    revision: u64,
    /// BLAKE3 of the value.
    value_hash: String,
}

impl Evidence {
    /// Its key; empty if the file was damaged.
    pub(crate) fn key(&self) -> Bytes {
        text::unhex(self.key_hex.as_bytes()).unwrap_or_default().into()
    }

    /// Whether this is what its key holds.
    pub(crate) fn is(&self, record: &Record) -> bool {
        record.mod_revision == self.revision && hash(&record.value) == self.value_hash
    }
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

impl Sidecar {
    pub(crate) fn new(file: &Path, cluster: &str, format: Format, hash: &str) -> Sidecar {
        let path = (file != Path::new("-")).then(|| {
            let mut name = file.as_os_str().to_owned();
            name.push(".raft-progress");
            PathBuf::from(name)
        });
        let source = Source {
            cluster: cluster.to_owned(),
            hash: hash.to_owned(),
            format: format!("{format:?}"),
        };
        Sidecar { path, source, place: Place::default(), last: None, saved: None }
    }

    /// How far an earlier load of the same content into a cluster of the same id says that it came.
    pub(crate) fn earlier(&self) -> Option<Progress> {
        let text = fs::read(self.path.as_ref()?).ok()?;
        let found = serde_json::from_slice::<Progress>(&text).ok()?;
        (found.source == self.source && !found.last.key().is_empty()).then_some(found)
    }

    /// Believes it, since the cluster holds this record still.
    pub(crate) fn go_on(&mut self, found: &Progress, record: &Record) -> Place {
        let place = found.place;
        let (key, value) = (found.last.key(), record.value.to_vec().into());
        self.last = Some(Stored { place, key, value, revision: found.last.revision });
        self.place = place;
        place
    }

    pub(crate) fn note(&mut self, stored: Stored) {
        self.place = stored.place;
        if self.last.as_ref().is_none_or(|last| last.revision <= stored.revision) {
            self.last = Some(stored);
        }
        if self.saved.is_none_or(|saved| saved.elapsed() >= SAVE_INTERVAL) {
            self.save();
        }
    }

    fn save(&mut self) -> bool {
        self.saved = Some(Instant::now());
        let (Some(path), Some(last)) = (&self.path, &self.last) else {
            return false;
        };
        let last = Evidence {
            key_hex: text::hex(&last.key),
            revision: last.revision,
            value_hash: hash(&last.value),
        };
        let progress = Progress { source: self.source.clone(), place: self.place, last };
        let write = || -> io::Result<()> {
            let mut temporary = path.clone().into_os_string();
            temporary.push(".new");
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(&progress)?)?;
            fs::rename(&temporary, path)
        };
        write().is_ok()
    }

    pub(crate) fn remove(&mut self) {
        if let Some(path) = &self.path {
            // It may never have been written.
            let _ = fs::remove_file(path);
        }
    }

    /// What to say when the load ends early.
    pub(crate) fn farewell(&mut self, name: &str) -> String {
        let line = self.place.line;
        let saved = self.save();
        let next = if saved { "goes on from there" } else { "starts over" };
        format!(
            "the load of {name} stopped; all up to and including line {line} is stored, and some after it may be; the same command {next}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(line: u64, key: &'static str, revision: u64) -> Stored {
        let place = Place { line, offset: 4 * line };
        Stored { place, key: key.into(), value: "v".into(), revision }
    }

    fn record(value: &str, mod_revision: u64) -> Record {
        Record { value: value.as_bytes().into(), create_revision: 1, mod_revision, version: 1 }
    }

    #[test]
    fn progress_counts_for_the_same_content_and_cluster_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f.tsv");
        let sidecar = |cluster: &str, hash| Sidecar::new(&file, cluster, Format::Tsv, hash);
        let place = |cluster: &str, hash| sidecar(cluster, hash).earlier().map(|found| found.place);
        let mut first = sidecar("c1", "h1");
        assert_eq!(first.earlier(), None);
        // The puts of a load may be carried out in another order than the file's.
        first.note(stored(1, "a", 9));
        first.note(stored(2, "b", 8));
        assert!(first.farewell("f.tsv").contains("goes on from there"));
        assert_eq!(place("c1", "h1"), Some(Place { line: 2, offset: 8 }));
        assert_eq!((place("c2", "h1"), place("c1", "h2")), (None, None));
        let found = first.earlier().unwrap();
        assert_eq!(found.last.key(), "a");
        for (record, is_it) in
            [(record("v", 9), true), (record("v", 8), false), (record("w", 9), false)]
        {
            assert_eq!(found.last.is(&record), is_it);
        }
        // A load that goes on and is interrupted at once says the same again.
        let mut second = sidecar("c1", "h1");
        second.go_on(&found, &record("v", 9));
        assert!(second.farewell("f.tsv").contains("line 2"));
        assert!(second.earlier().unwrap().last.is(&record("v", 9)));
        second.remove();
        assert_eq!(place("c1", "h1"), None);
        fs::write(dir.path().join("f.tsv.raft-progress"), "{\"line\":1}").unwrap();
        assert_eq!(place("c1", "h1"), None);
    }
}
