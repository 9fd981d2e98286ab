use super::*;

fn levels() -> Vec<Level> {
    let mut levels = vec![Level::Portable];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            levels.push(Level::Avx2);
        }
        if is_x86_feature_detected!("avx512f") {
            levels.push(Level::Avx512);
        }
        if is_x86_feature_detected!("avx512bf16") {
            levels.push(Level::Avx512Bf16);
        }
    }
    levels
}

fn numbers(count: usize, seed: f32) -> Vec<f32> {
    (0..count).map(|i| ((i as f32 + seed) * 0.731).sin()).collect()
}

fn upper_halves(numbers: &[f32]) -> Vec<u16> {
    numbers.iter().map(|number| (number.to_bits() >> 16) as u16).collect()
}

/// The nearest bfloat16 number, ties to even.
fn to_nearest(number: f32) -> f32 {
    let bits = number.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// The rows as a level rounds them before multiplying.
fn as_multiplied(x: &[f32], weights: Numbers<'_>, width: usize, level: Level) -> Vec<f32> {
    let rounds = match (level, weights) {
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512Bf16, Numbers::Bfloat16(_)) => width.is_multiple_of(32),
        _ => false,
    };
    x.iter().map(|&number| if rounds { to_nearest(number) } else { number }).collect()
}

#[test]
fn every_level_multiplies_alike() {
    // Odd counts of rows and outputs, and widths that do not fill a vector, exercise the edge cases; eight rows have their own
    // tiles.
    for (rows, outputs, width) in [
        (1, 5, 8),
        (3, 7, 48),
        (5, 9, 64),
        (8, 4, 12),
        (4, 1, 16),
        (7, 6, 96),
        (19, 5, 32),
        (8, 5, 48),
        (8, 6, 64),
    ] {
        let (x, w) = (numbers(rows * width, 0.0), numbers(outputs * width, 9.0));
        let halves = upper_halves(&w);
        let rounded: Vec<f32> = halves.iter().map(|&half| widen(half)).collect();
        for (weights, exact) in [(Numbers::Float32(&w), &w), (Numbers::Bfloat16(&halves), &rounded)] {
            for level in levels() {
                let mut out = vec![0.0; rows * outputs];
                level.products(Rows { numbers: &x, stride: width, count: rows }, weights, width, &mut out);
                let x = as_multiplied(&x, weights, width, level);
                for m in 0..rows {
                    for n in 0..outputs {
                        let pairs = x[m * width..].iter().zip(&exact[n * width..]).take(width);
                        let expected: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                        let found = f64::from(out[m * outputs + n]);
                        assert!((found - expected).abs() < 1e-5, "{level:?} {rows}×{outputs}×{width}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_level_mixes_alike() {
    for (rows, length, width) in [(1, 3, 8), (3, 5, 64), (6, 2, 80), (2, 4, 12)] {
        let (weights, values) = (numbers(rows * length, 3.0), numbers(length * width, 5.0));
        let halves = upper_halves(&values);
        let rounded: Vec<f32> = halves.iter().map(|&half| widen(half)).collect();
        for (source, exact) in [(Numbers::Float32(&values), &values), (Numbers::Bfloat16(&halves), &rounded)]
        {
            for level in levels() {
                let mut out = vec![9.0; rows * width];
                level.mix(Rows { numbers: &weights, stride: length, count: rows }, source, width, &mut out);
                for m in 0..rows {
                    for d in 0..width {
                        let terms = (0..length).map(|t| weights[m * length + t] * exact[t * width + d]);
                        let expected: f32 = terms.sum();
                        assert!(
                            (out[m * width + d] - expected).abs() < 1e-5,
                            "{level:?} {rows}×{length}×{width}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let (x, w) = (numbers(15 * 64, 1.0), numbers(10 * 64, 2.0));
    let halves = upper_halves(&w);
    for level in levels() {
        for weights in [Numbers::Float32(&w), Numbers::Bfloat16(&halves)] {
            let mut together = vec![0.0; 150];
            level.products(Rows { numbers: &x, stride: 64, count: 15 }, weights, 64, &mut together);
            for m in 0..15 {
                let mut alone = vec![0.0; 10];
                let row = Rows { numbers: &x[m * 64..], stride: 64, count: 1 };
                level.products(row, weights, 64, &mut alone);
                assert_eq!(alone, together[m * 10..m * 10 + 10], "{level:?} row {m}");
            }
        }
    }
}
