//! The UDP socket as quinn sees it: woken by what arrives, and by room to send only after there was none.
//!
//! tokio's own socket is registered for both directions at once. The kernel reports a UDP socket as writable again whenever a sent
//! datagram has been consumed, so that on a quiet connection more than every second wake-up was for a fact that nobody waited for.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A socket of which the reading direction alone is registered with the runtime.
pub(crate) struct Socket {
    io: AsyncFd<UdpSocket>,
    state: UdpSocketState,
    /// The last attempt to send found no room, and nobody has seen room since.
    is_full: AtomicBool,
}

impl Socket {
    /// Must be called within a tokio runtime; `socket` must not block.
    pub(crate) fn new(socket: UdpSocket) -> io::Result<Socket> {
        let state = UdpSocketState::new((&socket).into())?;
        let io = register(socket, Interest::READABLE)?;
        Ok(Socket { io, state, is_full: AtomicBool::new(false) })
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("address", &self.io.get_ref().local_addr())
            .finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.state.send(self.io.get_ref().into(), transmit);
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.is_full.store(true, Ordering::Relaxed);
        }
        sent
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.io.poll_read_ready(context))?;
            let received =
                ready.try_io(|io| self.state.recv(io.get_ref().into(), &mut *buffers, meta));
            // Otherwise there was nothing: the readiness is cleared, and the next round waits.
            if let Ok(received) = received {
                return Poll::Ready(received);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.get_ref().local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// One sender's wait for room. Each has a registration of its own, so that none can take another's wake-up.
#[derive(Debug)]
struct Room {
    socket: Arc<Socket>,
    waiting: Option<AsyncFd<UdpSocket>>,
}

impl UdpPoller for Room {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_none() {
            if !self.socket.is_full.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
            // A second descriptor of the same socket. Registering reports room that came back meanwhile.
            let descriptor = self.socket.io.get_ref().try_clone()?;
            self.waiting = Some(register(descriptor, Interest::WRITABLE)?);
        }
        if let Some(waiting) = &self.waiting {
            ready!(waiting.poll_write_ready(context))?.retain_ready();
        }
        self.waiting = None;
        self.socket.is_full.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

/// Registers a socket with the runtime, for one direction.
#[allow(unsafe_code)] // tokio's safe sockets are always registered for both
fn register(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    // SAFETY: the descriptor that `as_raw_fd` returns must be open and the same, of the same open file, until the registration ends.
    // `UdpSocket` owns its descriptor from its making to its drop, and returns always that one. The registration owns the socket, hands
    // it out by shared reference only (nothing here calls `get_mut` or `into_inner`), and drops it after it has taken it off the
    // reactor; a shared reference can neither close nor replace a descriptor.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// A pair of sockets of which the sending one fills up, as a UDP socket over loopback does not.
    fn pair() -> (Arc<Socket>, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().expect("a pair");
        ours.set_nonblocking(true).expect("not blocking");
        let ours = UdpSocket::from(OwnedFd::from(ours));
        let inet = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let socket = Socket {
            io: register(ours, Interest::READABLE).expect("registered"),
            state: UdpSocketState::new((&inet).into()).expect("a state"),
            is_full: AtomicBool::new(false),
        };
        (Arc::new(socket), theirs)
    }

    #[tokio::test]
    async fn a_sender_that_found_no_room_is_woken_when_there_is_some() {
        let (socket, reader) = pair();
        let mut rooms =
            [Arc::clone(&socket).create_io_poller(), Arc::clone(&socket).create_io_poller()];
        for room in &mut rooms {
            poll_fn(|context| room.as_mut().poll_writable(context)).await.expect("room");
        }
        // What `try_send` does, without an address.
        let descriptor = socket.io.get_ref().try_clone().expect("a descriptor");
        let writer = UnixDatagram::from(OwnedFd::from(descriptor));
        while writer.send(&[0; 1024]).is_ok() {}
        socket.is_full.store(true, Ordering::Relaxed);
        for room in &mut rooms {
            let polled = poll_fn(|context| Poll::Ready(room.as_mut().poll_writable(context))).await;
            assert!(polled.is_pending(), "there is none");
        }
        let mut buffer = [0; 2048];
        reader.set_nonblocking(true).expect("not blocking");
        while reader.recv(&mut buffer).is_ok() {}
        for room in &mut rooms {
            poll_fn(|context| room.as_mut().poll_writable(context)).await.expect("room again");
        }
        assert!(!socket.is_full.load(Ordering::Relaxed));
    }
}
