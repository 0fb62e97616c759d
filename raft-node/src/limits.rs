//! The largest things that the parts of a node can take, compared once when it starts: a command that the core accepts and the transport
//! cannot carry would stop the group, with nothing wrong to be seen.

#[cfg(feature = "driver")]
use raft_core::Config;

#[cfg(feature = "driver")]
use crate::SnapshotChunk;

/// How much a store can keep in one entry, or a transport carry in one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeLimit {
    /// The most bytes of commands, or of a snapshot's data, that fit.
    pub bytes_max: usize,
    /// The setting that this follows from, as an operator would look for it.
    pub setting: &'static str,
}

/// Compares the settings of the protocol with what the store and the transport can take.
///
/// # Errors
/// The first two settings that disagree, with both values.
#[cfg(feature = "driver")]
pub(crate) fn check(
    config: &Config,
    store: Option<SizeLimit>,
    transport: Option<SizeLimit>,
) -> Result<(), String> {
    let command = ("raft.command_bytes_max", config.command_bytes_max);
    let append = ("raft.append_bytes_max", config.append_bytes_max);
    let chunk = ("the data of a part of a snapshot", SnapshotChunk::DATA_BYTES_MAX);
    let of_store = store.map(|limit| (command, limit));
    let of_transport = transport.map(|limit| [command, append, chunk].map(|it| (it, limit)));
    for ((name, bytes), limit) in of_store.into_iter().chain(of_transport.into_iter().flatten()) {
        let SizeLimit { bytes_max, setting } = limit;
        if bytes > bytes_max {
            return Err(format!(
                "{name} is {bytes} bytes, but {setting} lets no more than {bytes_max} through: lower the first or raise the second"
            ));
        }
    }
    Ok(())
}

#[cfg(all(test, feature = "driver"))]
mod tests {
    use raft_core::NodeId;

    use super::*;

    #[test]
    fn limits_that_disagree_are_named_with_both_settings() {
        let config = Config::new(NodeId(1));
        let limit = |bytes_max, setting| Some(SizeLimit { bytes_max, setting });
        assert_eq!(check(&config, None, None), Ok(()));
        assert_eq!(check(&config, limit(8 << 20, "a"), limit(8 << 20, "b")), Ok(()));
        let said = check(&config, limit((8 << 20) - 1, "rows"), None).unwrap_err();
        assert!(said.contains("raft.command_bytes_max is 8388608 bytes"), "{said}");
        assert!(said.contains("rows lets no more than 8388607 through"), "{said}");
        let said = check(&config, None, limit(1 << 20, "frames")).unwrap_err();
        assert!(said.contains("raft.command_bytes_max") && said.contains("frames"), "{said}");
        let small = Config { command_bytes_max: 100, ..config };
        let said = check(&small, None, limit(300 << 10, "frames")).unwrap_err();
        assert!(said.contains("raft.append_bytes_max") && said.contains("frames"), "{said}");
        let small = Config { append_bytes_max: 100, ..small };
        let said = check(&small, None, limit(200 << 10, "frames")).unwrap_err();
        assert!(said.contains("a part of a snapshot") && said.contains("frames"), "{said}");
    }
}
