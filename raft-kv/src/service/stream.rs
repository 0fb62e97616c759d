//! One client's stream: frames in, frames out.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use raft_net_quic::{FrameReader, FrameWriter, Held, HeldFrame, NetError, Owner, ServiceStream};
use tokio::sync::{Semaphore, mpsc, watch};

use super::Shared;
use super::frame::{Out, Parts, Slot};
use crate::protocol::{FrameBuilder, Reply, decode_requests, items_in};

/// Replies that are ready, and what they and their frame's requests take until they are out.
pub(super) struct Done {
    pub(super) replies: Vec<Reply>,
    pub(super) held: Held,
    pub(super) _slot: Arc<Slot>,
}

/// What a frame takes while it is worked on, beside its bytes; and what each of its requests does.
const FRAME_COST: usize = 1 << 10;
const REQUEST_COST: usize = 128;

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
    let (peer, owner) = (stream.peer.to_string(), stream.owner.clone());
    let (reader, writer) = stream.split();
    let (done, finished) = mpsc::channel(DONE_MAX);
    let mut writing = tokio::spawn(write(writer, finished));
    let result = tokio::select! {
        result = read(reader, &owner, &shared, &done) => result,
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
    owner: &Owner,
    shared: &Arc<Shared>,
    done: &mpsc::Sender<Done>,
) -> Result<(), NetError> {
    let slots = Arc::new(Semaphore::new(shared.options.frames_in_flight_max.max(1) as usize));
    let mut frames = Vec::new();
    while reader.next_held(&mut frames).await? {
        for HeldFrame { bytes, mut held } in frames.drain(..) {
            // Never closed.
            let Ok(permit) = Arc::clone(&slots).acquire_owned().await else { return Ok(()) };
            held.grow(FRAME_COST + items_in(&bytes) * REQUEST_COST).await;
            let requests = match decode_requests(&bytes) {
                Ok(requests) => requests,
                Err(error) => {
                    // What comes after such a frame cannot be trusted either.
                    if let Some(more) = shared.nonsense.pass() {
                        tracing::warn!(%error, more, "a client sent a frame that makes no sense; its stream is closed");
                    }
                    return Ok(());
                }
            };
            let slot = Arc::new(Slot { _permit: permit, _held: held });
            let out = Out { done: done.clone(), slot, owner: owner.clone() };
            drop(bytes);
            start(Parts::of(requests, shared), shared, &out).await;
        }
    }
    Ok(())
}

/// Sets the work of a frame going. Each part is polled once right here, so that proposals reach the node in the order of the
/// frames; a task is made only for what then still waits.
async fn start(parts: Parts, shared: &Arc<Shared>, out: &Out) {
    for mut work in parts.into_work(shared, out) {
        let first = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
        if first.is_pending() {
            tokio::spawn(work);
        }
    }
}

/// Writes replies: everything that is ready at a time goes out together.
async fn write(mut writer: FrameWriter, mut finished: mpsc::Receiver<Done>) {
    let mut ready = Vec::new();
    let mut frames = Vec::new();
    let mut frame = FrameBuilder::new();
    // Given back when the replies are with the transport, whose own windows bound what it keeps.
    let mut held = Vec::new();
    while finished.recv_many(&mut ready, DONE_MAX).await > 0 {
        for done in ready.drain(..) {
            let Done { replies, held: of_replies, _slot: slot } = done;
            held.push((of_replies, slot));
            for reply in &replies {
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
        held.clear();
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
