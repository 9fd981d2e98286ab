//! The body of a batch, hundreds of megabytes with pictures: written into a temporary file, and read from there as it
//! leaves, so that no more than a piece of it is in memory.

use crate::teacher::{Body, PictureError};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

/// Bytes that are written, and read, at once.
const PIECE: usize = 64 << 10;

/// Why a request is not in the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotWritten {
    /// Its picture cannot be read; the file is as it was before.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The file cannot be written.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// A file that is being written. It has no name, so nothing is left of it when the process ends.
pub(super) struct Spool {
    file: File,
    bytes: u64,
    /// What is not in the file yet.
    pending: Vec<u8>,
}

impl Spool {
    /// An empty file on the disk of a folder.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(folder)?, bytes: 0, pending: Vec::with_capacity(2 * PIECE) })
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.bytes + self.pending.len() as u64
    }

    /// Appends a text.
    ///
    /// # Errors
    /// Where the disk is full.
    pub(super) fn write(&mut self, text: &[u8]) -> io::Result<()> {
        self.pending.extend_from_slice(text);
        if self.pending.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    /// Appends the body of a request between two texts.
    ///
    /// # Errors
    /// See [`NotWritten`].
    pub(super) fn write_body(&mut self, before: &str, body: &Body, after: &str) -> Result<(), NotWritten> {
        let begin = self.len();
        self.write(before.as_bytes())?;
        let mut reader = body.clone().read();
        loop {
            match reader.next(&mut self.pending) {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => {
                    self.truncate(begin)?;
                    return Err(error.into());
                }
            }
            if self.pending.len() >= PIECE {
                self.flush()?;
            }
        }
        Ok(self.write(after.as_bytes())?)
    }

    /// Removes what stands behind the first `bytes`.
    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.flush()?;
        self.file.set_len(bytes)?;
        self.file.seek(SeekFrom::Start(bytes))?;
        self.bytes = bytes;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.pending)?;
        self.bytes += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// The whole file, to be sent.
    ///
    /// # Errors
    /// Where the disk is full.
    pub(super) fn finish(mut self) -> io::Result<Spooled> {
        self.flush()?;
        Ok(Spooled { file: Arc::new(Mutex::new(self.file)), bytes: self.bytes })
    }
}

/// A file that can be sent, as often as it takes.
pub(super) struct Spooled {
    file: Arc<Mutex<File>>,
    bytes: u64,
}

impl Spooled {
    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.bytes
    }

    /// The file as a body, from its beginning.
    pub(super) fn body(&self) -> reqwest::Body {
        reqwest::Body::wrap(Outgoing { file: Arc::clone(&self.file), next: 0, bytes: self.bytes })
    }
}

/// A file on its way.
struct Outgoing {
    file: Arc<Mutex<File>>,
    next: u64,
    bytes: u64,
}

impl Outgoing {
    fn piece(&mut self) -> io::Result<Bytes> {
        let most = usize::try_from(self.bytes - self.next).unwrap_or(PIECE).min(PIECE);
        let mut piece = vec![0; most];
        // An earlier attempt may still hold the file, so each piece says where it lies.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.next))?;
        file.read_exact(&mut piece)?;
        self.next += most as u64;
        Ok(piece.into())
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if this.next >= this.bytes {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(this.piece().map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.next >= self.bytes
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes - self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::items::Kind;
    use crate::teacher::catalogue::{Model, Service};
    use crate::teacher::picture_tests::{overwrite, picture_of};
    use crate::teacher::{Dialect, Picture, Template};
    use schemas::settings::Settings;

    fn body(picture: Option<&Arc<Picture>>) -> Body {
        let dialect = Dialect::new(&Settings::default().teacher, &Model::default(), &Service::default());
        Template::new(&dialect, "m", Kind::Scores, "Be fair.", "{}").body(picture, "text", &[])
    }

    impl Spooled {
        /// The whole file, as it would be sent.
        pub(crate) fn read_all(&self) -> Vec<u8> {
            let mut outgoing = Outgoing { file: Arc::clone(&self.file), next: 0, bytes: self.bytes };
            let mut all = Vec::new();
            while !http_body::Body::is_end_stream(&outgoing) {
                all.extend_from_slice(&outgoing.piece().unwrap());
            }
            all
        }
    }

    #[test]
    fn a_picture_that_cannot_be_read_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let (good, bad) = (Arc::new(picture_of(&[1; 300_000])), Arc::new(picture_of(&[2; 300_000])));
        let mut spool = Spool::new(folder.path()).unwrap();
        spool.write_body("[", &body(Some(&good)), "]").unwrap();
        let before = spool.len();
        overwrite(&bad, &[3; 300_000]);
        assert!(matches!(spool.write_body("[", &body(Some(&bad)), "]"), Err(NotWritten::Picture(_))));
        assert_eq!(spool.len(), before);
        spool.write_body("(", &body(None), ")").unwrap();
        assert!(spool.pending.capacity() <= 4 * PIECE, "{}", spool.pending.capacity());
        let spooled = spool.finish().unwrap();
        let (first, second) = (body(Some(&good)).to_bytes().unwrap(), body(None).to_bytes().unwrap());
        let expected = [b"[", first.as_ref(), b"](", second.as_ref(), b")"].concat();
        assert!(spooled.read_all() == expected && spooled.read_all() == expected, "twice the same");
        assert_eq!(spooled.len(), expected.len() as u64);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it has no name");
    }
}
