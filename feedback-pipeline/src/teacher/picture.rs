//! A picture of a request: its metadata is in memory, its bytes stay in the file.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use schemas::provenance::hex;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use tempfile::TempPath;

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

/// Bytes of a file read at a time: 32 KiB of base64, without padding in between.
pub(super) const PIECE: usize = 24 << 10;

/// A picture ready to be sent.
#[derive(Debug)]
pub struct Picture {
    /// For instance `image/png`.
    pub media_type: &'static str,
    /// sha256 of the bytes that are sent, in hexadecimal digits.
    pub sha256: String,
    /// Width and height in pixels.
    pub size: (u32, u32),
    /// Number of bytes, before base64.
    pub bytes: u64,
    content: PictureContent,
}

/// Where a picture's bytes are.
#[derive(Debug)]
pub enum PictureContent {
    /// In a file of the dataset, which may change.
    Dataset(PathBuf),
    /// In a temporary file, which is removed with the picture.
    Temporary(TempPath),
    /// In memory, if they are few.
    Memory(Bytes),
}

impl PictureContent {
    fn path(&self) -> &Path {
        match self {
            Self::Dataset(path) => path,
            Self::Temporary(path) => path,
            Self::Memory(_) => Path::new("(in memory)"),
        }
    }
}

impl Picture {
    /// A picture whose `bytes` are in `content`, `size` pixels wide and high.
    pub fn new(media_type: &'static str, bytes: &[u8], size: (u32, u32), content: PictureContent) -> Self {
        let sha256 = hex(&Sha256::digest(bytes));
        Self { media_type, sha256, size, bytes: bytes.len() as u64, content }
    }

    /// Length of the bytes in base64.
    pub fn encoded_len(&self) -> u64 {
        self.bytes.div_ceil(3).saturating_mul(4)
    }

    /// The picture in base64, piece by piece from its file.
    pub(super) fn encode(&self) -> Encoding {
        Encoding { read: 0, hash: Sha256::new(), piece: Vec::new() }
    }

    fn error(&self, source: std::io::Error) -> PictureError {
        PictureError::Unreadable { path: self.content.path().display().to_string(), source }
    }

    fn changed(&self) -> PictureError {
        PictureError::Changed { path: self.content.path().display().to_string() }
    }
}

/// Progress of a picture's encoding. The file is not kept open in between, since hundreds may be in flight.
#[derive(Debug)]
pub(super) struct Encoding {
    read: u64,
    hash: Sha256,
    piece: Vec<u8>,
}

impl Encoding {
    /// Appends the next piece in base64; true if it was the last. The last piece is not appended if it shows that the
    /// bytes do not match the picture's hash.
    ///
    /// # Errors
    /// If the file cannot be read, or is not what it was when its hash was taken.
    pub(super) fn next(&mut self, picture: &Picture, out: &mut Vec<u8>) -> Result<bool, PictureError> {
        let left = picture.bytes.saturating_sub(self.read);
        let length = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
        let is_last = length as u64 == left;
        self.piece.resize(length, 0);
        let read = self.read_piece(picture).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => picture.changed(),
            _ => picture.error(error),
        })?;
        self.hash.update(&self.piece);
        self.read += length as u64;
        if is_last && (read > self.read || hex(&self.hash.finalize_reset()) != picture.sha256) {
            return Err(picture.changed());
        }
        let start = out.len();
        out.resize(start + length.div_ceil(3) * 4, 0);
        let room = out.get_mut(start..).unwrap_or_default();
        let written = STANDARD.encode_slice(&self.piece, room).unwrap_or_default(); // there is room for all
        out.truncate(start + written);
        Ok(is_last)
    }

    /// Reads a piece; returns the length of the file.
    fn read_piece(&mut self, picture: &Picture) -> std::io::Result<u64> {
        if let PictureContent::Memory(bytes) = &picture.content {
            let mut rest = bytes.get(usize::try_from(self.read).unwrap_or(usize::MAX)..).unwrap_or_default();
            rest.read_exact(&mut self.piece)?;
            return Ok(bytes.len() as u64);
        }
        let mut file = File::open(picture.content.path())?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(self.read))?;
        file.read_exact(&mut self.piece)?;
        Ok(length)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write;

    /// A picture with these bytes in a separate file.
    pub(crate) fn picture_of(bytes: &[u8]) -> Picture {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        Picture::new("image/png", bytes, (4, 3), PictureContent::Temporary(file.into_temp_path()))
    }

    /// Overwrites a picture's file.
    pub(crate) fn overwrite(picture: &Picture, bytes: &[u8]) {
        std::fs::write(picture.content.path(), bytes).unwrap();
    }

    fn encoded(picture: &Picture) -> Result<(Vec<u8>, usize), PictureError> {
        let (mut encoding, mut all, mut pieces) = (picture.encode(), Vec::new(), 1);
        while !encoding.next(picture, &mut all)? {
            pieces += 1;
        }
        Ok((all, pieces))
    }

    fn noise(length: usize) -> Vec<u8> {
        (0..length as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    }

    #[test]
    fn pieces_are_the_base64_of_the_whole() {
        for length in [0, 1, 2, 3, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 300_001] {
            let bytes = noise(length);
            let picture = picture_of(&bytes);
            let (all, pieces) = encoded(&picture).unwrap();
            assert_eq!(all, STANDARD.encode(&bytes).into_bytes(), "{length} bytes");
            assert_eq!(all.len() as u64, picture.encoded_len());
            assert_eq!(pieces, length.div_ceil(PIECE).max(1), "{length} bytes");
            let memory = PictureContent::Memory(bytes.clone().into());
            assert_eq!(encoded(&Picture::new("image/png", &bytes, (4, 3), memory)).unwrap(), (all, pieces));
        }
    }

    #[test]
    fn a_file_that_is_not_what_it_was_is_an_error() {
        let bytes = noise(3 * PIECE);
        let mut other = bytes.clone();
        *other.last_mut().unwrap() ^= 1;
        let longer = [bytes.clone(), vec![0]].concat();
        for now in [&other[..], &longer, &bytes[..PIECE], &[]] {
            let picture = picture_of(&bytes);
            overwrite(&picture, now);
            assert!(matches!(encoded(&picture), Err(PictureError::Changed { .. })), "{} bytes", now.len());
        }
        let picture = picture_of(&bytes);
        std::fs::remove_file(picture.content.path()).unwrap();
        assert!(matches!(encoded(&picture), Err(PictureError::Unreadable { .. })));
    }
}
