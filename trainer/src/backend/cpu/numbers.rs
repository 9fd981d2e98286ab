//! Input of the kernels: numbers in either format, row by row.

/// Numbers of a matrix or of cached keys and values, row by row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Numbers<'a> {
    Float32(&'a [f32]),
    /// Upper halves of float32 numbers.
    Bfloat16(&'a [u16]),
}

impl<'a> Numbers<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Float32(numbers) => numbers.len(),
            Self::Bfloat16(numbers) => numbers.len(),
        }
    }

    pub(crate) fn part(&self, start: usize, length: usize) -> Numbers<'a> {
        match self {
            Self::Float32(numbers) => Self::Float32(&numbers[start..start + length]),
            Self::Bfloat16(numbers) => Self::Bfloat16(&numbers[start..start + length]),
        }
    }

    pub(crate) fn copy_to(&self, out: &mut [f32]) {
        match self {
            Self::Float32(numbers) => out.copy_from_slice(numbers),
            Self::Bfloat16(numbers) => {
                out.iter_mut().zip(*numbers).for_each(|(out, &number)| *out = widen(number));
            }
        }
    }
}

/// The float32 of which a bfloat16 number is the upper half.
pub(crate) fn widen(number: u16) -> f32 {
    f32::from_bits(u32::from(number) << 16)
}

/// A few rows of numbers, `stride` apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) numbers: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) count: usize,
}
