//! Arithmetic on eight f32 values side by side, for the operators that stay in f32.
//!
//! Written once in plain Rust and compiled for each CPU family; the compiler turns a [`Lanes`] into registers. Sums run in
//! a fixed order and products are fused ([`f32::mul_add`]), so that every CPU computes the same bits.

/// Values that are computed side by side. (Made by [`std::array::from_fn`]: `map` on an array is left in scalars.)
pub(crate) const LANES: usize = 8;
pub(crate) type Lanes = [f32; LANES];

/// `a * b + c` in each lane.
#[inline(always)]
pub(crate) fn fused(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
    std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
}

/// `a * b + c`, fused where the CPU can; 32-bit ARM cannot, and would call a function for each.
#[inline(always)]
pub(crate) fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_arch = "arm") { a * b + c } else { a.mul_add(b, c) }
}

/// Adds up the lanes, halves first.
#[inline(always)]
pub(crate) fn total(x: Lanes) -> f32 {
    let [a, b, c, d, e, f, g, h] = x;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Arguments of [`exp`] are cut off here; e^80 is far from f32's limits, and what divides by it is as good as 0.
const LARGEST: f32 = 80.0;
/// Below this, [`exp`] is 0: so small a weight beside one of 1 changes no sum.
const SMALLEST: f32 = -80.0;
/// Added to a number below 2^22, leaves its nearest integer in the low bits.
const ROUNDER: f32 = 12_582_912.0;
/// ln 2 in two parts, the first of which has zeros at its end (Cephes).
pub(crate) const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// e^x = 1 + x + x^2 * P(x) for |x| <= ln 2 / 2 (Cephes, `expf`).
const P: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// e^x to 2e-7, relatively.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let bounded = x.clamp(SMALLEST, LARGEST);
    let shifted = bounded.mul_add(std::f32::consts::LOG2_E, ROUNDER);
    let whole = shifted - ROUNDER;
    let rest = whole.mul_add(-LN2[1], whole.mul_add(-LN2[0], bounded));
    let mut p = P[0];
    for &coefficient in &P[1..] {
        p = p.mul_add(rest, coefficient);
    }
    let fraction = p.mul_add(rest * rest, rest) + 1.0;
    // The integer's low bits, moved to where the exponent is: times 2^whole.
    let power = f32::from_bits(fraction.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x < SMALLEST { 0.0 } else { power }
}

/// The bits of sqrt(1/2): mantissas are taken from there to sqrt(2), so that their logarithm is small.
pub(crate) const HALF_ROOT: u32 = 0x3f35_04f3;
/// ln(1 + x) = x - x^2 / 2 + x^3 * L(x) for 1 + x in [sqrt(1/2), sqrt(2)] (Cephes, `logf`).
pub(crate) const L: [f32; 9] = [
    7.037_683_6e-2,
    -1.151_461e-1,
    1.167_699_9e-1,
    -1.242_014_1e-1,
    1.424_932_3e-1,
    -1.666_805_8e-1,
    2.000_071_5e-1,
    -2.499_999_4e-1,
    3.333_333e-1,
];

/// The natural logarithm of a normal positive number, to 3e-7 of itself or of 1.
#[cfg(any(test, not(target_arch = "aarch64")))]
#[inline(always)]
#[allow(clippy::cast_precision_loss, reason = "an exponent")]
pub(crate) fn ln(x: f32) -> f32 {
    let bits = x.to_bits().wrapping_sub(HALF_ROOT);
    let exponent = (bits.cast_signed() >> 23) as f32;
    let x = f32::from_bits((bits & 0x7f_ffff) + HALF_ROOT) - 1.0;
    let mut l = L[0];
    for &coefficient in &L[1..] {
        l = multiply_add(l, x, coefficient);
    }
    let square = x * x;
    let rest = multiply_add(l, x * square, multiply_add(-0.5, square, exponent * LN2[1]));
    multiply_add(exponent, LN2[0], x + rest)
}

/// Compiles `$body` once for each CPU family and runs the one for `$kernel`. (On aarch64, NEON and fused products are
/// part of the target.)
macro_rules! on_each_family {
    ($kernel:expr, $generic:path, ($($name:ident: $type:ty),*)) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn avx2($($name: $type),*) {
            $generic($($name),*);
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,avx512f,avx512vl")]
        fn avx512($($name: $type),*) {
            $generic($($name),*);
        }
        match $kernel {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an operator's kernel has been checked: this CPU has `avx2` and `fma`.
            $crate::Kernel::Avx2 => unsafe { avx2($($name),*) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above, and `avx512f` and `avx512vl`.
            $crate::Kernel::Avx512Vnni => unsafe { avx512($($name),*) },
            _ => $generic($($name),*),
        }
    }};
}
pub(crate) use on_each_family;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ln_is_exact_to_3e_7() {
        let stride = if cfg!(miri) { 9_999_991 } else { 991 };
        for bits in (f32::MIN_POSITIVE.to_bits()..=f32::MAX.to_bits()).step_by(stride) {
            let x = f32::from_bits(bits);
            let exact = f64::from(x).ln();
            let error = (f64::from(ln(x)) - exact).abs() / exact.abs().max(1.0);
            assert!(error < 3e-7, "{x}: {error}");
        }
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn exp_is_exact_to_two_units_in_the_last_place() {
        let stride = if cfg!(miri) { 997 } else { 1 };
        for step in (-32_000..32_000i16).step_by(stride) {
            let x = f32::from(step) / 400.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2e-7, "{x}: {error}");
        }
        assert_eq!((exp(0.0), exp(-1e9), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert!(exp(1e9).is_finite() && exp(f32::NAN).is_nan());
    }
}
