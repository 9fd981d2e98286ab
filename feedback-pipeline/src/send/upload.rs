//! A request's body, produced piece by piece, at most one piece ahead of the connection.
//!
//! An HTTP client buffers whatever a body offers, hundreds of kilobytes per connection. So the next piece is offered
//! only after the client has released the last one, whose memory is then reused.

use super::spool::{SpoolReader, Spooled};
use crate::teacher::{Body, BodyReader};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

/// Room for a piece in base64 with texts around it.
const PIECE_ROOM: usize = 40 << 10;

/// A body that is read while it is sent.
pub(super) struct Upload {
    source: Source,
    /// Bytes not yet sent.
    left: u64,
    gate: Arc<Gate>,
    failure: UploadFailure,
}

/// Where a body comes from.
enum Source {
    Request(BodyReader),
    Spool(SpoolReader),
}

/// Why a body could not be read completely, if it failed.
pub(super) type UploadFailure = Arc<OnceLock<String>>;

/// A body cannot be read: the client aborts the request, and [`UploadFailure`] contains the reason.
#[derive(Debug, thiserror::Error)]
#[error("the body cannot be read")]
pub(super) struct Unreadable;

impl Upload {
    /// A request's body, and the place of the reason if it fails.
    pub(super) fn new(body: Body) -> (Self, UploadFailure) {
        let left = body.len();
        Self::of(Source::Request(body.read()), left)
    }

    /// A body in a temporary file.
    pub(super) fn of_spool(body: &Spooled) -> (Self, UploadFailure) {
        Self::of(Source::Spool(body.read()), body.len())
    }

    fn of(source: Source, left: u64) -> (Self, UploadFailure) {
        let failure = UploadFailure::default();
        let gate =
            Arc::new(Gate(Mutex::new(State { piece: Some(Vec::with_capacity(PIECE_ROOM)), waiting: None })));
        (Self { source, left, gate, failure: Arc::clone(&failure) }, failure)
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Unreadable;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Unreadable>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let Some(mut piece) = this.gate.take(context) else { return Poll::Pending };
        let read = match &mut this.source {
            Source::Request(reader) => reader.next(&mut piece).map(|_| ()).map_err(|e| e.to_string()),
            Source::Spool(reader) => reader.next(&mut piece).map_err(|e| e.to_string()),
        };
        if let Err(error) = read {
            let _ = this.failure.set(error); // the first reason is kept
            return Poll::Ready(Some(Err(Unreadable)));
        }
        this.left = this.left.saturating_sub(piece.len() as u64);
        let lent = Lent { piece, gate: Arc::clone(&this.gate) };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(lent)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Holds the buffer while no piece is in flight.
struct Gate(Mutex<State>);

struct State {
    piece: Option<Vec<u8>>,
    waiting: Option<Waker>,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The empty buffer; `None` while it is in use, in which case the task is woken when it is returned.
    fn take(&self, context: &Context<'_>) -> Option<Vec<u8>> {
        let mut state = self.state();
        let piece = state.piece.take();
        if piece.is_none() {
            state.waiting = Some(context.waker().clone());
        }
        piece
    }
}

/// A piece in flight.
struct Lent {
    piece: Vec<u8>,
    gate: Arc<Gate>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut piece = std::mem::take(&mut self.piece);
        piece.clear();
        let waiting = {
            let mut state = self.gate.state();
            state.piece = Some(piece);
            state.waiting.take()
        };
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::teacher::picture_tests::{overwrite, picture_of};
    use crate::teacher::test_template;
    use http_body::Body as _;
    use schemas::settings::Provider;

    fn body(bytes: &[u8]) -> (Body, Arc<crate::teacher::Picture>) {
        let template = test_template(Provider::Anthropic);
        let picture = Arc::new(picture_of(bytes));
        (template.body(Some(&picture), "text", &[]), picture)
    }

    fn poll(upload: &mut Upload) -> Poll<Option<Result<Bytes, Unreadable>>> {
        let mut context = Context::from_waker(Waker::noop());
        let frame = Pin::new(upload).poll_frame(&mut context);
        frame.map(|frame| frame.map(|frame| frame.map(|frame| frame.into_data().unwrap())))
    }

    #[test]
    fn one_piece_is_on_its_way_at_a_time() {
        let (body, _) = body(&[7; 200_000]);
        let whole = body.to_bytes().unwrap();
        let (mut upload, failure) = Upload::new(body);
        assert_eq!(upload.size_hint().exact(), Some(whole.len() as u64));
        let mut sent = Vec::new();
        while !upload.is_end_stream() {
            let Poll::Ready(Some(Ok(piece))) = poll(&mut upload) else { panic!("expected a piece") };
            assert!(piece.len() <= PIECE_ROOM, "{} bytes", piece.len());
            sent.extend_from_slice(&piece);
            let later = piece.slice(piece.len() - 1..);
            drop(piece);
            assert!(upload.is_end_stream() || poll(&mut upload).is_pending(), "the last is not let go of");
            drop(later);
        }
        assert!(matches!(poll(&mut upload), Poll::Ready(None)));
        assert!(sent == whole && failure.get().is_none());
    }

    #[test]
    fn a_picture_that_changed_is_not_sent_to_its_end() {
        let (body, picture) = body(&[7; 100_000]);
        overwrite(&picture, &[8; 100_000]);
        let whole = body.len();
        let (mut upload, failure) = Upload::new(body);
        let mut sent = 0;
        while let Poll::Ready(Some(Ok(piece))) = poll(&mut upload) {
            sent += piece.len() as u64;
        }
        assert!(sent < whole);
        assert!(failure.get().unwrap().starts_with("image changed"));
    }
}
