//! Records as they leave and enter a cluster: whole or refused, byte for byte, and harmless to a terminal.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use support::{Cluster, assert_fails, assert_succeeds};

#[test]
fn a_dump_that_is_not_whole_is_refused() {
    let cluster = Cluster::start(1);
    for (key, value) in [("a", "first"), ("b", "second"), ("c", "third")] {
        assert_succeeds(&cluster.client(&["put", key, value]));
    }
    let dump = assert_succeeds(&cluster.client(&["dump"]));
    for key in ["a", "b", "c"] {
        assert_succeeds(&cluster.client(&["delete", key]));
    }
    let file = cluster.path("dump.tsv");
    let in_last_value = dump.find("ird").expect("there");
    let after_second = dump.find("c\t").expect("there");
    for cut in [in_last_value, after_second] {
        fs::write(&file, &dump[..cut]).expect("writable");
        let says = [&file, "cut off", "nothing was loaded", "--allow-incomplete"];
        assert_fails(&cluster.client(&["load", &file]), 7, &says);
    }
    fs::write(&file, dump.replace("second", "sEcond")).expect("writable");
    assert_fails(&cluster.client(&["load", &file]), 7, &["damaged or edited"]);
    fs::write(&file, "").expect("writable");
    assert_fails(&cluster.client(&["load", &file]), 7, &["nothing in it"]);
    fs::write(&file, "a\t1\nb\tcut of").expect("writable");
    assert_fails(&cluster.client(&["load", &file]), 7, &["line 2", "no line feed"]);
    assert_eq!(cluster.records(), "");

    fs::write(&file, &dump[..in_last_value]).expect("writable");
    let loaded = cluster.client(&["load", &file, "--allow-incomplete"]);
    assert!(assert_succeeds(&loaded).contains("loaded 2 records"));
    assert!(String::from_utf8_lossy(&loaded.stderr).contains("cut off in line 4"));
    assert_eq!(cluster.records(), "a\tfirst\nb\tsecond\n", "never a part of a value");
}

#[test]
fn what_is_piped_is_exactly_the_value() {
    let cluster = Cluster::start(1);
    let value = b"\x00\xff\xfe\x1b[31m \\ two\nlines\t\xe2\x80\xae";
    let file = cluster.path("value");
    fs::write(&file, value).expect("writable");
    let put = support::raft()
        .env("RAFT_CONFIG", cluster.path("client.toml"))
        .args(["put", "k", "-"])
        .stdin(fs::File::open(&file).expect("readable"))
        .output()
        .expect("runs");
    assert_succeeds(&put);
    assert_eq!(cluster.client(&["get", "k"]).stdout, value);
    assert_eq!(cluster.client(&["get", "k", "--raw"]).stdout, value);
    let text = assert_succeeds(&cluster.client(&["get", "k", "--text"]));
    assert_eq!(text, "\\x00\\xff\\xfe\\x1b[31m \\\\ two\\nlines\\t\\xe2\\x80\\xae\n");
}

#[test]
fn keys_that_are_not_text_can_be_used() {
    let cluster = Cluster::start(1);
    let client = |args: &[&str]| cluster.client(args);
    assert_succeeds(&client(&["put", "--key-hex", "ff00", "one"]));
    assert_eq!(assert_succeeds(&client(&["get", "--key-hex", "FF00"])), "one");
    let json = assert_succeeds(&client(&["range", "--key-hex", "ff", "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["key_hex"], "ff00");
    assert_succeeds(&client(&["cas", "--key-hex", "ff00", "two", "--expect", "one"]));
    assert_succeeds(&client(&["put", "plain", "text"]));
    assert_eq!(
        assert_succeeds(&client(&["range", "--prefix", "ff", "--key-hex"])),
        "\\xff\\x00\ttwo\n"
    );
    assert_succeeds(&client(&["delete", "--key-hex", "ff00"]));
    assert_fails(&client(&["get", "--key-hex", "ff00"]), 3, &["\\xff\\x00"]);
    assert_fails(&client(&["get", "--key-hex", "xyz"]), 7, &["xyz", "hexadecimal"]);
    // As an argument, too.
    let put = support::raft()
        .env("RAFT_CONFIG", cluster.path("client.toml"))
        .arg("put")
        .args([OsStr::from_bytes(b"\xfe"), OsStr::from_bytes(b"\xfd")])
        .output()
        .expect("runs");
    assert_succeeds(&put);
    assert_eq!(cluster.client(&["get", "--key-hex", "fe"]).stdout, b"\xfd");
}

#[test]
fn nothing_stored_reaches_a_terminal_as_a_command() {
    let cluster = Cluster::start(1);
    let hostile = "a\u{1b}[2J\u{9b}31m\u{202e}\u{2066}\u{7f}b";
    assert_succeeds(&cluster.client(&["put", hostile, hostile]));
    for args in [
        &["range"][..],
        &["range", "--json"],
        &["range", "--keys-only"],
        &["dump"],
        &["get", hostile, "--json"],
        &["get", hostile, "--text"],
    ] {
        let shown = assert_succeeds(&cluster.client(args));
        let is_harmless = |char: char| {
            matches!(char, '\n' | '\t') || !char.is_control() && !"\u{202e}\u{2066}".contains(char)
        };
        assert!(shown.chars().all(is_harmless), "{args:?}: {shown:?}");
    }
    let json = assert_succeeds(&cluster.client(&["get", hostile, "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["key"], &json["value"]), (&hostile.into(), &hostile.into()));
    let missing = cluster.client(&["get", "gone\u{202e}\u{1b}"]);
    assert_fails(&missing, 3, &["gone"]);
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(!said.contains(['\u{202e}', '\u{1b}']), "{said:?}");
}
