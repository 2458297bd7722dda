//! The tiling that all GEMM kernels share: blocks of rows, each against all panels of channels in turn; and copies.

use crate::linear::Linear;

/// What is left of the input and the output.
pub(crate) type Left<'a, 'b> = (&'a [i8], &'b mut [i8]);

/// Runs `block` on as many whole blocks of `R` rows as there are and returns the rest. Called with falling `R`, down to
/// 1, it covers all rows.
#[inline(always)]
pub(crate) fn row_blocks<'a, 'b, const R: usize>(
    op: &Linear,
    (input, output): Left<'a, 'b>,
    mut block: impl FnMut(&[i8], &mut [i8]),
) -> Left<'a, 'b> {
    let whole = input.len() / (R * op.inputs);
    let (input, rest) = input.split_at(whole * R * op.inputs);
    let (output, rest_output) = output.split_at_mut(whole * R * op.outputs);
    for (rows, results) in input.chunks_exact(R * op.inputs).zip(output.chunks_exact_mut(R * op.outputs)) {
        block(rows, results);
    }
    (rest, rest_output)
}

/// Copies as the kernels do, 64 bytes at a time: for the rows of a depthwise convolution the C library's general
/// function needs more than twice the instructions.
///
/// # Panics
/// Unless both slices have the same length.
#[cfg(target_arch = "aarch64")]
pub(crate) fn copy<T: Copy>(source: &[T], target: &mut [T]) {
    assert_eq!(source.len(), target.len(), "target's length");
    let rounds = size_of_val(source) / 64;
    let whole = rounds * 64 / size_of::<T>();
    if rounds > 0 {
        // SAFETY: 64 bytes a round, as many as both slices have; a target of rounds * 64 bytes ends between two values
        // or within one that is copied again below. NEON is part of every aarch64 target that has `std`.
        unsafe {
            std::arch::asm!(
                "2:",
                "ld1 {{v0.16b, v1.16b, v2.16b, v3.16b}}, [{source}], #64",
                "subs {rounds}, {rounds}, #1",
                "st1 {{v0.16b, v1.16b, v2.16b, v3.16b}}, [{target}], #64",
                "b.ne 2b",
                source = inout(reg) source.as_ptr() => _,
                target = inout(reg) target.as_mut_ptr() => _,
                rounds = inout(reg) rounds => _,
                out("v0") _, out("v1") _, out("v2") _, out("v3") _,
                options(nostack),
            );
        }
    }
    target[whole..].copy_from_slice(&source[whole..]);
}

/// As [`copy_from_slice`](slice::copy_from_slice).
#[cfg(not(target_arch = "aarch64"))]
pub(crate) fn copy<T: Copy>(source: &[T], target: &mut [T]) {
    target.copy_from_slice(source);
}

/// The last values of `R` rows that do not fill a step of `S`, padded with zeros, so that no kernel reads past a row.
#[allow(dead_code, reason = "not every family needs it")]
#[inline(always)]
pub(crate) fn tails<const R: usize, const S: usize>(block: &[i8], inputs: usize) -> [[i8; S]; R] {
    let mut tails = [[0; S]; R];
    let rest = inputs % S;
    if rest == 0 {
        return tails;
    }
    for (tail, row) in tails.iter_mut().zip(block.chunks_exact(inputs)) {
        let values = &row[inputs - rest..];
        // The common case without a call of memcpy.
        match values.first_chunk::<8>() {
            Some(eight) if rest == 8 => tail[..8].copy_from_slice(eight),
            _ => tail[..rest].copy_from_slice(values),
        }
    }
    tails
}

/// Writes the first values of `results` that still belong to the row.
#[allow(dead_code, reason = "not every family needs it")]
#[inline(always)]
pub(crate) fn store_block<const N: usize>(output: &mut [i8], offset: usize, left: usize, results: &[i8; N]) {
    if left >= N {
        output[offset..][..N].copy_from_slice(results);
    } else {
        output[offset..][..left].copy_from_slice(&results[..left]);
    }
}
