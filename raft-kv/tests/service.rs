//! The service and the client, over real QUIC.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Cluster, PATIENCE};
use raft_core::NodeId;
use raft_kv::WriteOutcome;
use raft_kv::client::{Client, ClientConfig, ClientError, ExpectKey};
use raft_net_quic::Limits;

async fn patiently<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it takes far too long")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_answered() {
    patiently(async {
        let cluster = Cluster::start(3).await;
        let client = cluster.client();
        let first = client.put("a", "1").await.unwrap();
        let second = client.put("b", "2").await.unwrap();
        assert!(second > first);
        let record = client.get("a").await.unwrap().unwrap();
        assert_eq!((&record.value[..], record.mod_revision, record.version), (&b"1"[..], first, 1));
        assert_eq!(client.get("c").await.unwrap(), None);

        let set = Some(Bytes::from("3"));
        let failed = client.compare_and_set("a", ExpectKey::Absent, set.clone()).await.unwrap();
        assert_eq!(failed, WriteOutcome::CompareFailed { mod_revision: Some(first) });
        let expect = ExpectKey::ModRevision(first);
        let outcome = client.compare_and_set("a", expect, set).await.unwrap();
        assert!(matches!(outcome, WriteOutcome::Put { revision } if revision > second));
        let outcome =
            client.compare_and_set("a", ExpectKey::Value("3".into()), None).await.unwrap();
        assert!(matches!(outcome, WriteOutcome::Deleted { .. }));
        assert!(client.delete("b").await.unwrap().is_some());
        assert_eq!(client.delete("b").await.unwrap(), None);
        assert_eq!(client.stats().await.unwrap().keys, 0);

        let error = client.put("", "1").await.unwrap_err();
        assert!(matches!(error, ClientError::Limit(_)), "{error}");
        let error = client.put("k", vec![0; 2 << 20]).await.unwrap_err();
        assert!(matches!(error, ClientError::Limit(_)), "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_are_paged_and_dumps_are_whole() {
    patiently(async {
        let cluster = Cluster::start(3).await;
        let client = cluster.client();
        assert!(client.dump("").next().await.is_none(), "nothing is there yet");
        let key = |i: usize| format!("key-{i:04}");
        let mut puts = tokio::task::JoinSet::new();
        for i in 0..1_000 {
            let client = client.clone();
            puts.spawn(async move { client.put(key(i), vec![i as u8; 1_000]).await });
        }
        assert!(puts.join_all().await.iter().all(Result::is_ok));

        let page = client.range(key(10), Some(key(500).into()), 100, true).await.unwrap();
        assert_eq!(page.records.len(), 100);
        assert!(page.has_more);
        assert_eq!(page.records[0].key[..], *key(10).as_bytes());
        assert!(page.records[0].record.value.is_empty());
        let page = client.range(key(998), None, 100, false).await.unwrap();
        assert_eq!((page.records.len(), page.has_more), (2, false));
        assert_eq!(page.records[1].record.value[..], vec![999_usize as u8; 1_000]);

        let mut dump = client.dump(key(1));
        let mut records = Vec::new();
        while let Some(chunk) = dump.next().await {
            records.extend(chunk.unwrap());
        }
        let keys: Vec<_> = records.iter().map(|record| record.key.to_vec()).collect();
        assert_eq!(keys, (1..1_000).map(|i| key(i).into_bytes()).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_whose_reader_stops_is_ended_with_a_reason() {
    // scenario 51 (etcd 18509)
    patiently(async {
        let mut limits = Limits::default();
        limits.unsent.certificate = 4 << 20;
        let cluster = Cluster::start_with(1, limits, |options| {
            (options.dump_stall_timeout, options.dumps_max) = (Duration::from_millis(20), 1);
        })
        .await;
        let client = cluster.client();
        for i in 0..60 {
            client.put(format!("key-{i:02}"), vec![i; 1 << 20]).await.unwrap();
        }
        let mut dump = client.dump("");
        let mut records = dump.next().await.unwrap().unwrap().len();
        // Its place is free only once it was ended.
        assert!(client.dump("z").next().await.is_none());
        let error = loop {
            match dump.next().await.expect("it is not whole") {
                Ok(chunk) => records += chunk.len(),
                Err(error) => break error.to_string(),
            }
        };
        assert!(records < 60, "{records}");
        assert!(error.contains("nothing of it was read for"), "{error}");
        assert_eq!(client.stats().await.unwrap().keys, 60, "all else goes on");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_come_from_every_node() {
    patiently(async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.client();
        client.put("a", "1").await.unwrap();
        let leader = cluster.leader().await;
        let report = client.status(leader).await.unwrap();
        assert!(report.is_serving_leader());
        assert_eq!(report.peers.len(), 2);
        assert_eq!(report.address, cluster.addresses[&leader]);
        assert_eq!(report.stats.unwrap().keys, 1);
        assert_eq!(report.pid, std::process::id());
        let other = *cluster.nodes.keys().find(|node| **node != leader).unwrap();
        cluster.stop(other).await;
        let reports = client.status_all().await;
        let answered: Vec<_> = reports.iter().filter(|(.., r)| r.is_ok()).collect();
        assert_eq!((reports.len(), answered.len()), (3, 2));
        let error = client.status(NodeId(9)).await.unwrap_err();
        assert!(matches!(error, ClientError::UnknownNode { .. }), "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_knows_one_node_finds_the_leader() {
    patiently(async {
        let cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        for (node, address) in &cluster.addresses {
            let nodes = [(*node, address.clone())].into();
            let client = Client::new(ClientConfig { nodes, ..cluster.config() }).unwrap();
            client.put(format!("from-{node}"), "x").await.unwrap();
            assert!(client.get(format!("from-{node}")).await.unwrap().is_some(), "{leader}");
        }
    })
    .await;
}

/// Writers go on while the leader is stopped, and whatever they are told holds: a compare-and-set on the revision of the
/// write before fails if any write was applied twice, or lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_after_the_leader_and_none_is_applied_twice() {
    patiently(async {
        let mut cluster = Cluster::start(3).await;
        let client = cluster.client();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..20 {
            let client = client.clone();
            writers.spawn(async move {
                let key = format!("counter-{writer}");
                let mut revision = client.put(key.clone(), "start").await.unwrap();
                for step in 0..100 {
                    let expect = ExpectKey::ModRevision(revision);
                    let value = Some(Bytes::from(format!("{step}")));
                    match client.compare_and_set(key.clone(), expect, value).await.unwrap() {
                        WriteOutcome::Put { revision: next } => revision = next,
                        other => panic!("step {step} of {key}: {other:?}"),
                    }
                }
            });
        }
        let leader = cluster.leader().await;
        cluster.stop(leader).await;
        while let Some(writer) = writers.join_next().await {
            writer.unwrap();
        }
        for writer in 0..20 {
            let record = client.get(format!("counter-{writer}")).await.unwrap().unwrap();
            assert_eq!((record.version, &record.value[..]), (101, &b"99"[..]));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_nobody_answers_says_what_was_seen() {
    patiently(async {
        let mut cluster = Cluster::start(3).await;
        cluster.leader().await;
        for node in [NodeId(1), NodeId(2)] {
            cluster.stop(node).await;
        }
        let request_timeout = Duration::from_millis(300);
        let client = Client::new(ClientConfig { request_timeout, ..cluster.config() }).unwrap();
        let error = client.put("a", "1").await.unwrap_err();
        assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
        assert!(error.to_string().contains("last seen: node "), "{error}");
    })
    .await;
}
