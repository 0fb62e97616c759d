//! The first words on every connection, on a stream of their own: who wants to talk to whom, as what, in which versions of the wire
//! format. The layout never changes, so that any two versions can at least refuse each other clearly; what a later version adds
//! follows after it, and is counted in it.

use quinn::{Connection, RecvStream, SendStream};
use raft_core::{NodeId, StoreId, StoreStamp};

use crate::error::{NetError, lost};
use crate::identity::ClusterId;
use crate::service::{read_failed, write_failed};
use crate::wire::WireError;

/// The version of the wire format that this build speaks: the lowest and the highest.
pub(crate) const VERSIONS: (u8, u8) = (1, 2);

const MAGIC: [u8; 4] = *b"RAFT";
const HELLO_BYTES: usize = 48;
const WELCOME_BYTES: usize = 24;
/// What follows a hello is counted in words of this size.
const WORD_BYTES: usize = 8;
/// The words of a stamp: id, life, nonce.
const STAMP_WORDS: usize = 3;
/// The version from which on a peer tells its store.
const STAMP_VERSION: u8 = 2;

/// As what the dialing side wants to be received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// As a member that sends messages of the protocol.
    Peer,
    /// As somebody who opens service streams.
    Service,
}

/// What the dialing side says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) versions: (u8, u8),
    pub(crate) role: Role,
    pub(crate) cluster: ClusterId,
    /// Who it says it is, if a node. Believed only if its certificate says the same.
    pub(crate) claimed: NodeId,
    /// Whom it wants to reach.
    pub(crate) target: NodeId,
    /// Drawn at each start of an endpoint: tells a restarted process from one that only lost a connection.
    pub(crate) incarnation: u64,
    /// The store that a peer runs on. Peers of version 1 do not tell.
    pub(crate) store: Option<StoreStamp>,
}

/// What the accepting side answers, if it does not close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Welcome {
    pub(crate) version: u8,
    pub(crate) incarnation: u64,
    /// The largest frame that it takes from the dialing side.
    pub(crate) frame_bytes_max: u32,
}

impl Hello {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HELLO_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = self.versions.0;
        bytes[5] = self.versions.1;
        bytes[6] = match self.role {
            Role::Peer => 1,
            Role::Service => 2,
        };
        bytes[7] = if self.store.is_some() { STAMP_WORDS as u8 } else { 0 };
        bytes[8..24].copy_from_slice(&self.cluster.0);
        bytes[24..32].copy_from_slice(&self.claimed.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.target.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.incarnation.to_le_bytes());
        if let Some(StoreStamp { id, life, nonce }) = self.store {
            for word in [id.0, life, nonce] {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
        }
        bytes
    }

    /// How many bytes follow: none of version 1, which ignores the byte that says so.
    fn bytes_after(bytes: &[u8; HELLO_BYTES]) -> usize {
        if bytes[5] >= STAMP_VERSION { usize::from(bytes[7]) * WORD_BYTES } else { 0 }
    }

    /// Reads a hello, and what follows it. What a later version adds there beyond this one's is ignored.
    fn decode(bytes: &[u8; HELLO_BYTES], after: &[u8]) -> Result<Hello, WireError> {
        if bytes[0..4] != MAGIC {
            return Err(WireError::NotOurProtocol);
        }
        let role = match bytes[6] {
            1 => Role::Peer,
            2 => Role::Service,
            other => return Err(WireError::UnknownRole { role: other }),
        };
        let store = (after.len() >= STAMP_WORDS * WORD_BYTES).then(|| StoreStamp {
            id: StoreId(u64_at(after, 0)),
            life: u64_at(after, 8),
            nonce: u64_at(after, 16),
        });
        if bytes[5] >= STAMP_VERSION && role == Role::Peer && store.is_none() {
            return Err(WireError::NoStamp);
        }
        let mut cluster = [0; 16];
        cluster.copy_from_slice(&bytes[8..24]);
        Ok(Hello {
            versions: (bytes[4], bytes[5]),
            role,
            cluster: ClusterId(cluster),
            claimed: NodeId(u64_at(bytes, 24)),
            target: NodeId(u64_at(bytes, 32)),
            incarnation: u64_at(bytes, 40),
            store,
        })
    }

    /// The version to speak: the highest that both know.
    pub(crate) fn common_version(&self) -> Result<u8, WireError> {
        let (low, high) = self.versions;
        let common = high.min(VERSIONS.1);
        if common < low || common < VERSIONS.0 {
            return Err(WireError::NoCommonVersion { theirs: self.versions, ours: VERSIONS });
        }
        Ok(common)
    }
}

impl Welcome {
    fn encode(&self) -> [u8; WELCOME_BYTES] {
        let mut bytes = [0; WELCOME_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = self.version;
        bytes[8..16].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.frame_bytes_max.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; WELCOME_BYTES]) -> Result<Welcome, WireError> {
        if bytes[0..4] != MAGIC {
            return Err(WireError::NotOurProtocol);
        }
        if !(VERSIONS.0..=VERSIONS.1).contains(&bytes[4]) {
            let theirs = (bytes[4], bytes[4]);
            return Err(WireError::NoCommonVersion { theirs, ours: VERSIONS });
        }
        let mut max = [0; 4];
        max.copy_from_slice(&bytes[16..20]);
        Ok(Welcome {
            version: bytes[4],
            incarnation: u64_at(bytes, 8),
            frame_bytes_max: u32::from_le_bytes(max),
        })
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

/// Dialing side: says hello and waits for the welcome.
pub(crate) async fn introduce(
    connection: &Connection,
    hello: &Hello,
    by: &str,
) -> Result<Welcome, NetError> {
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| lost(by, &error))?;
    send.write_all(&hello.encode()).await.map_err(|error| write_failed(by, error))?;
    let mut bytes = [0; WELCOME_BYTES];
    read_exact(&mut recv, &mut bytes, by).await?;
    Ok(Welcome::decode(&bytes)?)
}

/// Accepting side: waits for the hello. The welcome goes back through what is returned.
pub(crate) async fn await_hello(
    connection: &Connection,
    by: &str,
) -> Result<(Hello, SendStream), NetError> {
    let (send, mut recv) = connection.accept_bi().await.map_err(|error| lost(by, &error))?;
    let mut bytes = [0; HELLO_BYTES];
    read_exact(&mut recv, &mut bytes, by).await?;
    // 2 KiB at most.
    let mut after = vec![0; Hello::bytes_after(&bytes)];
    read_exact(&mut recv, &mut after, by).await?;
    Ok((Hello::decode(&bytes, &after)?, send))
}

/// Accepting side: answers.
pub(crate) async fn welcome(
    mut send: SendStream,
    welcome: &Welcome,
    by: &str,
) -> Result<(), NetError> {
    send.write_all(&welcome.encode()).await.map_err(|error| write_failed(by, error))?;
    // Fails only if the other side is gone, which the next read will tell.
    let _ = send.finish();
    Ok(())
}

async fn read_exact(recv: &mut RecvStream, bytes: &mut [u8], by: &str) -> Result<(), NetError> {
    recv.read_exact(bytes).await.map_err(|error| match error {
        quinn::ReadExactError::ReadError(error) => read_failed(by, error),
        quinn::ReadExactError::FinishedEarly(_) => {
            NetError::StreamCut { reason: format!("{by} ended its hello early") }
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_hello_or_refused(
            bytes: [u8; 24],
            more: [u8; 24],
            store: [u8; 24],
            ours: bool,
        ) {
            let mut all = [bytes, more].concat();
            if ours {
                all[0..4].copy_from_slice(&MAGIC);
                all[6] = 1;
                all[7] = if all[5] >= STAMP_VERSION { 3 } else { 0 };
            }
            let fixed: [u8; HELLO_BYTES] = all.clone().try_into().unwrap();
            let after = &store[..Hello::bytes_after(&fixed).min(store.len())];
            let hello = Hello::decode(&fixed, after);
            prop_assert!(hello.is_ok() || !ours);
            if let Ok(hello) = hello {
                let _ = hello.common_version();
                if ours {
                    prop_assert_eq!(hello.encode(), [&all, after].concat());
                }
            }
            let _ = Welcome::decode(&more);
        }
    }

    #[test]
    fn the_highest_common_version_is_spoken_or_none() {
        let hello = |versions| Hello {
            versions,
            role: Role::Peer,
            cluster: ClusterId([0; 16]),
            claimed: NodeId(1),
            target: NodeId(2),
            incarnation: 3,
            store: None,
        };
        assert_eq!(hello((1, 1)).common_version(), Ok(1));
        assert_eq!(hello((0, 7)).common_version(), Ok(VERSIONS.1));
        let error = hello((VERSIONS.1 + 1, 9)).common_version();
        assert!(matches!(error, Err(WireError::NoCommonVersion { .. })));
    }

    #[test]
    fn the_bytes_of_a_hello_are_those_of_the_documented_format() {
        let store = StoreStamp { id: StoreId(0x0a), life: 0x0b, nonce: 0x0c };
        let hello = Hello {
            versions: (1, 2),
            role: Role::Peer,
            cluster: ClusterId([9; 16]),
            claimed: NodeId(1),
            target: NodeId(2),
            incarnation: 3,
            store: Some(store),
        };
        let word = |low: u8| [low, 0, 0, 0, 0, 0, 0, 0];
        let words = [word(1), word(2), word(3), word(0x0a), word(0x0b), word(0x0c)].concat();
        let expected = [&b"RAFT\x01\x02\x01\x03"[..], &[9; 16], &words].concat();
        assert_eq!(hello.encode(), expected);
        // Who speaks version 2 tells its store; who speaks version 1 is still understood.
        let mut fixed: [u8; HELLO_BYTES] = expected[..HELLO_BYTES].try_into().unwrap();
        assert_eq!(Hello::decode(&fixed, &expected[HELLO_BYTES..]), Ok(hello));
        assert_eq!(Hello::decode(&fixed, &[]), Err(WireError::NoStamp));
        fixed[5] = 1;
        assert_eq!(Hello::bytes_after(&fixed), 0);
        assert_eq!(Hello::decode(&fixed, &[]).map(|hello| hello.store), Ok(None));
        // A later version may tell more.
        fixed[5] = 9;
        fixed[7] = 5;
        let more = [&expected[HELLO_BYTES..], &[7; 16]].concat();
        assert_eq!(Hello::bytes_after(&fixed), more.len());
        assert_eq!(Hello::decode(&fixed, &more).map(|hello| hello.store), Ok(Some(store)));
    }
}
