//! What others may see and do: data and keys are for their owner alone, whatever the umask is.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Cluster, assert_fails, assert_succeeds, raft, wait_for};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").mode() & 0o777
}

/// Everything in a folder, however deep.
fn all_in(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(all_in(&path));
        }
        found.push(path);
    }
    found
}

#[test]
fn a_node_under_a_wide_umask_keeps_its_data_to_itself() {
    let mut cluster = Cluster::init(1);
    let wide = |program: &Command| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask 000; exec \"$@\"", "sh"]);
        shell.arg(program.get_program()).args(program.get_args());
        shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        shell
    };
    let record = cluster.path("recording");
    cluster.start_node_by(1, &["--record", &record], wide);
    cluster.leader();
    assert_succeeds(&cluster.client(&["put", "k", "v"]));
    assert_succeeds(&cluster.client(&["dump"]));
    let data = PathBuf::from(cluster.path("data1"));
    assert_eq!(mode(&data), 0o700);
    let files = all_in(&data);
    assert!(files.iter().any(|file| file.ends_with("log.redb.journal")), "{files:?}");
    for path in files {
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&path), expected, "{}", path.display());
    }
    assert_eq!(mode(Path::new(&record)), 0o600);
}

#[test]
fn a_key_that_others_may_read_is_refused_with_what_to_do() {
    let mut cluster = Cluster::start(1);
    for (key, command) in [("client.key", "get"), ("node1.key", "serve")] {
        let key = cluster.path(key);
        for bits in [0o666, 0o644, 0o604, 0o620] {
            fs::set_permissions(&key, fs::Permissions::from_mode(bits)).expect("mine");
            let output = match command {
                "get" => cluster.client(&["get", "k"]),
                _ => cluster.serve(1).stdin(Stdio::null()).output().expect("runs"),
            };
            let says = ["other users have rights", &format!("chmod 600 {key}")];
            assert_fails(&output, 5, &says);
        }
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("mine");
    }
    assert_succeeds(&cluster.client(&["put", "k", "v"]));
    assert_eq!(cluster.stop(1), Some(0));
    cluster.start_node(1);
}

#[test]
fn a_link_in_the_data_folder_is_refused_by_name_and_not_followed() {
    let cluster = Cluster::init(1);
    let (victim, link) = (cluster.path("client.toml"), cluster.path("data1/meta.new"));
    let before = fs::read(&victim).expect("readable");
    symlink(&victim, &link).expect("made");
    let serve = cluster.serve(1).stdin(Stdio::null()).output().expect("runs");
    assert_fails(&serve, 6, &[&link, "is a symbolic link", "remove it"]);
    assert_eq!(fs::read(&victim).expect("readable"), before);
}

#[test]
fn a_demo_that_is_killed_leaves_no_key_of_its_authority() {
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let mut demo = raft()
        .arg("demo")
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    let is_made = |path: &PathBuf| path.ends_with("client.toml");
    wait_for("the demo's files", || all_in(temporary.path()).iter().any(is_made).then_some(()));
    demo.kill().expect("killable");
    demo.wait().expect("ended");
    let left = all_in(temporary.path());
    assert!(left.iter().any(is_made), "it had no time to clean up");
    assert!(!left.iter().any(|path| path.ends_with("ca.key")), "{left:?}");
}
