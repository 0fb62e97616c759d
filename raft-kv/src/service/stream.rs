//! One client's stream: frames in, frames out.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use raft_net_quic::{FrameReader, FrameWriter, NetError, ServiceStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::Shared;
use super::frame::Parts;
use crate::protocol::{FrameBuilder, Reply, decode_requests};

/// Replies that are ready, and the room that their frame takes until they are out.
pub(super) struct Done {
    pub(super) replies: Vec<Reply>,
    pub(super) _room: Arc<OwnedSemaphorePermit>,
}

/// How many finished parts may wait for the writer.
const DONE_MAX: usize = 256;
/// About how large a frame of replies gets.
const FRAME_BYTES: usize = 512 << 10;
/// How many frames are written at once.
const FRAMES_AT_ONCE: usize = 8;

/// Serves one stream to its end.
pub(super) async fn run(
    stream: ServiceStream,
    shared: Arc<Shared>,
    mut stopping: watch::Receiver<bool>,
) {
    let peer = stream.peer.to_string();
    let (reader, writer) = stream.split();
    let (done, finished) = mpsc::channel(DONE_MAX);
    let mut writing = tokio::spawn(write(writer, finished));
    let result = tokio::select! {
        result = read(reader, &shared, &done) => result,
        // The client is gone, or reads no more.
        _ = &mut writing => return,
        _ = stopping.wait_for(|stop| *stop) => Ok(()),
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "a service stream ended");
    }
    // What is under way holds its own senders; the writer ends after the last of them.
    drop(done);
    let _ = writing.await;
}

/// Reads frames and sets their work going, as long as there is room.
async fn read(
    mut reader: FrameReader,
    shared: &Arc<Shared>,
    done: &mpsc::Sender<Done>,
) -> Result<(), NetError> {
    let room = Room::new(shared);
    let mut frames = Vec::new();
    while reader.next_batch(&mut frames).await? {
        for frame in frames.drain(..) {
            let Some(permit) = room.take(frame.len()).await else { return Ok(()) };
            let requests = match decode_requests(&frame) {
                Ok(requests) => requests,
                Err(error) => {
                    // What comes after such a frame can not be trusted either.
                    tracing::warn!(%error, "a client sent a frame that makes no sense; its stream is closed");
                    return Ok(());
                }
            };
            start(frame, Parts::of(requests, shared), shared, done, permit).await;
        }
    }
    Ok(())
}

/// Sets the work of a frame going. Each part is polled once right here, so that proposals reach the node in the order of the
/// frames; a task is made only for what then still waits.
async fn start(
    frame: Bytes,
    parts: Parts,
    shared: &Arc<Shared>,
    done: &mpsc::Sender<Done>,
    permit: OwnedSemaphorePermit,
) {
    drop(frame);
    let room = Arc::new(permit);
    for mut work in parts.into_work(shared, done, &room) {
        let first = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
        if first.is_pending() {
            tokio::spawn(work);
        }
    }
}

/// The bounds on what one client may have under way: one semaphore for both, in units of which every frame takes at least one.
struct Room {
    units: Arc<Semaphore>,
    units_max: u32,
    unit_bytes: usize,
}

impl Room {
    fn new(shared: &Shared) -> Room {
        let units_max = shared.options.frames_in_flight_max.max(1);
        let unit_bytes = (shared.options.bytes_in_flight_max / units_max as usize).max(1);
        Room { units: Arc::new(Semaphore::new(units_max as usize)), units_max, unit_bytes }
    }

    async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(self.unit_bytes)).unwrap_or(u32::MAX);
        let units = units.clamp(1, self.units_max);
        Arc::clone(&self.units).acquire_many_owned(units).await.ok()
    }
}

/// Writes replies: everything that is ready at a time goes out together.
async fn write(mut writer: FrameWriter, mut finished: mpsc::Receiver<Done>) {
    let mut ready = Vec::new();
    let mut frames = Vec::new();
    let mut frame = FrameBuilder::new();
    while finished.recv_many(&mut ready, DONE_MAX).await > 0 {
        for done in ready.drain(..) {
            for reply in &done.replies {
                frame.push_reply(reply);
                if frame.len_bytes() >= FRAME_BYTES || frame.is_full() {
                    frames.push(frame.take());
                }
                if frames.len() >= FRAMES_AT_ONCE && send(&mut writer, &mut frames).await.is_err() {
                    return;
                }
            }
        }
        if !frame.is_empty() {
            frames.push(frame.take());
        }
        if send(&mut writer, &mut frames).await.is_err() {
            return;
        }
    }
    let _ = writer.finish_and_wait().await;
}

async fn send(writer: &mut FrameWriter, frames: &mut Vec<Bytes>) -> Result<(), NetError> {
    let result = writer.send_all(frames).await;
    frames.clear();
    if let Err(error) = &result {
        tracing::debug!(%error, "replies could not be sent");
    }
    result
}
