//! raft-storage-redb
