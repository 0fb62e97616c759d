//! A node's data folder: whose it is, who uses it, and where the files in it lie. Not what is in them.
//!
//! | file | what |
//! | --- | --- |
//! | `meta` | TOML, see [`Meta`]; written when the folder is made, when the log is, and when the group is founded |
//! | `lock` | locked (`flock`) by the process that uses the folder |
//! | `log.redb` | the log and the hard state |
//! | `state.redb` | the key-value state's checkpoint |
//! | `incoming/` | snapshots on their way in; emptied at the start |
//!
//! A group is founded by folders that say so, once: those that `raft init` (or `raft found`) made. A folder that is new founds
//! nothing, for nobody can tell it from one that was emptied.
//!
//! Nobody but the owner may look into the folder, and nothing in it may be a symbolic link.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::exit::{Code, Failure, OrFail, Outcome};

/// The version of the layout that this program writes, and the only one that it reads.
const FORMAT: u64 = 1;
/// `meta` is not read further than this.
const META_BYTES_MAX: u64 = 64 << 10;
/// How the last line of `meta` begins. The first 16 hexadecimal digits of the BLAKE3 of all before it follow, and a quote.
const CHECKSUM: &str = "checksum = \"";
const PRIVATE_FOLDER: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;
/// The rights of everybody but the owner.
const OTHERS: u32 = 0o077;

/// What `meta` says. Earlier versions wrote no checksum and no `founds`; such a file is still read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    format: u64,
    cluster: String,
    node: u64,
    /// The log was created: from then on, a folder without it has lost it.
    #[serde(default)]
    has_log: bool,
    /// The node founds the group with the members of its configuration if its log is empty. Taken back once it has.
    #[serde(default)]
    founds: bool,
}

/// Why a `meta` can not be used.
enum MetaFault {
    Damaged(&'static str),
    Version(i64),
}

impl Meta {
    fn new(cluster: &str, node: u64) -> Meta {
        Meta { format: FORMAT, cluster: cluster.to_owned(), node, has_log: false, founds: false }
    }

    fn encode(&self) -> Result<String, toml::ser::Error> {
        let body = toml::to_string(self)?;
        Ok(format!("{body}{}", checksum_line(&body)))
    }

    fn decode(text: &str) -> Result<Meta, MetaFault> {
        let sealed = text.rfind(CHECKSUM);
        if let Some(at) = sealed
            && checksum_line(&text[..at]) != text[at..]
        {
            return Err(MetaFault::Damaged("its checksum does not match"));
        }
        let table: toml::Table =
            toml::from_str(text).map_err(|_| MetaFault::Damaged("it is not TOML"))?;
        // Only the version is sure to be there in every version.
        let format = table.get("format").and_then(toml::Value::as_integer);
        let format = format.ok_or(MetaFault::Damaged("it has no `format`"))?;
        if u64::try_from(format) != Ok(FORMAT) {
            return Err(MetaFault::Version(format));
        }
        let known = ["format", "cluster", "node", "has_log"];
        if sealed.is_none() && table.keys().any(|key| !known.contains(&key.as_str())) {
            return Err(MetaFault::Damaged(
                "it has a line that no version without checksums wrote",
            ));
        }
        toml::from_str(text)
            .map_err(|_| MetaFault::Damaged("`cluster` or `node` is missing or of the wrong type"))
    }
}

fn checksum_line(body: &str) -> String {
    let hash = blake3::hash(body.as_bytes()).to_hex();
    format!("{CHECKSUM}{}\"\n", &hash[..16])
}

/// An open data folder. No other process can open it until this is dropped.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    meta: Meta,
    _lock: File,
}

impl DataFolder {
    /// Opens a folder, which is made if it does not exist, for one node of one cluster.
    pub(crate) fn open(path: &Path, cluster: &str, node: u64) -> Outcome<DataFolder> {
        make_private(path)?;
        refuse_links(path)?;
        let lock = lock(path)?;
        let mut folder =
            DataFolder { path: path.to_owned(), meta: Meta::new(cluster, node), _lock: lock };
        if let Some(meta) = folder.read_meta()? {
            folder.check(&meta)?;
            folder.meta = meta;
        } else {
            folder.check_new()?;
            folder.write_meta(folder.meta.clone())?;
        }
        folder.empty_incoming()?;
        Ok(folder)
    }

    /// Lets a folder that was never used found the group: at the next start, and once.
    pub(crate) fn let_found(path: &Path, cluster: &str, node: u64) -> Outcome {
        let mut folder = DataFolder::open(path, cluster, node)?;
        if folder.meta.has_log {
            return Err(refused(format!(
                "the data folder {} has a log, so its node belongs to a group already: nothing was changed",
                path.display()
            )));
        }
        folder.write_meta(Meta { founds: true, ..folder.meta.clone() })
    }

    /// Whether nothing has run on it yet.
    pub(crate) fn is_new(&self) -> bool {
        !self.meta.has_log
    }

    /// Whether the node is to found the group if its log is empty.
    pub(crate) fn founds(&self) -> bool {
        self.meta.founds
    }

    /// The log.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log.redb")
    }

    /// The checkpoint of the state.
    pub(crate) fn state(&self) -> PathBuf {
        self.path.join("state.redb")
    }

    /// Where snapshots from peers are put together.
    pub(crate) fn incoming(&self) -> PathBuf {
        self.path.join("incoming")
    }

    fn meta(&self) -> PathBuf {
        self.path.join("meta")
    }

    /// What `meta` says; `None` if there is none.
    fn read_meta(&self) -> Outcome<Option<Meta>> {
        let at = self.path.display();
        let unreadable = || format!("can not read {at}/meta");
        let file = match options().read(true).open(self.meta()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).or_fail(Code::DataFolder, unreadable),
        };
        let mut bytes = Vec::new();
        let read = file.take(META_BYTES_MAX).read_to_end(&mut bytes);
        read.or_fail(Code::DataFolder, unreadable)?;
        let text = String::from_utf8(bytes).map_err(|_| damaged(&self.path, "it is not text"))?;
        match Meta::decode(&text) {
            Ok(meta) => Ok(Some(meta)),
            Err(MetaFault::Damaged(what)) => Err(damaged(&self.path, what)),
            Err(MetaFault::Version(found)) => Err(refused(format!(
                "the data folder {at} has format version {found}, but this program reads version {FORMAT}: \
                 use the version of raft that wrote it"
            ))),
        }
    }

    /// Whether it is this node's.
    fn check(&self, meta: &Meta) -> Outcome {
        let at = self.path.display();
        let Meta { cluster, node, .. } = &self.meta;
        if meta.cluster != *cluster {
            return Err(refused(format!(
                "the data folder {at} belongs to cluster {}, but the configuration is for cluster {cluster}: \
                 correct `data` (or --data); if this node has never run, give it an empty folder",
                meta.cluster
            )));
        }
        if meta.has_log && !self.log().exists() {
            return Err(refused(format!(
                "the data folder {at} has lost its log: put log.redb back; if it is gone for good, empty the folder, and the group takes \
                 the node back (see 'Losing machines' in docs/src/operations.md)"
            )));
        }
        if meta.node != *node {
            return Err(refused(format!(
                "the data folder {at} belongs to node {}, but the configuration is for node {node}: \
                 correct `data` (or --data); two nodes must never share a folder",
                meta.node
            )));
        }
        Ok(())
    }

    fn check_new(&self) -> Outcome {
        if self.log().exists() || self.state().exists() {
            return Err(refused(format!(
                "the data folder {} holds a log or a state, but no `meta` that says whose: put the file back \
                 (see 'Losing machines' in docs/src/operations.md)",
                self.path.display()
            )));
        }
        Ok(())
    }

    /// Notes that the log exists. A folder that has lost it is refused from now on: it is better to find it than to do without.
    pub(crate) fn note_log(&mut self) -> Outcome {
        self.write_meta(Meta { has_log: true, ..self.meta.clone() })
    }

    /// Notes that the group is founded, which a folder does once.
    pub(crate) fn note_founded(&mut self) -> Outcome {
        if !self.meta.founds {
            return Ok(());
        }
        self.write_meta(Meta { founds: false, ..self.meta.clone() })
    }

    /// Writes `meta`, whole or not at all.
    fn write_meta(&mut self, meta: Meta) -> Outcome {
        let at = self.path.display();
        let write = || -> io::Result<()> {
            let text = meta.encode().map_err(io::Error::other)?;
            let temporary = self.path.join("meta.new");
            let mut file = options().create(true).truncate(true).write(true).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, self.meta())?;
            File::open(&self.path)?.sync_all()
        };
        write().or_fail(Code::DataFolder, || {
            format!("can not write to the data folder {at} (make it writable, or free some space)")
        })?;
        self.meta = meta;
        Ok(())
    }

    /// What a crash left half-received is of no use.
    fn empty_incoming(&self) -> Outcome {
        let incoming = self.incoming();
        let renew = || -> io::Result<()> {
            if incoming.exists() {
                fs::remove_dir_all(&incoming)?;
            }
            DirBuilder::new().mode(PRIVATE_FOLDER).create(&incoming)
        };
        renew().or_fail(Code::DataFolder, || {
            format!("can not write to {} (make it writable)", incoming.display())
        })
    }
}

/// How every file of the folder itself is opened: for the owner alone, and no symbolic link is followed.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(PRIVATE_FILE).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// Makes the folder if there is none, and takes from others the rights that an earlier version or a umask gave them.
fn make_private(path: &Path) -> Outcome {
    let at = path.display();
    let made = DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(path);
    made.or_fail(Code::DataFolder, || {
        format!("can not make the data folder {at} (give another one with --data, or make its parent writable)")
    })?;
    close_to_others(path, PRIVATE_FOLDER);
    Ok(())
}

/// The owner may have given the folder to a group on purpose and be somebody else: that is told, and no reason not to start.
fn close_to_others(path: &Path, mode: u32) {
    let is_open = |found: &fs::Metadata| found.mode() & OTHERS != 0;
    if fs::symlink_metadata(path).is_ok_and(|found| is_open(&found))
        && let Err(error) = fs::set_permissions(path, Permissions::from_mode(mode))
    {
        let path = path.display();
        tracing::warn!(%path, %error, "other users have rights on this, which can not be taken from them: run `chmod {mode:o} {path}` as its owner");
    }
}

/// Refuses whatever leads elsewhere: a write through it would change, or a start would read, what is not this node's.
fn refuse_links(path: &Path) -> Outcome {
    let at = path.display();
    let unreadable = || format!("can not read the data folder {at} (make it readable)");
    for entry in fs::read_dir(path).or_fail(Code::DataFolder, unreadable)? {
        let entry = entry.or_fail(Code::DataFolder, unreadable)?;
        let kind = entry.file_type().or_fail(Code::DataFolder, unreadable)?;
        if kind.is_symlink() {
            return Err(refused(format!(
                "{} is a symbolic link, which a data folder must not hold: remove it, or put the file itself there",
                entry.path().display()
            )));
        }
        if kind.is_file() {
            close_to_others(&entry.path(), PRIVATE_FILE);
        }
    }
    Ok(())
}

fn lock(path: &Path) -> Outcome<File> {
    let at = path.display();
    let open = options().create(true).truncate(false).write(true).open(path.join("lock"));
    let file = open.or_fail(Code::DataFolder, || {
        format!("can not write to the data folder {at} (make it writable, or give another one with --data)")
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(refused(format!(
            "the data folder {at} is in use by another process: stop that node first; two must never share a folder"
        ))),
        Err(TryLockError::Error(error)) => Err(error).or_fail(Code::DataFolder, || {
            format!("can not lock the data folder {at} (is it on a file system without locks?)")
        }),
    }
}

fn refused(message: String) -> Failure {
    Failure::new(Code::DataFolder, message)
}

fn damaged(path: &Path, what: &str) -> Failure {
    refused(format!(
        "{}/meta is damaged: {what}; write it again: the lines `format = {FORMAT}`, `cluster = \"…\"` and `node = …` as in the node's \
         configuration, and `has_log = true`",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn error(path: &Path) -> String {
        DataFolder::open(path, "c", 1).unwrap_err().to_string()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_folder_belongs_to_one_node_of_one_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        drop(DataFolder::open(&path, "c1", 1).unwrap());
        drop(DataFolder::open(&path, "c1", 1).unwrap());
        let error = DataFolder::open(&path, "c2", 1).unwrap_err().to_string();
        assert!(error.contains("belongs to cluster c1"), "{error}");
        let error = DataFolder::open(&path, "c1", 2).unwrap_err().to_string();
        assert!(error.contains("belongs to node 1"), "{error}");
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataFolder::open(dir.path(), "c", 1).unwrap();
        let failure = DataFolder::open(dir.path(), "c", 1).unwrap_err();
        assert_eq!(failure.code, Code::DataFolder);
        assert!(failure.to_string().contains("in use by another process"), "{failure}");
        drop(held);
        DataFolder::open(dir.path(), "c", 1).unwrap();
    }

    #[test]
    fn a_folder_founds_if_it_was_told_to_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        assert!(!DataFolder::open(path, "c", 1).unwrap().founds(), "a new one does not");
        DataFolder::let_found(path, "c", 1).unwrap();
        let mut folder = DataFolder::open(path, "c", 1).unwrap();
        assert!(folder.founds() && folder.is_new());
        fs::write(folder.log(), "").unwrap();
        folder.note_log().unwrap();
        drop(folder);
        let mut folder = DataFolder::open(path, "c", 1).unwrap();
        assert!(folder.founds(), "the log is there, and may be empty still");
        folder.note_founded().unwrap();
        drop(folder);
        assert!(!DataFolder::open(path, "c", 1).unwrap().founds());
        let error = DataFolder::let_found(path, "c", 1).unwrap_err().to_string();
        assert!(error.contains("belongs to a group already"), "{error}");
    }

    #[test]
    fn damage_and_other_versions_are_named() {
        let dir = tempfile::tempdir().unwrap();
        for (text, expected) in [
            ("", "has no `format`"),
            ("\u{1}", "not TOML"),
            ("format = 1", "`cluster` or `node` is missing"),
            ("format = 2\nanything = 1", "format version 2, but this program reads version 1"),
        ] {
            fs::write(dir.path().join("meta"), text).unwrap();
            let error = error(dir.path());
            assert!(error.contains(expected), "{error}");
        }
        fs::remove_file(dir.path().join("meta")).unwrap();
        fs::write(dir.path().join("log.redb"), "").unwrap();
        let error = error(dir.path());
        assert!(error.contains("no `meta`"), "{error}");
    }

    #[test]
    fn every_flipped_bit_of_meta_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let meta = dir.path().join("meta");
        DataFolder::let_found(dir.path(), "0123456789abcdef", 1).unwrap();
        let whole = fs::read(&meta).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&meta, &bad).unwrap();
            let error =
                DataFolder::open(dir.path(), "0123456789abcdef", 1).map(|_| ()).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains("meta is damaged") && error.contains("write it again"),
                "{error}"
            );
        }
        fs::write(&meta, &whole).unwrap();
        DataFolder::open(dir.path(), "0123456789abcdef", 1).unwrap();
    }

    #[test]
    fn a_meta_of_a_version_without_checksums_is_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("log.redb"), "").unwrap();
        let text = "format = 1\ncluster = \"c\"\nnode = 1\nhas_log = true\n";
        fs::write(dir.path().join("meta"), text).unwrap();
        let folder = DataFolder::open(dir.path(), "c", 1).unwrap();
        assert!(!folder.founds() && !folder.is_new());
    }

    #[test]
    fn nobody_else_may_look_into_it_whoever_made_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        fs::write(path.join("state.redb.old"), "").unwrap();
        fs::set_permissions(path.join("state.redb.old"), Permissions::from_mode(0o644)).unwrap();
        DataFolder::open(&path, "c", 1).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join("incoming")), 0o700);
        for file in ["meta", "lock", "state.redb.old"] {
            assert_eq!(mode(&path.join(file)), 0o600, "{file}");
        }
    }

    #[test]
    fn links_are_refused_by_name_and_not_followed() {
        for name in
            ["meta", "meta.new", "lock", "log.redb", "log.redb.journal", "state.redb", "incoming"]
        {
            let dir = tempfile::tempdir().unwrap();
            let (data, victim) = (dir.path().join("data"), dir.path().join("victim"));
            fs::create_dir(&data).unwrap();
            fs::write(&victim, "precious").unwrap();
            symlink(&victim, data.join(name)).unwrap();
            let error = error(&data);
            assert!(error.contains(&format!("{name} is a symbolic link")), "{error}");
            assert_eq!(fs::read(&victim).unwrap(), b"precious");
        }
    }
}
