//! The tiling that all GEMM kernels share: blocks of rows, each against all panels of channels in turn.

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

/// The last values of `R` rows that do not fill a step of `S`, padded with zeros, so that no kernel reads past a row.
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
#[inline(always)]
pub(crate) fn store_block<const N: usize>(output: &mut [i8], offset: usize, left: usize, results: &[i8; N]) {
    if left >= N {
        output[offset..][..N].copy_from_slice(results);
    } else {
        output[offset..][..left].copy_from_slice(&results[..left]);
    }
}
