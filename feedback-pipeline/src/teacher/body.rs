//! Body of a request: its texts, and between them the picture, which is encoded from its file as the body is read.

use super::picture::{Encoding, Picture};
use bytes::Bytes;
use std::sync::Arc;

/// Why a body with a picture cannot be produced.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The file cannot be read.
    #[error("unreadable image: {path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file's bytes do not match the request's key.
    #[error("image changed while it was being asked about: {path}")]
    Changed {
        /// The file.
        path: String,
    },
}

/// A whole body of which only the texts are in memory.
#[derive(Debug, Clone)]
pub struct Body {
    before: Bytes,
    picture: Option<Arc<Picture>>,
    after: Bytes,
}

impl Body {
    /// A body without a picture.
    pub(super) fn plain(text: Vec<u8>) -> Self {
        Self { before: text.into(), picture: None, after: Bytes::new() }
    }

    /// A body with a picture's base64 between two texts.
    pub(super) fn around(before: Bytes, picture: Arc<Picture>, after: Bytes) -> Self {
        Self { before, picture: Some(picture), after }
    }

    /// Length in bytes.
    #[allow(clippy::len_without_is_empty)] // none is
    pub fn len(&self) -> u64 {
        let picture = self.picture.as_ref().map_or(0, |picture| picture.encoded_len());
        (self.text_len() as u64).saturating_add(picture)
    }

    /// Length in bytes without the picture.
    pub fn text_len(&self) -> usize {
        self.before.len() + self.after.len()
    }

    /// The body, where all of it is in memory.
    pub fn as_plain(&self) -> Option<&Bytes> {
        self.picture.is_none().then_some(&self.before)
    }

    /// Reads the body from its beginning.
    pub fn read(self) -> BodyReader {
        let place = Place::Before;
        BodyReader { body: self, place }
    }

    /// The body in one piece.
    ///
    /// # Errors
    /// If the picture's file cannot be read or has changed.
    pub fn to_bytes(&self) -> Result<Bytes, PictureError> {
        if let Some(plain) = self.as_plain() {
            return Ok(plain.clone());
        }
        let mut all = Vec::with_capacity(usize::try_from(self.len()).unwrap_or_default());
        let mut reader = self.clone().read();
        while !reader.next(&mut all)? {}
        Ok(all.into())
    }
}

/// Hands out a body in pieces of some 32 KiB.
#[derive(Debug)]
pub struct BodyReader {
    body: Body,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Before,
    Picture(Encoding),
    End,
}

impl BodyReader {
    /// Appends the next piece; true if it was the last.
    ///
    /// # Errors
    /// If the picture's file cannot be read or has changed; the last piece is not returned in that case.
    pub fn next(&mut self, out: &mut Vec<u8>) -> Result<bool, PictureError> {
        if let Place::Before = self.place {
            out.extend_from_slice(&self.body.before);
            self.place = match &self.body.picture {
                Some(picture) => Place::Picture(picture.encode()),
                None => Place::End,
            };
        }
        if let (Place::Picture(encoding), Some(picture)) = (&mut self.place, &self.body.picture) {
            if !encoding.next(picture, out)? {
                return Ok(false);
            }
            out.extend_from_slice(&self.body.after);
            self.place = Place::End;
        }
        Ok(true)
    }
}
