//! Element-wise arithmetic of a decoding step, written so that the compiler turns it into vector instructions. All
//! sums run over a fixed number of lanes, so that results depend neither on the processor nor on other rows.

/// Sums and maxima are kept in this many lanes.
const LANES: usize = 16;

/// eˣ to within two units in the last place: 2ⁿ · p(r) with x = n·ln 2 + r (the polynomial is Cephes' `expf`).
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Adding and subtracting 1.5 · 2²³ rounds to a whole number without a function call.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = p * r + c;
    }
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    (p * r * r + r + 1.0) * scale
}

#[inline(always)]
fn highest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
fn sum_of(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f(value);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|&value| f(value)).sum::<f32>()
}

/// Softmax in place.
#[inline(always)]
pub(crate) fn softmax(scores: &mut [f32]) {
    let top = highest(scores);
    for score in scores.iter_mut() {
        *score = exp(*score - top);
    }
    let scale = 1.0 / sum_of(scores, |score| score);
    for score in scores {
        *score *= scale;
    }
}

/// ln Σ eˣ.
#[inline(always)]
pub(crate) fn log_sum_exp(values: &[f32]) -> f32 {
    let top = highest(values);
    top + sum_of(values, |value| exp(value - top)).ln()
}

/// gate ← gelu(gate) ⊙ inner, with the tanh form of gelu.
#[inline(always)]
pub(crate) fn gelu_gate(gate: &mut [f32], inner: &[f32]) {
    const FACTOR: f32 = 0.797_884_6; // √(2/π)
    for (gate, &inner) in gate.iter_mut().zip(inner) {
        let x = *gate;
        let y = FACTOR * (x + 0.044_715 * x * x * x);
        // ½ · (1 + tanh y) = 1 / (1 + e^−2y)
        *gate = x / (1.0 + exp(-2.0 * y)) * inner;
    }
}

/// x / √(mean(x²) + ε) · w.
#[inline(always)]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let scale = (sum_of(x, |x| x * x) / x.len() as f32 + epsilon).sqrt().recip();
    for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_right_to_the_last_digits() {
        for step in -8700..8800 {
            let x = step as f32 / 100.0;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) / expected - 1.0).abs();
            assert!(error < 3e-7, "exp({x}) is off by {error:e}");
        }
        assert!(exp(-1e30) < 1e-37 && exp(-1e30) >= 0.0);
    }

    #[test]
    fn softmax_adds_up() {
        let mut scores: Vec<f32> = (0..37).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
        let total = log_sum_exp(&scores);
        let expected: Vec<f32> = scores.iter().map(|score| (score - total).exp()).collect();
        softmax(&mut scores);
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(scores.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn gelu_by_hand() {
        let mut gate = [1.0f32, -2.0, 0.0];
        gelu_gate(&mut gate, &[1.0, 2.0, 3.0]);
        // PyTorch: gelu(1, tanh) = 0.841192, gelu(−2, tanh) = −0.045402
        let expected = [0.841_192, -0.090_804, 0.0];
        assert!(gate.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{gate:?}");
    }
}
