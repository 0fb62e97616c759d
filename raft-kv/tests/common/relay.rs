//! A wire that can be cut: datagrams between a client and one node pass through it, or are lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// A wire to one node, for one client at a time.
pub(crate) struct Relay {
    pub(crate) address: String,
    is_cut: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

impl Relay {
    pub(crate) async fn to(node: &str) -> Relay {
        let near = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let far = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        far.connect(node).await.unwrap();
        let address = near.local_addr().unwrap().to_string();
        let is_cut = Arc::new(AtomicBool::new(false));
        let (caller, called) = tokio::sync::watch::channel(None::<SocketAddr>);
        let mut tasks = JoinSet::new();
        let (from, to, cut) = (Arc::clone(&near), Arc::clone(&far), Arc::clone(&is_cut));
        tasks.spawn(async move {
            let mut bytes = vec![0; 65_536];
            loop {
                let Ok((count, client)) = from.recv_from(&mut bytes).await else { continue };
                caller.send_replace(Some(client));
                if !cut.load(Ordering::Relaxed) {
                    let _ = to.send(&bytes[..count]).await;
                }
            }
        });
        let cut = Arc::clone(&is_cut);
        tasks.spawn(async move {
            let mut bytes = vec![0; 65_536];
            loop {
                let Ok(count) = far.recv(&mut bytes).await else { continue };
                let client = *called.borrow();
                if let Some(client) = client.filter(|_| !cut.load(Ordering::Relaxed)) {
                    let _ = near.send_to(&bytes[..count], client).await;
                }
            }
        });
        Relay { address, is_cut, _tasks: tasks }
    }

    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Relaxed);
    }
}
