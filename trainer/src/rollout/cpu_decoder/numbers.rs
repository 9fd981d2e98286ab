//! What the kernels read: numbers in either format, row by row.

/// Numbers of a matrix or of cached keys and values, row by row.
#[derive(Debug, Clone, Copy)]
pub(super) enum Numbers<'a> {
    Float32(&'a [f32]),
    /// Upper halves of float32 numbers.
    Bfloat16(&'a [u16]),
}

impl<'a> Numbers<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Float32(numbers) => numbers.len(),
            Self::Bfloat16(numbers) => numbers.len(),
        }
    }

    pub(super) fn part(&self, start: usize, length: usize) -> Numbers<'a> {
        match self {
            Self::Float32(numbers) => Self::Float32(&numbers[start..start + length]),
            Self::Bfloat16(numbers) => Self::Bfloat16(&numbers[start..start + length]),
        }
    }

    pub(super) fn copy_to(&self, out: &mut [f32]) {
        match self {
            Self::Float32(numbers) => out.copy_from_slice(numbers),
            Self::Bfloat16(numbers) => {
                out.iter_mut().zip(*numbers).for_each(|(out, &number)| *out = widen(number));
            }
        }
    }
}

/// The float32 of which a bfloat16 number is the upper half.
pub(super) fn widen(number: u16) -> f32 {
    f32::from_bits(u32::from(number) << 16)
}

/// A few rows of numbers, `stride` apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) numbers: &'a [f32],
    pub(super) stride: usize,
    pub(super) count: usize,
}
